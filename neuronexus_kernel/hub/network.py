"""The network at one moment: who is a member, who is here, who trains, and the sums."""

from __future__ import annotations

import threading
import time
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel import __version__
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Transaction
from neuronexus_kernel.hub.records import Network, NetworkNode
from neuronexus_kernel.hub.tokens import Tokens, sums
from neuronexus_kernel.ledger import format_nxs

ONLINE_SECONDS = 90.0
"""An account counts as online for this long after its last call."""


class Presence:
    """When each account was last heard of; kept in memory only."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._lock = threading.Lock()

    def touch(self, account: str) -> None:
        """Note that an account is here now."""
        with self._lock:
            self._seen[account] = time.monotonic()

    def leave(self, account: str) -> None:
        """Note that an account has signed out."""
        with self._lock:
            self._seen.pop(account, None)

    def online(self) -> set[str]:
        """Return the accounts that are here."""
        since = time.monotonic() - ONLINE_SECONDS
        with self._lock:
            return {name for name, seen in self._seen.items() if seen >= since}


def describe(tx: Transaction, tokens: Tokens, presence: Presence) -> Network:
    """Return the network as it is now.

    Parameters
    ----------
    tx
        An open read, so that all numbers are of one moment.
    """
    online = presence.online()
    active = tx.all(sa.select(schema.runs).where(schema.runs.c.state == "running"))
    training = {name for run in active for name in (run.author, *run.participants)}
    made, paid = _by_author(tx, rewarded=False), _by_author(tx, rewarded=True)
    balances = sums(tx)
    nodes = tuple(
        NetworkNode(
            name=row.name,
            role=row.role,
            online=row.name in online,
            training=row.name in training,
            contributions=made.get(row.name, 0),
            rewarded=paid.get(row.name, 0),
            balance=format_nxs(balances.get(row.name, 0)),
        )
        for row in tx.all(sa.select(schema.accounts).order_by(schema.accounts.c.created))
    )
    seq = schema.counters.c
    return Network(
        version=__version__,
        seq=int(tx.scalar(sa.select(seq.value).where(seq.name == "events"))),
        nodes=nodes,
        projects=_count(tx, schema.projects),
        runs=_count(tx, schema.runs),
        active_runs=len(active),
        versions=_count(tx, schema.versions),
        contributions=_count(tx, schema.contributions),
        minted=format_nxs(tokens.minted(tx)),
    )


def _count(tx: Transaction, table: sa.Table) -> int:
    return int(tx.scalar(sa.select(sa.func.count()).select_from(table)))


def _by_author(tx: Transaction, *, rewarded: bool) -> dict[str, int]:
    contributions = schema.contributions
    query: sa.Select[Any] = sa.select(
        contributions.c.author, sa.func.count().label("number")
    ).group_by(contributions.c.author)
    if rewarded:
        query = query.where(contributions.c.state == "rewarded")
    return {row.author: int(row.number) for row in tx.all(query)}
