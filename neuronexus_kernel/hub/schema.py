"""The tables of a hub, for DuckDB and PostgreSQL alike.

No foreign keys and few indexes: DuckDB rebuilds rows it updates under an index, and cannot alter
a table that others refer to.  What must hold between tables is kept by the services, each in one
transaction.  Amounts and JSON have a column type of their own.

Whoever changes a table adds a migration to ``migrations/versions`` and names it in `REVISION`.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeDecorator, UserDefinedType

REVISION = "0004"
"""The migration that ends in these tables."""

LEGACY_VERSION = 3
"""Kept in `counters` as ``schema``: programs from before there were migrations stop at it."""


class Amount(UserDefinedType[int]):
    """An exact integer of 10^-18 NXS, up to 38 digits.

    HUGEINT on DuckDB, NUMERIC(39,0) on PostgreSQL, always bound and read as int: a decimal type
    through the DuckDB driver silently rounds at 17 digits.
    """

    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Any:
        """Bind as int, and as nothing else."""
        return _integer

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Any:
        """Read as int, whatever the driver hands over."""
        return lambda value: None if value is None else int(value)

    def get_col_spec(self, **_: object) -> str:
        """Return the column's type where no dialect says otherwise."""
        return "NUMERIC(39, 0)"


def _integer(value: object) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"An amount is an int of units, not {type(value).__name__}.")
    return value


@compiles(Amount, "duckdb")
def _amount_on_duckdb(*_: object, **__: object) -> str:
    return "HUGEINT"


def json_text(value: object) -> str:
    """Return JSON as it is kept.

    Raises
    ------
    ValueError, TypeError
        If it is none: NaN and infinity are not.
    """
    return json.dumps(value, sort_keys=True, allow_nan=False)


class Json(TypeDecorator[Any]):
    """JSON kept as text with sorted keys, the same on both databases."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: object, dialect: sa.Dialect) -> str:
        """Write as text."""
        return json_text(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        """Read back."""
        return None if value is None else json.loads(value)


def _column(name: str, kind: Any = sa.Text, **options: Any) -> sa.Column[Any]:
    options.setdefault("nullable", False)
    return sa.Column(name, kind, **options)


# Names and ids have the same order everywhere: that of their bytes.
_Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _key(name: str, kind: Any = _Name) -> sa.Column[Any]:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


metadata = sa.MetaData()

revision = sa.Table(
    "alembic_version",
    metadata,
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

counters = sa.Table("counters", metadata, _key("name"), _column("value", sa.BigInteger))

accounts = sa.Table(
    "accounts",
    metadata,
    _key("name"),
    _column("role"),
    _column("password_hash", nullable=True),
    _column("created"),
)

sessions = sa.Table(
    "sessions",
    metadata,
    _key("token_hash", sa.LargeBinary),
    _column("account"),
    _column("kind"),
    _column("label"),
    _column("created"),
    _column("expires"),
)

session_details = sa.Table(
    "session_details",
    metadata,
    _key("token_hash", sa.LargeBinary),
    _column("id"),
    _column("scopes", Json),
    _column("source"),
    _column("seen"),
    _column("renewed"),
    _column("replaced", sa.Boolean),
    _column("parent"),
)

one_time_codes = sa.Table(
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

disabled_accounts = sa.Table(
    "disabled_accounts",
    metadata,
    _key("account"),
    _column("actor"),
    _column("created"),
)

external_logins = sa.Table(
    "external_logins",
    metadata,
    _key("provider"),
    _key("subject"),
    _column("account"),
    _column("created"),
)

maintainers = sa.Table(
    "maintainers",
    metadata,
    _key("project"),
    _key("account"),
    _column("actor"),
    _column("created"),
)

throttles = sa.Table(
    "throttles",
    metadata,
    _key("key"),
    _column("failures", sa.Integer),
    _column("since"),
    _column("until"),
)

audit = sa.Table(
    "audit",
    metadata,
    _key("seq", sa.BigInteger),
    _column("moment"),
    _column("kind"),
    _column("account"),
    _column("actor"),
    _column("source"),
    _column("data", Json),
)

roots = sa.Table(
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

titles = sa.Table(
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

keepings = sa.Table(
    "keepings",
    metadata,
    _key("account"),
    _key("cid"),
    _column("name"),
    _column("created"),
)

projects = sa.Table(
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

imported_payments = sa.Table(
    "imported_payments",
    metadata,
    _key("project"),
    _key("number", sa.Integer),
    _column("origin"),
    _column("data", sa.LargeBinary),
)

versions = sa.Table(
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

runs = sa.Table(
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

rounds = sa.Table(
    "rounds",
    metadata,
    _key("run"),
    _key("round", sa.Integer),
    _column("loss", sa.Double, nullable=True),
    _column("accuracy", sa.Double, nullable=True),
    _column("seconds", sa.Double),
    _column("clients", Json),
)

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

node_keys = sa.Table(
    "node_keys",
    metadata,
    _key("federation"),
    _key("account"),
    _column("public_key"),
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
    _column("content", sa.Text),
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

shares = sa.Table(
    "shares",
    metadata,
    _key("contribution"),
    _key("account"),
    _column("weight", sa.BigInteger),
    _column("reward", Amount),
    _column("confirmed", sa.Boolean),
    _column("minted", sa.Boolean),
)

ledger = sa.Table(
    "ledger",
    metadata,
    _key("index", sa.BigInteger),
    _column("data", sa.LargeBinary),
    _column("leaf", sa.LargeBinary),
)

postings = sa.Table(
    "postings",
    metadata,
    _key("index", sa.BigInteger),
    _key("account"),
    _column("amount", Amount),
)

replays = sa.Table(
    "replays",
    metadata,
    _key("account"),
    _key("key_hash", sa.LargeBinary),
    _column("fingerprint", sa.LargeBinary),
    _column("status", sa.Integer),
    _column("body", sa.LargeBinary, nullable=True),
    _column("created"),
)

events = sa.Table(
    "events",
    metadata,
    _key("seq", sa.BigInteger),
    _column("moment"),
    _column("kind"),
    _column("project", nullable=True),
    _column("subject"),
    _column("data", Json),
)
