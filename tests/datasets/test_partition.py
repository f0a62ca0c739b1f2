import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.datasets import Dataset, Partition, partition
from neuronexus_kernel.errors import DatasetError

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=120).map(np.array)
SEEDS = st.integers(0, 2**62)
ALPHAS = st.sampled_from([1e-300, 1e-9, 0.01, 0.3, 1, 100.0, 1e9])


def check_shares(shares, clients):
    """Every client has rows, none is in two shares; returns all of them."""
    assert len(shares) == clients
    assert min(len(rows) for rows in shares) >= 1
    together = np.concatenate(shares)
    assert len(set(together.tolist())) == len(together)
    assert all(rows.dtype == np.int64 and (np.diff(rows) > 0).all() for rows in shares)
    return together


@settings(max_examples=60, deadline=None)
@given(labels=LABELS, data=st.data(), seed=SEEDS)
def test_iid_shares_out_all_rows_evenly(labels, data, seed):
    clients = data.draw(st.integers(1, len(labels)))
    shares = partition.iid(clients, seed=seed).assign(labels, 5)
    assert len(check_shares(shares, clients)) == len(labels)
    sizes = [len(rows) for rows in shares]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=60, deadline=None)
@given(labels=LABELS, data=st.data(), seed=SEEDS, alpha=ALPHAS)
def test_dirichlet_shares_out_all_rows_in_equal_sizes(labels, data, seed, alpha):
    clients = data.draw(st.integers(1, len(labels)))
    shares = partition.dirichlet(clients, alpha, seed=seed).assign(labels, 5)
    assert len(check_shares(shares, clients)) == len(labels)
    sizes = [len(rows) for rows in shares]
    assert max(sizes) - min(sizes) <= 1


def test_iid_gives_each_client_as_many_rows_as_asked_for():
    shares = partition.iid(7, samples_per_client=13).assign(np.zeros(100, dtype=int), 1)
    check_shares(shares, 7)
    assert [len(rows) for rows in shares] == [13] * 7


def test_the_seed_decides():
    labels = np.arange(500) % 10
    for make in (partition.iid, lambda n, seed: partition.dirichlet(n, 0.3, seed=seed)):
        one, again, other = make(9, seed=1), make(9, seed=1), make(9, seed=2)
        for a, b in zip(one.assign(labels, 10), again.assign(labels, 10), strict=True):
            assert np.array_equal(a, b)
        assert not np.array_equal(one.assign(labels, 10)[0], other.assign(labels, 10)[0])


def average_largest_class(alpha):
    labels = np.arange(5000) % 10
    shares = partition.dirichlet(20, alpha, seed=3).assign(labels, 10)
    return np.mean([np.bincount(labels[rows]).max() / len(rows) for rows in shares])


def test_a_small_alpha_gives_one_class_and_a_large_one_all():
    # Not nearer to 1: sizes are equal, so late clients take what the others left.
    assert average_largest_class(0.001) > 0.65
    assert 0.3 < average_largest_class(0.3) < 0.65
    assert average_largest_class(1e6) < 0.2


def test_the_mixes_follow_the_dirichlet_distribution():
    # With so many rows that no class runs out, the first client's mix has the moments of
    # Dirichlet(4 * alpha * prior): variance p (1 - p) / (4 * alpha + 1), plus that of the draw.
    labels = np.repeat(np.arange(4), [1600, 1200, 800, 400])
    prior, alpha, clients = np.array([0.4, 0.3, 0.2, 0.1]), 0.5, 40
    mixes = []
    for seed in range(300):
        rows = partition.dirichlet(clients, alpha, seed=seed).assign(labels, 4)[0]
        mixes.append(np.bincount(labels[rows], minlength=4) / len(rows))
    mixes = np.array(mixes)
    spread = prior * (1 - prior) / (4 * alpha + 1)
    assert mixes.mean(axis=0) == pytest.approx(prior, abs=0.05)
    assert mixes.var(axis=0) == pytest.approx(spread * (1 + 4 * alpha / 100), rel=0.3)


@pytest.mark.parametrize("make", [partition.iid, lambda clients: partition.dirichlet(clients, 0.5)])
def test_too_many_clients_are_refused(make):
    with pytest.raises(DatasetError, match="fewer clients"):
        make(11).assign(np.zeros(10, dtype=int), 1)


def test_too_many_samples_are_refused():
    with pytest.raises(DatasetError, match="needs 20 rows, but there are 10"):
        partition.iid(4, samples_per_client=5).assign(np.zeros(10, dtype=int), 1)


@pytest.mark.parametrize("clients", [0, -1, 1.5, "3", None, True, 2**40])
def test_the_number_of_clients_is_checked(clients):
    with pytest.raises(DatasetError, match="clients"):
        partition.iid(clients)


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf"), "1", None, True, 10**400])
def test_alpha_is_checked(alpha):
    with pytest.raises(DatasetError, match="alpha"):
        partition.dirichlet(3, alpha)


@pytest.mark.parametrize(
    "one", [partition.iid(3), partition.iid(3, 5, seed=9), partition.dirichlet(4, 1, seed=2)]
)
def test_a_partition_comes_back_from_its_data(one):
    assert Partition.from_dict(one.to_dict()) == one
    assert Partition.from_dict(dagcbor.decode(dagcbor.encode(one.to_dict()))) == one
    assert hash(one) == hash(Partition.from_dict(one.to_dict()))


def test_a_partition_shows_how_it_was_made():
    assert repr(partition.iid(3, 5)) == "iid(clients=3, samples_per_client=5, seed=0)"
    assert repr(partition.dirichlet(20, alpha=0.3)) == "dirichlet(clients=20, alpha=0.3, seed=0)"
    assert partition.dirichlet(2, 1) == partition.dirichlet(2, 1.0)


def test_a_partition_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        partition.iid(3).clients = 4


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"scheme": "iid"},
        {"scheme": "magic", "clients": 3},
        {"scheme": ["iid"], "clients": 3},
        {"scheme": "iid", "clients": "3"},
        {"scheme": "iid", "clients": 3, "alpha": 0.1},
        {"scheme": "iid", "clients": 3, "samples_per_client": 0},
        {"scheme": "iid", "clients": 3, "seed": -1},
        {"scheme": "iid", "clients": 3, "extra": 1},
        {"scheme": "dirichlet", "clients": 3},
        {"scheme": "dirichlet", "clients": 3, "alpha": 0.1, "samples_per_client": 3},
        {"scheme": "iid", "clients": 3, 7: 1},
    ],
)
def test_data_that_is_no_partition_is_refused(data):
    with pytest.raises(DatasetError):
        Partition.from_dict(data)


def test_a_dataset_is_shared_out_by_a_partition():
    data = Dataset(np.arange(40).reshape(-1, 1), np.arange(40) % 4, classes=6, name="d")
    parts = data.partition(partition.dirichlet(3, 0.5))
    assert [part.name for part in parts] == ["d/0", "d/1", "d/2"]
    assert {part.classes for part in parts} == {6}
    rows = np.concatenate([part.inputs[:, 0] for part in parts])
    assert sorted(rows) == list(range(40))
    assert all((part.inputs[:, 0] % 4 == part.labels).all() for part in parts)
