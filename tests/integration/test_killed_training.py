"""A process that trains for a project is killed, and the run goes on as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import neuronexus_kernel as nx
from neuronexus_kernel.hub import Hub
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.process import start_hub
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.project import Project
from neuronexus_kernel.workbench import Workbench

PASSWORD = "correct horse battery"
ROUNDS = 40

CHILD = """
    import os, signal, sys, threading
    import neuronexus_kernel as nx
    from neuronexus_kernel.hub.local import LocalHub
    from neuronexus_kernel.hub.remote import RemoteHub
    from neuronexus_kernel.workbench import Workbench

    where, folder, wait = sys.argv[1], sys.argv[2], float(sys.argv[3])
    hub = RemoteHub(where) if where.startswith("http") else LocalHub.open(where)
    heard = 0

    def count(report):
        global heard
        heard += 1
        if heard == 4:
            threading.Timer(wait, os.kill, (os.getpid(), signal.SIGKILL)).start()

    Workbench(hub).login("ada", {password!r}).project("digits").train(
        rounds={rounds}, checkpoint=folder, on_round=count, progress=False,
        partition=nx.partition.iid(4), seed=3, executor="sequential",
    )
"""
OPTIONS = {
    "partition": nx.partition.iid(4),
    "seed": 3,
    "executor": "sequential",
    "progress": False,
}
"""How to train, as the child does."""


def die_while_training(hub: str, folder: Path, wait: float) -> None:
    """Train in a child process that is killed in mid-run."""
    code = textwrap.dedent(CHILD).format(password=PASSWORD, rounds=ROUNDS)
    child = subprocess.run(
        [sys.executable, "-c", code, hub, str(folder), str(wait)], capture_output=True
    )
    assert child.returncode == -9, child.stderr.decode()


def open_project(hub: Hub) -> Project:
    return Workbench(hub).login("ada", PASSWORD).project("digits")


def make_project(hub: Hub) -> None:
    ada = Workbench(hub).register("ada", PASSWORD)
    recipe = nx.Recipe(nx.models.mlp(64, (16,), 10), strategy="FedAdam")
    ada.create_project("digits", task=nx.Task(nx.datasets.digits()), recipe=recipe)


def test_a_training_that_is_killed_goes_on_as_one_run_of_its_hub(
    new_home: Callable[[], Path], tmp_path: Path
) -> None:
    with start_hub(new_home(), port=0) as process:
        hub = RemoteHub(process.address)
        make_project(hub)
        die_while_training(process.address, tmp_path, wait=0.02)
        check_that_it_goes_on(open_project(hub), tmp_path)
        hub.close()


def test_a_training_that_is_killed_with_its_hub_twice_goes_on_as_one_run(
    new_home: Callable[[], Path], tmp_path: Path
) -> None:
    home = new_home()
    with closing(LocalHub.open(home)) as hub:
        make_project(hub)
    for wait in (0.01, 0.04):
        die_while_training(str(home), tmp_path, wait)
    with closing(LocalHub.open(home)) as hub:
        check_that_it_goes_on(open_project(hub), tmp_path)


def check_that_it_goes_on(project: Project, folder: Path) -> None:
    (killed,) = project.hub.runs(project.record.id)
    assert killed.state == "running"
    assert killed.version is None
    reached = killed.history[-1].round
    assert 3 <= reached < ROUNDS

    run = project.train(rounds=ROUNDS, checkpoint=folder, **OPTIONS)
    never = project.train(rounds=ROUNDS, **OPTIONS)

    assert (run.id, run.record.state) == (killed.id, "finished")
    assert run.record.history[: reached + 1] == killed.history
    columns = ["round", "loss", "accuracy", "clients"]
    assert run.history[columns].equals(never.history[columns])
    assert run.version is not None
    assert never.version is not None
    assert run.version.cid == never.version.cid, "bitwise the same weights"
    assert [each.id for each in project.hub.runs(project.record.id)] == [run.id, never.id]
    assert project.versions().index.tolist() == [0, 1, 2]
    told = Counter(
        event.data["round"]
        for event in project.hub.events(project=project.record.id)
        if (event.kind, event.subject) == ("run.round", run.id)
    )
    assert told == Counter(range(ROUNDS + 1)), "each round is told once"
