"""Hubs in folders of their own, whose evaluations run in this process and are tiny."""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.content import dagcbor, new_id
from neuronexus_kernel.hub import Hub, records
from neuronexus_kernel.hub.evaluation import Evaluator
from neuronexus_kernel.hub.local import LocalHub, Services
from neuronexus_kernel.models import weights as weights_format
from neuronexus_kernel.project import Project
from neuronexus_kernel.settings import EvaluationLimits, Settings, StorageSettings
from neuronexus_kernel.workbench import Workbench

PASSWORD = "correct horse battery"


class InlineExecutor(Executor):
    """Runs each call at once, in the calling thread, after `before` was called."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.before = before
        self.calls = 0

    def submit(self, fn, /, *args, **kwargs):
        self.calls += 1
        future: Future = Future()
        try:
            self.before()
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Bench:
    """One hub in a folder, opened as its owner would, with what tests do to it."""

    def __init__(
        self,
        home: Path,
        executor: Executor | None = None,
        limits: EvaluationLimits | None = None,
        *,
        database: str = "",
        stores: Path | None = None,
    ) -> None:
        self.home = home
        self.executor = InlineExecutor() if executor is None else executor
        self.services = Services(
            Settings(
                home=home,
                evaluation=limits or EvaluationLimits(),
                database=database,
                storage=StorageSettings(folder=stores),
            )
        )
        self.services.evaluator = Evaluator(
            self.services.database,
            self.services.contents,
            self.services.contributions,
            self.executor,
            hub=str(home),
        )
        self.hub = LocalHub(self.services)

    @property
    def operator(self) -> LocalHub:
        """The hub as the owner of its folder sees it."""
        return self.hub.visitor(self.hub.owner_token)

    def person(self, name: str) -> Workbench:
        """Register a person and sign them in."""
        return Workbench(self.hub.visitor()).register(name, PASSWORD)

    def project(self, task: nx.Task, name: str = "digits") -> Project:
        """Make a project of a new person, whose first model knows nothing."""
        owner = self.person(f"owner-{secrets.token_hex(3)}")
        return owner.create_project(name, task=task, recipe=recipe())

    def evaluate(self) -> None:
        """Start the evaluator and wait until nothing is in the queue."""
        self.services.evaluator.start()
        self.services.evaluator.wake()
        until = time.monotonic() + 120
        while self.hub.busy:
            assert time.monotonic() < until, "the queue does not empty"
            time.sleep(0.01)

    def close(self) -> None:
        """Close the hub."""
        self.hub.close()


def recipe(**changes) -> nx.Recipe:
    """Return a recipe that trains within milliseconds."""
    return nx.Recipe(nx.models.mlp(64, (16,), 10), **{"learning_rate": 0.1, **changes})


def submit_weights(
    wb: Workbench, project: Project, weights: dict[str, np.ndarray], note: str = ""
) -> records.Contribution:
    """Record a run that ended in these weights, and submit it."""
    hub, record = wb.hub, project.record
    run = hub.start_run(
        records.NewRun(
            id=new_id(),
            project=record.id,
            recipe=record.recipe,
            rounds=1,
            clients=1,
            clients_per_round=1,
        )
    )
    content = hub.put(weights_format.serialize(weights), kind="weights").cid
    hub.finish_run(run.id, records.RunResult(state="finished", weights=content))
    payload = dagcbor.encode({"kind": "compute", "run": run.id, "note": note})
    cid = hub.put(payload, kind="contribution", codec="dag-cbor").cid
    return hub.submit(
        records.NewContribution(id=new_id(), project=record.id, kind="compute", payload=cid)
    )


@pytest.fixture(scope="session")
def task() -> nx.Task:
    """A small task: 80 rows are held out."""
    rows = np.random.default_rng(0).permutation(1797)[:400]
    return nx.Task(nx.datasets.digits().subset(rows))


@pytest.fixture(scope="session")
def better_weights(task: nx.Task) -> list[dict[str, np.ndarray]]:
    """Four models, each of them better than the one before it."""
    from neuronexus_kernel import federation

    weights, found = recipe().architecture.initial_weights(0), []
    for rounds in (1, 1, 2, 12):
        result = federation.train(
            recipe(),
            task.public.concat(task.private),
            partition=nx.partition.iid(2),
            rounds=rounds,
            initial_weights=weights,
            evaluate_every=0,
            progress=False,
        )
        weights = result.arrays
        found.append(weights)
    return found


@pytest.fixture
def open_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Return a function that opens a hub, by default on the same folder each time."""
    opened: list[Bench] = []

    def make(home: Path | None = None, **options) -> Bench:
        bench = Bench(tmp_path / "home" if home is None else home, **options)
        opened.append(bench)
        return bench

    yield make
    for bench in opened:
        bench.close()


@pytest.fixture(scope="session")
def new_bench() -> type[Bench]:
    """Return the class of hubs with their tools, for hubs that outlive a test."""
    return Bench


@pytest.fixture
def new_database(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return a function that gives the setting for a new database of a kind."""

    def make(kind: str) -> str:
        if kind == "duckdb":
            return ""
        return request.getfixturevalue("postgresql").new_database()

    return make


@pytest.fixture
def bench(open_bench: Callable[..., Bench]) -> Bench:
    """A hub on a new folder."""
    return open_bench()


@pytest.fixture(scope="session")
def hand_in() -> Callable[..., records.Contribution]:
    """Return `submit_weights`, for test modules cannot import each other."""
    return submit_weights


@pytest.fixture(scope="session")
def inline() -> type[InlineExecutor]:
    """Return the class of executors that run in this process."""
    return InlineExecutor


@pytest.fixture(scope="session")
def old_hub(new_home: Callable[[], Path], task: nx.Task) -> Iterator[Bench]:
    """A hub with a project on which much has happened, and some is still to happen.

    Its `owner` is the hub as the owner of the project sees it.
    """
    bench = Bench(new_home())
    project, ada, grace = bench.project(task), bench.person("ada"), bench.person("grace")
    theirs = ada.project(project.name)
    run = theirs.train(
        rounds=3,
        participants={
            "ada": task.private.subset(range(25)),
            "grace": task.private.subset(range(25, 50)),
        },
        recipe=project.recipe.with_changes(learning_rate=0.4),
        progress=False,
    )
    theirs.submit(nx.ComputeContribution(run, note="<b>two</b> of us"))
    bench.evaluate()
    more = task.private.subset(range(30, 50))
    content = {"name": "more rows", "kind": "dataset", "visibility": "project"}
    ada.hub.put(more.encode(), license="CC-BY-4.0", **content)
    theirs.submit(nx.DataContribution(more, note="more rows"))
    bench.evaluate()
    grace.project(project.name).submit(nx.HyperparameterContribution(learning_rate=500.0))
    bench.evaluate()
    bench.services.evaluator.stop()
    theirs.submit(nx.HyperparameterContribution(learning_rate=0.25))
    started = records.NewRun(
        id=new_id(),
        project=project.record.id,
        recipe=project.record.recipe,
        rounds=2,
        clients=1,
        clients_per_round=1,
    )
    ada.hub.start_run(started)
    bench.owner = project.hub
    yield bench
    bench.close()


@pytest.fixture(scope="session")
def export() -> Callable[..., bytes]:
    """Return a function that gives the archive of a project as bytes."""

    def export(hub: Hub, project: str = "digits", **options: bool) -> bytes:
        stream = io.BytesIO()
        assert hub.export_project(project, stream, **options) == len(stream.getvalue())
        return stream.getvalue()

    return export


@pytest.fixture(scope="session")
def archive(old_hub: Bench, export: Callable[..., bytes]) -> bytes:
    """The project of `old_hub` as its owner takes it out."""
    return export(old_hub.owner)


@pytest.fixture(scope="session")
def sealed_archive(old_hub: Bench, export: Callable[..., bytes]) -> bytes:
    """The project of `old_hub` with all that is sealed."""
    return export(old_hub.operator, sealed=True)
