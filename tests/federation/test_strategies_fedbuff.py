"""FedBuff: buffered asynchronous aggregation, in simulated and in real time."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from neuronexus_kernel import models
from neuronexus_kernel.federation import Recipe
from neuronexus_kernel.federation._flower import Grid, Run
from neuronexus_kernel.federation.client_app import CohortApp
from neuronexus_kernel.federation.executors.base import Client
from neuronexus_kernel.federation.executors.sequential import SequentialExecutor
from neuronexus_kernel.federation.grid import LocalGrid
from neuronexus_kernel.federation.server_app import execute
from neuronexus_kernel.federation.strategies.fedbuff import FedBuff

SMALL = Recipe(models.mlp(6, (8,), 3), batch_size=5, local_epochs=2)
OPTIONS = {
    "fraction_evaluate": 0.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 0,
    "min_available_nodes": 1,
}


def buffered(**parameters):
    return SMALL.with_changes(strategy="FedBuff", strategy_parameters=parameters)


@pytest.fixture
def data(blobs):
    return [blobs(10 + 3 * place, seed=place) for place in range(6)]


def test_with_equal_speeds_and_a_buffer_for_all_it_is_fedavg(data, play, distance):
    plain = play(SMALL, data, rounds=4)
    equal = play(buffered(buffer_size=6, speed_spread=0.0), data, rounds=4)
    assert distance(plain.weights, equal.weights) < 1e-12


def test_a_round_takes_as_many_replies_as_the_buffer_holds_and_keeps_all_at_work(data, play):
    played = play(buffered(buffer_size=2), data, rounds=12)
    taken = [0] * 13
    for outcome in played.outcomes:
        taken[outcome.cohort.round] += len(outcome.updates)
    assert len(played.messages) == sum(taken) == 24
    assert taken[1] == 6  # all were asked at first, though they arrive over several rounds
    assert len(played.strategy.at_work) in (4, 5)  # some have arrived, and are asked next


def test_a_change_weighs_less_the_older_it_is(data, play):
    played = play(buffered(buffer_size=2, staleness_exponent=1.0), data, rounds=10)
    seen, ages, at = [], set(), 0
    for round in range(1, 11):
        updates = []
        while sum(len(each) for each, _ in updates) < 2:
            outcome = played.outcomes[at]
            updates.append((outcome.updates, outcome.cohort))
            at += 1
        pairs = [(update, cohort) for many, cohort in updates for update in many]
        total = sum(update.num_examples for update, _ in pairs)
        before, after = played.rounds[round - 1], played.rounds[round]
        for name in after:
            step = sum(
                update.num_examples
                / total
                / (1 + round - cohort.round)
                * (update.weights[name] - cohort.weights[name])
                for update, cohort in pairs
            )
            np.testing.assert_allclose(after[name], before[name] + step, atol=1e-12)
        ages |= {round - cohort.round for _, cohort in pairs}
        seen += [update.partition_id for update, _ in pairs]
    assert len(ages) > 2
    assert len(set(seen)) > 3


def test_a_client_trains_on_a_version_once_and_with_the_version_it_was_sent(data, play):
    played = play(buffered(buffer_size=2), data, rounds=12)
    trained = [
        (update.partition_id, outcome.cohort.round)
        for outcome in played.outcomes
        for update in outcome.updates
    ]
    assert len(trained) == len(set(trained)) == 24
    for outcome in played.outcomes:
        for name, array in outcome.cohort.weights.items():
            assert np.array_equal(array, played.rounds[outcome.cohort.round - 1][name])


def test_fast_clients_are_heard_more_often(data, play):
    played = play(buffered(buffer_size=1, speed_spread=1.0), data, rounds=40)
    heard = [update.partition_id for each in played.outcomes for update in each.updates]
    counts = sorted(heard.count(place) for place in range(6))
    assert counts[-1] >= 3 * max(1, counts[0])


def test_it_works_with_cohorts_that_change(data, play):
    played = play(buffered(buffer_size=2), data, rounds=10, cohort_size=3)
    heard = {update.partition_id for each in played.outcomes for update in each.updates}
    assert len(heard) >= 5
    assert len(played.strategy.at_work) <= 3


def test_a_server_learning_rate_scales_the_step(data, play):
    options = {"buffer_size": 6, "speed_spread": 0.0}
    whole = play(buffered(**options), data)
    half = play(buffered(**options, server_learning_rate=0.5), data)
    for name, array in half.weights.items():
        middle = (whole.weights[name] + whole.rounds[0][name]) / 2
        np.testing.assert_allclose(array, middle, atol=1e-12)


def test_when_all_fail_the_round_ends_and_changes_nothing(data, play, distance):
    broken = []

    def fail(sent, trained):
        if broken:
            raise OSError("gone")
        return trained

    def answer(handle, messages):
        replies = handle(messages)
        broken.append(1)
        return replies

    played = play(
        buffered(buffer_size=3), data, rounds=3, tamper=dict.fromkeys(range(6), fail), answer=answer
    )
    assert distance(played.rounds[1], played.rounds[0]) > 0
    assert distance(played.rounds[3], played.rounds[1]) == 0.0
    assert {place for place, _ in played.rejected} == set(range(6))


class SlowGrid(Grid):
    """A grid with a time of its own: each node answers after its own delay, from a thread."""

    def __init__(self, inner, delays):
        self._inner, self._delays = inner, delays
        self._ready, self._due = {}, {}
        self._lock = threading.Lock()
        self.polls = 0

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self):
        return self._inner.run

    def create_message(self, *arguments):
        return self._inner.create_message(*arguments)

    def get_node_ids(self):
        return self._inner.get_node_ids()

    def push_messages(self, messages):
        sent = list(messages)
        ids = self._inner.push_messages(sent)
        for name, message in zip(ids, sent, strict=True):
            self._due[name] = time.monotonic() + self._delays[message.metadata.dst_node_id]
        return ids

    def pull_messages(self, message_ids):
        self.polls += 1
        now = time.monotonic()
        return self._inner.pull_messages([name for name in message_ids if self._due[name] <= now])

    def send_and_receive(self, messages, *, timeout=None):
        return self._inner.send_and_receive(messages)


def over_slow_grid(data, delays, rounds, monkeypatch, **options):
    monkeypatch.setattr("neuronexus_kernel.federation.strategies.fedbuff._POLL_SECONDS", 0.005)
    clients = {1000 + place: Client(place, share) for place, share in enumerate(data)}
    outcomes, weights = [], {}
    app = CohortApp(clients, SequentialExecutor(dtype="float64"), observe=outcomes.append)
    grid = LocalGrid(app, tuple(clients))
    slow = SlowGrid(grid, {1000 + place: delay for place, delay in enumerate(delays)})
    with grid.session():
        execute(
            FedBuff(**options, **OPTIONS),
            slow,
            SMALL,
            SMALL.architecture.initial_weights(0),
            rounds=rounds,
            seed=0,
            round_end=lambda number, arrays: weights.__setitem__(number, dict(arrays)),
        )
    heard = [update.partition_id for each in outcomes for update in each.updates]
    return heard, weights, slow


def test_on_a_grid_with_time_it_does_not_wait_for_the_slow(data, monkeypatch):
    delays = [0.0, 0.0, 0.0, 0.0, 0.02, 60.0]
    began = time.monotonic()
    heard, weights, slow = over_slow_grid(data, delays, 6, monkeypatch, buffer_size=3)
    assert time.monotonic() - began < 30
    assert set(heard) == {0, 1, 2, 3, 4}
    assert len(weights) == 7
    assert slow.polls < 400
    assert any((weights[6][name] != weights[0][name]).any() for name in weights[0])


def test_on_a_grid_with_time_what_never_arrives_is_given_up(data, monkeypatch):
    delays = [0.0, 60.0, 60.0, 60.0, 60.0, 60.0]
    heard, weights, _ = over_slow_grid(data, delays, 1, monkeypatch, buffer_size=3, patience=0.1)
    assert heard == [0]
    assert any((weights[1][name] != weights[0][name]).any() for name in weights[0])
