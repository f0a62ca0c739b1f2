"""Migrations: the steps from each version of the tables to the next, made by Alembic.

DuckDB cannot add a column that is not null, drop one, or change a constraint where there is an
index, so that a step that changes a table makes it anew (`rebuild`), on PostgreSQL too.  All steps
happen in one transaction: one that fails leaves the database as it was.

A migration says with frozen table definitions of its own what it makes; `schema.py` goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.config import Config
from alembic.ddl.impl import DefaultImpl
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from neuronexus_kernel.hub import revisions


class DuckDBImpl(DefaultImpl):
    """Tells Alembic of DuckDB, whose statements are the standard ones."""

    __dialect__ = "duckdb"
    transactional_ddl = True


def migrate(connection: Connection, to: str = "head") -> None:
    """Bring the tables up to a revision, within the transaction of `connection`.

    Parameters
    ----------
    to
        The revision; by default the newest.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    before = revisions.found(connection)

    def steps(current: object, context: object) -> Any:
        # What is there says the revision, also where no migration has been before.
        return script._upgrade_revs(to, before or "base")

    with EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(connection=connection, transactional_ddl=True)
        context = environment.get_context()
        if before is not None and context.get_current_revision() is None:
            context.stamp(script, before)
        environment.run_migrations()


def rebuild(table: sa.Table, values: Mapping[str, sa.ColumnElement[Any]]) -> None:
    """Make a table anew, with all its rows.

    Parameters
    ----------
    table
        As it shall be.
    values
        The columns that the old table does not have, with what each row gets.
    """
    connection = op.get_bind()
    old = sa.Table(
        f"{table.name}_old",
        sa.MetaData(),
        *(sa.Column(column.name, column.type) for column in table.columns),
    )
    quoted = connection.dialect.identifier_preparer.format_table
    op.execute(f"CREATE TABLE {quoted(old)} AS SELECT * FROM {quoted(table)}")
    op.drop_table(table.name)
    table.create(connection)
    source = [values.get(column.name, old.c[column.name]) for column in table.columns]
    op.execute(
        table.insert().from_select(
            [column.name for column in table.columns], sa.select(*source).select_from(old)
        )
    )
    op.drop_table(old.name)
