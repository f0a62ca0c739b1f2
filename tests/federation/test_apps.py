"""Stock Flower apps, which know nothing of us, run in this process."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    FedAvg,
)

from neuronexus_kernel import federation
from neuronexus_kernel.errors import EvaluationError, InvalidInputError
from neuronexus_kernel.federation import AppRun

TRUTH = np.array([2.0, -1.0, 0.5])


def run(*apps, **options):
    return federation.run(*apps, **{"progress": False, **options})


# --- as in Flower's NumPy quickstart -----------------------------------------------------------


def numpy_client(*, mods=(), fails=()):
    """A ClientApp that fits a line to the data of its partition by gradient descent."""
    app = ClientApp(mods=list(mods))

    def load(context):
        random = np.random.default_rng(context.node_config["partition-id"])
        inputs = random.normal(size=(40, 3))
        return inputs, inputs @ TRUTH

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        if context.node_config["partition-id"] in fails:
            raise OSError("the disk is gone")
        inputs, labels = load(context)
        (weights,) = msg.content["arrays"].to_numpy_ndarrays()
        for _ in range(int(context.run_config["local-steps"])):
            error = inputs @ weights - labels
            weights = weights - msg.content["config"]["lr"] * inputs.T @ error / len(labels)
        seen = context.state.config_records.get("rounds", ConfigRecord({"trained": 0}))
        context.state["rounds"] = ConfigRecord({"trained": seen["trained"] + 1})
        metrics = {"loss": float(np.mean(error**2)), "num-examples": len(labels)}
        content = RecordDict({"arrays": ArrayRecord([weights]), "metrics": MetricRecord(metrics)})
        return Message(content=content, reply_to=msg)

    @app.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        inputs, labels = load(context)
        (weights,) = msg.content["arrays"].to_numpy_ndarrays()
        loss = float(np.mean((inputs @ weights - labels) ** 2))
        metrics = MetricRecord({"eval_loss": loss, "num-examples": len(labels)})
        return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)

    return app


def numpy_server(wrap=lambda strategy: strategy, **options):
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = wrap(FedAvg(**options))
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord([np.zeros(3)]),
            train_config=ConfigRecord({"lr": 0.1}),
            num_rounds=context.run_config["num-server-rounds"],
        )

    return app


CONFIG = {"num-server-rounds": 3, "local-steps": 20}


def test_the_numpy_quickstart_runs_and_its_result_is_handed_out():
    outcome = run(numpy_server(), numpy_client(), clients=4, run_config=CONFIG)
    assert isinstance(outcome, AppRun)
    (weights,) = outcome.result.arrays.to_numpy_ndarrays()
    np.testing.assert_allclose(weights, TRUTH, atol=0.05)
    losses = [
        metrics["eval_loss"] for metrics in outcome.result.evaluate_metrics_clientapp.values()
    ]
    assert len(losses) == 3
    assert losses == sorted(losses, reverse=True)
    assert outcome.messages == 3 * 4 * 2
    assert outcome.failures == ()


def test_each_node_keeps_a_state_of_its_own_between_rounds():
    outcome = run(numpy_server(), numpy_client(), clients=3, run_config=CONFIG)
    assert [node.state["rounds"]["trained"] for node in outcome.nodes] == [3, 3, 3]
    assert [node.node_config for node in outcome.nodes] == [
        {"partition-id": place, "num-partitions": 3} for place in range(3)
    ]


def test_a_failing_client_costs_its_reply_and_is_named():
    with pytest.warns(RuntimeWarning, match="Client 1 failed at 'train': OSError: the disk is"):
        outcome = run(numpy_server(), numpy_client(fails={1}), clients=3, run_config=CONFIG)
    assert [(each.partition_id, each.message_type) for each in outcome.failures] == [
        (1, "train")
    ] * 3
    (weights,) = outcome.result.arrays.to_numpy_ndarrays()
    np.testing.assert_allclose(weights, TRUTH, atol=0.05)


def test_the_same_seed_gives_the_same_run_and_sampling_differs_between_rounds():
    def cohorts(seed):
        client, asked = numpy_client(), []
        inner = client._registered_funcs["train.default"]

        def noting(msg, context):
            asked.append(context.node_config["partition-id"])
            return inner(msg, context)

        client._registered_funcs["train.default"] = noting
        server = numpy_server(fraction_train=0.3, fraction_evaluate=0.0)
        options = {"run_config": {**CONFIG, "num-server-rounds": 6}, "seed": seed}
        result = run(server, client, clients=10, **options).result
        return [sorted(asked[at : at + 3]) for at in range(0, 18, 3)], result.arrays

    first, arrays = cohorts(1)
    again, same = cohorts(1)
    assert first == again
    assert len({tuple(cohort) for cohort in first}) > 2
    assert first != cohorts(2)[0]
    assert np.array_equal(arrays.to_numpy_ndarrays()[0], same.to_numpy_ndarrays()[0])


# --- as in Flower's PyTorch quickstart ----------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(6, 8)
        self.out = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.out(torch.relu(self.hidden(x)))


def torch_apps(blobs):
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(msg: Message, context: Context) -> Message:
        model = Net()
        model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
        data = blobs(30, seed=context.node_config["partition-id"])
        rows = torch.utils.data.TensorDataset(torch.tensor(data.inputs), torch.tensor(data.labels))
        loader = torch.utils.data.DataLoader(rows, batch_size=5, shuffle=True)
        optimiser = torch.optim.SGD(model.parameters(), lr=msg.content["config"]["lr"])
        for inputs, labels in loader:
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimiser.step()
        content = RecordDict(
            {
                "arrays": ArrayRecord(model.state_dict()),
                "metrics": MetricRecord({"train_loss": loss.item(), "num-examples": len(data)}),
            }
        )
        return Message(content=content, reply_to=msg)

    @client.evaluate()
    def evaluate(msg: Message, context: Context) -> Message:
        model = Net()
        model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
        data = blobs(30, seed=context.node_config["partition-id"])
        right = model(torch.tensor(data.inputs)).argmax(1).numpy() == data.labels
        metrics = MetricRecord({"eval_acc": float(right.mean()), "num-examples": len(data)})
        return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        torch.manual_seed(0)
        result = FedAvg(fraction_train=0.5).start(
            grid=grid,
            initial_arrays=ArrayRecord(Net().state_dict()),
            train_config=ConfigRecord({"lr": context.run_config["learning-rate"]}),
            num_rounds=context.run_config["num-server-rounds"],
        )
        context.state["final"] = result.arrays

    return server, client


def test_the_pytorch_quickstart_learns_and_repeats_itself(blobs):
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    config = {"num-server-rounds": 6, "learning-rate": 0.2}
    outcome = run(*torch_apps(blobs), clients=4, run_config=config)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert outcome.result.evaluate_metrics_clientapp[6]["eval_acc"] > 0.8
    model = Net()
    model.load_state_dict(outcome.result.arrays.to_torch_state_dict())
    assert outcome.context.state["final"].object_id == outcome.result.arrays.object_id
    again = run(*torch_apps(blobs), clients=4, run_config=config)
    assert again.result.arrays.object_id == outcome.result.arrays.object_id


# --- client-side differential privacy, by Flower's mods -----------------------------------------


def test_fixed_clipping_at_the_clients_bounds_their_updates():
    def moved(norm):
        def wrap(strategy):
            return DifferentialPrivacyClientSideFixedClipping(strategy, 0.0, norm, 4)

        outcome = run(
            numpy_server(wrap, fraction_evaluate=0.0),
            numpy_client(mods=[fixedclipping_mod]),
            clients=4,
            run_config={**CONFIG, "num-server-rounds": 1},
        )
        assert outcome.failures == ()
        return float(np.linalg.norm(outcome.result.arrays.to_numpy_ndarrays()[0]))

    assert moved(0.25) <= 0.25 + 1e-9
    assert moved(100.0) > 1.0


def test_adaptive_clipping_moves_its_norm_by_what_the_clients_tell():
    made = []

    def wrap(strategy):
        made.append(
            DifferentialPrivacyClientSideAdaptiveClipping(
                strategy, 0.1, 4, initial_clipping_norm=0.1
            )
        )
        return made[-1]

    outcome = run(
        numpy_server(wrap, fraction_evaluate=0.0),
        numpy_client(mods=[adaptiveclipping_mod]),
        clients=4,
        run_config=CONFIG,
    )
    assert outcome.failures == ()
    assert made[0].clipping_norm != 0.1


def test_a_mod_whose_strategy_is_missing_is_reported_as_a_failure():
    with pytest.warns(RuntimeWarning, match="clipping_norm"):
        outcome = run(
            numpy_server(fraction_evaluate=0.0),
            numpy_client(mods=[fixedclipping_mod]),
            clients=2,
            run_config=CONFIG,
        )
    assert len(outcome.failures) == 6


# --- the Message API without a strategy ----------------------------------------------------------


def pushing_server(kind, content, wanted):
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        nodes = list(grid.get_node_ids())
        messages = [Message(content, dst_node_id=node, message_type=kind) for node in nodes]
        waiting = set(grid.push_messages(messages))
        while waiting:
            for reply in grid.pull_messages(list(waiting)):
                waiting.remove(reply.metadata.reply_to_message_id)
                wanted.append(reply)

    return app


def test_a_server_that_pushes_and_pulls_gets_every_answer():
    client = ClientApp()

    @client.query()
    def query(msg: Message, context: Context) -> Message:
        count = MetricRecord({"square": context.node_config["partition-id"] ** 2})
        return Message(RecordDict({"answer": count}), reply_to=msg)

    replies = []
    outcome = run(pushing_server(MessageType.QUERY, RecordDict(), replies), client, clients=5)
    assert [reply.content["answer"]["square"] for reply in replies] == [0, 1, 4, 9, 16]
    assert outcome.result is None
    assert "5 messages" in repr(outcome)


def test_actions_are_routed_by_name():
    client = ClientApp()

    @client.query("colour")
    def query(msg: Message, context: Context) -> Message:
        answer = ConfigRecord({"colour": context.node_config["colour"]})
        return Message(RecordDict({"answer": answer}), reply_to=msg)

    replies = []
    server = pushing_server("query.colour", RecordDict(), replies)
    run(server, client, clients=2, node_config=[{"colour": "red"}, {"colour": "blue"}])
    assert [reply.content["answer"]["colour"] for reply in replies] == ["red", "blue"]


def test_what_a_client_does_to_a_message_no_other_client_sees():
    client, seen = ClientApp(), []

    @client.query()
    def query(msg: Message, context: Context) -> Message:
        seen.append(msg.content["config"]["items"] + [len(msg.content)])
        msg.content["config"]["items"].append(99)
        msg.content["more"] = ConfigRecord({"x": 1})
        return Message(msg.content, reply_to=msg)

    replies = []
    content = RecordDict({"config": ConfigRecord({"items": [1, 2]})})
    run(pushing_server("query", content, replies), client, clients=3)
    assert seen == [[1, 2, 1]] * 3
    assert content["config"]["items"] == [1, 2]


def test_lifespans_surround_the_apps():
    server, client, log = ServerApp(), ClientApp(), []

    @server.lifespan()
    def around_server(context: Context):
        log.append("server in")
        yield
        log.append("server out")

    @client.lifespan()
    def around_client(context: Context):
        log.append("client in")
        yield
        log.append("client out")

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        grid.send_and_receive(
            [
                Message(RecordDict(), dst_node_id=node, message_type="query")
                for node in grid.get_node_ids()
            ]
        )

    @client.query()
    def query(msg: Message, context: Context) -> Message:
        log.append("query")
        return Message(RecordDict(), reply_to=msg)

    run(server, client, clients=1)
    assert log == ["server in", "client in", "query", "client out", "server out"]


# --- configs and mistakes ------------------------------------------------------------------------


def test_configs_reach_both_sides_and_nested_ones_are_flattened():
    server, client, found = ServerApp(), ClientApp(), {}

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        found["server"] = dict(context.run_config)
        grid.send_and_receive(
            [
                Message(
                    RecordDict(), dst_node_id=next(iter(grid.get_node_ids())), message_type="query"
                )
            ]
        )

    @client.query()
    def query(msg: Message, context: Context) -> Message:
        found["client"] = dict(context.run_config), dict(context.node_config)
        return Message(RecordDict(), reply_to=msg)

    run(
        server,
        client,
        clients=1,
        run_config={"a": {"b": 1}, "c": "x"},
        node_config={"site": "here"},
    )
    assert found["server"] == {"a.b": 1, "c": "x"}
    assert found["client"] == (
        {"a.b": 1, "c": "x"},
        {"partition-id": 0, "num-partitions": 1, "site": "here"},
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients": 0}, "clients"),
        ({"seed": -1}, "seed"),
        ({"run_config": [1]}, "run_config must be a mapping"),
        ({"run_config": {"a": None}}, "NoneType"),
        ({"run_config": {1: 2}}, "keys are text"),
        ({"node_config": [{}]}, "1 entries, but there are 10"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InvalidInputError, match=message):
        run(numpy_server(), numpy_client(), **options)


def test_what_is_no_app_is_refused():
    with pytest.raises(InvalidInputError, match="server_app must be"):
        run(numpy_client(), numpy_client())
    with pytest.raises(InvalidInputError, match="client_app must be"):
        run(numpy_server(), lambda message, context: message)
    with pytest.raises(InvalidInputError, match=r"@app\.main"):
        run(ServerApp(), numpy_client())


def test_what_the_server_raises_ends_the_run_as_it_is():
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run(server, numpy_client())


def test_a_strategy_that_cannot_go_on_is_an_evaluation_error():
    server = numpy_server(weighted_by_key="no-such-number", fraction_evaluate=0.0)
    with pytest.raises(EvaluationError, match="could not go on"):
        run(server, numpy_client(), clients=2, run_config=CONFIG)


def test_flowers_log_is_shown_with_progress_only():
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("flwr").addHandler(handler)
    try:
        server, client = numpy_server(fraction_evaluate=0.0), numpy_client()
        federation.run(server, client, clients=2, run_config=CONFIG, progress=False)
        assert lines == []
        federation.run(server, client, clients=2, run_config=CONFIG)
    finally:
        logging.getLogger("flwr").removeHandler(handler)
    assert "[ROUND 3/3]" in lines


def test_run_stays_a_function_after_training_was_imported():
    from neuronexus_kernel.federation import train

    assert callable(federation.run)
    assert train.__name__ == "train"
