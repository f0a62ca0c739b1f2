"""Several hubs on one database: which of them serves a federation, or evaluates a contribution.

The table of what was paid for imported projects, and the number of a hub, came without a revision
of their own: they are made where they are missing.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from neuronexus_kernel.hub.migrations import rebuild
from neuronexus_kernel.hub.revisions import new_number

revision = "0002"
down_revision = "0001"

_Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _column(name: str, kind: Any = sa.Text, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=nullable)


def _key(name: str) -> sa.Column[Any]:
    return sa.Column(name, _Name, primary_key=True, autoincrement=False)


metadata = sa.MetaData()

counters = sa.table("counters", sa.column("name", sa.Text), sa.column("value", sa.BigInteger))

federations = sa.Table(
    "federations",
    metadata,
    _key("id"),
    _column("project"),
    _column("author"),
    _column("recipe"),
    _column("rounds", sa.Integer),
    _column("nodes", sa.Integer),
    _column("address"),
    _column("app"),
    _column("hub"),
    _column("state"),
    _column("run", nullable=True),
    _column("problem", nullable=True),
    _column("created"),
)

contributions = sa.Table(
    "contributions",
    metadata,
    _key("id"),
    _column("project"),
    _column("kind"),
    _column("author"),
    _column("note"),
    _column("payload"),
    _column("content"),
    _column("state"),
    _column("value", sa.Double, nullable=True),
    _column("reason", nullable=True),
    _column("receipt", nullable=True),
    _column("sealed_receipt", nullable=True),
    _column("against", nullable=True),
    _column("attempts", sa.Integer),
    _column("evaluator", nullable=True),
    _column("lease", sa.Integer),
    _column("created"),
    _column("decided", nullable=True),
)

imported_payments = sa.Table(
    "imported_payments",
    metadata,
    _key("project"),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    _column("origin"),
    _column("data", sa.LargeBinary),
)


def upgrade() -> None:
    """Add the columns, count commits, and stop programs that know no migrations."""
    imported_payments.create(op.get_bind(), checkfirst=True)
    number = sa.select(counters.c.value).where(counters.c.name == "hub")
    if op.get_bind().execute(number).first() is None:
        op.bulk_insert(counters, [{"name": "hub", "value": new_number()}])
    rebuild(federations, {"hub": sa.literal("")})
    nobody = sa.cast(sa.null(), sa.Text)
    rebuild(contributions, {"evaluator": nobody, "lease": sa.literal(0)})
    op.bulk_insert(counters, [{"name": "commits", "value": 0}])
    op.execute(counters.update().where(counters.c.name == "schema").values(value=3))
