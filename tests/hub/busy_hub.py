"""A hub under load, to be killed.  Run as a program.

It imports what is slow once; then for each JSON list ``[HOME, SEED, DATABASE, STORES]`` on its
standard input, a line each, it forks a hub on HOME that registers accounts, puts content, records
rounds, submits contributions and mints, each in a thread, until it is killed.  Whatever the hub
has acknowledged is said on standard output, one JSON list a line, each written in one piece.
"""

import json
import os
import random
import sys
import threading
from concurrent.futures import Executor, Future
from pathlib import Path

import neuronexus_kernel as nx
from neuronexus_kernel.content import dagcbor, new_id
from neuronexus_kernel.hub import records
from neuronexus_kernel.hub.evaluation import Evaluator
from neuronexus_kernel.hub.local import LocalHub, Services
from neuronexus_kernel.models import weights as weights_format
from neuronexus_kernel.settings import EvaluationLimits, Settings, StorageSettings

PASSWORD = "correct horse battery"


class InlineExecutor(Executor):
    """Runs each call in the evaluator's own thread."""

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def say(*words) -> None:
    os.write(1, (json.dumps(words) + "\n").encode())


def content(seed: int, number: int) -> bytes:
    return random.Random(seed * 1_000_003 + number).randbytes(1000 + number * 40_009 % 2_000_000)


class Load:
    """What the threads do; each method goes on for ever."""

    def __init__(
        self, home: Path, seed: int, database: str, stores: Path, weights: list[bytes]
    ) -> None:
        self.seed = seed
        self.weights = weights
        limits = EvaluationLimits(per_day=100_000)
        storage = StorageSettings(folder=stores)
        self.services = services = Services(
            Settings(home=home, evaluation=limits, database=database, storage=storage)
        )
        services.evaluator = Evaluator(
            services.database,
            services.contents,
            services.contributions,
            InlineExecutor(),
            hub=str(home),
        )
        self.hub = LocalHub(services)
        services.database.subscribe(lambda events: say("event", events[-1].seq))
        self.name = f"author-{seed}"
        self.hub.register(self.name, PASSWORD)
        self.hub.login(self.name, PASSWORD)
        say("account", self.name)
        self.project = self.make_project()
        services.evaluator.start()

    def make_project(self) -> records.Project:
        rows = random.Random(self.seed).sample(range(1797), 400)
        task = nx.Task(nx.datasets.digits().subset(rows))
        recipe = nx.Recipe(nx.models.mlp(64, (16,), 10), learning_rate=0.1)
        wb = nx.Workbench(self.hub)
        project = wb.create_project(f"digits-{self.seed}", task=task, recipe=recipe)
        say("project", project.name)
        return project.record

    def register(self) -> None:
        for number in range(10**9):
            name = f"person-{self.seed}-{number}"
            self.hub.register(name, PASSWORD)
            say("account", name)

    def store(self) -> None:
        for number in range(10**9):
            root = self.hub.put(content(self.seed, number))
            say("content", root.cid, self.seed, number)

    def train(self) -> None:
        for number in range(10**9):
            run = self.start_run(rounds=20)
            for turn in range(20):
                self.hub.record_round(
                    run,
                    records.Round(
                        round=turn, loss=1 / (turn + 1), accuracy=0.5, seconds=0.1, clients=("a",)
                    ),
                )
                say("round", run, turn)
            self.finish_run(run, self.weights[number % len(self.weights)])
            say("finished", run)

    def contribute(self) -> None:
        for number in range(10**9):
            run = self.start_run(rounds=1)
            self.finish_run(run, self.weights[number % len(self.weights)])
            payload = dagcbor.encode({"kind": "compute", "run": run})
            cid = self.hub.put(payload, kind="contribution", codec="dag-cbor").cid
            made = self.hub.submit(
                records.NewContribution(
                    id=new_id(), project=self.project.id, kind="compute", payload=cid
                )
            )
            say("contribution", made.id)

    def mint(self) -> None:
        receipt = self.services.contents.put_node({})
        for number in range(1, 10**9):
            contribution = new_id()
            self.services.database.write(
                lambda tx, units=number, contribution=contribution: self.services.tokens.mint(
                    tx,
                    {self.name: units},
                    contribution=contribution,
                    receipt=receipt,
                    project=self.project.id,
                )
            )
            say("mint", contribution, self.name, number)

    def start_run(self, rounds: int) -> str:
        return self.hub.start_run(
            records.NewRun(
                id=new_id(),
                project=self.project.id,
                recipe=self.project.recipe,
                rounds=rounds,
                clients=1,
                clients_per_round=1,
            )
        ).id

    def finish_run(self, run: str, weights: bytes) -> None:
        cid = self.hub.put(weights, kind="weights").cid
        self.hub.finish_run(run, records.RunResult(state="finished", weights=cid))


def trained() -> list[bytes]:
    """Return models that are better and better, as weights files."""
    recipe, found = nx.Recipe(nx.models.mlp(64, (16,), 10), learning_rate=0.05), []
    weights = recipe.architecture.initial_weights(0)
    for rounds in (1, 1, 1, 2, 3, 10):
        weights = nx.federation.train(
            recipe,
            nx.datasets.digits(),
            partition=nx.partition.iid(4),
            rounds=rounds,
            initial_weights=weights,
            evaluate_every=0,
            executor="sequential",
            progress=False,
        ).arrays
        found.append(weights_format.serialize(weights))
    return found


def main() -> None:
    import torch

    torch.set_num_threads(1)  # threads of a parent do not live on in a fork
    weights = trained()
    say("ready")
    for line in sys.stdin:
        home, seed, database, stores = json.loads(line)
        pid = os.fork()
        if pid == 0:
            load = Load(Path(home), seed, database, Path(stores), weights)
            works = [load.register, load.store, load.train, load.mint, *[load.contribute] * 3]
            for work in works:
                threading.Thread(target=work).start()
            threading.Event().wait()
        say("pid", pid)
        _, status = os.waitpid(pid, 0)
        say("ended", status)


if __name__ == "__main__":
    main()
