"""Chance by address: the same address gives the same draw, whatever else is drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.federation import randomness

EXPECTED = [8767769759648228027, 6324086576627485539, 3678056493268801414]
COHORT = (4, 5, 7)


def test_a_stream_is_the_same_on_every_machine_and_for_ever():
    assert randomness.words("order", 1, 2, 3, count=3).tolist() == EXPECTED
    assert randomness.choose(3, 10, seed=0, round=1) == COHORT


@settings(max_examples=50, deadline=None)
@given(address=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4), count=st.integers(0, 20))
def test_a_stream_is_numpys_philox_under_the_key_of_its_address(address, count):
    import hashlib

    name = "/".join(("order", *map(str, address))).encode()
    digest = hashlib.blake2b(name, digest_size=16, person=b"neuronexus-rng-1").digest()
    key = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    expected = np.random.Philox(key=key).random_raw(count)
    assert np.array_equal(randomness.words("order", *address, count=count), expected)


def test_threads_do_not_disturb_each_others_streams():
    from concurrent.futures import ThreadPoolExecutor

    def draw(place):
        return [randomness.words("noise", place, turn, count=9).tolist() for turn in range(50)]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, range(8))) == [draw(place) for place in range(8)]


def test_a_longer_stream_begins_with_the_shorter_one():
    short = randomness.words("noise", 7, count=5)
    assert np.array_equal(randomness.words("noise", 7, count=50)[:5], short)


def test_addresses_and_purposes_do_not_run_into_each_other():
    streams = [
        tuple(randomness.words(purpose, *address, count=2).tolist())
        for purpose in ("order", "noise")
        for address in ((1, 2, 3), (12, 3), (1, 23), (3, 2, 1), (1, 2, 3, 0), (-1, 2, 3))
    ]
    assert len(set(streams)) == len(streams)


@settings(max_examples=50, deadline=None)
@given(
    examples=st.integers(1, 50),
    batch=st.integers(1, 60),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_epoch_takes_each_row_once_in_batches_of_the_right_size(
    examples, batch, epochs, seed
):
    per_epoch = -(-examples // batch)
    steps = epochs * per_epoch
    batches = list(
        randomness.batch_rows(examples, batch, steps, seed=seed, round=1, partition_id=0)
    )
    assert len(batches) == steps
    for epoch in range(epochs):
        taken = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(np.concatenate(taken).tolist()) == list(range(examples))
        assert all(len(rows) == batch for rows in taken[:-1])


def test_fewer_steps_are_the_first_of_more_steps():
    def rows(steps):
        return randomness.batch_rows(7, 3, steps, seed=1, round=2, partition_id=3)

    long = list(rows(8))
    for steps in range(8):
        taken = list(rows(steps))
        assert len(taken) == steps
        assert all(np.array_equal(*pair) for pair in zip(taken, long, strict=False))


def test_epochs_and_rounds_have_orders_of_their_own():
    def order(round):
        rows = randomness.batch_rows(40, 40, 2, seed=0, round=round, partition_id=3)
        return [tuple(each.tolist()) for each in rows]

    assert len({*order(1), *order(2)}) == 4
    assert order(1) == order(1)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 100), seed=st.integers(0, 1000), data=st.data())
def test_a_cohort_has_the_size_asked_for_and_nobody_twice(count, seed, data):
    size = data.draw(st.integers(1, count))
    cohort = randomness.choose(size, count, seed=seed, round=1)
    assert len(set(cohort)) == size
    assert list(cohort) == sorted(cohort)
    assert set(cohort) <= set(range(count))


def test_over_many_rounds_every_client_is_chosen_about_equally_often():
    counts = np.zeros(20)
    for round in range(1, 1001):
        counts[list(randomness.choose(5, 20, seed=1, round=round))] += 1
    assert counts.min() > 200  # 250 expected, standard deviation 14
    assert counts.max() < 300
