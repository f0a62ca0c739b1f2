"""The tables as they were before there were migrations: schema version 2."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from neuronexus_kernel.hub.schema import Amount

revision = "0001"
down_revision = None

# JSON is text; names and ids have the order of their bytes.
Json = sa.Text
_Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _column(name: str, kind: Any = sa.Text, **options: Any) -> sa.Column[Any]:
    options.setdefault("nullable", False)
    return sa.Column(name, kind, **options)


def _key(name: str, kind: Any = _Name) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


metadata = sa.MetaData()

sa.Table("counters", metadata, _key("name"), _column("value", sa.BigInteger))

sa.Table(
    "accounts",
    metadata,
    _key("name"),
    _column("role"),
    _column("password_hash", nullable=True),
    _column("created"),
)

sa.Table(
    "sessions",
    metadata,
    _key("token_hash", sa.LargeBinary),
    _column("account"),
    _column("kind"),
    _column("label"),
    _column("created"),
    _column("expires"),
)

sa.Table(
    "roots",
    metadata,
    _key("cid"),
    _key("visibility"),
    _column("name"),
    _column("kind"),
    _column("size", sa.BigInteger),
    _column("owner"),
    _column("created"),
)

sa.Table(
    "titles",
    metadata,
    _key("owner"),
    _key("name"),
    _key("number", sa.Integer),
    _column("cid"),
    _column("visibility"),
    _column("license"),
    _column("created"),
)

sa.Table(
    "keepings",
    metadata,
    _key("account"),
    _key("cid"),
    _column("name"),
    _column("created"),
)

sa.Table(
    "projects",
    metadata,
    _key("id"),
    _column("name"),
    _column("description"),
    _column("owner"),
    _column("input_shape", Json),
    _column("classes", sa.Integer),
    _column("metric"),
    _column("kind"),
    _column("output_shape", Json),
    _column("public"),
    _column("validation"),
    _column("held_out"),
    _column("recipe"),
    _column("head"),
    _column("created"),
)

sa.Table(
    "versions",
    metadata,
    _key("id"),
    _column("project"),
    _column("number", sa.Integer),
    _column("weights"),
    _column("recipe"),
    _column("parent", nullable=True),
    _column("author"),
    _column("run", nullable=True),
    _column("metrics", Json),
    _column("created"),
)

sa.Table(
    "runs",
    metadata,
    _key("id"),
    _column("project"),
    _column("author"),
    _column("recipe"),
    _column("rounds", sa.Integer),
    _column("clients", sa.Integer),
    _column("clients_per_round", sa.Integer),
    _column("participants", Json),
    _column("seed", sa.BigInteger),
    _column("state"),
    _column("plan", Json),
    _column("updates", Json),
    _column("version", nullable=True),
    _column("created"),
)

sa.Table(
    "rounds",
    metadata,
    _key("run"),
    _key("round", sa.Integer),
    _column("loss", sa.Double, nullable=True),
    _column("accuracy", sa.Double, nullable=True),
    _column("seconds", sa.Double),
    _column("clients", Json),
)

sa.Table(
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
    _column("state"),
    _column("run", nullable=True),
    _column("problem", nullable=True),
    _column("created"),
)

sa.Table(
    "node_keys",
    metadata,
    _key("federation"),
    _key("account"),
    _column("public_key"),
    _column("created"),
)

sa.Table(
    "contributions",
    metadata,
    _key("id"),
    _column("project"),
    _column("kind"),
    _column("author"),
    _column("note"),
    _column("payload"),
    _column("content", sa.Text),
    _column("state"),
    _column("value", sa.Double, nullable=True),
    _column("reason", nullable=True),
    _column("receipt", nullable=True),
    _column("sealed_receipt", nullable=True),
    _column("against", nullable=True),
    _column("attempts", sa.Integer),
    _column("created"),
    _column("decided", nullable=True),
)

sa.Table(
    "shares",
    metadata,
    _key("contribution"),
    _key("account"),
    _column("weight", sa.BigInteger),
    _column("reward", Amount),
    _column("confirmed", sa.Boolean),
    _column("minted", sa.Boolean),
)

sa.Table(
    "ledger",
    metadata,
    _key("index", sa.BigInteger),
    _column("data", sa.LargeBinary),
    _column("leaf", sa.LargeBinary),
)

sa.Table(
    "postings",
    metadata,
    _key("index", sa.BigInteger),
    _key("account"),
    _column("amount", Amount),
)

sa.Table(
    "events",
    metadata,
    _key("seq", sa.BigInteger),
    _column("moment"),
    _column("kind"),
    _column("project", nullable=True),
    _column("subject"),
    _column("data", Json),
)


def upgrade() -> None:
    """Make all tables."""
    metadata.create_all(op.get_bind())
    counters = metadata.tables["counters"]
    op.bulk_insert(counters, [{"name": "schema", "value": 2}, {"name": "events", "value": 0}])
