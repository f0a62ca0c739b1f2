"""Several hubs on one PostgreSQL database, each with a home of its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import neuronexus_kernel.hub.evaluation as evaluation
from neuronexus_kernel.content import CID, new_id
from neuronexus_kernel.errors import ConflictError, HubUnavailableError, InvalidInputError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.ledger import parse_nxs

PASSWORD = "correct horse battery"
PUBLIC_KEY = (
    ec.generate_private_key(ec.SECP384R1())
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


def wait_for(what, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def open_two(open_bench, new_database, tmp_path):
    """Return a function that opens hubs on one database, which share their content."""
    url, numbers = new_database("postgresql"), count()

    def make(**options):
        home = tmp_path / f"hub-{next(numbers)}"
        return open_bench(home, database=url, stores=tmp_path / "stores", **options)

    return make


@pytest.fixture
def two(open_two):
    """Two hubs on one database."""
    return open_two(), open_two()


def test_what_one_hub_was_told_the_other_knows(two):
    one, other = two
    ada = one.person("ada").hub
    root = ada.put(b"some content", name="data")
    theirs = other.hub.visitor()
    theirs.login("ada", PASSWORD)
    assert theirs.get(root.cid) == b"some content"
    assert [each.cid for each in theirs.roots()] == [root.cid]
    blocks = theirs.blocks()
    assert blocks.has_block(CID.parse(root.cid))
    second = ada.put(b"more content")
    wait_for(lambda: blocks.has_block(CID.parse(second.cid)))
    assert (
        not other.hub.visitor()
        .blocks()
        .has_block(CID.parse(ada.put(b"for the project", visibility="project").cid))
    )
    with pytest.raises(ConflictError):
        other.hub.visitor().register("ada", PASSWORD)


def test_every_subscriber_hears_of_every_commit_of_all_hubs_in_order(two):
    heard = [[], []]
    for bench, list_ in zip(two, heard, strict=True):
        bench.hub.subscribe(list_.extend)
    followed: list[int] = []

    def follow() -> None:
        for event in two[1].hub.follow():
            followed.append(event.seq)
            if event.seq == 400:
                return

    follower = threading.Thread(target=follow)
    follower.start()

    def write(number: int) -> None:
        database = two[number % 2].services.database
        database.write(lambda tx: tx.emit("test", str(number)))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(400)))
    for list_ in heard:
        wait_for(lambda list_=list_: len(list_) >= 400)
        assert [event.seq for event in list_] == list(range(1, 401))
        assert [event.previous for event in list_] == list(range(400))
        assert {event.subject for event in list_} == {str(number) for number in range(400)}
    follower.join(20)
    assert followed == list(range(1, 401))


def test_one_name_is_registered_once_at_whichever_hub(two):
    gate, outcomes = threading.Barrier(8), []

    def register(number: int) -> None:
        gate.wait()
        try:
            outcomes.append(two[number % 2].hub.visitor().register("ada", PASSWORD))
        except ConflictError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=register, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1
    assert [account.name for account in two[0].hub.accounts()] == ["ada"]


def test_the_ledger_that_two_hubs_write_verifies(two):
    receipt = two[0].services.contents.put_node({})

    def mint(number: int) -> None:
        services = two[number % 2].services
        services.database.write(
            lambda tx: services.tokens.mint(
                tx, {"ada": number}, contribution=new_id(), receipt=receipt, project=new_id()
            )
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(mint, range(1, 101)))
    for bench in two:
        status = bench.hub.verify_ledger()
        assert (status.ok, status.entries) == (True, 100), status.problem


def test_no_contribution_is_evaluated_twice(open_two, inline, task, hand_in, better_weights):
    measured: Counter[str] = Counter()
    both = [open_two(executor=inline(before=lambda: time.sleep(0.05))) for _ in range(2)]
    for bench in both:
        bench.hub.subscribe(
            lambda events: measured.update(
                event.subject for event in events if event.kind == "contribution.evaluating"
            )
        )
    ada = both[0].person("ada")
    projects = [both[0].project(task, name=f"digits-{number}") for number in range(3)]
    handed = [
        hand_in(ada, ada.project(project.name), weights)
        for project in projects
        for weights in better_weights[:2]
    ]
    for bench in both:
        bench.services.evaluator.start()
    wait_for(lambda: not both[0].hub.busy, 120)
    states = Counter(record.state for record in both[1].hub.contributions())
    assert set(states) <= {"rewarded", "rejected"}
    assert sum(states.values()) == len(handed)
    assert set(measured) == {record.id for record in both[0].hub.contributions()}
    assert all(bench.executor.calls > 0 for bench in both), "both have worked"
    for record in both[0].hub.contributions():
        lines = [line for line in both[1].hub.ledger_lines() if line.contribution == record.id]
        paid = sum(parse_nxs(line.amount) for line in lines if line.account == "ada")
        assert paid == parse_nxs(record.reward)
    assert both[0].hub.verify_ledger().ok


def test_an_evaluation_that_nobody_goes_on_with_is_taken_over(
    open_two, task, hand_in, better_weights, monkeypatch
):
    monkeypatch.setattr(evaluation, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(evaluation, "RENEWAL_SECONDS", 0.1)
    one, other = open_two(), open_two()
    ada = one.person("ada")
    record = hand_in(ada, ada.project(one.project(task).name), better_weights[0])
    row = one.services.database.write(one.services.evaluator._take)
    assert (row.id, row.evaluator) == (record.id, str(one.home))
    # The first hub lives and renews its lease for a while, and then is silent.
    other.services.evaluator.start()
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        one.services.evaluator._renew(row)
        assert other.executor.calls == 0
        time.sleep(0.1)
    wait_for(lambda: one.hub.contribution(record.id).state == "rewarded")
    assert other.executor.calls == 1
    # What the first one finds in the end has no effect.
    one.services.database.write(one.services.evaluator._failure(row, "too late"))
    assert one.hub.contribution(record.id).state == "rewarded"


def row_of(table: sa.Table, **known: object) -> dict[str, object]:
    """Return a row with something in every column."""
    values = {
        column.name: 1 if isinstance(column.type, sa.Integer) else "x" for column in table.columns
    }
    return {**values, **known}


def federation_row(hub: str) -> dict[str, object]:
    known = {"id": new_id(), "author": "nx:owner", "state": "training", "run": None, "hub": hub}
    return row_of(schema.federations, **known)


def test_a_hub_leaves_the_federations_of_another_alone(open_two):
    one = open_two()
    theirs = federation_row(one.services._home.name)
    project = schema.projects.insert().values(**row_of(schema.projects))
    insert = schema.federations.insert().values(**theirs)
    one.services.database.write(lambda tx: (tx.execute(project), tx.execute(insert)))
    other = open_two()
    assert other.hub.federation(theirs["id"]).state == "training"
    owner = other.hub.visitor(other.hub.owner_token)
    with pytest.raises(ConflictError, match="another hub"):
        owner.stop_federation(theirs["id"])
    with pytest.raises(ConflictError, match="another hub"):
        other.person("ada").hub.join_federation(theirs["id"], PUBLIC_KEY)
    assert other.hub.federation(theirs["id"]).state == "training"


def test_a_hub_that_comes_back_closes_the_books_on_its_own(open_bench, new_database, tmp_path):
    url = new_database("postgresql")
    one = open_bench(tmp_path / "one", database=url)
    mine = federation_row(one.services._home.name)
    insert = schema.federations.insert().values(**mine)
    one.services.database.write(lambda tx: tx.execute(insert))
    one.close()
    again = open_bench(tmp_path / "one", database=url)
    assert again.hub.federation(mine["id"]).state == "interrupted"


def test_a_home_is_served_once(open_bench, new_database, tmp_path):
    url = new_database("postgresql")
    open_bench(tmp_path / "one", database=url)
    with pytest.raises(HubUnavailableError, match="in this process"):
        open_bench(tmp_path / "one", database=url)


def test_a_server_that_is_not_there_is_told(tmp_path, open_bench):
    url = f"postgresql+psycopg://nx:secret@/hub?host={tmp_path}"
    with pytest.raises(HubUnavailableError, match="does not answer") as caught:
        open_bench(tmp_path / "one", database=url)
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidInputError, match=r"postgresql\+psycopg://"):
        open_bench(tmp_path / "two", database="mysql://x")
