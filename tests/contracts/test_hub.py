"""What every hub promises, whether it is in this process or behind HTTP."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.content import dagcbor, new_id
from neuronexus_kernel.errors import (
    ArchitectureError,
    AuthenticationError,
    ConflictError,
    ContentError,
    DatasetError,
    ForbiddenError,
    HubUnavailableError,
    InvalidInputError,
    NotFoundError,
    RecipeError,
)
from neuronexus_kernel.federation import RoundReport
from neuronexus_kernel.hub import Hub, records
from neuronexus_kernel.project import Project
from neuronexus_kernel.sessions import FederationHandle
from neuronexus_kernel.workbench import Workbench

PASSWORD = "correct horse battery"
Connect = Callable[[], Hub]
Person = Callable[[str], Workbench]


@pytest.fixture(scope="module")
def task() -> nx.Task:
    return nx.Task(nx.datasets.digits(), metric="accuracy")


@pytest.fixture
def project(person: Person, task: nx.Task) -> Project:
    """A new project whose first recipe leaves room for improvement."""
    recipe = nx.Recipe(nx.models.mlp(64, (16,), 10), learning_rate=0.01)
    return person("owner").create_project(
        f"digits-{secrets.token_hex(4)}", task=task, recipe=recipe
    )


# -- accounts ---------------------------------------------------------------------------------


def test_a_registered_person_can_sign_in_and_out(connect: Connect) -> None:
    hub, name = connect(), f"ada-{secrets.token_hex(4)}"
    account = hub.register(name, PASSWORD)
    assert (account.name, account.role) == (name, "member")
    assert hub.whoami() is None
    session = hub.login(name, PASSWORD)
    assert session.account == account
    assert hub.whoami() == account
    hub.logout()
    assert hub.whoami() is None


def test_a_wrong_password_and_an_unknown_name_give_the_same_answer(
    connect: Connect, person: Person
) -> None:
    name = person("ada").user
    with pytest.raises(AuthenticationError) as wrong:
        connect().login(str(name), "not the password")
    with pytest.raises(AuthenticationError) as unknown:
        connect().login("nobody-at-all", "not the password")
    assert str(wrong.value) == str(unknown.value)


@pytest.mark.parametrize(
    "password", ["", "short", "aaaaaaaaaaaaaaaa", "password123", "qwerty123456", "weakling01"]
)
def test_a_weak_password_is_refused(connect: Connect, password: str) -> None:
    with pytest.raises(InvalidInputError, match="password"):
        connect().register("weakling", password)


@pytest.mark.parametrize("name", ["", "A", "Ada", "a" * 33, "ada lovelace", "nx:owner", "../ada"])
def test_a_name_that_is_none_is_refused(connect: Connect, name: str) -> None:
    with pytest.raises(InvalidInputError, match="account name"):
        connect().register(name, PASSWORD)


def test_a_taken_name_is_refused(connect: Connect, person: Person) -> None:
    with pytest.raises(ConflictError, match="taken"):
        connect().register(str(person("ada").user), PASSWORD)


def test_what_needs_an_account_is_refused_to_a_stranger(connect: Connect) -> None:
    stranger = connect()
    with pytest.raises(AuthenticationError):
        stranger.put(b"bytes")
    with pytest.raises(AuthenticationError):
        stranger.create_token("notebook")
    with pytest.raises(AuthenticationError):
        stranger.confirm(new_id())


def test_a_member_cannot_make_an_operator(person: Person) -> None:
    ada = person("ada")
    with pytest.raises(ForbiddenError):
        ada.hub.add_operator(str(ada.user))


def test_a_notebook_token_is_shown_once_and_not_in_its_representation(person: Person) -> None:
    session = person("ada").hub.create_token("notebook")
    assert len(session.token) > 40
    assert session.token not in repr(session)


# -- content ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_what_was_put_comes_out(person: Person, size: int) -> None:
    hub = person("ada").hub
    data = np.random.default_rng(size).bytes(size)
    root = hub.put(data, name="a file", kind="test")
    assert hub.get(root.cid) == data
    assert (root.size, root.owner) == (size, hub.whoami().name)  # type: ignore[union-attr]
    assert root in hub.roots(kind="test")


def test_putting_the_same_twice_is_one_root(person: Person) -> None:
    hub = person("ada").hub
    assert hub.put(b"the same") == hub.put(b"the same", name="another name")


def test_sealed_content_goes_in_and_never_comes_out(person: Person) -> None:
    ada = person("ada")
    secret = secrets.token_bytes(64)
    root = ada.hub.put(secret, visibility="sealed")
    with pytest.raises(NotFoundError):
        ada.hub.get(root.cid)
    assert root.cid not in {each.cid for each in ada.hub.roots()}


def test_project_content_is_for_those_who_are_signed_in(connect: Connect, person: Person) -> None:
    root = person("ada").hub.put(secrets.token_bytes(16), visibility="project")
    assert person("grace").hub.get(root.cid)
    with pytest.raises(NotFoundError):
        connect().get(root.cid)


def test_an_unknown_cid_is_not_found_and_a_false_one_is_refused(person: Person) -> None:
    hub = person("ada").hub
    with pytest.raises(NotFoundError, match="bafkrei"):
        hub.get(str(nx.storage.cid_of(secrets.token_bytes(16))))
    with pytest.raises(ContentError):
        hub.get("not-a-cid")


def test_a_document_that_is_not_canonical_is_refused(person: Person) -> None:
    with pytest.raises(ContentError):
        person("ada").hub.put(b"\x18\x01", codec="dag-cbor")


# -- projects ---------------------------------------------------------------------------------


def test_a_project_begins_with_its_first_version_as_head(project: Project) -> None:
    assert project.head.number == 0
    assert project.head.record.head
    assert project.versions().index.tolist() == [0]
    weights = project.head.weights
    expected = project.recipe.architecture.initial_weights(0)
    assert all(np.array_equal(weights[name], expected[name]) for name in expected)


def test_an_unknown_project_is_named_with_those_there_are(connect: Connect) -> None:
    with pytest.raises(NotFoundError, match="no project 'atlantis'"):
        connect().project("atlantis")


def test_a_taken_project_name_is_refused(project: Project, person: Person, task: nx.Task) -> None:
    with pytest.raises(ConflictError, match="already"):
        person("late").create_project(project.name, task=task, recipe=project.recipe)


def test_an_architecture_that_does_not_fit_the_task_is_refused(
    person: Person, task: nx.Task
) -> None:
    for architecture in (nx.models.mlp(64, (8,), 9), nx.models.mlp(65, (8,), 10)):
        with pytest.raises(ArchitectureError):
            person("ada").create_project("misfit", task=task, recipe=nx.Recipe(architecture))


def test_a_bad_part_is_refused_by_the_hub_itself(
    project: Project, person: Person, task: nx.Task
) -> None:
    """A client that does not check must not get further than one that does."""
    hub = person("mallory").hub
    record = project.record
    good = records.NewProject(
        id=new_id(),
        name=f"raw-{secrets.token_hex(4)}",
        input_shape=record.input_shape,
        classes=record.classes,
        public=record.public,
        validation=record.validation,
        held_out=hub.put(task.held_out.encode(), visibility="sealed").cid,
        recipe=record.recipe,
        weights=project.head.cid,
    )
    with pytest.raises(DatasetError):
        hub.create_project(replace(good, public=hub.put(b"no data set").cid))
    with pytest.raises((NotFoundError, DatasetError)):
        hub.create_project(replace(good, held_out=record.public + "q"[:0]))
    with pytest.raises(ArchitectureError):
        hub.create_project(replace(good, classes=9))
    for name in ("Not A Name", record.id):
        with pytest.raises(InvalidInputError, match="not a project name"):
            hub.create_project(replace(good, name=name))
    with pytest.raises(InvalidInputError):
        hub.create_project(replace(good, id="not-a-uuid"))
    made = hub.create_project(good)
    assert hub.create_project(good) == made, "the same id again has one effect"


# -- runs -------------------------------------------------------------------------------------


def test_a_run_is_recorded_round_by_round_and_ends_in_a_version(project: Project) -> None:
    run = project.train(rounds=2, partition=nx.partition.iid(4), seed=0, progress=False)
    assert run.history["round"].tolist() == [0, 1, 2]
    assert run.version is not None
    assert run.version.number == 1
    assert project.head.number == 0, "only a measured contribution moves the head"
    recorded = project.hub.run(run.id)
    assert recorded == run.record
    assert recorded.state == "finished"
    assert recorded.plan["executor"] in ("sequential", "vectorized", "fused")
    example = nx.datasets.digits().inputs[:3]
    import torch

    assert run.model(torch.tensor(example)).shape == (3, 10)


def test_recording_a_round_twice_has_one_effect(project: Project) -> None:
    hub, record = project.hub, project.record
    new = records.NewRun(
        id=new_id(),
        project=record.id,
        recipe=record.recipe,
        rounds=2,
        clients=1,
        clients_per_round=1,
    )
    run = hub.start_run(new)
    assert hub.start_run(new) == run
    entry = records.Round(round=1, loss=0.5, accuracy=0.5, seconds=0.1, clients=("client 0",))
    before = hub.network().seq
    hub.record_round(run.id, entry)
    hub.record_round(run.id, entry)
    assert hub.network().seq == before + 1
    assert hub.run(run.id).history == (entry,)


def test_a_run_that_made_no_version_goes_on_under_its_id(project: Project) -> None:
    hub, record = project.hub, project.record
    new = records.NewRun(
        id=new_id(),
        project=record.id,
        recipe=record.recipe,
        rounds=2,
        clients=1,
        clients_per_round=1,
    )
    entries = [
        records.Round(round=round, loss=0.5, accuracy=0.5, seconds=0.1, clients=("client 0",))
        for round in (1, 2, 3)
    ]
    hub.start_run(new)
    hub.record_round(new.id, entries[0])
    more = hub.start_run(replace(new, rounds=3))
    assert (more.state, more.rounds) == ("running", 3), "it was killed; more rounds are asked for"
    hub.record_round(new.id, entries[1])
    hub.finish_run(new.id, records.RunResult(state="interrupted", weights=None))
    with pytest.raises(InvalidInputError, match="has 2 rounds already"):
        hub.start_run(replace(new, rounds=1))
    assert hub.run(new.id).state == "interrupted"
    before = hub.network().seq
    again = hub.start_run(replace(new, rounds=3))
    assert hub.start_run(replace(new, rounds=3)) == again, "twice is as good as once"
    assert (again.state, again.history) == ("running", tuple(entries[:2]))
    (told,) = hub.events(before)
    assert (told.kind, told.subject, told.data["was"]) == ("run.resumed", new.id, "interrupted")
    hub.record_round(new.id, entries[2])
    weights = hub.put(secrets.token_bytes(8)).cid
    with pytest.raises(ArchitectureError):
        hub.finish_run(new.id, records.RunResult(state="finished", weights=weights))
    ended = hub.finish_run(new.id, records.RunResult(state="interrupted", weights=project.head.cid))
    assert ended.version is not None
    assert hub.start_run(replace(new, rounds=9)) == ended, "a run with a version is over"


class Trouble(Exception):
    """Something that goes wrong in the middle of a training."""


def test_a_run_that_an_error_ended_goes_on_as_the_same_run(
    project: Project, tmp_path: Path
) -> None:
    options = {"rounds": 4, "partition": nx.partition.iid(4), "progress": False}

    def fail(report: RoundReport) -> None:
        if report.round == 2:
            raise Trouble

    never = project.train(**options)
    with pytest.raises(Trouble):
        project.train(checkpoint=tmp_path, on_round=fail, **options)
    ended = project.hub.runs(project.record.id)[-1]
    assert (ended.state, ended.version, len(ended.history)) == ("interrupted", None, 3)
    with pytest.raises(InvalidInputError, match="seed is 0 there and 1 now"):
        project.train(checkpoint=tmp_path, seed=1, **options)
    assert project.hub.run(ended.id) == ended, "a call that is refused leaves the run alone"
    heard: list[int] = []
    run = project.train(
        checkpoint=tmp_path, on_round=lambda report: heard.append(report.round), **options
    )
    assert heard == [3, 4]
    assert (run.id, run.record.state) == (ended.id, "finished")
    assert run.history["round"].tolist() == [0, 1, 2, 3, 4]
    assert run.history["accuracy"].tolist() == never.history["accuracy"].tolist()
    assert run.version is not None
    assert never.version is not None
    assert run.version.cid == never.version.cid
    assert len(project.runs()) == 2


def test_what_made_a_version_stays_and_going_on_from_it_is_a_new_run(
    project: Project, tmp_path: Path
) -> None:
    options = {"partition": nx.partition.iid(4), "checkpoint": tmp_path, "progress": False}

    def stop(report: RoundReport) -> None:
        if report.round == 2:
            raise KeyboardInterrupt

    first = project.train(rounds=3, on_round=stop, **options)
    assert first.record.state == "interrupted"
    assert first.version is not None
    second = project.train(rounds=3, **options)
    assert second.record.state == "finished"
    assert second.id != first.id
    assert second.history["round"].tolist() == [0, 1, 2, 3]
    assert project.hub.run(first.id) == first.record
    before = project.hub.network().seq
    again = project.train(rounds=3, **options)
    assert again.record == second.record, "nothing is left to train"
    assert project.hub.network().seq == before
    more = project.train(rounds=4, **options)
    assert more.history["round"].tolist() == [0, 1, 2, 3, 4]
    assert [run.id for run in project.hub.runs(project.record.id)] == [
        first.id,
        second.id,
        more.id,
    ]


def test_rounds_that_the_hub_has_not_heard_of_are_recorded_when_the_run_goes_on(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"partition": nx.partition.iid(4), "checkpoint": tmp_path, "progress": False}
    real = project.hub.record_round

    def deaf(run: str, report: records.Round) -> None:
        if report.round == 2:
            raise HubUnavailableError("The hub is away.")
        real(run, report)

    with monkeypatch.context() as patch:
        patch.setattr(project.hub, "record_round", deaf)
        with pytest.raises(HubUnavailableError):
            project.train(rounds=3, **options)
    (run,) = project.hub.runs(project.record.id)
    assert [entry.round for entry in run.history] == [0, 1]
    again = project.train(rounds=5, **options)
    assert again.id == run.id
    assert again.history["round"].tolist() == [0, 1, 2, 3, 4, 5]
    assert again.record.rounds == 5


def test_a_run_goes_on_from_where_it_began_though_the_head_has_moved(
    project: Project, person: Person, tmp_path: Path
) -> None:
    options = {"rounds": 3, "partition": nx.partition.iid(4), "progress": False}

    def fail(report: RoundReport) -> None:
        if report.round == 1:
            raise Trouble

    never = project.train(**options)
    with pytest.raises(Trouble):
        project.train(checkpoint=tmp_path, on_round=fail, **options)
    better = project.recipe.with_changes(learning_rate=0.1)
    trained = project.train(rounds=3, recipe=better, progress=False)
    for change in (
        nx.ComputeContribution(trained),
        nx.HyperparameterContribution(learning_rate=0.2),
    ):
        assert project.submit(change).wait(60, progress=False).state == "rewarded"
    assert project.recipe.learning_rate == 0.2
    assert project.head.number > 0
    run = project.train(checkpoint=tmp_path, **options)
    assert run.version is not None
    assert never.version is not None
    assert run.version.cid == never.version.cid
    assert run.record.recipe == never.record.recipe


def test_a_checkpoint_of_another_project_is_refused(
    project: Project, person: Person, task: nx.Task, tmp_path: Path
) -> None:
    options = {"rounds": 1, "checkpoint": tmp_path, "progress": False}
    project.train(**options)
    other = person("other").create_project(
        f"other-{secrets.token_hex(4)}", task=task, recipe=project.recipe
    )
    with pytest.raises(InvalidInputError, match="run of another project"):
        other.train(**options)
    assert other.runs().empty


def test_nobody_goes_on_with_the_run_of_another(
    project: Project, person: Person, tmp_path: Path
) -> None:
    def fail(report: RoundReport) -> None:
        raise Trouble

    with pytest.raises(Trouble):
        project.train(checkpoint=tmp_path, on_round=fail, progress=False)
    (run,) = project.hub.runs(project.record.id)
    theirs = person("mallory").project(project.name)
    with pytest.raises(ForbiddenError, match=f"belongs to {run.author}"):
        theirs.train(checkpoint=tmp_path, progress=False)
    assert project.hub.runs(project.record.id) == [run]


def test_a_refused_call_leaves_nothing_behind(
    project: Project, task: nx.Task, tmp_path: Path
) -> None:
    options = {"rounds": 1, "checkpoint": tmp_path, "progress": False}
    with pytest.raises(NotFoundError, match="nobody-here"):
        project.train(participants={"nobody-here": task.private}, **options)
    with pytest.raises(InvalidInputError, match="executor"):
        project.train(rounds=1, executor="magic", progress=False)
    assert project.runs().empty
    assert project.train(**options).history["round"].tolist() == [0, 1]


def test_a_run_is_executed_as_an_earlier_one_was(project: Project) -> None:
    options = {"rounds": 2, "partition": nx.partition.iid(4), "progress": False}
    first = project.train(executor="vectorized", **options)
    again = project.train(plan=first.plan, **options)
    assert first.version is not None
    assert again.version is not None
    assert again.version.cid == first.version.cid
    assert again.plan == first.plan
    assert again.plan["executor"] == "vectorized"
    with pytest.raises(InvalidInputError, match="executor"):
        project.train(plan={"executor": "magic"}, **options)


def test_nobody_writes_into_a_run_of_another(project: Project, person: Person) -> None:
    run = project.train(rounds=1, partition=nx.partition.iid(2), progress=False)
    entry = records.Round(round=9, loss=0.0, accuracy=1.0, seconds=0.0, clients=())
    mallory = person("mallory").hub
    with pytest.raises(ForbiddenError):
        mallory.record_round(run.id, entry)
    with pytest.raises(ForbiddenError):
        mallory.finish_run(run.id, records.RunResult(state="finished", weights=None))
    with pytest.raises(ForbiddenError):
        Project(mallory, project.record).submit(nx.ComputeContribution(run))


def test_weights_copied_from_another_are_refused(project: Project, person: Person) -> None:
    run = project.train(rounds=1, partition=nx.partition.iid(2), progress=False)
    hub, record = person("mallory").hub, project.record
    theirs = records.NewRun(
        id=new_id(),
        project=record.id,
        recipe=record.recipe,
        rounds=1,
        clients=1,
        clients_per_round=1,
    )
    hub.start_run(theirs)
    copied = records.RunResult(state="finished", weights=run.version.cid)  # type: ignore[union-attr]
    with pytest.raises(ConflictError, match="version 1"):
        hub.finish_run(theirs.id, copied)
    lost = records.RunResult(state="finished", weights=None, updates=(record.recipe,))
    with pytest.raises(NotFoundError, match="sealed"):
        hub.finish_run(theirs.id, lost)


def test_who_sealed_the_same_bytes_before_is_not_told(person: Person) -> None:
    secret = secrets.token_bytes(64)
    person("ada").hub.put(secret, visibility="sealed")
    grace = person("grace")
    assert grace.hub.put(secret, visibility="sealed").owner == grace.user


def test_a_participant_without_an_account_is_named(project: Project, task: nx.Task) -> None:
    with pytest.raises(NotFoundError, match="nobody-here"):
        project.train(rounds=1, participants={"nobody-here": task.private}, progress=False)


# -- federations over many machines -----------------------------------------------------------


@pytest.fixture
def federation(project: Project) -> Iterator[FederationHandle]:
    """A federation of a new project that waits for two nodes."""
    handle = project.serve(nodes=2, rounds=2)
    yield handle
    handle.stop()


def public_key(folder: Path, name: str) -> str:
    from neuronexus_kernel.federation.deployment.tls import make_node_key

    return make_node_key(folder / f"{name}.key").decode()


def test_only_maintainers_serve_and_only_members_join(
    project: Project, person: Person, connect: Connect, tmp_path: Path
) -> None:
    with pytest.raises(ForbiddenError, match="owns the project"):
        person("grace").project(project.name).serve(nodes=1)
    with pytest.raises(ForbiddenError, match="operator"):
        project.serve(nodes=1, address="127.0.0.1:0")
    with pytest.raises(InvalidInputError, match="nodes"):
        project.serve(nodes=0)
    with pytest.raises(NotFoundError, match=r"project\.serve"):
        person("grace").project(project.name).join(project.public)
    with pytest.raises(AuthenticationError):
        connect().join_federation(new_id(), public_key(tmp_path, "nobody"))
    assert project.hub.federations(project.record.id) == []


def test_nodes_are_registered_under_the_accounts_that_bring_them_and_stay_so(
    federation: FederationHandle, project: Project, person: Person, tmp_path: Path
) -> None:
    assert (federation.state, federation.nodes, federation.run) == ("waiting", (), None)
    with pytest.raises(ConflictError, match="federation already"):
        project.serve(nodes=1)
    ada, grace, late = person("ada"), person("grace"), person("late")
    key = public_key(tmp_path, "ada")
    membership = ada.hub.join_federation(federation.id, key)
    assert membership == ada.hub.join_federation(federation.id, key), "twice is as good as once"
    assert membership.authority.startswith("-----BEGIN CERTIFICATE-----")
    assert membership.federation.address == federation.address
    with pytest.raises(ConflictError, match="another account"):
        grace.hub.join_federation(federation.id, key)
    with pytest.raises(ConflictError, match="another node key"):
        ada.hub.join_federation(federation.id, public_key(tmp_path, "second"))
    with pytest.raises(InvalidInputError, match="public key"):
        grace.hub.join_federation(federation.id, "no key at all")
    grace.hub.join_federation(federation.id, public_key(tmp_path, "grace"))
    with pytest.raises(ConflictError, match="seats"):
        late.hub.join_federation(federation.id, public_key(tmp_path, "late"))
    assert federation.record.accounts == tuple(sorted((str(ada.user), str(grace.user))))
    with pytest.raises(ForbiddenError):
        late.hub.stop_federation(federation.id)
    assert not federation.record.resumable, "it is served"
    assert federation.stop().state == "interrupted"
    with pytest.raises(ConflictError, match="over"):
        ada.hub.join_federation(federation.id, key)
    kinds = [event.kind for event in project.hub.events(project=project.record.id)]
    assert kinds.count("federation.joined") == 2
    assert kinds[-1] == "federation.ended"

    # Resumed, it is where it was, and the nodes stay registered.
    assert federation.record.resumable
    with pytest.raises(ForbiddenError, match="owns the project"):
        late.project(project.name).federation().resume()
    with pytest.raises(NotFoundError, match=r"project\.serve"):
        project.federation(new_id())
    resumed = project.federation().resume()
    assert (resumed.id, resumed.state) == (federation.id, "waiting")
    assert resumed.resume().state == "waiting", "twice is as good as once"
    assert resumed.record.accounts == tuple(sorted((str(ada.user), str(grace.user))))
    again = ada.hub.join_federation(federation.id, key)
    assert (again.authority, again.federation.address) == (
        membership.authority,
        membership.federation.address,
    )
    with pytest.raises(ConflictError, match="federation already"):
        project.serve(nodes=1)


@pytest.mark.long
def test_accounts_train_from_their_own_machines_and_are_paid(
    project: Project, person: Person, task: nx.Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEURONEXUS_HOME", str(tmp_path))
    recipe = project.recipe.with_changes(learning_rate=0.1)
    people = [person("ada"), person("grace")]
    shares = task.private.partition(nx.partition.iid(2))
    federation = project.serve(nodes=2, rounds=3, seed=4, recipe=recipe)
    odd = nx.Dataset(np.zeros((4, 9)), np.zeros(4, int), classes=10)
    nodes = []
    try:
        with pytest.raises(DatasetError, match="shape"):
            people[0].project(project.name).join(odd)
        for each, share in zip(people, shares, strict=True):
            nodes.append(each.project(project.name).join(share, executor="sequential"))
        federation.wait(200, progress=False)
        assert federation.state == "finished", federation.problem
        assert [node.wait(20).state for node in nodes] == ["ended", "ended"]
    finally:
        for node in nodes:
            node.stop()
        federation.stop()
    run = federation.run
    assert run is not None
    assert run.version is not None
    assert run.record.participants == tuple(sorted(str(each.user) for each in people))
    assert [entry.clients for entry in run.record.history][1:] == [run.record.participants] * 3
    local = project.train(
        rounds=3,
        seed=4,
        recipe=recipe,
        participants={str(each.user): share for each, share in zip(people, shares, strict=True)},
        executor="sequential",
        progress=False,
    )
    assert local.version is not None
    for name, array in run.version.weights.items():
        np.testing.assert_allclose(array, local.version.weights[name], atol=1e-6)
    contribution = project.submit(nx.ComputeContribution(run)).wait(60, progress=False)
    assert contribution.state in ("rewarded", "accepted")
    assert set(contribution.shares["account"]) == set(run.record.participants)


# -- contributions ----------------------------------------------------------------------------


def test_a_better_learning_rate_is_paid_and_becomes_the_head_recipe(
    project: Project, person: Person
) -> None:
    grace = person("grace")
    theirs = grace.project(project.name)
    contribution = theirs.submit(nx.HyperparameterContribution(learning_rate=0.2, note="faster"))
    contribution.wait(60, progress=False)
    assert contribution.state == "rewarded"
    assert contribution.value is not None
    assert contribution.value > 0
    assert contribution.reward == Decimal(10_000) * Decimal(str(contribution.value))
    assert project.recipe.learning_rate == 0.2
    assert grace.tokens.balance() == contribution.reward
    assert grace.tokens.history()["amount"].sum() == contribution.reward
    assert grace.tokens.verify().ok
    receipt = dagcbor.decode(grace.storage.get(str(contribution.receipt)))
    assert receipt["contribution"] == {"id": contribution.id, "kind": "hyperparameters"}


def test_a_rejected_contribution_moves_no_tokens(project: Project, person: Person) -> None:
    alan = person("alan")
    recipe = project.recipe.cid
    contribution = alan.project(project.name).submit(
        nx.HyperparameterContribution(learning_rate=500.0)
    )
    contribution.wait(60, progress=False)
    assert contribution.state == "rejected"
    assert "No sure improvement" in str(contribution.reason)
    assert contribution.reward == 0
    assert alan.tokens.balance() == 0
    assert project.recipe.cid == recipe
    with pytest.raises(ConflictError, match="submitted the same before"):
        alan.project(project.name).submit(nx.HyperparameterContribution(learning_rate=500.0))


def test_trained_weights_are_paid_to_those_who_confirm(
    project: Project, person: Person, task: nx.Task
) -> None:
    ada, grace = person("ada"), person("grace")
    halves = task.private.partition(nx.partition.iid(2))
    names = (str(ada.user), str(grace.user))
    recipe = project.recipe.with_changes(learning_rate=0.1)
    run = ada.project(project.name).train(
        rounds=3,
        participants=dict(zip(names, halves, strict=True)),
        recipe=recipe,
        progress=False,
    )
    contribution = ada.project(project.name).submit(nx.ComputeContribution(run))
    contribution.wait(60, progress=False)
    assert contribution.state == "rewarded"
    assert project.head.number == run.version.number  # type: ignore[union-attr]
    assert 0 < project.head.metrics["held_out_accuracy"] <= 1
    shares = contribution.shares.set_index("account")
    assert shares.loc[names[0], "minted"]
    assert not shares.loc[names[1], "minted"]
    assert grace.tokens.balance() == 0, "an unconfirmed share is not minted"
    grace.contribution(contribution.id).confirm()
    grace.contribution(contribution.id).confirm()
    total = ada.tokens.balance() + grace.tokens.balance()
    assert grace.tokens.balance() == Decimal(shares.loc[names[1], "reward"]) > 0
    assert total == contribution.reward == Decimal(10_000) * Decimal(str(contribution.value))
    with pytest.raises(ForbiddenError):
        person("stranger").contribution(contribution.id).confirm()


def test_examples_that_are_public_already_are_refused(project: Project) -> None:
    with pytest.raises(DatasetError, match="duplicates"):
        project.submit(nx.DataContribution(project.public.subset(np.arange(5))))


def test_data_of_another_shape_or_with_other_classes_is_refused(project: Project) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 10
    with pytest.raises(DatasetError, match="shape"):
        project.submit(nx.DataContribution(nx.Dataset(rng.random((20, 9)), labels, classes=10)))
    with pytest.raises(DatasetError, match="classes"):
        project.submit(nx.DataContribution(nx.Dataset(rng.random((20, 64)), labels, classes=11)))


def test_a_change_that_is_no_recipe_is_refused_and_nothing_is_submitted(project: Project) -> None:
    for change in ({"learning_rate": -1.0}, {"batch_size": 0}, {"no_such_field": 1}):
        with pytest.raises(RecipeError):
            project.submit(nx.HyperparameterContribution(**change))
    with pytest.raises(ArchitectureError):
        project.submit(nx.CodeContribution(nx.models.mlp(64, (8,), 3)))
    assert project.contributions().empty


def test_a_better_technique_is_paid_and_becomes_part_of_the_head_recipe(
    project: Project, person: Person
) -> None:
    grace = person("grace")
    technique = nx.CodeContribution(
        momentum=0.9, schedule="step", schedule_parameters={"every": 50, "factor": 0.5}
    )
    contribution = grace.project(project.name).submit(technique)
    contribution.wait(60, progress=False)
    assert contribution.state == "rewarded"
    assert contribution.record.kind == "code"
    head = project.recipe
    assert (head.momentum, head.schedule) == (0.9, "step")
    assert dict(head.schedule_parameters) == {"every": 50, "factor": 0.5}
    assert head.architecture.cid == nx.models.mlp(64, (16,), 10).cid
    assert grace.tokens.balance() == contribution.reward > 0
    with pytest.raises(ConflictError, match="does this already"):
        grace.project(project.name).submit(nx.CodeContribution(momentum=0.9))
    # A default, which a recipe's document leaves out, is written in a payload.
    back = nx.CodeContribution(schedule="constant").prepare(project)
    assert back == {"changes": {"schedule": "constant"}}


def test_a_technique_that_is_none_is_refused(project: Project) -> None:
    with pytest.raises(RecipeError, match="an architecture, a technique"):
        nx.CodeContribution()
    with pytest.raises(RecipeError, match=r"HyperparameterContribution\(learning_rate="):
        nx.CodeContribution(learning_rate=0.2)
    with pytest.raises(RecipeError, match="no field 'optimizer'"):
        nx.CodeContribution(optimizer="adam")
    with pytest.raises(RecipeError, match="optimiser"):
        project.submit(nx.CodeContribution(optimiser="adagrad"))
    with pytest.raises(ConflictError, match="does this already"):
        project.submit(nx.CodeContribution(optimiser="sgd"))
    assert project.contributions().empty


def test_a_payload_that_reaches_beyond_its_kind_is_refused_by_the_hub(project: Project) -> None:
    """A client that does not check must not get further than one that does."""
    hub = project.hub
    for body, message in (
        ({"changes": {"learning_rate": 0.5}}, "cannot change 'learning_rate'"),
        ({"changes": {"architecture": None}}, "cannot change 'architecture'"),
        ({"changes": {}}, "no recipe field"),
        ({"changes": ["optimiser"]}, "no recipe field"),
        ({}, "no link 'architecture'"),
    ):
        payload = dagcbor.encode({"kind": "code", **body})
        cid = hub.put(payload, kind="contribution", codec="dag-cbor").cid
        new = records.NewContribution(
            id=new_id(), project=project.record.id, kind="code", payload=cid
        )
        with pytest.raises(InvalidInputError, match=message):
            hub.submit(new)


def test_a_project_of_another_kind_is_described_by_its_record(person: Person) -> None:
    task = nx.Task(nx.datasets.diabetes())
    recipe = nx.Recipe(nx.models.mlp(10, (), 1), loss="mse", learning_rate=0.001)
    ada = person("ada")
    made = ada.create_project(f"diabetes-{secrets.token_hex(4)}", task=task, recipe=recipe)
    record = person("grace").project(made.name).record
    assert (record.kind, record.metric, record.classes) == ("regression", "r2", 0)
    assert (record.input_shape, record.output_shape) == ((10,), (1,))
    with pytest.raises(RecipeError, match="does not go with"):
        made.submit(nx.HyperparameterContribution(loss="cross_entropy"))


def test_what_is_measured_goes_by_the_name_of_the_project_s_metric(person: Person) -> None:
    task = nx.Task(nx.datasets.diabetes())
    recipe = nx.Recipe(nx.models.mlp(10, (), 1), loss="mse", learning_rate=0.001)
    made = person("ada").create_project(f"m-{secrets.token_hex(4)}", task=task, recipe=recipe)
    run = made.train(rounds=1, partition=nx.partition.iid(2), progress=False)
    assert run.result is not None
    assert list(run.history.columns) == ["round", "loss", "r2", "seconds", "clients"]
    assert list(run.history.columns) == list(run.result.history.columns)
    assert run.history["r2"].tolist() == run.result.history["r2"].tolist()
    assert run.version is not None
    assert set(run.version.metrics) == {"r2", "loss"}
    assert made.hub.run(run.id).metric == "r2"
    texts = [run, run.version, run._repr_html_(), run.version._repr_html_(), made._repr_html_()]
    assert not any("accuracy" in str(text) for text in texts)
    assert all(", r2 " in repr(text) or "(1, r2 " in repr(text) for text in texts[:2])
    created = made.hub.events(project=made.record.id)
    assert [event.data["metric"] for event in created if event.kind == "project.created"] == ["r2"]


def test_an_unknown_account_is_not_taken_for_a_poor_one(person: Person) -> None:
    ada = person("ada")
    assert ada.tokens.balance() == 0
    assert ada.tokens.history().empty
    for look in (ada.tokens.balance, ada.tokens.history):
        with pytest.raises(NotFoundError, match="no account 'nobody-here'"):
            look("nobody-here")


# -- events -----------------------------------------------------------------------------------


def test_events_have_no_gaps_and_name_the_one_before(connect: Connect, person: Person) -> None:
    for _ in range(3):
        person("member")
    hub = connect()
    events = hub.events()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert all(later.previous == earlier.seq for earlier, later in pairwise(events))
    some = hub.events(since=2, limit=2)
    assert [(event.previous, event.seq) for event in some] == [(2, 3), (3, 4)]


def test_events_of_one_project_form_a_chain_of_their_own(project: Project) -> None:
    project.train(rounds=1, partition=nx.partition.iid(2), progress=False)
    events = project.hub.events(project=project.record.id)
    assert {event.project for event in events} == {project.record.id}
    assert events[0].previous == 0
    assert all(later.previous == earlier.seq for earlier, later in pairwise(events))
    kinds = [event.kind for event in events]
    assert kinds.index("run.started") < kinds.index("run.round") < kinds.index("run.finished")


def test_a_follower_sees_what_was_and_what_comes(connect: Connect, person: Person) -> None:
    name = person("early").user
    hub = connect()
    since = hub.network().seq - 1
    seen: list[records.Event] = []
    stream = hub.follow(since)

    def read() -> None:
        seen.extend(islice(stream, 3))

    reader = threading.Thread(target=read)
    reader.start()
    others = [person("late").user, person("later").user]
    reader.join(20)
    assert not reader.is_alive()
    assert [event.subject for event in seen] == [name, *others]
    assert [event.previous for event in seen] == [since, since + 1, since + 2]


def test_bad_bounds_of_a_page_are_refused(connect: Connect) -> None:
    with pytest.raises(InvalidInputError):
        connect().events(since=-1)
    with pytest.raises(InvalidInputError):
        connect().events(limit=0)


def test_the_network_shows_who_is_here(person: Person) -> None:
    ada, grace = person("ada"), person("grace")
    grace.logout()
    members = ada.network().set_index("name")
    assert members.loc[str(ada.user), "online"]
    online = members.loc[[name for name in members.index if name.startswith("grace-")], "online"]
    assert not online.iloc[-1]
