"""Projects that leave a hub in one file and come into another: what goes along, and for whom."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import sqlalchemy as sa
from neuronexus_widgets import Dashboard

import neuronexus_kernel as nx
from neuronexus_kernel.content import CID, dagcbor, new_id
from neuronexus_kernel.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    StoreError,
)
from neuronexus_kernel.hub import records, schema
from neuronexus_kernel.hub.contributions import find_contribution
from neuronexus_kernel.ledger import Entry
from neuronexus_kernel.storage.car import read_car
from neuronexus_kernel.valuation import receipt

PASSWORD = "correct horse battery"


@pytest.fixture
def member(bench, task):
    """Somebody on a new hub, who has sealed the held-out split there."""
    wb = bench.person("grace")
    wb.hub.put(task.held_out.encode(), kind="dataset", visibility="sealed")
    return wb


@pytest.fixture
def linus(bench):
    """An operator of a new hub."""
    wb = bench.person("linus")
    bench.operator.add_operator("linus")
    return wb.login("linus", PASSWORD)


def blocks(car: bytes) -> dict[CID, bytes]:
    return dict(read_car(io.BytesIO(car))[1])


def origin(hub) -> str:
    """Return the number that the first imported project brought from its hub."""
    return next(each.data["origin"] for each in hub.events(limit=1000) if "origin" in each.data)


def sealed_names(bench) -> set[CID]:
    """Return all that lies in a hub's store of sealed content."""
    folder = bench.home / "sealed" / "blocks"
    return {CID.parse(path.name) for path in folder.rglob("*") if path.is_file()}


def everything(hub, project: str) -> list[object]:
    return [*hub.versions(project), *hub.runs(project), *hub.contributions(project=project)]


# -- what comes along -------------------------------------------------------------------------


def test_a_project_is_on_the_other_hub_what_it_was(old_hub, member, archive):
    here, there = old_hub.owner, member.hub
    made, old = there.import_project(io.BytesIO(archive)), here.project("digits")
    at = origin(there)
    head = replace(old.head, author=f"{old.head.author}@{at}")
    assert made == replace(old, owner="grace", head=head) == there.project("digits")
    for one, other in zip(here.versions(old.id), there.versions(old.id), strict=True):
        assert other == replace(one, author=f"{one.author}@{at}")
        assert here.get(one.weights) == there.get(other.weights)
    for one, other in zip(here.runs(old.id), there.runs(old.id), strict=True):
        people = tuple(f"{name}@{at}" for name in one.participants)
        assert other == replace(
            one,
            author=f"{one.author}@{at}",
            participants=people,
            history=tuple(
                replace(each, clients=people if each.clients and people else each.clients)
                for each in one.history
            ),
            version=one.version and replace(one.version, author=f"{one.author}@{at}"),
            state="interrupted" if one.state == "running" else one.state,
        )
    decided = [each for each in here.contributions() if each.state in records.FINAL_STATES]
    assert {each.state for each in decided} == {"rewarded", "rejected"}
    for one, other in zip(decided, there.contributions(project=old.id), strict=True):
        shares = tuple(replace(each, account=f"{each.account}@{at}") for each in one.shares)
        assert other == replace(one, author=f"{one.author}@{at}", shares=shares)
        assert here.get(one.payload) == there.get(other.payload)
        assert here.get(str(one.receipt)) == there.get(str(other.receipt))


def test_work_goes_on_where_it_ended(member, archive, bench):
    member.hub.import_project(io.BytesIO(archive))
    project = member.project("digits")
    with pytest.raises(ConflictError, match=r"grace@\w+ submitted the same before"):
        project.submit(nx.HyperparameterContribution(learning_rate=500.0))
    before = project.head.number
    run = project.train(
        rounds=12, recipe=project.recipe.with_changes(learning_rate=0.3), progress=False
    )
    assert run.version is not None
    assert run.version.number == len(project.versions()) - 1
    contribution = project.submit(nx.ComputeContribution(run))
    bench.evaluate()
    assert contribution.state == "rewarded", contribution.reason
    assert project.head.number == run.version.number > before
    assert member.tokens.balance() == contribution.reward > 0


def test_the_same_project_gives_the_same_bytes(old_hub, archive, export):
    assert export(old_hub.owner) == archive
    old_hub.person("bystander").storage.add(b"something else")
    assert export(old_hub.owner, old_hub.owner.project("digits").id) == archive
    assert export(old_hub.operator) == archive


def test_what_waits_is_left_out_and_what_runs_is_interrupted(old_hub, member, archive):
    old = old_hub.owner.project("digits").id
    member.hub.import_project(io.BytesIO(archive))
    assert {each.state for each in old_hub.owner.runs(old)} == {"finished", "running"}
    assert {each.state for each in member.hub.runs(old)} == {"finished", "interrupted"}
    waiting = [each.id for each in old_hub.owner.contributions() if each.state == "submitted"]
    assert len(waiting) == 1
    assert waiting[0] not in {each.id for each in member.hub.contributions()}


def test_content_keeps_its_visibility_its_name_and_its_license(bench, task, old_hub, archive):
    owner = old_hub.owner.project("digits").owner
    roots = {each.cid: each for each in old_hub.owner.roots()}
    wb = bench.person("grace")
    wb.hub.put(task.held_out.encode(), kind="dataset", visibility="sealed")
    wb.hub.import_project(io.BytesIO(archive))
    at = origin(wb.hub)
    found = wb.hub.roots()
    assert {each.visibility for each in found} == {"public", "project"}
    for each in found:
        old = roots[each.cid]
        assert each.owner == f"{old.owner}@{at}"
        assert (each.visibility, each.name, each.kind, each.license, each.size) == (
            old.visibility,
            old.name,
            old.kind,
            old.license,
            old.size,
        )
    assert {each.license for each in found} == {"", "CC-BY-4.0"}
    (hidden,) = [each.cid for each in found if each.visibility == "project"]
    assert wb.hub.get(hidden) == old_hub.owner.get(hidden)
    with pytest.raises(NotFoundError):
        bench.hub.visitor().get(hidden)
    (public,) = wb.hub.history("digits public", owner=f"{owner}@{at}")
    assert wb.hub.get(public.cid) == old_hub.owner.get(public.cid)


def test_a_project_may_get_another_name(member, archive):
    made = member.hub.import_project(io.BytesIO(archive), name="numbers")
    assert member.hub.project("numbers") == made == member.hub.project(made.id)
    for name in ("Numbers", new_id()):
        with pytest.raises(InvalidInputError, match="not a project name"):
            member.hub.import_project(io.BytesIO(archive), name=name)


def test_an_archive_may_come_in_a_stream_that_goes_forward_only(member, archive):
    class Pipe(io.RawIOBase):
        def __init__(self):
            self.rest = memoryview(archive)

        def readable(self):
            return True

        def readinto(self, buffer):
            count = min(len(buffer), 777, len(self.rest))
            buffer[:count], self.rest = self.rest[:count], self.rest[count:]
            return count

    assert member.hub.import_project(io.BufferedReader(Pipe())).name == "digits"


def test_what_an_import_brought_is_kept_and_what_a_refused_one_left_is_collected(
    bench, member, archive
):
    content = bench.services.contents._content
    before = content.usage().blocks
    with pytest.raises(InvalidInputError):
        member.hub.import_project(io.BytesIO(archive), name="Not A Name")
    assert content.usage().blocks == before
    made = member.hub.import_project(io.BytesIO(archive))
    for store in (content, bench.services.contents._sealed):
        assert store.collect().removed == 0
        assert store.verify().ok
    assert made.head in member.hub.versions("digits")
    for version in member.hub.versions("digits"):
        assert member.hub.get(version.weights)


# -- who may, and what never leaves ------------------------------------------------------------


def test_only_its_maintainers_and_operators_take_a_project_out(old_hub):
    stream = io.BytesIO()
    with pytest.raises(AuthenticationError):
        old_hub.hub.visitor().export_project("digits", stream)
    stranger = old_hub.person(f"stranger-{new_id()[-6:]}").hub
    with pytest.raises(ForbiddenError, match="its maintainers or an operator may export it"):
        stranger.export_project("digits", stream)
    for hub in (stranger, old_hub.owner):
        with pytest.raises(ForbiddenError):
            hub.export_project("digits", stream, sealed=True)
    with pytest.raises(NotFoundError, match="no project 'atlantis'"):
        old_hub.owner.export_project("atlantis", stream)
    assert stream.getvalue() == b""
    old_hub.owner.add_maintainer("digits", stranger.whoami().name)
    assert stranger.export_project("digits", stream) == len(stream.getvalue())
    with pytest.raises(ForbiddenError):
        stranger.export_project("digits", io.BytesIO(), sealed=True)
    old_hub.owner.remove_maintainer("digits", stranger.whoami().name)


def test_only_accounts_take_a_project_in(bench, archive):
    with pytest.raises(AuthenticationError):
        bench.hub.visitor().import_project(io.BytesIO(archive))
    with pytest.raises(AuthenticationError, match="will own the project"):
        bench.operator.import_project(io.BytesIO(archive))


def test_nothing_sealed_is_in_an_archive_nor_named_in_it(old_hub, archive, sealed_archive):
    sealed = sealed_names(old_hub)
    assert len(sealed) > 5, "held-out rows, updates and receipts"
    digests = {cid.digest for cid in sealed}
    whole = {cid.digest for cid in blocks(sealed_archive)}
    assert digests <= whole, "the search would find it"
    assert not digests & {cid.digest for cid in blocks(archive)}
    for cid in sealed:
        assert cid.digest not in archive
        assert str(cid).encode() not in archive


def test_no_held_out_row_is_in_an_archive(task, archive, sealed_archive):
    assert task.public.inputs[0].tobytes() in archive, "the search would find a row"
    for row in task.held_out.inputs:
        assert row.tobytes() in sealed_archive
        assert row.tobytes() not in archive


def test_a_contribution_takes_nothing_along_but_what_is_contributed(bench, task, export):
    """A payload is anybody's document, and may link to what has nothing to do with the project."""
    project, mallory = bench.project(task), bench.person("mallory")
    private = bench.person("ada").hub.put(b"rows of another project", visibility="project")
    run = mallory.project(project.name).train(
        rounds=1, recipe=project.recipe.with_changes(learning_rate=1e-6), progress=False
    )
    payload = {"kind": "compute", "run": run.id, "dataset": None, "also": CID.parse(private.cid)}
    cid = mallory.hub.put(dagcbor.encode(payload), kind="contribution", codec="dag-cbor").cid
    new = records.NewContribution(
        id=new_id(), project=project.record.id, kind="compute", payload=cid
    )
    mallory.hub.submit(new)
    bench.evaluate()
    assert bench.hub.contribution(new.id).state == "rejected"
    found = blocks(export(project.hub, project.name))
    assert CID.parse(cid) in found
    assert CID.parse(private.cid) not in found


def test_without_the_held_out_split_there_is_no_project(bench, task, archive):
    wb = bench.person("grace")
    with pytest.raises(NotFoundError, match=r"hub\.put\(task\.held_out\.encode\(\), "):
        wb.hub.import_project(io.BytesIO(archive))
    assert wb.projects().empty
    other = nx.Task(task.public).held_out
    wb.hub.put(other.encode(), kind="dataset", visibility="sealed")
    with pytest.raises(NotFoundError, match="held-out split is not on this hub"):
        wb.hub.import_project(io.BytesIO(archive))
    wb.hub.put(task.held_out.encode(), kind="dataset", visibility="sealed")
    assert wb.hub.import_project(io.BytesIO(archive)).name == "digits"


def test_sealed_content_comes_in_by_an_operator_and_stays_sealed(
    bench, linus, sealed_archive, export
):
    with pytest.raises(ForbiddenError, match="only an operator may import"):
        bench.person("grace").hub.import_project(io.BytesIO(sealed_archive))
    assert linus.projects().empty
    made = linus.hub.import_project(io.BytesIO(sealed_archive))
    sealed = sealed_names(bench)
    assert sealed <= set(blocks(sealed_archive))
    for cid in sealed:
        with pytest.raises(NotFoundError):
            linus.hub.get(str(cid))
        with pytest.raises(NotFoundError):
            linus.hub.blocks().block(cid)
    assert not {str(cid) for cid in sealed} & {root.cid for root in linus.hub.roots()}
    again = export(bench.operator, made.id)
    assert not any(cid.digest in again for cid in sealed)


def test_what_was_measured_can_be_measured_again_with_what_is_sealed(bench, linus, sealed_archive):
    linus.hub.import_project(io.BytesIO(sealed_archive))
    contents, database = bench.services.contents, bench.services.database
    (compute,) = [each for each in linus.hub.contributions() if each.kind == "compute"]
    row = database.read(lambda tx: find_contribution(tx, compute.id))

    def load(cid: CID) -> bytes:
        try:
            return contents.bytes_of(str(cid))
        except NotFoundError:
            return contents.bytes_of(str(cid), sealed=True)

    found = receipt.recompute(
        contents.document(row.receipt),
        contents.document(row.sealed_receipt, sealed=True),
        load=load,
    )
    assert found.agrees


# -- names and rewards of elsewhere ------------------------------------------------------------


def test_rewards_of_elsewhere_are_history_and_no_money(old_hub, member, archive):
    member.hub.import_project(io.BytesIO(archive))
    earned = {each.id: each.reward for each in old_hub.owner.contributions()}
    shown = {each.id: each.reward for each in member.hub.contributions()}
    assert sum(map(Decimal, shown.values())) > 0
    assert shown == {id: earned[id] for id in shown}
    assert member.hub.balances() == []
    assert member.tokens.balance() == 0
    status = member.hub.verify_ledger()
    assert (status.ok, status.entries) == (True, 0)
    network = member.hub.network()
    assert network.minted == "0"
    assert [(node.name, node.contributions, node.rewarded) for node in network.nodes] == [
        ("grace", 0, 0)
    ]


def test_nobody_becomes_somebody_of_another_hub(member, archive, bench):
    member.hub.import_project(io.BytesIO(archive))
    at = origin(member.hub)
    name = f"grace@{at}"
    with pytest.raises(InvalidInputError, match="not an account name"):
        bench.hub.visitor().register(name, PASSWORD)
    with pytest.raises(AuthenticationError):
        bench.hub.visitor().login(name, PASSWORD)
    with pytest.raises(NotFoundError):
        member.hub.balance(name)
    (waiting,) = [
        each
        for each in member.hub.contributions()
        if any(share.account == name and not share.confirmed for share in each.shares)
    ]
    assert member.user == "grace"
    with pytest.raises(ForbiddenError, match="no part in this contribution"):
        member.hub.confirm(waiting.id)
    (run,) = [each for each in member.hub.runs("digits") if each.state == "interrupted"]
    with pytest.raises(ForbiddenError, match=f"belongs to ada@{at}"):
        member.hub.finish_run(run.id, records.RunResult(state="finished", weights=None))


def test_who_came_from_a_hub_keeps_its_name_on_the_third(
    old_hub, member, archive, bench, open_bench, task, tmp_path, export
):
    member.hub.import_project(io.BytesIO(archive))
    first = origin(member.hub)
    member.project("digits").submit(nx.HyperparameterContribution(learning_rate=0.9))
    member.project("digits").submit(
        nx.ComputeContribution(
            member.project("digits").train(
                rounds=10, recipe=member.project("digits").recipe, progress=False
            )
        )
    )
    bench.evaluate()
    third = open_bench(tmp_path / "third")
    alan = third.person("alan")
    alan.hub.put(task.held_out.encode(), kind="dataset", visibility="sealed")
    alan.hub.import_project(io.BytesIO(export(member.hub)))
    second = origin(alan.hub)
    assert first != second
    people = {each.author for each in alan.hub.contributions()}
    assert people == {f"ada@{first}", f"grace@{first}", f"grace@{second}"}
    # What was paid on either hub goes along in the bytes of its ledger.
    table = schema.imported_payments
    rows = third.services.database.read(
        lambda tx: tx.all(sa.select(table).order_by(table.c.number))
    )
    entries = [(row.origin, Entry.decode(bytes(row.data)).memo["contribution"]) for row in rows]
    paid = {(first, line.contribution) for line in old_hub.owner.ledger_lines()}
    paid |= {(second, line.contribution) for line in member.hub.ledger_lines()}
    assert set(entries) == paid


def test_a_dashboard_shows_what_came_and_who_made_it_elsewhere(member, archive):
    dashboard = Dashboard(member.hub)
    try:
        member.hub.import_project(io.BytesIO(archive))
        until = time.monotonic() + 20
        while len(dashboard.state.contributions) < 3:
            assert time.monotonic() < until, "the project does not appear"
            time.sleep(0.01)
        assert len(dashboard.state.versions) == len(member.hub.versions("digits"))
        shown = dashboard.contributions.table.value
        assert f"ada@{origin(member.hub)}" in shown
        assert "<b>two</b>" not in shown, "a note is text"
        assert [member.name for member in dashboard.state.members] == ["grace"]
    finally:
        dashboard.close()


def test_a_project_is_taken_in_once(member, archive, old_hub, bench):
    member.hub.import_project(io.BytesIO(archive), name="numbers")
    before = everything(member.hub, "numbers")
    with pytest.raises(ConflictError, match="already, as 'numbers'"):
        member.hub.import_project(io.BytesIO(archive))
    with pytest.raises(ConflictError, match="on this hub already"):
        old_hub.owner.import_project(io.BytesIO(archive))
    assert everything(member.hub, "numbers") == before


def test_a_taken_name_is_told_with_what_to_do(member, archive, task, bench):
    bench.project(task, "digits")
    with pytest.raises(ConflictError, match="`name=`"):
        member.hub.import_project(io.BytesIO(archive))
    assert member.hub.import_project(io.BytesIO(archive), name="digits-2").owner == "grace"


def test_missing_content_is_told_when_a_project_leaves(open_bench, task, tmp_path):
    bench = open_bench(tmp_path / "damaged")
    project = bench.project(task)
    cid = project.head.cid
    (path,) = (bench.home / "content" / "blocks").rglob(f"*{cid}*")
    path.unlink()
    target = tmp_path / "digits.car"
    with pytest.raises(StoreError, match="verify --repair"):
        project.export(target)
    assert list(tmp_path.glob("*digits*")) == []


def test_a_file_of_an_archive_is_written_once_and_read_by_its_name(old_hub, member, tmp_path):
    wb = nx.Workbench(old_hub.owner)
    target = tmp_path / "new" / "digits.car"
    assert wb.project("digits").export(target) == target
    with pytest.raises(ConflictError, match="exists already"):
        wb.project("digits").export(target)
    assert [each.name for each in target.parent.iterdir()] == ["digits.car"]
    sealed = (
        nx.Workbench(old_hub.operator)
        .project("digits")
        .export(tmp_path / "sealed.car", sealed=True)
    )
    assert sealed.stat().st_mode & 0o777 == 0o600
    with pytest.raises(NotFoundError, match="no file"):
        member.import_project(tmp_path / "nothing.car")
    made = member.import_project(target, name="numbers")
    assert made.name == "numbers"
    assert np.isfinite(made.head.metrics["accuracy"])
    for table in (made.contributions(), made.versions(), made.runs(), member.projects()):
        assert len(table)
    assert "<script" not in made._repr_html_()
