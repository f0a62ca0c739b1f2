"""Nothing but updates that fit reach a strategy, and whoever sent others is named."""

from __future__ import annotations

import re

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

from neuronexus_kernel import models
from neuronexus_kernel.federation import Recipe
from neuronexus_kernel.federation.arrays import from_record, to_record
from neuronexus_kernel.federation.strategies.replies import answered

SMALL = Recipe(models.mlp(6, (8,), 3), batch_size=5)
BIAS = "linear_2.bias"


def arrays(content):
    return {name: array.copy() for name, array in from_record(content["arrays"]).items()}


def metrics(**changes):
    def change(content):
        content["metrics"] = MetricRecord({**content["metrics"], **changes})

    return change


def tensor(name, value):
    def change(content):
        given = arrays(content)
        given[name] = value(given.get(name))
        content["arrays"] = ArrayRecord(
            {key: Array(each) for key, each in given.items() if each is not None}
        )

    return change


def as_strangers_send_it(change):
    """Make a change to arrays as they come from elsewhere: as bytes."""

    def made(content):
        content["arrays"] = ArrayRecord(
            {name: Array(array) for name, array in arrays(content).items()}
        )
        change(content["arrays"])

    return made


def bytes_of(record, value):
    record[BIAS].data = value


BAD = {
    "NaN": (tensor(BIAS, lambda array: array * np.nan), "not finite"),
    "infinity": (tensor(BIAS, lambda array: array + np.inf), "not finite"),
    "shape": (tensor(BIAS, lambda array: np.zeros(4)), r"shape \(4,\), not \(3,\)"),
    "more dimensions": (tensor(BIAS, lambda array: array[None]), r"shape \(1, 3\)"),
    "integers": (tensor(BIAS, lambda array: np.ones(3, dtype=int)), "int64"),
    "complex": (tensor(BIAS, lambda array: array.astype(complex)), "complex"),
    "missing": (tensor(BIAS, lambda array: None), f"'{BIAS}' is missing or unknown"),
    "unknown": (tensor("extra", lambda array: np.zeros(3)), "'extra' is missing or unknown"),
    "no arrays": (lambda content: content.pop("arrays"), "record 'arrays' is missing"),
    "more arrays": (
        lambda content: content.update({"more": to_record({"a": np.zeros(1)})}),
        "record 'more' is missing or unknown",
    ),
    "a config": (
        lambda content: content.update({"more": ConfigRecord({"a": 1})}),
        "record 'more' is missing or unknown",
    ),
    "numbers for arrays": (
        lambda content: content.update({"arrays": MetricRecord({"a": 1})}),
        "record of arrays",
    ),
    "no metrics": (lambda content: content.pop("metrics"), "record 'metrics' is missing"),
    "unknown metric": (metrics(more=1), "metric 'more' is missing or unknown"),
    "NaN loss": (metrics(train_loss=float("nan")), "'train_loss' is not a finite number"),
    "a list": (metrics(train_loss=[1.0, 2.0]), "'train_loss' is not a finite number"),
    "no examples": (metrics(**{"num-examples": 0}), "'num-examples' is below 1"),
    "negative examples": (metrics(**{"num-examples": -5}), "'num-examples' is below 1"),
    "huge bytes": (
        as_strangers_send_it(lambda record: bytes_of(record, bytes(100_000))),
        "takes 100000 bytes",
    ),
    "rubbish": (as_strangers_send_it(lambda record: bytes_of(record, b"rubbish")), "refused"),
    "another shape inside": (
        as_strangers_send_it(lambda record: bytes_of(record, Array(np.zeros(5)).data)),
        r"shape \(5,\)",
    ),
}


@pytest.fixture
def data(blobs):
    return [blobs(20, seed=place) for place in range(3)]


def changed(change, nodes=(1001,)):
    def answer(handle, messages):
        replies = handle(messages)
        for reply in replies:
            if reply.metadata.src_node_id in nodes:
                change(reply.content)
        return replies

    return answer


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("strategy", ["FedAvg", "FedBuff"])
def test_a_reply_that_does_not_fit_is_refused_and_named(data, play, distance, kind, strategy):
    change, reason = BAD[kind]
    recipe = SMALL.with_changes(strategy=strategy)
    if strategy == "FedBuff":
        parameters = {"buffer_size": 2, "speed_spread": 0.0}
        recipe = recipe.with_changes(strategy_parameters=parameters)
    played = play(recipe, data, answer=changed(change))
    ((place, why),) = played.rejected
    assert place == 1
    assert re.search(reason, why)
    first, _, third = (
        update.weights
        for update in sorted(
            (each for outcome in played.outcomes for each in outcome.updates),
            key=lambda update: update.partition_id,
        )
    )
    mean = {name: (first[name] + third[name]) / 2 for name in first}
    assert distance(played.weights, mean) < 1e-12


def test_arrays_that_come_as_bytes_are_taken(data, play, distance):
    plain = play(SMALL, data, rounds=2)
    sent = play(SMALL, data, rounds=2, answer=changed(as_strangers_send_it(lambda record: None)))
    assert sent.rejected == []
    assert distance(plain.weights, sent.weights) == 0.0


def test_a_model_too_far_from_the_one_that_was_sent_is_refused(data, play):
    def leap(sent, trained):
        return {name: array + 100.0 for name, array in trained.items()}

    assert play(SMALL, data, tamper={2: leap}).rejected == []
    assert play(SMALL, data, bound=10.0).rejected == []
    ((place, why),) = play(SMALL, data, tamper={2: leap}, bound=10.0).rejected
    assert place == 2
    assert "away from the one that was sent, more than 10" in why


def test_nobody_can_say_that_another_answered_for_it(data, play):
    def shirk(handle, messages):
        replies = handle(messages)
        return [
            answered(message, other) if message.metadata.dst_node_id == node else reply
            for message, reply in zip(messages, replies, strict=True)
            for node, other in [(1001, 1001)]
        ]

    ((place, why),) = play(SMALL, data, answer=shirk).rejected
    assert place == 1
    assert "missing or unknown" in why


def test_if_no_reply_fits_the_weights_stay(data, play, distance):
    change, _ = BAD["NaN"]
    played = play(SMALL, data, answer=changed(change, nodes=(1000, 1001, 1002)))
    assert [place for place, _ in played.rejected] == [0, 1, 2]
    assert distance(played.weights, played.rounds[0]) == 0.0
