"""Databases that an earlier version of this program has made."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from neuronexus_kernel.content import new_id
from neuronexus_kernel.errors import ConflictError, StoreError
from neuronexus_kernel.hub import revisions, schema
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.migrations import migrate
from neuronexus_kernel.hub.upgrading import migrate_hub
from neuronexus_kernel.settings import Settings

PASSWORD = "correct horse battery"

# The tables as the version before there were migrations made them, on DuckDB.
FIRST = """
CREATE TABLE counters (name TEXT NOT NULL, value BIGINT NOT NULL, PRIMARY KEY (name));
CREATE TABLE accounts (name TEXT NOT NULL, role TEXT NOT NULL, password_hash TEXT,
    created TEXT NOT NULL, PRIMARY KEY (name));
CREATE TABLE sessions (token_hash BLOB NOT NULL, account TEXT NOT NULL, kind TEXT NOT NULL,
    label TEXT NOT NULL, created TEXT NOT NULL, expires TEXT NOT NULL, PRIMARY KEY (token_hash));
CREATE TABLE roots (cid TEXT NOT NULL, visibility TEXT NOT NULL, name TEXT NOT NULL,
    kind TEXT NOT NULL, size BIGINT NOT NULL, owner TEXT NOT NULL, created TEXT NOT NULL,
    PRIMARY KEY (cid, visibility));
CREATE TABLE titles (owner TEXT NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL,
    cid TEXT NOT NULL, visibility TEXT NOT NULL, license TEXT NOT NULL, created TEXT NOT NULL,
    PRIMARY KEY (owner, name, number));
CREATE TABLE keepings (account TEXT NOT NULL, cid TEXT NOT NULL, name TEXT NOT NULL,
    created TEXT NOT NULL, PRIMARY KEY (account, cid));
CREATE TABLE projects (id TEXT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL,
    owner TEXT NOT NULL, input_shape TEXT NOT NULL, classes INTEGER NOT NULL,
    metric TEXT NOT NULL, kind TEXT NOT NULL, output_shape TEXT NOT NULL, public TEXT NOT NULL,
    validation TEXT NOT NULL, held_out TEXT NOT NULL, recipe TEXT NOT NULL, head TEXT NOT NULL,
    created TEXT NOT NULL, PRIMARY KEY (id));
CREATE TABLE versions (id TEXT NOT NULL, project TEXT NOT NULL, number INTEGER NOT NULL,
    weights TEXT NOT NULL, recipe TEXT NOT NULL, parent TEXT, author TEXT NOT NULL, run TEXT,
    metrics TEXT NOT NULL, created TEXT NOT NULL, PRIMARY KEY (id));
CREATE TABLE runs (id TEXT NOT NULL, project TEXT NOT NULL, author TEXT NOT NULL,
    recipe TEXT NOT NULL, rounds INTEGER NOT NULL, clients INTEGER NOT NULL,
    clients_per_round INTEGER NOT NULL, participants TEXT NOT NULL, seed BIGINT NOT NULL,
    state TEXT NOT NULL, plan TEXT NOT NULL, updates TEXT NOT NULL, version TEXT,
    created TEXT NOT NULL, PRIMARY KEY (id));
CREATE TABLE rounds (run TEXT NOT NULL, round INTEGER NOT NULL, loss DOUBLE PRECISION,
    accuracy DOUBLE PRECISION, seconds DOUBLE PRECISION NOT NULL, clients TEXT NOT NULL,
    PRIMARY KEY (run, round));
CREATE TABLE federations (id TEXT NOT NULL, project TEXT NOT NULL, author TEXT NOT NULL,
    recipe TEXT NOT NULL, rounds INTEGER NOT NULL, nodes INTEGER NOT NULL, address TEXT NOT NULL,
    app TEXT NOT NULL, state TEXT NOT NULL, run TEXT, problem TEXT, created TEXT NOT NULL,
    PRIMARY KEY (id));
CREATE TABLE node_keys (federation TEXT NOT NULL, account TEXT NOT NULL,
    public_key TEXT NOT NULL, created TEXT NOT NULL, PRIMARY KEY (federation, account));
CREATE TABLE contributions (id TEXT NOT NULL, project TEXT NOT NULL, kind TEXT NOT NULL,
    author TEXT NOT NULL, note TEXT NOT NULL, payload TEXT NOT NULL, content TEXT NOT NULL,
    state TEXT NOT NULL, value DOUBLE PRECISION, reason TEXT, receipt TEXT, sealed_receipt TEXT,
    against TEXT, attempts INTEGER NOT NULL, created TEXT NOT NULL, decided TEXT,
    PRIMARY KEY (id));
CREATE TABLE shares (contribution TEXT NOT NULL, account TEXT NOT NULL, weight BIGINT NOT NULL,
    reward HUGEINT NOT NULL, confirmed BOOLEAN NOT NULL, minted BOOLEAN NOT NULL,
    PRIMARY KEY (contribution, account));
CREATE TABLE ledger ("index" BIGINT NOT NULL, data BLOB NOT NULL, leaf BLOB NOT NULL,
    PRIMARY KEY ("index"));
CREATE TABLE postings ("index" BIGINT NOT NULL, account TEXT NOT NULL, amount HUGEINT NOT NULL,
    PRIMARY KEY ("index", account));
CREATE TABLE events (seq BIGINT NOT NULL, moment TEXT NOT NULL, kind TEXT NOT NULL, project TEXT,
    subject TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (seq));
INSERT INTO counters VALUES ('schema', 2), ('events', 1);
INSERT INTO accounts VALUES ('ada', 'member', NULL, '2026-01-01T00:00:00.000000Z');
INSERT INTO events VALUES (1, '2026-01-01T00:00:00.000000Z', 'account.registered', NULL, 'ada',
    '{}');
INSERT INTO contributions VALUES ('c1', 'p1', 'code', 'ada', 'a note', 'bafy', 'code:x',
    'failed', 0.25, 'a reason', NULL, NULL, NULL, 3, '2026-01-02T00:00:00.000000Z', NULL);
INSERT INTO shares VALUES ('c1', 'ada', 1000000000, 12345678901234567890123457, true, false);
INSERT INTO federations VALUES ('f1', 'p1', 'ada', 'bafy', 5, 2, '127.0.0.1:1', 'abc', 'finished',
    NULL, NULL, '2026-01-03T00:00:00.000000Z');
"""
ON_POSTGRESQL = (
    ("DOUBLE PRECISION", "DOUBLE PRECISION"),
    ("BLOB", "BYTEA"),
    ("HUGEINT", "NUMERIC(39, 0)"),
)


@pytest.fixture(params=["duckdb", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, new_database) -> Settings:
    """A home and a database without tables."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return Settings(home=home, database=new_database(request.param))


@contextmanager
def connected(settings: Settings) -> Iterator[sa.Connection]:
    engine = sa.create_engine(settings.database or f"duckdb:///{settings.home / 'hub.duckdb'}")
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def make_first(settings: Settings) -> None:
    """Make a database as the first version did."""
    script = FIRST
    for ours, theirs in ON_POSTGRESQL if settings.database else ():
        script = script.replace(ours, theirs)
    with connected(settings) as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)


def dump(settings: Settings) -> dict[str, list[tuple]]:
    """Return every table with all its rows."""
    with connected(settings) as connection:
        names = sa.inspect(connection).get_table_names()
        return {
            name: sorted(
                (tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {name}"))),
                key=repr,
            )
            for name in names
        }


def shape(settings: Settings) -> dict[str, list[tuple]]:
    """Return every table's columns and its primary key."""
    with connected(settings) as connection:
        names = sorted(sa.inspect(connection).get_table_names())
        keys = (
            "SELECT column_name FROM information_schema.key_column_usage "
            "WHERE table_name = :name ORDER BY ordinal_position"
        )
        query = (
            "SELECT column_name, data_type, numeric_precision, is_nullable, column_default "
            "FROM information_schema.columns WHERE table_name = :name ORDER BY ordinal_position"
        )
        return {
            name: [
                *map(tuple, connection.execute(sa.text(query), {"name": name})),
                tuple(connection.execute(sa.text(keys), {"name": name}).scalars()),
            ]
            for name in names
        }


def fresh(settings: Settings, tmp_path: Path, new_database) -> dict[str, list[tuple]]:
    kind = "postgresql" if settings.database else "duckdb"
    other = Settings(home=tmp_path / "fresh", database=new_database(kind))
    LocalHub.open(other).close()
    return shape(other)


def check_first(settings: Settings) -> None:
    """See that what the first version had written is there, and that the hub goes on."""
    hub = LocalHub.open(settings)
    try:
        assert [account.name for account in hub.accounts()] == ["ada"]
        assert [event.seq for event in hub.events()] == [1]
        found = hub._services.database.read(
            lambda tx: (
                tx.all(sa.select(schema.contributions)),
                tx.all(sa.select(schema.shares)),
                tx.all(sa.select(schema.federations)),
            )
        )
        (contribution,), (share,), (federation,) = found
        assert (contribution.note, contribution.value, contribution.attempts) == ("a note", 0.25, 3)
        assert (contribution.evaluator, contribution.lease) == (None, 0)
        assert share.reward == 12345678901234567890123457
        assert (federation.hub, federation.state, federation.rounds) == ("", "finished", 5)
        hub.register("grace", PASSWORD)
        assert [event.seq for event in hub.events()] == [1, 2]
    finally:
        hub.close()


def test_a_database_of_the_first_version_is_brought_up_to_date(settings, tmp_path, new_database):
    make_first(settings)
    assert migrate_hub(settings) == ("0001", schema.REVISION)
    assert migrate_hub(settings) == (schema.REVISION, schema.REVISION)
    check_first(settings)
    assert shape(settings) == fresh(settings, tmp_path, new_database)


def test_a_personal_hub_just_works_after_an_upgrade_and_keeps_a_copy(tmp_path):
    settings = Settings(home=tmp_path)
    make_first(settings)
    before = dump(settings)
    check_first(settings)
    copy = tmp_path / "hub.duckdb.0001"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    os.replace(copy, tmp_path / "hub.duckdb")
    assert dump(settings) == before


def test_a_shared_hub_is_not_migrated_by_the_first_who_comes(tmp_path, new_database):
    settings = Settings(home=tmp_path, database=new_database("postgresql"))
    make_first(settings)
    before = dump(settings)
    with pytest.raises(StoreError, match="neuronexus hub migrate"):
        LocalHub.open(settings)
    assert dump(settings) == before
    told = subprocess.run(
        [sys.executable, "-m", "neuronexus_kernel.cli", "hub", "migrate", "--home", str(tmp_path)],
        env={**os.environ, "NEURONEXUS_DATABASE": settings.database},
        capture_output=True,
        text=True,
    )
    assert told.stdout == f"The tables were brought from revision 0001 to {schema.REVISION}.\n"
    check_first(settings)


def test_a_newer_database_is_refused_and_left_alone(settings):
    LocalHub.open(settings).close()
    with connected(settings) as connection:
        connection.execute(schema.revision.update().values(version_num="9999"))
    before = dump(settings)
    for attempt in (LocalHub.open, migrate_hub):
        with pytest.raises(StoreError, match=r"revision 9999.*neuronexus hub migrate"):
            attempt(settings)
    assert dump(settings) == before


def test_a_database_from_before_the_first_is_refused_and_left_alone(settings):
    make_first(settings)
    with connected(settings) as connection:
        connection.exec_driver_sql("UPDATE counters SET value = 1 WHERE name = 'schema'")
    before = dump(settings)
    for attempt in (LocalHub.open, migrate_hub):
        with pytest.raises(StoreError, match="schema version 1"):
            attempt(settings)
    assert dump(settings) == before


def test_a_migration_that_fails_leaves_the_database_as_it_was(settings):
    make_first(settings)
    with connected(settings) as connection:
        # In the way of the second table that is made anew, when the first is done.
        connection.exec_driver_sql("CREATE TABLE contributions_old (x INTEGER)")
    before = dump(settings)
    for _ in range(2):
        with pytest.raises(StoreError):
            migrate_hub(settings)
        assert dump(settings) == before
    with connected(settings) as connection:
        connection.exec_driver_sql("DROP TABLE contributions_old")
    migrate_hub(settings)
    check_first(settings)


def test_the_migrations_end_in_the_tables_of_the_program(settings, tmp_path, new_database):
    with connected(settings) as connection:
        migrate(connection)
        assert revisions.found(connection) == schema.REVISION == revisions.known()[-1]
    assert shape(settings) == fresh(settings, tmp_path, new_database)


def test_rows_survive_each_step(settings):
    """A contribution and a share of each revision are the same after every further one."""
    make_first(settings)
    share = (new_id(), "ada", 1, 10**37 + 1, False, True)
    insert = sa.text("INSERT INTO shares VALUES (:a, :b, :c, :d, :e, :f)").bindparams(
        sa.bindparam("d", type_=schema.Amount())
    )
    with connected(settings) as connection:
        connection.execute(insert, dict(zip("abcdef", share, strict=True)))
    for revision in revisions.known()[1:]:
        with connected(settings) as connection:
            migrate(connection, revision)
            assert revisions.found(connection) == revision
        assert share in dump(settings)["shares"]


def test_two_hubs_that_open_a_new_database_at_once_both_work(tmp_path, new_database):
    url = new_database("postgresql")
    code = (
        "import sys; from pathlib import Path; from neuronexus_kernel.hub.local import LocalHub\n"
        "from neuronexus_kernel.settings import Settings\n"
        "LocalHub.open(Settings(home=Path(sys.argv[1]), database=sys.argv[2])).close()"
    )
    hubs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / name), url])
        for name in ("one", "two", "three")
    ]
    assert [hub.wait(60) for hub in hubs] == [0, 0, 0]


def test_a_name_that_is_taken_stays_taken(settings):
    make_first(settings)
    migrate_hub(settings)
    hub = LocalHub.open(settings)
    assert hub._services.database.read(
        lambda tx: tx.scalar(
            sa.select(schema.counters.c.value).where(schema.counters.c.name == "hub")
        )
    )
    with pytest.raises(ConflictError):
        hub.register("ada", PASSWORD)
    hub.close()
