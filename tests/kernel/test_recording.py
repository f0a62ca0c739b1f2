"""Checkpoints of a project's runs whose beginning was odd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.errors import HubUnavailableError, StoreError
from neuronexus_kernel.federation.checkpoint import Checkpoint
from neuronexus_kernel.hub import records
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.project import Project
from neuronexus_kernel.workbench import Workbench


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with closing(LocalHub.open(tmp_path / "home")) as hub:
        ada = Workbench(hub).register("ada", "correct horse battery")
        recipe = nx.Recipe(nx.models.mlp(64, (8,), 10))
        yield ada.create_project("digits", task=nx.Task(nx.datasets.digits()), recipe=recipe)


def test_a_run_whose_call_was_lost_as_it_began_is_ended(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = project.hub.start_run

    def lose_the_answer(run: records.NewRun) -> records.Run:
        start(run)
        raise HubUnavailableError("The answer was lost.")

    options = {"rounds": 1, "checkpoint": tmp_path / "c", "progress": False}
    with monkeypatch.context() as patch:
        patch.setattr(project.hub, "start_run", lose_the_answer)
        with pytest.raises(HubUnavailableError):
            project.train(**options)
    (lost,) = project.hub.runs(project.record.id)
    assert lost.state == "running"
    run = project.train(**options)
    states = [each.state for each in project.hub.runs(project.record.id)]
    assert states == ["interrupted", "finished"]
    assert run.id != lost.id


def test_a_run_that_began_without_the_hub_is_recorded_with_all_its_rounds(
    project: Project, tmp_path: Path
) -> None:
    nx.federation.train(
        project.recipe,
        project.public.partition(nx.partition.iid(10)),
        rounds=2,
        validation=project.validation,
        initial_weights=project.head.weights,
        checkpoint=tmp_path / "c",
        progress=False,
    )
    heard: list[int] = []
    run = project.train(
        rounds=3,
        checkpoint=tmp_path / "c",
        on_round=lambda report: heard.append(report.round),
        progress=False,
    )
    assert heard == [3]
    assert run.history["round"].tolist() == [0, 1, 2, 3]


def test_a_note_of_somebody_else_is_not_taken_for_ours(project: Project, tmp_path: Path) -> None:
    options = {"rounds": 1, "checkpoint": tmp_path / "c", "progress": False}
    project.train(**options)
    with Checkpoint(tmp_path / "c") as store:
        store.write_note({"title": "my run"})
    with pytest.raises(StoreError, match="does not say 'project'"):
        project.train(**options)
