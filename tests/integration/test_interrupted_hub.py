"""A hub that is killed while it serves: what it says afterwards, and how the training goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.hub.process import HubProcess, start_hub
from neuronexus_kernel.hub.remote import RemoteHub

PASSWORD = "correct horse battery"
NAMES = ("ada", "bob")


def member(hub: HubProcess, name: str) -> nx.Workbench:
    workbench = nx.Workbench(RemoteHub(hub.address))
    known = {account.name for account in workbench.hub.accounts()}
    return (workbench.login if name in known else workbench.register)(name, PASSWORD)


def kill(hub: HubProcess) -> None:
    """Kill a hub; what it had started ends by itself."""
    children = psutil.Process(hub.pid).children(recursive=True)
    os.kill(hub.pid, signal.SIGKILL)
    hub.stop()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def on_the_command_line(home: Path, *options: str) -> str:
    """Serve the project from a terminal until it is over; return what was said."""
    command = [sys.executable, "-m", "neuronexus_kernel.cli", "federation", "serve"]
    command += ["--project", "digits", "--user", "grace", *options]
    environment = {**os.environ, "NEURONEXUS_HOME": str(home)}
    done = subprocess.run(
        command, input=PASSWORD, env=environment, capture_output=True, text=True, timeout=200
    )
    return done.stdout + done.stderr


def wait_for(what: Callable[[], object], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


@pytest.mark.long
def test_a_federation_goes_on_when_its_hub_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURONEXUS_HOME", str(tmp_path / "labs"))
    task = nx.Task(nx.datasets.digits())
    recipe = nx.Recipe(nx.models.mlp(64, (16,), 10), strategy="SCAFFOLD")
    shares = task.private.partition(nx.partition.iid(2, seed=3))
    nodes = []
    hub = start_hub(tmp_path / "hub", port=0)
    try:
        project = member(hub, "grace").create_project("digits", task=task, recipe=recipe)
        start = project.head.weights
        federation = project.serve(nodes=2, rounds=8, seed=4)
        for name, share in zip(NAMES, shares, strict=True):
            lab = member(hub, name).project("digits")
            nodes.append(lab.join(share, executor="sequential"))
        wait_for(lambda: federation.run is not None and len(federation.history) > 3)
        first = federation.run
        kill(hub)
        wait_for(lambda: [node.state for node in nodes] == ["connecting"] * 2)
        assert "does not answer" in str(nodes[0].problem)

        hub = start_hub(tmp_path / "hub", port=0)
        project = member(hub, "grace").project("digits")
        federation = project.federation()
        assert (federation.state, federation.record.resumable) == ("interrupted", True)
        run = federation.run
        assert run is not None
        assert run.id == first.id
        assert run.record.state == "interrupted"
        assert run.version is not None, "its last full round is not lost"
        assert [entry.round for entry in run.record.history] == list(range(len(run.history)))

        assert "It is finished." in on_the_command_line(tmp_path / "hub", "--resume")
        assert federation.state == "finished", federation.problem
        assert [node.wait(30).state for node in nodes] == ["ended", "ended"], "nobody joined again"
        run = federation.run
        assert [entry.round for entry in run.record.history] == list(range(9))
        assert [entry.clients for entry in run.record.history][1:] == [NAMES] * 8
        local = nx.federation.train(
            recipe,
            dict(zip(NAMES, shares, strict=True)),
            rounds=8,
            seed=4,
            initial_weights={name: np.asarray(array) for name, array in start.items()},
            executor="sequential",
            progress=False,
        )
        weights = run.version.weights
        assert (
            max(
                float(np.abs(np.asarray(weights[name]) - np.asarray(array)).max())
                for name, array in local.weights.items()
            )
            <= 1e-6
        )
        assert not list((tmp_path / "hub" / "federations").iterdir()), "its files are gone"
    finally:
        for node in nodes:
            node.stop()
        hub.stop()
