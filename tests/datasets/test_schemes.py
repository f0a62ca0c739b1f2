"""Partitions by shards, by quantity and by column, for every kind of data set."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.datasets import Dataset, Partition, digits, partition
from neuronexus_kernel.errors import DatasetError

SEEDS = st.integers(0, 2**62)
ALPHAS = st.sampled_from([1e-300, 1e-9, 0.01, 0.3, 1, 100.0, 1e9])


def check_all_dealt(shares, clients, rows):
    """Every client has rows, and every row is in one share."""
    assert len(shares) == clients
    assert min(len(share) for share in shares) >= 1
    assert all(share.dtype == np.int64 for share in shares)
    assert sorted(np.concatenate(shares).tolist()) == list(range(rows))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=120), st.data(), SEEDS)
def test_shards_deal_all_rows_and_few_classes_to_each(labels, data, seed):
    each = data.draw(st.integers(1, min(4, len(labels))))
    clients = data.draw(st.integers(1, len(labels) // each))
    values = np.array(labels)
    shares = partition.shards(clients, each, seed=seed).assign(values, 5)
    check_all_dealt(shares, clients, len(labels))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= each
    if len(labels) // (clients * each) < np.bincount(values)[np.bincount(values) > 0].min():
        # No shard is long enough to reach over a class into the one after the next.
        assert max(len(set(values[share])) for share in shares) <= 2 * each


def test_two_shards_of_mnist_like_data_give_most_clients_two_classes():
    labels = np.arange(6000) % 10
    shares = partition.shards(100).assign(labels, 10)
    classes = np.array([len(set(labels[share])) for share in shares])
    assert classes.max() == 2
    assert {len(share) for share in shares} == {60}
    assert np.mean(classes == 2) > 0.8


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.data(), SEEDS, ALPHAS)
def test_quantity_deals_all_rows_and_at_least_one_to_each(rows, data, seed, alpha):
    clients = data.draw(st.integers(1, rows))
    shares = partition.quantity(clients, alpha, seed=seed).assign(np.zeros(rows, int), 1)
    check_all_dealt(shares, clients, rows)


def test_a_small_alpha_makes_sizes_uneven_and_a_large_one_even():
    def spread(alpha):
        shares = partition.quantity(20, alpha).assign(np.zeros(10_000, int), 1)
        return np.std([len(share) for share in shares])

    assert spread(0.1) > 5 * spread(10) > 0
    assert spread(1e6) < 2


def test_quantity_leaves_the_mix_of_classes_alone():
    labels = np.arange(10_000) % 2
    for share in partition.quantity(4, 1.0).assign(labels, 2):
        assert abs(labels[share].mean() - 0.5) < 3 * 0.5 / np.sqrt(len(share))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["ada", "bo", "é", ""]), min_size=1, max_size=60))
def test_every_value_of_a_column_is_a_client(writers):
    data = Dataset(np.zeros((len(writers), 1)), np.zeros(len(writers)), columns={"w": writers})
    made = partition.by_column(data, "w")
    assert made.clients == len(set(writers))
    shares = data.partition(made)
    assert [set(share.column("w").tolist()) for share in shares] == [
        {writer} for writer in sorted(set(writers))
    ]
    assert sum(map(len, shares)) == len(writers)


def test_a_partition_by_column_does_not_fit_other_data():
    data = Dataset(np.zeros((4, 1)), np.zeros(4), columns={"w": [1, 1, 2, 3]})
    made = partition.by_column(data, "w")
    with pytest.raises(DatasetError, match="2 distinct values"):
        data.subset([0, 2]).partition(made)
    with pytest.raises(DatasetError, match="no column 'w'"):
        Dataset([[1]], [0]).partition(made)
    with pytest.raises(DatasetError, match="no column 'x'"):
        partition.by_column(data, "x")
    with pytest.raises(DatasetError, match="its value for each"):
        made.assign(data.labels, 1)


QUANTITIES = Dataset(np.zeros((50, 1)), np.arange(50)[::-1] / 7, kind="regression")
TOKENS = Dataset.from_tokens(np.arange(60).reshape(20, 3) % 5, 5)


def test_shards_of_quantities_are_stretches_of_them():
    shares = QUANTITIES.partition(partition.shards(5, 1))
    spans = sorted((share.labels.min(), share.labels.max()) for share in shares)
    assert all(low[1] < high[0] for low, high in pairwise(spans))


def test_dirichlet_takes_quantities_by_their_tenths():
    data = Dataset(np.zeros((1000, 1)), np.arange(1000), kind="regression")

    def spread(alpha):
        shares = data.partition(partition.dirichlet(10, alpha))
        assert sum(map(len, shares)) == 1000
        return np.mean([share.labels.std() for share in shares])

    assert spread(0.01) < 0.5 * spread(1e6)


@pytest.mark.parametrize(
    "made", [partition.iid(4), partition.quantity(4, 0.5)], ids=["iid", "quantity"]
)
@pytest.mark.parametrize("data", [QUANTITIES, TOKENS], ids=["quantities", "tokens"])
def test_schemes_that_do_not_go_by_labels_take_every_kind(made, data):
    shares = data.partition(made)
    assert sum(map(len, shares)) == len(data)
    assert {share.kind for share in shares} == {data.kind}


@pytest.mark.parametrize("made", [partition.shards(2), partition.dirichlet(2, 1.0)])
def test_schemes_that_go_by_labels_say_why_they_do_not_take_sequences(made):
    many = Dataset(np.zeros((9, 1)), np.zeros((9, 2)), kind="regression")
    for data in (TOKENS, many):
        with pytest.raises(DatasetError, match=r"one label per row.*Use iid"):
            data.partition(made)
    with pytest.raises(DatasetError, match="tokens are none"):
        Dataset.from_tokens(np.zeros((9, 2), int)).partition(made)


EVERY = [
    partition.iid(7, seed=3),
    partition.iid(4, 20),
    partition.dirichlet(9, 0.3, seed=5),
    partition.shards(9, 3, seed=5),
    partition.quantity(9, 0.5, seed=5),
    Partition(scheme="column", clients=3, column="writer"),
]


@pytest.mark.parametrize("made", EVERY, ids=repr)
def test_a_partition_can_be_written_down(made):
    document = made.to_dict()
    assert Partition.from_dict(dagcbor.decode(dagcbor.encode(document))) == made
    own = {"samples_per_client", "alpha", "shards_per_client", "column"} & set(document)
    assert len(own) <= 1
    assert None not in document.values()


def test_partitions_of_before_are_written_and_dealt_as_before():
    documents = [made.to_dict() for made in EVERY[:3]]
    assert documents == [
        {"scheme": "iid", "clients": 7, "seed": 3},
        {"scheme": "iid", "clients": 4, "samples_per_client": 20, "seed": 0},
        {"scheme": "dirichlet", "clients": 9, "alpha": 0.3, "seed": 5},
    ]
    dealt = [
        hashlib.sha256(b"".join(share.encode() for share in digits().partition(made))).hexdigest()
        for made in EVERY[:2]
    ]
    assert [each[:16] for each in dealt] == ["d17e0766a0619ee9", "f1248964adc5d435"]


@pytest.mark.parametrize("make", [partition.shards, lambda n, seed: partition.quantity(n, 1, seed)])
def test_the_seed_decides(make):
    labels = np.arange(500) % 10
    one, again, other = (make(9, seed=seed).assign(labels, 10) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scheme": "shards", "clients": 2}, "shards_per_client"),
        ({"scheme": "shards", "clients": 2, "shards_per_client": 0}, "shards_per_client"),
        ({"scheme": "shards", "clients": 2, "shards_per_client": 2, "alpha": 1}, "alpha does not"),
        ({"scheme": "quantity", "clients": 2}, "alpha"),
        ({"scheme": "quantity", "clients": 2, "alpha": -1}, "alpha"),
        ({"scheme": "column", "clients": 2}, "column"),
        ({"scheme": "column", "clients": 2, "column": ""}, "column"),
        ({"scheme": "column", "clients": 2, "column": "w", "seed": 1}, "seed is 0"),
        ({"scheme": "iid", "clients": 2, "column": "w"}, "column does not"),
        ({"scheme": "feature", "clients": 2}, "no partition scheme"),
    ],
)
def test_a_field_out_of_place_is_refused(fields, message):
    with pytest.raises(DatasetError, match=message):
        Partition(**fields)


def test_too_few_rows_are_refused():
    with pytest.raises(DatasetError, match=r"needs 12 rows.*fewer shards"):
        partition.shards(4, 3).assign(np.zeros(11, int), 1)
    with pytest.raises(DatasetError, match=r"needs 12 rows, but there are 11\. Ask for fewer"):
        partition.quantity(12, 1.0).assign(np.zeros(11, int), 1)
