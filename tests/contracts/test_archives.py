"""What every hub promises of whole projects that leave it and come into it, here or behind HTTP."""

from __future__ import annotations

import io
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    StoreError,
)
from neuronexus_kernel.hub import Hub
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.process import start_hub
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.project import Project
from neuronexus_kernel.storage.car import read_car
from neuronexus_kernel.workbench import Workbench

PASSWORD = "correct horse battery"
Connect = Callable[..., Hub]


@pytest.fixture(scope="module")
def elsewhere(connect: Connect, new_home: Callable[[], Path]) -> Iterator[Connect]:
    """Another hub of the same kind; with `owner=True` as the owner of its folder sees it."""
    home = new_home()
    if isinstance(connect(), LocalHub):
        hub = LocalHub.open(home)
        hub.start_evaluator()
        yield lambda owner=False: hub.visitor(hub.owner_token if owner else None)
        hub.close()
    else:
        with start_hub(home, port=0) as process:
            yield lambda owner=False: RemoteHub(process.address, process.token if owner else None)


@pytest.fixture(scope="module")
def task() -> nx.Task:
    rows = np.random.default_rng(0).permutation(1797)[:400]
    return nx.Task(nx.datasets.digits().subset(rows))


@pytest.fixture(scope="module")
def lived(connect: Connect, task: nx.Task) -> Project:
    """A project of two people with something that was paid and something that was not."""
    people = [_person(connect, "ada"), _person(connect, "grace")]
    recipe = nx.Recipe(nx.models.mlp(64, (16,), 10), learning_rate=0.1)
    project = people[0].create_project(f"digits-{secrets.token_hex(4)}", task=task, recipe=recipe)
    halves = task.private.subset(range(50)).partition(nx.partition.iid(2))
    run = project.train(
        rounds=3,
        participants={str(wb.user): half for wb, half in zip(people, halves, strict=True)},
        recipe=recipe.with_changes(learning_rate=0.4),
        progress=False,
    )
    assert project.submit(nx.ComputeContribution(run)).wait(60, progress=False).state == "rewarded"
    theirs = people[1].project(project.name)
    slow = theirs.train(rounds=1, recipe=recipe.with_changes(learning_rate=1e-6), progress=False)
    bad = theirs.submit(nx.ComputeContribution(slow))
    assert bad.wait(60, progress=False).state == "rejected"
    return project


@pytest.fixture(scope="module")
def archive(lived: Project) -> bytes:
    return _exported(lived.hub, lived.name)


def _person(connect: Connect, stem: str) -> Workbench:
    return Workbench(connect()).register(f"{stem}-{secrets.token_hex(4)}", PASSWORD)


def _exported(hub: Hub, project: str, *, sealed: bool = False) -> bytes:
    stream = io.BytesIO()
    assert hub.export_project(project, stream, sealed=sealed) == len(stream.getvalue())
    return stream.getvalue()


def _nothing_of(hub: Hub, project: Project) -> bool:
    return project.name not in {each.name for each in hub.projects()}


def test_a_stranger_to_the_project_does_not_get_it(
    connect: Connect, elsewhere: Connect, lived: Project, archive: bytes
) -> None:
    stream = io.BytesIO()
    with pytest.raises(AuthenticationError):
        connect().export_project(lived.name, stream)
    with pytest.raises(AuthenticationError):
        elsewhere().import_project(io.BytesIO(archive))
    other = _person(connect, "mallory").hub
    with pytest.raises(ForbiddenError, match="who owns the project"):
        other.export_project(lived.name, stream)
    for hub in (other, lived.hub):
        with pytest.raises(ForbiddenError):
            hub.export_project(lived.name, stream, sealed=True)
    with pytest.raises(NotFoundError, match="atlantis"):
        lived.hub.export_project("atlantis", stream)
    assert stream.getvalue() == b""


def test_a_damaged_archive_leaves_nothing(
    elsewhere: Connect, lived: Project, archive: bytes
) -> None:
    wb = _person(elsewhere, "ada")
    for place in range(0, len(archive), len(archive) // 12):
        damaged = bytearray(archive)
        damaged[place] ^= 0x10
        with pytest.raises((StoreError, InvalidInputError)):
            wb.hub.import_project(io.BytesIO(damaged))
        with pytest.raises((StoreError, InvalidInputError)):
            wb.hub.import_project(io.BytesIO(archive[:place]))
    assert _nothing_of(wb.hub, lived)


def test_a_project_goes_to_another_hub_and_work_goes_on_there(
    elsewhere: Connect, lived: Project, task: nx.Task, archive: bytes, tmp_path: Path
) -> None:
    path = lived.export(tmp_path / "digits.car")
    assert path.read_bytes() == archive
    alan = _person(elsewhere, "alan")
    with pytest.raises(NotFoundError, match="held-out split is not on this hub"):
        alan.import_project(path)
    assert _nothing_of(alan.hub, lived)
    alan.hub.put(task.held_out.encode(), kind="dataset", visibility="sealed")
    before = alan.hub.network().seq
    project = alan.import_project(path)
    (event,) = alan.hub.events(before)
    at = event.data["origin"]

    old, new = lived.record, project.record
    head = replace(old.head, author=f"{old.head.author}@{at}")
    assert new == replace(old, owner=str(alan.user), head=head)
    assert [v.weights for v in alan.hub.versions(new.id)] == [
        v.weights for v in lived.hub.versions(old.id)
    ]
    for name, array in lived.head.weights.items():
        assert np.array_equal(array, project.head.weights[name])
    theirs, ours = (hub.contributions(project=old.id) for hub in (lived.hub, alan.hub))
    assert [(c.id, c.state, c.value, c.reward, c.receipt) for c in ours] == [
        (c.id, c.state, c.value, c.reward, c.receipt) for c in theirs
    ]
    assert [c.author for c in ours] == [f"{c.author}@{at}" for c in theirs]
    for theirs_run, run in zip(lived.hub.runs(old.id), alan.hub.runs(old.id), strict=True):
        assert [(r.round, r.loss, r.accuracy) for r in run.history] == [
            (r.round, r.loss, r.accuracy) for r in theirs_run.history
        ]
    assert alan.tokens.balance() == 0
    assert alan.tokens.verify().ok

    with pytest.raises(ConflictError, match="on this hub already"):
        alan.import_project(path)
    trained = project.train(
        rounds=12, recipe=project.recipe.with_changes(learning_rate=0.3), progress=False
    )
    contribution = project.submit(nx.ComputeContribution(trained)).wait(60, progress=False)
    assert contribution.state == "rewarded", contribution.reason
    assert project.head.number == trained.version.number  # type: ignore[union-attr]
    assert alan.tokens.balance() == contribution.reward > 0
    assert project.contributions()["author"].tolist()[-1] == alan.user


def test_what_is_sealed_moves_between_operators_alone(
    connect: Connect, elsewhere: Connect, task: nx.Task, tmp_path: Path
) -> None:
    first = elsewhere(owner=True)
    operator = f"linus-{secrets.token_hex(4)}"
    first.add_operator(operator, PASSWORD)
    linus = Workbench(elsewhere()).login(operator, PASSWORD)
    recipe = nx.Recipe(nx.models.mlp(64, (4,), 10))
    name = f"moved-{secrets.token_hex(4)}"
    project = _person(elsewhere, "owner").create_project(name, task=task, recipe=recipe)
    path = linus.project(name).export(tmp_path / "moved.car", sealed=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert nx.storage.cid_of(task.held_out.encode()) in dict(read_car(path.open("rb"))[1])
    wb = _person(connect, "ada")
    with pytest.raises(ForbiddenError, match="only an operator may import"):
        wb.import_project(path)
    assert _nothing_of(wb.hub, project)
