"""Backups: made under load, restored to the same kind of database or the other, and looked at."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from neuronexus_kernel.content import new_id
from neuronexus_kernel.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    StoreError,
)
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.backup import restore
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.process import start_hub
from neuronexus_kernel.hub.records import NewUpload
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.hub.replays import Outcome
from neuronexus_kernel.settings import Settings

PASSWORD = "correct horse battery"
KINDS = ("duckdb", "postgresql")


def owner(bench) -> LocalHub:
    return bench.hub.visitor(bench.hub.owner_token)


class Load:
    """Threads that write to a hub until they are told to stop."""

    def __init__(self, bench) -> None:
        self.acknowledged = 0
        self._bench = bench
        self._over = threading.Event()
        self._hub = bench.person("busy").hub
        self._receipt = bench.services.contents.put_node({})
        works = [self._store, self._seal, self._mint]
        self._threads = [threading.Thread(target=self._repeat, args=(work,)) for work in works]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        while self.acknowledged < 20:
            self._over.wait(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, work) -> None:
        for number in count():
            if self._over.is_set():
                return
            work(number)
            self.acknowledged += 1

    def _store(self, number: int) -> None:
        self._hub.put(os.urandom(20_000), name=f"file {number % 3}", license="CC0")

    def _seal(self, number: int) -> None:
        self._hub.put(os.urandom(300_000), visibility="sealed")

    def _mint(self, number: int) -> None:
        tokens = self._bench.services.tokens
        self._bench.services.database.write(
            lambda tx: tokens.mint(
                tx,
                {"busy": 10**19 + number, "nobody": 1},
                contribution=new_id(),
                receipt=self._receipt,
                project=new_id(),
            )
        )


@pytest.mark.parametrize(("source", "target"), [(a, b) for a in KINDS for b in KINDS])
def test_a_backup_made_under_load_restores_to_a_hub_that_verifies(
    open_bench, new_database, hand_in, task, better_weights, tmp_path, source, target
):
    bench = open_bench(tmp_path / "first", database=new_database(source))
    ada = bench.person("ada")
    project = bench.project(task)
    for weights in better_weights[:2]:
        hand_in(ada, ada.project(project.name), weights)
    bench.evaluate()
    ada.hub.keep(ada.hub.put(b"a promise", name="kept").cid, name="mine")
    with Load(bench) as load:
        before = load.acknowledged
        made = owner(bench).backup(str(tmp_path / "backup"))
        while load.acknowledged < before + 10:
            pass
    assert made.missing == ()
    assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o700
    settings = Settings(home=tmp_path / "second", database=new_database(target))
    restored = restore(settings, tmp_path / "backup")
    assert (restored.rows, restored.events) == (made.rows, made.events)

    again = open_bench(settings.home, database=settings.database)
    assert owner(again).check() == []
    assert again.hub.verify_ledger().ok
    assert again.hub.verify_ledger().entries > 0
    was = bench.hub.events(limit=10_000)
    assert len(was) > made.events
    assert again.hub.events(limit=10_000) == was[: made.events]
    for root in again.hub.roots():
        assert len(again.hub.get(root.cid)) == root.size
    theirs = again.hub.visitor()
    theirs.login("ada", PASSWORD)
    assert [kept.name for kept in theirs.keepings()] == ["mine"]
    assert again.hub.contributions() == bench.hub.contributions()
    assert again.hub.project(project.name) == bench.hub.project(project.name)
    again.person("grace")
    assert again.hub.events(made.events)[0].seq == made.events + 1, "it goes on counting"


def command(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "neuronexus_kernel.cli", "hub", *arguments, "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_line_backs_up_a_running_hub_and_checks_what_it_restored(tmp_path):
    home, other, backup = tmp_path / "home", tmp_path / "other", tmp_path / "backup"
    with start_hub(home, port=0) as process:
        hub = RemoteHub(process.address)
        hub.register("ada", PASSWORD)
        hub.login("ada", PASSWORD)
        cid = hub.put(os.urandom(1000), name="data").cid
        told = command("backup", str(backup), home=home)
        assert told.returncode == 0, told.stderr
        assert "up to event 1" in told.stdout
        assert command("backup", str(backup), home=home).returncode == 1, "it is there already"
        with pytest.raises(ForbiddenError):
            hub.backup(str(tmp_path / "mine"))
        with pytest.raises(ForbiddenError):
            hub.check()
        with pytest.raises(AuthenticationError):
            RemoteHub(process.address).check()
        assert command("check", home=home).stdout == "All is well.\n"
    told = command("restore", str(backup), home=other)
    assert told.returncode == 0, told.stderr
    assert command("check", home=other).returncode == 0
    (block,) = (other / "content" / "blocks").rglob(f"{cid}")
    block.write_bytes(b"damaged")
    told = command("check", home=other)
    assert told.returncode == 1
    assert cid in told.stdout
    block.unlink()
    told = command("check", home=other)
    assert (told.returncode, f"the records name {cid}" in told.stdout) == (1, True)


@pytest.fixture
def backup(bench, tmp_path) -> Path:
    """A backup of a small hub."""
    ada = bench.person("ada").hub
    ada.put(b"some content")
    ada.put(b"something sealed", visibility="sealed")
    owner(bench).backup(str(tmp_path / "backup"))
    return tmp_path / "backup"


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_that_has_something_is_not_restored_to(
    backup, open_bench, new_database, tmp_path, kind
):
    settings = Settings(home=tmp_path / "other", database=new_database(kind))
    bench = open_bench(settings.home, database=settings.database)
    bench.person("grace")
    bench.close()
    with pytest.raises(ConflictError, match="empty hub only"):
        restore(settings, backup)
    again = open_bench(settings.home, database=settings.database)
    assert [account.name for account in again.hub.accounts()] == ["grace"]
    assert again.hub.roots() == []


def test_content_without_records_is_something_too(backup, tmp_path, open_bench):
    bench = open_bench(tmp_path / "other")
    bench.services.content.add(b"something")
    bench.close()
    (tmp_path / "other" / "hub.duckdb").unlink()
    with pytest.raises(ConflictError, match="holds content already"):
        restore(Settings(home=tmp_path / "other"), backup)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["cut", "changed", "block", "no manifest", "newer"])
def test_a_damaged_backup_leaves_nothing(backup, new_database, open_bench, tmp_path, kind, how):
    accounts, manifest = backup / "records" / "accounts.jsonl", backup / "manifest.json"
    if how == "cut":
        accounts.write_bytes(accounts.read_bytes()[:-10])
    elif how == "changed":
        accounts.write_bytes(accounts.read_bytes().replace(b'"member"', b'"operator"'))
    elif how == "block":
        next((backup / "sealed" / "blocks").rglob("b*")).write_bytes(b"other")
    elif how == "newer":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "revision": "9999"}))
    else:
        manifest.unlink()
    settings = Settings(home=tmp_path / "other", database=new_database(kind))
    with pytest.raises((StoreError, NotFoundError, InvalidInputError)):
        restore(settings, backup)
    again = open_bench(settings.home, database=settings.database)
    assert again.hub.accounts() == again.hub.roots() == again.hub.events() == []
    assert not [path for path in settings.home.iterdir() if "restoring" in path.name]


def test_a_backup_that_fails_is_not_there(bench, tmp_path):
    cid = bench.person("ada").hub.put(b"some content").cid
    (block,) = (bench.home / "content" / "blocks").rglob(cid)
    block.write_bytes(b"other content")
    with pytest.raises(StoreError, match="corrupt"):
        owner(bench).backup(str(tmp_path / "backup"))
    with pytest.raises(StoreError):
        owner(bench).backup(str(tmp_path / "nowhere" / "backup"))
    with pytest.raises(InvalidInputError, match="absolute"):
        owner(bench).backup("backup")
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


def test_a_check_tells_what_does_not_fit_together(bench, task, hand_in, better_weights):
    project = bench.project(task)
    ada = bench.person("ada")
    hand_in(ada, ada.project(project.name), better_weights[0])
    bench.evaluate()
    hub = owner(bench)
    assert hub.check() == []

    def change(tx):
        tx.execute(schema.projects.update().values(head="gone"))
        tx.execute(schema.shares.update().values(reward=schema.shares.c.reward + 1))
        tx.execute(schema.events.delete().where(schema.events.c.seq == 2))
        tx.execute(schema.versions.update().values(parent="nobody's"))
        tx.execute(
            schema.postings.update().where(schema.postings.c.account == "ada").values(amount=1)
        )

    bench.services.database.write(change)
    found = "\n".join(hub.check())
    for part in ("ledger:", "events: there are", "projects.head: gone", "shares: ada earned"):
        assert part in found
    assert "versions.parent: nobody's is not in versions.id" in found


def test_what_was_being_served_and_measured_there_is_nobodys_here(bench, tmp_path, open_bench):
    federations, values = schema.federations, {}
    for column in federations.columns:
        values[column.name] = 1 if isinstance(column.type, sa.Integer) else "x"
    values.update(id=new_id(), state="training", run=None, hub="another")
    bench.services.database.write(lambda tx: tx.execute(federations.insert().values(**values)))
    owner(bench).backup(str(tmp_path / "backup"))
    settings = Settings(home=tmp_path / "other")
    restore(replace(settings), tmp_path / "backup")
    again = open_bench(settings.home)
    assert again.hub.federation(values["id"]).state == "interrupted"


def test_what_is_only_under_way_is_in_no_backup(bench, tmp_path, open_bench):
    ada = bench.person("ada").hub
    upload = ada.uploads().begin(NewUpload(name="unfinished"))
    ada.uploads().append(upload.id, 0, b"some bytes")
    ada.replays.keep("ada", "a key nobody guesses", b"request", Outcome(200, b"{}"), secret=False)
    owner(bench).backup(str(tmp_path / "backup"))
    written = [path for path in (tmp_path / "backup").rglob("*") if path.is_file()]
    assert not [path for path in written if upload.id in path.name or "replays" in path.name]
    restore(Settings(home=tmp_path / "second"), tmp_path / "backup")
    again = open_bench(tmp_path / "second")
    visitor = again.hub.visitor()
    visitor.login("ada", PASSWORD)
    with pytest.raises(NotFoundError):
        visitor.uploads().find(upload.id)
    assert visitor.replays.find("ada", "a key nobody guesses", b"request") is None
