"""What requests that may be repeated came to."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _column(name: str, kind: Any = sa.Text, **options: Any) -> sa.Column[Any]:
    options.setdefault("nullable", False)
    return sa.Column(name, kind, **options)


def _key(name: str, kind: Any = _Name) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


metadata = sa.MetaData()

sa.Table(
    "replays",
    metadata,
    _key("account"),
    _key("key_hash", sa.LargeBinary),
    _column("fingerprint", sa.LargeBinary),
    _column("status", sa.Integer),
    _column("body", sa.LargeBinary, nullable=True),
    _column("created"),
)


def upgrade() -> None:
    """Add the table."""
    metadata.create_all(op.get_bind())
