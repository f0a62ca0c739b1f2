"""The client's side: strict in what it reads, and true to what it keeps."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from neuronexus_kernel import models
from neuronexus_kernel.errors import ArchitectureError, InvalidInputError, NeuroNexusError
from neuronexus_kernel.federation import Recipe
from neuronexus_kernel.federation.arrays import from_record, to_record
from neuronexus_kernel.federation.client_app import CohortApp
from neuronexus_kernel.federation.executors.base import Client
from neuronexus_kernel.federation.executors.sequential import SequentialExecutor
from neuronexus_kernel.federation.grid import LocalGrid
from neuronexus_kernel.federation.server_app import train_config

SMALL = Recipe(models.mlp(6, (8,), 3), batch_size=5)


@pytest.fixture
def app(blobs):
    clients = {1000 + place: Client(place, blobs(10 + place, seed=place)) for place in range(3)}
    return CohortApp(clients, SequentialExecutor())


def ask(app, *, kind="train", nodes=(1000,), records=None, arrays=None, seed=0, **config):
    """Send one message to each node and return the replies."""
    if arrays is None:
        arrays = SMALL.architecture.initial_weights(seed)
    content = RecordDict(
        {
            "arrays": to_record(arrays),
            "config": ConfigRecord({**train_config(SMALL, seed=seed), "server-round": 1, **config}),
            **(records or {}),
        }
    )
    grid = LocalGrid(app, (1000, 1001, 1002))
    with grid.session():
        return grid.send_and_receive(
            [grid.create_message(content, kind, node, "1") for node in nodes]
        )


def test_a_reply_holds_weights_as_they_were_named_and_the_numbers(app):
    start = SMALL.architecture.initial_weights(0)
    turned = dict(reversed(start.items()))
    for reply, examples in zip(ask(app, arrays=turned, nodes=(1000, 1001)), (10, 11), strict=True):
        assert list(reply.content["arrays"]) == list(turned)
        numbers = reply.content["metrics"]
        assert numbers["num-examples"] == examples
        assert numbers["steps"] == 5 * -(-examples // 5)
        assert numbers["clients"] == 1
        assert numbers["train_loss"] > 0
        trained = from_record(reply.content["arrays"])
        assert all(trained[name].shape == start[name].shape for name in start)


def test_clients_answer_for_evaluation(app):
    (reply,) = ask(app, kind="evaluate")
    assert set(reply.content) == {"metrics"}
    assert reply.content["metrics"]["num-examples"] == 10
    assert 0 <= reply.content["metrics"]["accuracy"] <= 1


def test_a_message_of_another_kind_gets_an_error(app):
    (reply,) = ask(app, kind="query")
    assert "unknown" in reply.error.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"recipe": b"rubbish"}, "at byte 0"),
        ({"recipe": 5}, "no bytes named 'recipe'"),
        ({"seed": "x"}, "no int named 'seed'"),
        ({"server-round": "x"}, "no int named 'server-round'"),
        ({"client-rule": "steal"}, "asks for the rule 'steal'"),
        ({"client-rule": "keep", "kept": ["nothing"]}, "to keep that the architecture lacks"),
        ({"client-rule": "keep", "kept": ["linear_1.bias"]}, "or holds them itself"),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(app, change, reason):
    with pytest.raises(NeuroNexusError, match=reason):
        ask(app, **change)


def test_a_control_variate_of_another_architecture_is_refused(app):
    wrong = {"control": to_record({"linear_1.bias": np.zeros(99)})}
    with pytest.raises(InvalidInputError, match="'control' does not fit"):
        ask(app, records=wrong, **{"client-rule": "control"})


def test_weights_of_another_architecture_are_refused(app):
    wrong = SMALL.architecture.initial_weights(0)
    wrong["linear_1.bias"] = np.zeros(5, dtype=np.float32)
    with pytest.raises(ArchitectureError, match=r"linear_1\.bias"):
        ask(app, arrays=wrong)


def test_two_models_in_a_message_are_refused(app):
    more = {"more": to_record(SMALL.architecture.initial_weights(1))}
    with pytest.raises(InvalidInputError, match="one ArrayRecord, not 2"):
        ask(app, records=more)


def test_a_client_goes_on_elsewhere_from_what_it_kept(app, blobs):
    keep = {"client-rule": "keep", "kept": ["linear_2.bias", "linear_2.weight"]}
    start = SMALL.architecture.initial_weights(0)
    body = {name: array for name, array in start.items() if name.startswith("linear_1")}
    ask(app, arrays=body, **keep)

    client = {1000: Client(0, blobs(10, seed=0))}
    reborn = CohortApp(client, SequentialExecutor())
    reborn.states = {0: {"own": dict(app.states[0]["own"])}}
    first = ask(app, arrays=body, **keep)[0]
    second = ask(reborn, arrays=body, **keep)[0]
    fresh = ask(CohortApp(client, SequentialExecutor()), arrays=body, **keep)[0]
    sent = [from_record(each.content["arrays"]) for each in (first, second, fresh)]
    assert all(np.array_equal(sent[0][name], sent[1][name]) for name in body)
    assert not all(np.array_equal(sent[0][name], sent[2][name]) for name in body)
    for name, array in app.states[0]["own"].items():
        assert np.array_equal(reborn.states[0]["own"][name], array)


def test_state_of_another_architecture_is_refused(app):
    app.states[0] = {"own": {"linear_2.bias": np.ones(7, dtype=np.float32)}}
    with pytest.raises(InvalidInputError, match="partition 0 keeps as 'own' does not fit"):
        ask(app)


def test_personal_models_are_evaluated_by_their_owners(app):
    train = {"client-rule": "personal", "personal-mu": 0.0}
    ask(app, nodes=(1000, 1001), **train)
    own = app.states[0]["own"]
    (with_own,) = ask(app, kind="evaluate", **train)
    (alone,) = ask(app, kind="evaluate", arrays=own)
    (plain,) = ask(app, kind="evaluate")
    assert with_own.content["metrics"]["loss"] == alone.content["metrics"]["loss"]
    assert with_own.content["metrics"]["loss"] != plain.content["metrics"]["loss"]


class Broken:
    """An executor that fails for some partitions."""

    name = "broken"

    def __init__(self, *bad):
        self._bad = bad
        self._inner = SequentialExecutor()

    def train(self, cohort):
        if {client.partition_id for client in cohort.clients} & set(self._bad):
            raise OSError("the disk is gone")
        return self._inner.train(cohort)


def test_a_failure_of_one_client_is_its_own_and_one_of_all_is_raised(app, blobs):
    clients = {1000 + place: Client(place, blobs(10, seed=place)) for place in range(3)}
    replies = ask(CohortApp(clients, Broken(1)), nodes=tuple(clients))
    assert [each.has_error() for each in replies] == [False, True, False]
    assert replies[1].error.reason == "OSError: the disk is gone"
    (alone,) = ask(CohortApp(clients, Broken(1)), nodes=(1001,))
    assert alone.has_error()
    with pytest.raises(OSError, match="disk"):
        ask(CohortApp(clients, Broken(0, 1, 2)), nodes=tuple(clients))
    with pytest.raises(OSError, match="disk"):
        ask(CohortApp({1000: clients[1000]}, Broken(0)))


def test_a_client_that_fails_keeps_what_it_had(blobs):
    clients = {1000 + place: Client(place, blobs(10, seed=place)) for place in range(2)}
    app = CohortApp(clients, Broken(1))
    before = {"linear_2.bias": np.ones(3, dtype=np.float32)}
    app.states = {1: {"own": before}}
    ask(app, nodes=(1000, 1001), **{"client-rule": "personal", "personal-mu": 0.1})
    assert app.states[1]["own"] is before
    assert set(app.states[0]["own"]) == set(SMALL.architecture.parameters)


def test_in_summed_chunks_failures_stay_with_their_clients(blobs):
    clients = {1000 + place: Client(place, blobs(10, seed=place)) for place in range(5)}
    seen = []
    app = CohortApp(clients, Broken(0, 4), observe=seen.append, presum=True, chunk=2)
    content = RecordDict(
        {
            "arrays": to_record(SMALL.architecture.initial_weights(0)),
            "config": ConfigRecord({**train_config(SMALL, seed=0), "server-round": 1}),
        }
    )
    grid = LocalGrid(app, tuple(clients))
    with grid.session():
        replies = grid.send_and_receive(
            [grid.create_message(content, "train", node, "1") for node in clients]
        )
    assert [each.has_error() for each in replies] == [True, False, False, False, True]
    heavy = [each for each in replies if each.has_content() and "metrics" in each.content]
    assert [each.content["metrics"]["clients"] for each in heavy] == [1, 2]
    assert [len(outcome.cohort.clients) for outcome in seen] == [2, 2, 1]
    assert [sorted(outcome.failures) for outcome in seen] == [[0], [], [4]]
    assert isinstance(replies[3], Message)
