"""What requests under a key came to, as the hub keeps it on either database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from neuronexus_server.operations import Operation

from neuronexus_kernel.errors import ConflictError, InvalidInputError
from neuronexus_kernel.hub import replays, schema
from neuronexus_kernel.hub.database import Database, open_database
from neuronexus_kernel.hub.replays import LIFETIME, Outcome, Replays
from neuronexus_kernel.hub.routes import ROUTES
from neuronexus_kernel.hub.times import later
from neuronexus_kernel.settings import Settings

KEY = "a key that nobody can guess"
DONE = Outcome(200, b'{"name": "ada"}')


@pytest.fixture(params=["duckdb", "postgresql"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[[str], str]
) -> Iterator[Database]:
    settings = replace(Settings(home=tmp_path), database=new_database(request.param))
    database = open_database(settings, hub="here")
    yield database
    database.close()


def rows(database: Database) -> list[sa.Row]:
    return list(database.read(lambda tx: tx.all(sa.select(schema.replays))))


def test_what_was_kept_is_found_by_its_account_key_and_request(database):
    known = Replays(database)
    assert known.find("ada", KEY, b"request") is None
    known.keep("ada", KEY, b"request", DONE, secret=False)
    assert known.find("ada", KEY, b"request") == DONE
    assert known.find("", KEY, b"request") is None
    assert known.find("grace", KEY, b"request") is None
    assert known.find("ada", KEY + "2", b"request") is None
    with pytest.raises(InvalidInputError, match="another request"):
        known.find("ada", KEY, b"another")


def test_neither_a_key_nor_a_secret_answer_is_in_the_database(database):
    known = Replays(database)
    known.keep("ada", KEY, b"request", Outcome(200, b"a token"), secret=True)
    (row,) = rows(database)
    assert row.body is None
    assert KEY not in str(row)
    with pytest.raises(ConflictError, match="carried out"):
        known.find("ada", KEY, b"request")


def test_what_is_older_than_a_day_is_no_longer_told_and_goes(database, monkeypatch):
    known = Replays(database)
    known.keep("ada", KEY, b"request", DONE, secret=False)
    table = schema.replays
    (row,) = rows(database)
    old = later(row.created, -LIFETIME)
    database.write(lambda tx: tx.execute(table.update().values(created=old)))
    assert known.find("ada", KEY, b"another request") is None
    monkeypatch.setattr(replays, "_SWEEP_SECONDS", -1.0)
    known.keep("ada", KEY + "2", b"request", DONE, secret=False)
    assert len(rows(database)) == 1


SECRETS = {"password": "pw-1", "current": "pw-2", "new": "pw-3", "code": "c-4", "invitation": "i-5"}


OPERATIONS = [Operation.of(route) for route in ROUTES]


def test_every_operation_with_a_password_is_known_as_one():
    named = {each.route.operation for each in OPERATIONS if each.takes_passwords}
    assert named == {"register", "login", "add_operator", "change_password", "reset_password"}


@pytest.mark.parametrize(
    "operation",
    [each for each in OPERATIONS if each.takes_passwords],
    ids=lambda each: each.route.operation,
)
def test_no_password_and_no_code_leaves_a_trace_in_what_tells_requests_apart(operation):
    given = {name: SECRETS.get(name, f"the {name}") for name in operation.parameters}
    trace = operation.shown(given).decode()
    assert not [secret for secret in SECRETS.values() if secret in trace]
    assert all(f"the {name}" in trace for name in given.keys() - SECRETS.keys())
