"""The database: one process, one writer, and what a full disk does to it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from neuronexus_kernel.content import new_id
from neuronexus_kernel.errors import (
    ConflictError,
    HubUnavailableError,
    InvalidInputError,
    StoreError,
)
from neuronexus_kernel.hub import records, schema
from neuronexus_kernel.hub.duckdb_database import DuckDBDatabase
from neuronexus_kernel.hub.local import LocalHub

HERE = Path(__file__).parent


# -- one process ------------------------------------------------------------------------------


def test_a_database_open_elsewhere_is_refused_with_who_has_it_and_how_to_connect(tmp_path):
    code = (
        "import sys; from neuronexus_kernel.hub.local import LocalHub\n"
        "hub = LocalHub.open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(HubUnavailableError, match=rf"PID {other.pid}\).*nx\.connect\(\)"):
            LocalHub.open(tmp_path)
    finally:
        other.kill()
        other.communicate()
    LocalHub.open(tmp_path).close()


def test_a_database_open_in_this_process_is_refused_too(tmp_path):
    hub = LocalHub.open(tmp_path)
    with pytest.raises(HubUnavailableError, match=f"PID {os.getpid()}"):
        LocalHub.open(tmp_path)
    hub.register("ada", "correct horse battery")
    hub.close()
    again = LocalHub.open(tmp_path)
    assert [account.name for account in again.accounts()] == ["ada"]
    again.close()


def test_a_closed_hub_says_so_and_stays_closed(tmp_path):
    hub = LocalHub.open(tmp_path)
    hub.close()
    hub.close()
    for call in (hub.accounts, hub.network, lambda: hub.register("ada", "correct horse battery")):
        with pytest.raises(HubUnavailableError, match="closed"):
            call()
    LocalHub.open(tmp_path).close()


def test_a_file_that_is_no_database_is_named(tmp_path):
    home = tmp_path / "blocks with a lock"
    home.mkdir()
    (home / "hub.duckdb").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="could not be opened"):
        LocalHub.open(home)


def test_a_database_of_another_version_is_left_alone(tmp_path):
    database = DuckDBDatabase(tmp_path / "hub.duckdb")
    version = schema.revision.update().values(version_num="9999")
    database.write(lambda tx: tx.execute(version))
    database.close()
    with pytest.raises(StoreError, match=r"revision 9999.*use the version.*neuronexus hub migrate"):
        DuckDBDatabase(tmp_path / "hub.duckdb")


def test_the_folder_is_for_its_owner_alone(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    LocalHub.open(home).close()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


# -- a full disk ------------------------------------------------------------------------------


def in_own_mount(folder: Path, size: str) -> list[str]:
    """Command that mounts a tiny file system for one process, or [] where that is forbidden."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return []
    script = f'mount -t tmpfs -o size={size} tmpfs "{folder}" && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    probe = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if probe.returncode == 0 else []


def fill(home: Path, way: str, prefix: list[str]) -> str:
    result = subprocess.run(
        [*prefix, sys.executable, str(HERE / "filler.py"), str(home), way],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "nothing was changed" in result.stdout
    assert "free some space" in result.stdout
    assert result.stdout.endswith("well\n")
    return result.stdout


def test_a_limit_on_files_is_told_and_the_same_hub_goes_on_without_it(tmp_path):
    assert "File too large" in fill(tmp_path, "limit", [])


@pytest.mark.parametrize(
    ("way", "what"), [("log", "No space left"), ("checkpoint", "Failed to create checkpoint")]
)
def test_a_full_disk_is_told_and_the_same_hub_goes_on_when_there_is_room(tmp_path, way, what):
    prefix = in_own_mount(tmp_path, "48m")
    if not prefix:
        pytest.skip("this system lets no ordinary process mount a small file system")
    out = fill(tmp_path, way, prefix)
    assert what in out
    assert "content error:" in out
    assert "The disk is full" in out


# -- writing ----------------------------------------------------------------------------------


def test_a_change_that_fails_leaves_nothing_and_no_gap(bench):
    """An event, an entry of the ledger and a row of a transaction that fails are all undone."""
    services = bench.services

    def mint(tx):
        services.tokens.mint(
            tx, {"ada": 5}, contribution=new_id(), receipt=str(receipt), project=new_id()
        )

    def fail(tx):
        mint(tx)
        raise ConflictError("after all")

    bench.person("ada")
    receipt = services.contents.put_node({})
    seq = bench.hub.network().seq
    for _ in range(2):
        with pytest.raises(ConflictError):
            services.database.write(fail)
    assert bench.hub.network().seq == seq
    services.database.write(mint)
    services.database.write(lambda tx: (mint(tx), mint(tx)))
    services.database.write(mint)
    status = bench.hub.verify_ledger()
    assert (status.ok, status.entries) == (True, 4)
    assert [event.seq for event in bench.hub.events(seq)] == list(range(seq + 1, seq + 5))


def test_a_subscriber_that_fails_harms_neither_the_writer_nor_other_subscribers(bench, caplog):
    heard = []

    def fail(events):
        raise RuntimeError("a page that was closed")

    bench.hub.subscribe(fail)
    bench.hub.subscribe(heard.extend)
    bench.person("ada")
    assert [event.kind for event in heard] == ["account.registered"]
    assert "a page that was closed" in caplog.text


def test_a_value_out_of_range_is_the_callers_mistake(bench, task):
    project, ada = bench.project(task), bench.person("ada")
    record = project.record
    new = records.NewRun(
        id=new_id(),
        project=record.id,
        recipe=record.recipe,
        rounds=2,
        clients=1,
        clients_per_round=1,
    )
    with pytest.raises(InvalidInputError, match="out of range"):
        ada.hub.start_run(records.NewRun(**{**as_dict(new), "seed": 2**70}))
    run = ada.hub.start_run(new)
    report = {"loss": 0.5, "accuracy": 0.5, "seconds": 0.1, "clients": ("client 0",)}
    for number in (-1, 3, 2**40):
        with pytest.raises(InvalidInputError, match="rounds 0 to 2"):
            ada.hub.record_round(run.id, records.Round(round=number, **report))
    nan = records.Round(round=1, **{**report, "seconds": float("nan")})
    with pytest.raises(InvalidInputError, match="cannot be kept"):
        ada.hub.record_round(run.id, nan)
    assert ada.hub.run(run.id).history == ()


def as_dict(record):
    return {name: getattr(record, name) for name in record.__slots__}


def test_writers_in_many_threads_make_events_without_gaps(bench):
    """Readers at the same time see each event once, in order."""
    seen: list[int] = []

    def follow():
        for event in bench.hub.follow():
            seen.append(event.seq)
            if event.subject == "last":
                return

    def write(number):
        for turn in range(25):
            subject = f"{number}-{turn}"
            bench.services.database.write(lambda tx, s=subject: tx.emit("test", s, None))

    reader = threading.Thread(target=follow)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    bench.services.database.write(lambda tx: tx.emit("test", "last", None))
    reader.join(20)
    assert seen == list(range(1, 102))


def test_a_follower_ends_when_the_hub_closes_and_when_it_is_closed(open_bench, tmp_path):
    bench = open_bench(tmp_path / "other")
    bench.person("ada")
    stream = bench.hub.follow()
    assert next(stream).seq == 1
    stream.close()
    assert list(stream) == []
    rest: list[records.Event] = []
    waiting = threading.Thread(target=lambda: rest.extend(bench.hub.follow()))
    waiting.start()
    bench.close()
    waiting.join(10)
    assert not waiting.is_alive()


# -- who sees what ----------------------------------------------------------------------------


def test_each_visibility_of_the_same_content_has_a_record_of_its_own(bench):
    """The answer to a put is the record of that put, and a sealed one hides no public one."""
    ada = bench.person("ada").hub
    sealed = ada.put(b"the same bytes", visibility="sealed")
    public = ada.put(b"the same bytes", name="in public")
    project = ada.put(b"the same bytes", visibility="project")
    assert [root.visibility for root in (sealed, public, project)] == [
        "sealed",
        "public",
        "project",
    ]
    assert bench.hub.get(sealed.cid) == b"the same bytes"


def test_one_name_is_registered_once_however_many_try(bench):
    gate, outcomes = threading.Barrier(4), []

    def register():
        gate.wait()
        try:
            outcomes.append(bench.hub.visitor().register("ada", "correct horse battery"))
        except ConflictError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 3
    assert [account.name for account in bench.hub.accounts()] == ["ada"]


def test_an_account_without_a_password_signs_nobody_in(bench):
    bench.person("robot")
    accounts = schema.accounts
    bench.services.database.write(
        lambda tx: tx.execute(sa.update(accounts).values(password_hash=None))
    )
    for password in ("", "correct horse battery"):
        with pytest.raises(Exception, match="do not match"):
            bench.hub.visitor().login("robot", password)


def test_an_id_of_somebody_elses_contribution_is_refused(bench, task):
    from neuronexus_kernel.content import dagcbor

    project, ada, grace = bench.project(task), bench.person("ada"), bench.person("grace")
    payload = dagcbor.encode({"kind": "hyperparameters", "changes": {"learning_rate": 0.2}})
    cid = ada.hub.put(payload, codec="dag-cbor").cid
    new = records.NewContribution(
        id=new_id(), project=project.record.id, kind="hyperparameters", payload=cid
    )
    first = ada.hub.submit(new)
    assert ada.hub.submit(new) == first, "the same id again has one effect"
    with pytest.raises(ConflictError):
        grace.hub.submit(new)


def test_a_payload_that_is_no_document_is_the_callers_mistake(bench, task):
    project, ada = bench.project(task), bench.person("ada")
    cid = ada.hub.put(b"only bytes").cid
    new = records.NewContribution(id=new_id(), project=project.record.id, kind="code", payload=cid)
    with pytest.raises(Exception, match="is not a document") as caught:
        ada.hub.submit(new)
    assert caught.value.status == 422
