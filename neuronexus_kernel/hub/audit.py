"""The audit trail: what happened to accounts, who did it, and from where.

Entries are written in the transaction of what they tell of, so that neither is there without the
other.  They hold no secret: no password, no token, and no name that was typed but is nobody's,
for people type their password there.
"""

from __future__ import annotations

import sqlalchemy as sa

from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.account_records import AuditEntry
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.records import JSON

_MOST = 1000


def note(
    tx: Transaction,
    kind: str,
    *,
    account: str = "",
    actor: str = "",
    source: str = "",
    **data: JSON,
) -> None:
    """Write one entry.

    Parameters
    ----------
    tx
        The transaction of what the entry tells of.
    kind
        What happened, such as ``"signin.failed"``.
    account, actor, source
        About whom, by whom (by default the same), and from which address.
    """
    tx.execute(
        schema.audit.insert().values(
            seq=_next_number(tx),
            moment=tx.time,
            kind=kind,
            account=account,
            actor=actor or account,
            source=source,
            data=data,
        )
    )


class AuditTrail:
    """Reads the trail.

    Parameters
    ----------
    database
        Where it is kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def entries(
        self, *, account: str | None, kind: str | None, before: int | None, limit: int
    ) -> list[AuditEntry]:
        """Return entries, the newest first; see `Hub.audit`."""
        table = schema.audit
        query = sa.select(table).order_by(table.c.seq.desc()).limit(max(1, min(limit, _MOST)))
        if account is not None:
            query = query.where(sa.or_(table.c.account == account, table.c.actor == account))
        if kind is not None:
            query = query.where(table.c.kind == kind)
        if before is not None:
            query = query.where(table.c.seq < before)
        return [
            AuditEntry(
                seq=row.seq,
                time=row.moment,
                kind=row.kind,
                account=row.account,
                actor=row.actor,
                source=row.source,
                data=row.data,
            )
            for row in self._database.read(lambda tx: tx.all(query))
        ]


def _next_number(tx: Transaction) -> int:
    counters = schema.counters
    number = tx.scalar(
        counters.update()
        .where(counters.c.name == "audit")
        .values(value=counters.c.value + 1)
        .returning(counters.c.value)
    )
    if number is None:
        tx.execute(counters.insert().values(name="audit", value=1))
        return 1
    return int(number)
