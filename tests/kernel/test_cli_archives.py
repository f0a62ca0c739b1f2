"""``neuronexus export --project`` and ``neuronexus import --project``."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.cli import main
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.process import HubProcess, start_hub
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.storage.car import read_car
from neuronexus_kernel.workbench import Workbench

PASSWORD = "correct horse battery"
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def task() -> nx.Task:
    rows = np.random.default_rng(0).permutation(1797)[:200]
    return nx.Task(nx.datasets.digits().subset(rows))


@pytest.fixture(scope="module")
def old_home(new_home: Callable[[], Path], task: nx.Task) -> Path:
    """The folder of a hub that is not running and has a project."""
    home = new_home()
    hub = LocalHub.open(home)
    ada = Workbench(hub.visitor()).register("ada", PASSWORD)
    recipe = nx.Recipe(nx.models.mlp(64, (4,), 10))
    ada.create_project("digits", task=task, recipe=recipe).train(rounds=1, progress=False)
    hub.close()
    return home


@pytest.fixture(scope="module")
def running(new_home: Callable[[], Path], task: nx.Task) -> Iterator[tuple[Path, HubProcess]]:
    """A folder on which a hub runs, where grace has sealed the held-out split."""
    home = new_home()
    with start_hub(home, port=0) as process:
        grace = Workbench(RemoteHub(process.address)).register("grace", PASSWORD)
        grace.hub.put(task.held_out.encode(), kind="dataset", visibility="sealed")
        yield home, process


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command, with a password on its standard input; return its status and what it told."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
        capsys.readouterr()
        status = main([str(each) for each in arguments])
        told = capsys.readouterr()
        return status, told.out.strip() if status == 0 else told.err.strip()

    return run


def test_a_project_goes_from_hub_to_hub_on_the_command_line(
    run: Run, old_home: Path, running: tuple[Path, HubProcess], tmp_path: Path
) -> None:
    home, process = running
    path = tmp_path / "digits.car"
    assert run("export", "--home", old_home, "--project", "digits", "-o", path) == (0, str(path))
    status, told = run("import", "--home", home, "--user", "grace", "--project", path)
    assert status == 0, told
    name, id = told.split()
    project = Workbench(RemoteHub(process.address)).project(name)
    assert (project.record.id, project.record.owner) == (id, "grace")
    assert [run.state for run in project.hub.runs(id)] == ["finished"]
    status, told = run("import", "--home", home, "--user", "grace", "--project", path)
    assert status == 1
    assert "on this hub already" in told
    # Its owner there takes it further, through the hub that runs.
    again = tmp_path / "again.car"
    asked = ("--home", home, "--user", "grace", "--project", "digits", "-o", again)
    assert run("export", *asked) == (0, str(again))
    assert again.stat().st_size > path.stat().st_size // 2
    status, told = run("export", *asked[:-1], tmp_path / "sealed.car", "--sealed")
    assert status == 1
    assert "Only an operator" in told
    assert sorted(each.name for each in tmp_path.iterdir()) == ["again.car", "digits.car"]


def test_sealed_content_goes_into_a_file_for_its_owner_alone(
    run: Run, old_home: Path, task: nx.Task, tmp_path: Path
) -> None:
    path = tmp_path / "sealed.car"
    status, told = run("export", "--home", old_home, "--project", "digits", "-o", path, "--sealed")
    assert status == 0, told
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("rb") as file:
        assert nx.storage.cid_of(task.held_out.encode()) in dict(read_car(file)[1])


def test_what_cannot_be_is_told_plainly(
    run: Run, old_home: Path, running: tuple[Path, HubProcess], tmp_path: Path
) -> None:
    there, target = ("--home", old_home), ("-o", tmp_path / "x.car")
    cid = nx.storage.cid_of(b"")
    for command, message in (
        (("export", *there, *target), "either addresses, or --project"),
        (("export", *there, *target, "--project", "digits", cid), "either addresses, or --project"),
        (("export", *there, *target, "--project", "atlantis"), "no project 'atlantis'"),
        (("import", *there, "--project", "x.car", "--user", "ada"), "No hub runs on"),
        (("import", "--home", running[0], "--project", "x.car"), "Say who you are with --user"),
        (
            ("import", "--home", running[0], "--project", "x.car", "--user", "grace"),
            "no file or folder x.car",
        ),
    ):
        status, told = run(*command)
        assert status == 1
        assert message in told
    assert list(tmp_path.iterdir()) == []
