"""LocalGrid is a Flower grid: stock strategies run on it, in a fixed order, and alone."""

from __future__ import annotations

import logging
import random
import threading

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from neuronexus_kernel.errors import EvaluationError, InvalidInputError
from neuronexus_kernel.federation.arrays import LocalArray, LocalContent, from_record, to_record
from neuronexus_kernel.federation.grid import LocalGrid


def answer(message, value=None, examples=1):
    """Reply with the node's id as its weight, or another value."""
    node = message.metadata.dst_node_id
    weights = {"w": np.full(3, node if value is None else value, dtype=np.float64)}
    metrics = MetricRecord({"num-examples": examples, "train_loss": 0.5})
    return Message(RecordDict({"arrays": to_record(weights), "m": metrics}), reply_to=message)


def run(grid, rounds=1, evaluate=None, **options):
    options = {"fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1, **options}
    with grid.session():
        return FedAvg(**options).start(
            grid=grid,
            initial_arrays=to_record({"w": np.zeros(3)}),
            num_rounds=rounds,
            evaluate_fn=evaluate,
        )


def test_a_stock_strategy_trains_over_it():
    grid = LocalGrid(lambda messages: [answer(each) for each in messages], [3, 1, 2])
    assert isinstance(grid, Grid)
    result = run(grid)
    assert from_record(result.arrays)["w"].tolist() == [2.0, 2.0, 2.0]
    assert result.train_metrics_clientapp[1]["train_loss"] == 0.5


def test_messages_and_replies_are_in_the_order_of_the_nodes():
    seen = []

    def handle(messages):
        seen.extend(each.metadata.dst_node_id for each in messages)
        return reversed([answer(each) for each in messages])

    grid = LocalGrid(handle, [30, 10, 20])
    with grid.session():
        sent = [grid.create_message(RecordDict(), "train", node, "1") for node in (20, 30, 10)]
        replies = grid.send_and_receive(sent)
    assert seen == [10, 20, 30]
    assert [each.metadata.src_node_id for each in replies] == [10, 20, 30]
    names = [each.metadata.message_id for each in (*sent, *replies)]
    assert len(set(names)) == 6
    assert all(names)


def test_a_round_offers_its_cohort_and_later_rounds_others():
    asked = []

    def handle(messages):
        asked.append(tuple(each.metadata.dst_node_id for each in messages))
        return [answer(each) for each in messages]

    grid = LocalGrid(handle, range(1, 21), cohort_size=4, seed=5)
    run(grid, rounds=6)
    assert asked == [grid.cohort(round) for round in range(1, 7)]
    assert all(len(cohort) == 4 for cohort in asked)
    assert len(set(asked)) > 1
    again = LocalGrid(handle, range(1, 21), cohort_size=4, seed=6)
    assert [again.cohort(round) for round in range(1, 7)] != asked


def test_evaluation_by_the_nodes_stays_within_the_rounds_cohort():
    asked = []

    def handle(messages):
        kinds = {each.metadata.message_type for each in messages}
        asked.append((kinds.pop(), tuple(each.metadata.dst_node_id for each in messages)))
        return [answer(each) for each in messages]

    grid = LocalGrid(handle, range(1, 11), cohort_size=3)
    run(grid, rounds=2, fraction_evaluate=1.0, min_evaluate_nodes=1)
    cohorts = [grid.cohort(1), grid.cohort(2)]
    assert asked == [(kind, cohort) for cohort in cohorts for kind in ("train", "evaluate")]


def test_a_strategy_that_samples_by_itself_samples_the_same_again():
    def sampled(seed, disturb=False):
        asked = []

        def handle(messages):
            asked.append(tuple(each.metadata.dst_node_id for each in messages))
            return [answer(each) for each in messages]

        def evaluate(server_round, arrays):
            if disturb:
                random.random(), np.random.random()

        run(LocalGrid(handle, range(1, 31), seed=seed), 4, evaluate, fraction_train=0.2)
        return asked

    assert sampled(1) == sampled(1, disturb=True)
    assert sampled(1) != sampled(2)
    assert all(len(cohort) == 6 for cohort in sampled(1))


def test_the_global_generators_the_identity_and_the_log_level_are_given_back():
    random.seed(4)
    np.random.seed(4)
    expected = random.Random(4).random(), np.random.RandomState(4).random()
    level = logging.getLogger("flwr").level
    run(LocalGrid(lambda messages: [answer(each) for each in messages], [1, 2]), 2)
    assert (random.random(), np.random.random()) == expected
    assert logging.getLogger("flwr").level == level
    with pytest.raises(RuntimeError, match="not set"):
        _ = TaskIdentity.run_id


def test_they_are_given_back_when_the_run_fails():
    def handle(messages):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run(LocalGrid(handle, [1, 2]))
    with pytest.raises(RuntimeError, match="not set"):
        _ = TaskIdentity.run_id


def test_two_runs_in_two_threads_do_not_disturb_each_other():
    results, runs_seen = {}, {}

    def train(number):
        seen = runs_seen.setdefault(number, set())

        def handle(messages):
            seen.update(each.metadata.run_id for each in messages)
            return [answer(each, value=number) for each in messages]

        grid = LocalGrid(handle, [1, 2, 3], run_id=number, seed=number)
        results[number] = from_record(run(grid, 20).arrays)["w"].tolist()

    threads = [threading.Thread(target=train, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [number] * 3 for number in (1, 2, 3)}
    assert runs_seen == {number: {number} for number in (1, 2, 3)}


def test_a_run_may_start_another_one_from_within():
    def handle(messages):
        inner = LocalGrid(lambda asked: [answer(each, value=9) for each in asked], [1], run_id=2)
        value = from_record(run(inner).arrays)["w"][0]
        return [answer(each, value=value) for each in messages]

    result = run(LocalGrid(handle, [1, 2]), 2)
    assert from_record(result.arrays)["w"].tolist() == [9.0] * 3


def test_an_error_reply_costs_one_update_and_not_the_round():
    def handle(messages):
        error = Error(2, "no data")
        return [
            Message(error, reply_to=each) if each.metadata.dst_node_id == 3 else answer(each)
            for each in messages
        ]

    result = run(LocalGrid(handle, [1, 2, 3]))
    assert from_record(result.arrays)["w"].tolist() == [1.5] * 3


def test_a_missing_reply_and_an_unknown_node_become_errors():
    grid = LocalGrid(lambda messages: [answer(messages[0])], [1, 2])
    with grid.session():
        sent = [grid.create_message(RecordDict(), "train", node, "1") for node in (1, 2, 99)]
        replies = grid.send_and_receive(sent)
    assert [each.has_error() for each in replies] == [False, True, True]
    assert "Node 2 did not reply" in replies[1].error.reason
    assert "no node 99" in replies[2].error.reason


def test_push_and_pull_are_the_two_halves_of_send_and_receive():
    grid = LocalGrid(lambda messages: [answer(each) for each in messages], [1, 2])
    with grid.session():
        ids = grid.push_messages(
            grid.create_message(RecordDict(), "train", node, "1") for node in (2, 1)
        )
        first = grid.pull_messages(ids[:1])
        assert [each.metadata.reply_to_message_id for each in first] == ids[:1]
        assert len(grid.pull_messages(ids)) == 1
        assert grid.pull_messages(ids) == []


def test_a_strategy_that_waits_for_more_nodes_than_there_are_is_ended(monkeypatch):
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", lambda seconds: None)
    grid = LocalGrid(lambda messages: [answer(each) for each in messages], [1, 2])
    with pytest.raises(EvaluationError, match="waits for more nodes than the 2"):
        run(grid, min_available_nodes=3)


@pytest.mark.parametrize(("nodes", "size"), [([], None), ([1, 1], None), ([1, 2], 3), ([1, 2], 0)])
def test_a_grid_without_nodes_or_with_too_large_a_cohort_is_refused(nodes, size):
    with pytest.raises(InvalidInputError):
        LocalGrid(lambda messages: [], nodes, cohort_size=size)


@pytest.mark.parametrize(
    "ndarray",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.zeros((0, 2)),
        np.array(1.5),
    ],
    ids=["c order", "f order", "empty", "scalar"],
)
def test_a_local_array_serialises_as_flowers_own_does(ndarray):
    ours, stock = LocalArray(ndarray), Array(ndarray)
    assert (ours.dtype, ours.shape, ours.stype) == (stock.dtype, stock.shape, stock.stype)
    assert ours.data == stock.data
    assert ours.object_id == stock.object_id
    record = to_record({"w": ndarray})
    assert record.object_id == ArrayRecord({"w": stock}).object_id
    copied = ArrayRecord({"w": ours})["w"]
    assert type(copied) is Array
    assert np.array_equal(copied.numpy(), ndarray)


def test_a_record_of_local_arrays_can_be_read_by_another_flower():
    record = to_record({"w": np.arange(4.0), "b": np.ones((2, 2), dtype=np.float32)})
    sent = {name: each.deflate() for name, each in get_all_nested_objects(record).items()}
    read = inflate_object_from_contents(record.object_id, sent)
    assert {name: array.tolist() for name, array in from_record(read).items()} == {
        "w": [0.0, 1.0, 2.0, 3.0],
        "b": [[1.0, 1.0], [1.0, 1.0]],
    }


def test_a_record_that_a_strategy_empties_gives_its_arrays_away():
    record = to_record({"w": np.arange(4.0), "b": np.ones(2)})
    assert [array.tolist() for array in record.to_numpy_ndarrays()] == [[0, 1, 2, 3], [1, 1]]
    assert len(record) == 2
    given = record.to_numpy_ndarrays(keep_input=False)
    assert [array.tolist() for array in given] == [[0, 1, 2, 3], [1, 1]]
    assert len(record) == 0


def test_new_bytes_replace_the_kept_array():
    array = LocalArray(np.zeros(2))
    array.data = Array(np.ones(2)).data
    assert array.numpy().tolist() == [1.0, 1.0]


def test_local_content_is_a_record_dict_to_everybody_else():
    metrics = MetricRecord({"loss": 0.5, "num-examples": 3})
    ours, plain = LocalContent(), RecordDict()
    for content in (ours, plain):
        content["arrays"] = ArrayRecord({"w": Array(np.arange(3.0))})
        content["metrics"] = metrics
    assert ours.object_id == plain.object_id
    assert list(ours.array_records) == list(plain.array_records) == ["arrays"]
    assert list(ours.metric_records) == ["metrics"]
    assert list(ours.config_records) == []
    ours.metric_records["metrics"] = MetricRecord({"loss": 1.0})
    assert ours["metrics"]["loss"] == 1.0
    del ours.array_records["arrays"]
    assert list(ours) == ["metrics"]


def test_a_later_first_round_has_the_cohort_of_that_round():
    def cohorts(first, rounds):
        grid = LocalGrid(
            lambda messages: [answer(each) for each in messages],
            range(1, 21),
            cohort_size=4,
            seed=3,
            first_round=first,
        )
        found = []
        with grid.session():
            for _ in range(rounds):
                found.append(grid.get_node_ids())
                grid.send_and_receive(
                    [grid.create_message(RecordDict(), "train", node, "1") for node in found[-1]]
                )
                grid.send_and_receive([])
        return found

    assert cohorts(3, 2) == cohorts(1, 4)[2:]


def test_messages_that_are_pushed_for_training_make_a_round_too():
    grid = LocalGrid(
        lambda messages: [answer(each) for each in messages], range(1, 21), cohort_size=4
    )
    with grid.session():
        first = grid.get_node_ids()
        sent = [grid.create_message(RecordDict(), "train", node, "1") for node in first]
        grid.pull_messages(grid.push_messages(sent))
        assert grid.get_node_ids() == first
        grid.send_and_receive([])
        assert grid.get_node_ids() == list(grid.cohort(2))


def test_without_reseeding_a_session_seeds_the_global_generators_once():
    def drawn():
        grid = LocalGrid(lambda messages: [], [1, 2], seed=5, reseed=False)
        with grid.session():
            found = []
            for _ in range(2):
                grid.get_node_ids()
                found.append(random.random())
        return found

    first, second = drawn()
    assert first != second
    assert drawn() == [first, second]
