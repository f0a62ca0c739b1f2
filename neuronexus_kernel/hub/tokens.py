"""The ledger in the database: entries are appended in the transaction that earns them.

The `ledger` room says what an entry is and what holds between entries; here its bytes are kept,
beside a table of postings that answers questions quickly.  The bytes are the truth: `verify`
recomputes everything from them and compares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.content import CID, new_id
from neuronexus_kernel.errors import NotFoundError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.paging import Window, windowed
from neuronexus_kernel.hub.records import Balance, LedgerLine, LedgerStatus
from neuronexus_kernel.ledger import EMISSION, Entry, Posting, format_nxs, merkle, verify_log


class Tokens:
    """The ledger of one hub.

    Parameters
    ----------
    database
        Where entries are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # Only the writer thread looks at this after the start.
        self._frontier = database.read(lambda tx: _extended(tx, merkle.Frontier()))

    def mint(
        self,
        tx: Transaction,
        amounts: Mapping[str, int],
        *,
        contribution: str,
        receipt: str,
        project: str,
    ) -> None:
        """Enter freshly minted units for a contribution, as part of the transaction.

        Parameters
        ----------
        amounts
            Units above zero, by account.
        """
        frontier = self._current(tx)
        given = [Posting(name, units) for name, units in amounts.items()]
        postings = sorted([*given, Posting(EMISSION, -sum(amounts.values()))], key=_by_account)
        entry = Entry(
            index=frontier.size,
            id=new_id(),
            time=tx.time,
            kind="mint",
            postings=postings,
            memo={"contribution": contribution, "receipt": CID.parse(receipt)},
            previous_root=frontier.root(),
        )
        data = entry.encode()
        leaf = merkle.leaf_hash(data)
        frontier.append(leaf)
        tx.execute(schema.ledger.insert().values(index=entry.index, data=data, leaf=leaf))
        for posting in postings:
            tx.execute(
                schema.postings.insert().values(
                    index=entry.index, account=posting.account, amount=posting.amount
                )
            )
        tx.emit(
            "ledger.entry",
            entry.id,
            project,
            index=entry.index,
            contribution=contribution,
            amounts={name: format_nxs(units) for name, units in amounts.items()},
        )
        tx.after_commit.append(lambda: self._advance(frontier))

    def minted(self, tx: Transaction) -> int:
        """Return the units that exist."""
        return -self._sum(tx, EMISSION)

    def balance(self, account: str) -> Balance:
        """Return what one account holds."""

        def query(tx: Transaction) -> int:
            _check_account(tx, account)
            return self._sum(tx, account)

        units = self._database.read(query)
        return Balance(account=account, balance=format_nxs(units))

    def balances(self) -> list[Balance]:
        """Return what every account holds, by name; system accounts apart."""
        return [
            Balance(account=name, balance=format_nxs(units))
            for name, units in self._database.read(sums).items()
            if not name.startswith("nx:")
        ]

    def lines(self, account: str | None, window: Window | None = None) -> list[LedgerLine]:
        """Return postings with their entries, oldest first."""

        def query(tx: Transaction) -> list[LedgerLine]:
            if account is not None:
                _check_account(tx, account)
            return ledger_lines(tx, account, window)

        return self._database.read(query)

    def verify(self) -> LedgerStatus:
        """Recompute the whole ledger from its bytes, and compare the table of postings."""
        query = sa.select(schema.ledger).order_by(schema.ledger.c.index)
        kept = sa.select(schema.postings)
        rows, postings = self._database.read(lambda tx: (tx.all(query), tx.all(kept)))
        report = verify_log(bytes(row.data) for row in rows)
        problem = report.problem or _compare(rows, postings)
        return LedgerStatus(
            ok=problem is None, entries=report.entries, root=report.root.hex(), problem=problem
        )

    def _current(self, tx: Transaction) -> merkle.Frontier:
        """Return a frontier of what the transaction sees: its own entries and others' too."""
        return _extended(tx, self._frontier.copy())

    def _advance(self, frontier: merkle.Frontier) -> None:
        self._frontier = frontier

    def _sum(self, tx: Transaction, account: str) -> int:
        query = sa.select(_total()).where(schema.postings.c.account == account)
        return int(tx.scalar(query) or 0)


def _check_account(tx: Transaction, account: str) -> None:
    """Refuse a name that nobody has: a balance of 0 would hide a slip of the pen."""
    accounts = schema.accounts
    known = tx.first(sa.select(accounts.c.name).where(accounts.c.name == account))
    if known is None and not account.startswith("nx:"):
        raise NotFoundError(f"There is no account {account!r}; `wb.network()` lists them.")


def ledger_lines(
    tx: Transaction, account: str | None = None, window: Window | None = None
) -> list[LedgerLine]:
    """Return postings with their entries, oldest first; all, or one account's."""
    postings, ledger = schema.postings, schema.ledger
    query = sa.select(postings.c.index, postings.c.account, postings.c.amount, ledger.c.data).join(
        ledger, ledger.c.index == postings.c.index
    )
    if account is not None:
        query = query.where(postings.c.account == account)
    query = windowed(query, window, postings.c.index, postings.c.account)
    return [_line(row) for row in tx.all(query)]


def sums(tx: Transaction) -> dict[str, int]:
    """Return the sum of every account's postings, in units, by name."""
    account = schema.postings.c.account
    query = sa.select(account, _total()).group_by(account).order_by(account)
    return {row.account: int(row.total) for row in tx.all(query)}


def _extended(tx: Transaction, frontier: merkle.Frontier) -> merkle.Frontier:
    """Return a frontier with the entries that it lacks."""
    ledger = schema.ledger.c
    query = sa.select(ledger.leaf).where(ledger.index >= frontier.size).order_by(ledger.index)
    for row in tx.all(query):
        frontier.append(bytes(row.leaf))
    return frontier


def _total() -> sa.Label[int]:
    return sa.func.sum(schema.postings.c.amount, type_=schema.Amount()).label("total")


def _by_account(posting: Posting) -> str:
    return posting.account


def _line(row: sa.Row[Any]) -> LedgerLine:
    data = bytes(row.data)
    entry = Entry.decode(data)
    contribution = entry.memo.get("contribution")
    return LedgerLine(
        index=entry.index,
        time=entry.time,
        kind=entry.kind,
        account=row.account,
        amount=format_nxs(row.amount),
        contribution=contribution if isinstance(contribution, str) else None,
        leaf=merkle.leaf_hash(data).hex(),
    )


def _compare(rows: Sequence[sa.Row[Any]], postings: Sequence[sa.Row[Any]]) -> str | None:
    """Return how what is kept beside the entries differs from them, or None."""
    kept: dict[int, dict[str, int]] = {}
    for index, account, amount in map(tuple, postings):
        kept.setdefault(index, {})[account] = amount
    for index, data, leaf in map(tuple, rows):
        entry = Entry.decode(bytes(data))
        if index != entry.index:
            return f"The entry {entry.index} is kept as entry {index}."
        if merkle.leaf_hash(bytes(data)) != bytes(leaf):
            return f"The leaf hash kept beside entry {index} is not the hash of its bytes."
        if kept.pop(index, {}) != {each.account: each.amount for each in entry.postings}:
            return f"The postings kept for entry {index} are not those in its bytes."
    return f"There are postings for entry {min(kept)}, which is missing." if kept else None
