"""Bringing a hub's tables up to date on request."""

from __future__ import annotations

import sqlalchemy as sa

from neuronexus_kernel.hub import revisions, schema
from neuronexus_kernel.hub.home import Home
from neuronexus_kernel.settings import Settings


def migrate_hub(settings: Settings) -> tuple[str | None, str]:
    """Make the tables of a hub those of this program; return their revision before and now.

    On DuckDB every opening does this too, after copying the file.  On PostgreSQL the hubs that
    use the database must have been stopped, as they know other tables.

    Raises
    ------
    HubUnavailableError
        If a hub runs on the folder, or the database does not answer.
    StoreError
        If a newer version has made the tables, or the migration fails; then nothing was changed.
    """
    home = Home(settings.home)
    try:
        if settings.database:
            return _on_postgresql(settings.database), schema.REVISION
        return _on_duckdb(settings), schema.REVISION
    finally:
        home.release()


def _on_postgresql(url: str) -> str | None:
    from neuronexus_kernel.hub.migrations import migrate
    from neuronexus_kernel.hub.postgresql_database import administered

    with administered(url) as connection:
        before = revisions.found(connection)
        if revisions.is_older(before, "the settings name"):
            migrate(connection)
        else:
            revisions.make_tables(connection)
    return before


def _on_duckdb(settings: Settings) -> str | None:
    from neuronexus_kernel.hub.duckdb_database import DuckDBDatabase

    path, before = settings.home / "hub.duckdb", None
    if path.exists():
        engine = sa.create_engine(f"duckdb:///{path}")
        try:
            with engine.connect() as connection:
                before = revisions.found(connection)
        finally:
            engine.dispose()
    DuckDBDatabase(path).close()
    return before
