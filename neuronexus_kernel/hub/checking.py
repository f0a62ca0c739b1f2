"""Looking through a whole hub: its ledger, its stores, and what must hold between its tables.

The tables have no foreign keys; each rule that the services keep is a line here: a column, and
where its values must be found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.named import named_content
from neuronexus_kernel.hub.tokens import Tokens, ledger_lines
from neuronexus_kernel.ledger import parse_nxs
from neuronexus_kernel.storage import LocalStore

Columns = Sequence[sa.Column[Any]]

_s = schema
_RULES: tuple[tuple[Columns, Columns], ...] = (
    ((_s.sessions.c.account,), (_s.accounts.c.name,)),
    ((_s.titles.c.cid, _s.titles.c.visibility), (_s.roots.c.cid, _s.roots.c.visibility)),
    ((_s.keepings.c.cid,), (_s.roots.c.cid,)),
    ((_s.keepings.c.account,), (_s.accounts.c.name,)),
    ((_s.projects.c.owner,), (_s.accounts.c.name,)),
    ((_s.projects.c.id, _s.projects.c.head), (_s.versions.c.project, _s.versions.c.id)),
    ((_s.imported_payments.c.project,), (_s.projects.c.id,)),
    ((_s.versions.c.project,), (_s.projects.c.id,)),
    ((_s.versions.c.parent,), (_s.versions.c.id,)),
    ((_s.versions.c.run,), (_s.runs.c.id,)),
    ((_s.runs.c.project,), (_s.projects.c.id,)),
    ((_s.runs.c.version,), (_s.versions.c.id,)),
    ((_s.rounds.c.run,), (_s.runs.c.id,)),
    ((_s.federations.c.project,), (_s.projects.c.id,)),
    ((_s.federations.c.run,), (_s.runs.c.id,)),
    ((_s.node_keys.c.federation,), (_s.federations.c.id,)),
    ((_s.node_keys.c.account,), (_s.accounts.c.name,)),
    ((_s.contributions.c.project,), (_s.projects.c.id,)),
    ((_s.contributions.c.id,), (_s.shares.c.contribution,)),
    ((_s.shares.c.contribution,), (_s.contributions.c.id,)),
)


def problems(
    database: Database, tokens: Tokens, content: LocalStore, sealed: LocalStore
) -> list[str]:
    """Return everything that is wrong with a hub, in words; it may be in use meanwhile."""
    status = tokens.verify()
    found = [] if status.problem is None else [f"ledger: {status.problem}"]
    found += database.read(lambda tx: [*_events(tx), *_rules(tx), *_payments(tx)])
    # What is named now was stored before, so that it must be there when it is looked for.
    named = database.read(named_content)
    for name, store, cids in zip(("content", "sealed"), (content, sealed), named, strict=True):
        found += [
            f"{name}: the records name {cid}, which is not in the store"
            for cid in sorted(cids)
            if not store.has_block(CID.parse(cid))
        ]
        verification = store.verify()
        if not verification.ok:
            found += [f"{name}: {each}" for each in verification.problems if not each.repaired]
    return found


def _events(tx: Transaction) -> Iterator[str]:
    seq = schema.events.c.seq
    bounds = sa.select(sa.func.min(seq), sa.func.max(seq), sa.func.count(seq))
    first, last, count = tuple(tx.all(bounds)[0])
    counters = schema.counters.c
    told = tx.scalar(sa.select(counters.value).where(counters.name == "events"))
    if told is None or (first or 1, last or 0, count) != (1, int(told), int(told)):
        yield (
            f"events: there are {count}, numbered {first} to {last}, but the counter says {told}"
        )


def _rules(tx: Transaction) -> Iterator[str]:
    for columns, there in _RULES:
        name = f"{columns[0].table.name}.{columns[-1].name}"
        known = {tuple(row) for row in tx.stream(sa.select(*there))}
        wanted = sa.select(*columns).distinct().where(columns[-1].is_not(None))
        for row in tx.all(wanted):
            # System accounts (nx:owner) have no row.
            if tuple(row) not in known and not str(row[-1]).startswith("nx:"):
                place = f"{there[-1].table.name}.{there[-1].name}"
                yield f"{name}: {row[-1]} is not in {place}"


def _payments(tx: Transaction) -> Iterator[str]:
    """Compare shares that were minted with the ledger."""
    shares = schema.shares
    paid = {
        (line.contribution, line.account): parse_nxs(line.amount, signed=True)
        for line in ledger_lines(tx)
    }
    # What another hub paid, to accounts named name@origin, is not in the ledger of this one.
    minted = sa.select(shares).where(
        shares.c.minted, shares.c.reward > 0, ~shares.c.account.contains("@")
    )
    for share in tx.all(minted):
        if paid.get((share.contribution, share.account)) != share.reward:
            yield (
                f"shares: {share.account} earned {share.reward} units for contribution "
                f"{share.contribution}, but the ledger has no such entry"
            )
