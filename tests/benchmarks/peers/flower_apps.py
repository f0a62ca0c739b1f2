"""The apps of `flower.py`: Ray's actors import this module and keep the work in memory."""

from __future__ import annotations

import os
import time
from functools import cache
from itertools import pairwise

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch.nn import functional as F
from work import RATE, Work, batches, report


@cache
def the_work() -> Work:
    """Return the work of this run, read once in each process."""
    return Work.load(os.environ["BENCHMARK_WORK"])


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client for one epoch."""
    torch.set_num_threads(1)
    work = the_work()
    client = int(context.node_config["partition-id"])
    model = work.network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    x, y = torch.from_numpy(work.inputs[client]), torch.from_numpy(work.labels[client])
    number = int(message.content["config"]["server-round"])
    for chosen in batches(len(y), number * 100_000 + client):
        optimiser.zero_grad()
        F.cross_entropy(model(x[chosen]), y[chosen]).backward()
        optimiser.step()
    metrics = MetricRecord({"num-examples": len(y)})
    arrays = ArrayRecord(model.state_dict())
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run federated averaging and take the time at the end of each round."""
    work = the_work()
    clients = len(work.labels)
    ends: list[float] = []

    def ended(number: int, arrays: ArrayRecord) -> None:
        ends.append(time.perf_counter())

    FedAvg(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=clients,
        min_available_nodes=clients,
    ).start(
        grid=grid,
        initial_arrays=ArrayRecord(work.network().state_dict()),
        num_rounds=int(os.environ["BENCHMARK_ROUNDS"]),
        evaluate_fn=ended,
    )
    seconds = [later - sooner for sooner, later in pairwise(ends)]
    report(seconds, first=ends[1] - float(os.environ["BENCHMARK_BEGIN"]))
