"""Slowing down whoever guesses passwords, without locking out whom they guess at.

Failures are counted in the database, so that a restart forgives nothing.  An account's first few
are free; then each makes the next attempt wait twice as long, up to five minutes.  A counter of
its own belongs to an address from which the account has signed in before, so that a stranger who
keeps guessing does not keep the person out of their own machine.  One address may fail only so
often in ten minutes, whatever the names.  An attempt is counted before its password is checked:
many at once are counted like many in a row.

Keys are keyed hashes: what people type as a name is sometimes their password.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.errors import QuotaError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.times import stamp

FREE_FAILURES = 5
LONGEST = timedelta(minutes=5)
ADDRESS_FAILURES = 100
ADDRESS_WINDOW = timedelta(minutes=10)
FORGIVEN = timedelta(days=1)
FAMILIAR = timedelta(days=90)

_PAIR = "pair:"
Rows = Mapping[str, sa.Row[Any]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that was let through and counted as a failure until it succeeds.

    Attributes
    ----------
    key
        The counter it was counted on.
    pair
        The counter of its account at its address.
    address
        The counter of its address, if it has one.
    """

    key: str
    pair: str
    address: str | None


class Throttle:
    """Counts failures.

    Parameters
    ----------
    database
        Where they are counted.
    key
        Key of the hashes.
    """

    def __init__(self, database: Database, key: bytes) -> None:
        self._database = database
        self._key = key

    def admit(self, name: str, source: str) -> Attempt:
        """Let an attempt through and count it, or refuse it.

        Parameters
        ----------
        name
            What is guessed at: an account's name, whether there is one or not.
        source
            The address it comes from; empty for the hub's own process, which is not counted.

        Raises
        ------
        QuotaError
            If there were too many failures; the message says how long to wait.
        """
        account = self._hash("account:", name)
        pair = self._hash(_PAIR, f"{name}\0{source}")
        address = self._hash("address:", source) if source else None
        keys = [key for key in (account, pair, address) if key is not None]
        table = schema.throttles

        def change(tx: Transaction) -> Attempt | int:
            moment = datetime.fromisoformat(tx.time)
            rows = {row.key: row for row in tx.all(sa.select(table).where(table.c.key.in_(keys)))}
            familiar = pair in rows
            key = pair if familiar else account
            wait = _wait(rows.get(key), moment, LONGEST)
            if address is not None and not familiar:
                wait = max(wait, _wait(rows.get(address), moment, ADDRESS_WINDOW))
            if wait > timedelta(0):
                return int(wait.total_seconds()) + 1
            if not familiar and account not in rows:
                _forget(tx, moment)
            _count(tx, rows, key, moment)
            if address is not None:
                _count_address(tx, rows, address, moment)
            return Attempt(key, pair, address)

        outcome = self._database.write(change)
        if isinstance(outcome, int):
            raise QuotaError(
                f"There were too many failed attempts. Try again in {_in_words(outcome)}. Whoever "
                "is signed in already is not affected."
            )
        return outcome

    def succeeded(self, tx: Transaction, attempt: Attempt) -> None:
        """Take back the count of an attempt that was no failure, and know its address."""
        table = schema.throttles
        for key in {attempt.key, attempt.pair}:
            values = {"failures": 0, "since": tx.time, "until": tx.time}
            if tx.first(sa.select(table.c.key).where(table.c.key == key)) is None:
                tx.execute(table.insert().values(key=key, **values))
            else:
                tx.execute(table.update().where(table.c.key == key).values(**values))
        if attempt.address is not None:
            tx.execute(
                table.update()
                .where(table.c.key == attempt.address, table.c.failures > 0)
                .values(failures=table.c.failures - 1)
            )

    def _hash(self, prefix: str, text: str) -> str:
        return prefix + hmac.digest(self._key, text.encode(errors="replace"), "sha256").hex()


def _wait(row: sa.Row[Any] | None, moment: datetime, longest: timedelta) -> timedelta:
    if row is None:
        return timedelta(0)
    wait = datetime.fromisoformat(row.until) - moment
    # A clock that was set back must not keep anybody out for longer than was meant.
    return wait if wait <= longest else timedelta(0)


def _count(tx: Transaction, rows: Rows, key: str, moment: datetime) -> None:
    row = rows.get(key)
    fresh = row is None or moment - datetime.fromisoformat(row.since) > FORGIVEN
    failures = 1 if row is None or fresh else row.failures + 1
    seconds = 2.0 ** min(failures - FREE_FAILURES, 30) if failures >= FREE_FAILURES else 0.0
    until = moment + min(timedelta(seconds=seconds), LONGEST)
    _write(tx, rows, key, failures, moment, until)


def _count_address(tx: Transaction, rows: Rows, key: str, moment: datetime) -> None:
    row = rows.get(key)
    since, failures = moment, 1
    if row is not None and moment - datetime.fromisoformat(row.since) <= ADDRESS_WINDOW:
        since, failures = datetime.fromisoformat(row.since), row.failures + 1
    until = since + ADDRESS_WINDOW if failures >= ADDRESS_FAILURES else since
    _write(tx, rows, key, failures, since, until)


def _write(
    tx: Transaction, rows: Rows, key: str, failures: int, since: datetime, until: datetime
) -> None:
    table = schema.throttles
    values = {"failures": failures, "since": stamp(since), "until": stamp(until)}
    if key in rows:
        tx.execute(table.update().where(table.c.key == key).values(**values))
    else:
        tx.execute(table.insert().values(key=key, **values))


def _forget(tx: Transaction, moment: datetime) -> None:
    """Remove counters that no longer mean anything."""
    table = schema.throttles
    paired = table.c.key.startswith(_PAIR)
    tx.execute(table.delete().where(~paired, table.c.since < stamp(moment - FORGIVEN)))
    tx.execute(table.delete().where(paired, table.c.since < stamp(moment - FAMILIAR)))


def _in_words(seconds: int) -> str:
    if seconds >= 120:
        return f"{seconds // 60} minutes"
    return f"{seconds} seconds" if seconds > 1 else "a second"
