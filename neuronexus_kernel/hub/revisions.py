"""Which version of the tables a database has.

The steps from one version to the next lie in ``migrations`` and are made by Alembic, which is
imported only when there is a step to make; here is what every opening needs.
"""

from __future__ import annotations

import secrets
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from neuronexus_kernel.errors import StoreError
from neuronexus_kernel.hub import schema

FOLDER = Path(__file__).parent / "migrations" / "versions"

_FIRST = "0001"
_ADOPTED = 2
"""The ``schema`` in the counters of a database from before there were migrations."""


@cache
def known() -> tuple[str, ...]:
    """Return the revisions that this program knows, oldest first."""
    return tuple(sorted(path.name.split("_")[0] for path in FOLDER.glob("[0-9]*_*.py")))


def found(connection: Connection) -> str | None:
    """Return the revision of the tables that are there; None when there are none.

    Raises
    ------
    StoreError
        If they are of a version that cannot be brought up to date.
    """
    inspector = sa.inspect(connection)
    tables = set(inspector.get_table_names())
    if schema.revision.name in tables:
        number = connection.execute(sa.select(schema.revision.c.version_num)).scalar()
        if number is not None:
            return str(number)
    if schema.counters.name not in tables:
        return None
    counters = schema.counters.c
    version = connection.execute(sa.select(counters.value).where(counters.name == "schema"))
    number = version.scalar()
    if number == _ADOPTED:
        return _FIRST
    if number is None:
        return None
    raise StoreError(
        f"The database has schema version {number}, which this program cannot bring up to date; "
        "use the version of NeuroNexus that wrote it."
    )


def is_older(revision: str | None, what: str) -> bool:
    """Tell whether tables of a revision need a migration; None, for no tables, do not.

    Raises
    ------
    StoreError
        If a newer version of this program made them.
    """
    if revision is None or revision == schema.REVISION:
        return False
    if revision in known():
        return True
    raise StoreError(
        f"The database {what} has schema revision {revision}, but this program knows "
        f"{schema.REVISION} and none newer: use the version of NeuroNexus that wrote it. "
        "`neuronexus hub migrate` only goes forward."
    )


def new_number() -> int:
    """Return a number that tells a new hub, whose records these are, from all others."""
    return secrets.randbits(48)


def make_tables(connection: Connection) -> None:
    """Make all tables of a new database; where they are there already, nothing."""
    schema.metadata.create_all(connection)
    if connection.execute(sa.select(schema.revision)).first() is None:
        connection.execute(schema.revision.insert().values(version_num=schema.REVISION))
        start = {"schema": schema.LEGACY_VERSION, "hub": new_number(), "events": 0, "commits": 0}
        for name, value in start.items():
            connection.execute(schema.counters.insert().values(name=name, value=value))
