"""Accounts with roles, scopes, one-time codes and a trail."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _column(name: str, kind: Any = sa.Text, **options: Any) -> sa.Column[Any]:
    options.setdefault("nullable", False)
    return sa.Column(name, kind, **options)


def _key(name: str, kind: Any = _Name) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


metadata = sa.MetaData()

# A version from before there were migrations added these two whenever it opened a database.
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
    "session_details",
    metadata,
    _key("token_hash", sa.LargeBinary),
    _column("id"),
    _column("scopes", sa.Text),
    _column("source"),
    _column("seen"),
    _column("renewed"),
    _column("replaced", sa.Boolean),
    _column("parent"),
)

sa.Table(
    "one_time_codes",
    metadata,
    _key("code_hash", sa.LargeBinary),
    _column("id"),
    _column("kind"),
    _column("account"),
    _column("note"),
    _column("issuer"),
    _column("created"),
    _column("expires"),
    _column("used", nullable=True),
)

sa.Table(
    "disabled_accounts",
    metadata,
    _key("account"),
    _column("actor"),
    _column("created"),
)

sa.Table(
    "external_logins",
    metadata,
    _key("provider"),
    _key("subject"),
    _column("account"),
    _column("created"),
)

sa.Table(
    "maintainers",
    metadata,
    _key("project"),
    _key("account"),
    _column("actor"),
    _column("created"),
)

sa.Table(
    "throttles",
    metadata,
    _key("key"),
    _column("failures", sa.Integer),
    _column("since"),
    _column("until"),
)

sa.Table(
    "audit",
    metadata,
    _key("seq", sa.BigInteger),
    _column("moment"),
    _column("kind"),
    _column("account"),
    _column("actor"),
    _column("source"),
    _column("data", sa.Text),
)


def upgrade() -> None:
    """Add the tables."""
    metadata.create_all(op.get_bind())
