"""What requests that may be repeated came to: each is carried out once.

Whoever asks for a change names the request by a key of its own, and asks again under the same
key when it did not hear the answer.  The outcome of the first is kept for a day.  Kept are
outcomes that changed something: what was refused had no effect, and is simply tried again.

The key itself is not kept, only its hash, and the fingerprint of a request is taken with the key.
A password must not come into it all the same: whoever reads the database could try passwords out
where a key was a poor one.  An answer that holds a credential is not kept at all: then it is only
known that the request was carried out.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from neuronexus_kernel.errors import ConflictError, InvalidInputError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.times import stamp

LIFETIME = timedelta(hours=24)
"""How long an outcome is kept."""

SHORTEST, LONGEST = 16, 255
"""How many characters a key may have: one that can be guessed is none."""

_LARGEST = 256 * 1024
_SWEEP_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request came to.

    Attributes
    ----------
    status
        A number that the caller gave it.
    body
        The answer.
    """

    status: int
    body: bytes


class Replays:
    """The outcomes that one hub keeps.

    Parameters
    ----------
    database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._swept = 0.0

    def find(self, account: str, key: str, fingerprint: bytes) -> Outcome | None:
        """Return what an earlier request under the same key came to, if there was one.

        Raises
        ------
        InvalidInputError
            If it was another request.
        ConflictError
            If it was carried out, and its answer is not kept.
        """
        replays = schema.replays
        row = self._database.read(
            lambda tx: tx.first(sa.select(replays).where(*_same(account, key)))
        )
        if row is None or row.created < _oldest():
            return None
        if not hmac.compare_digest(bytes(row.fingerprint), fingerprint):
            raise InvalidInputError(
                "This idempotency key was used for another request; make a new key for each."
            )
        if row.body is None:
            raise ConflictError(
                "This request was carried out. Its answer is not kept, as it held a credential or "
                "was too large; look at what it made, and use a new idempotency key to ask anew."
            )
        return Outcome(row.status, bytes(row.body))

    def keep(
        self, account: str, key: str, fingerprint: bytes, outcome: Outcome, *, secret: bool
    ) -> None:
        """Keep what a request came to.

        Parameters
        ----------
        secret
            Whether the answer holds a credential.
        """
        replays = schema.replays
        is_kept = not secret and len(outcome.body) <= _LARGEST
        is_time_to_sweep = time.monotonic() > self._swept + _SWEEP_SECONDS

        def change(tx: Transaction) -> None:
            tx.execute(replays.delete().where(*_same(account, key)))
            tx.execute(
                replays.insert().values(
                    account=account,
                    key_hash=_hash(key),
                    fingerprint=fingerprint,
                    status=outcome.status,
                    body=outcome.body if is_kept else None,
                    created=tx.time,
                )
            )
            if is_time_to_sweep:
                tx.execute(replays.delete().where(replays.c.created < _oldest()))

        self._database.write(change)
        if is_time_to_sweep:
            self._swept = time.monotonic()


class Fingerprint:
    """Tells requests under one key apart; it takes a body as it comes.

    Parameters
    ----------
    key
        The request's key.
    what
        What is asked for, apart from the body.

    Raises
    ------
    InvalidInputError
        If the key is not 16 to 255 characters of plain text.
    """

    def __init__(self, key: str, *what: str) -> None:
        if not (SHORTEST <= len(key) <= LONGEST and key.isascii() and key.isprintable()):
            raise InvalidInputError(
                f"An idempotency key is {SHORTEST} to {LONGEST} printable ASCII characters that "
                "nobody can guess, such as a random UUID."
            )
        self.key = key
        self._mac = hmac.new(key.encode(), "\n".join(what).encode() + b"\n", hashlib.sha256)

    def update(self, data: bytes | bytearray) -> None:
        """Take the next bytes of the body."""
        self._mac.update(data)

    def digest(self) -> bytes:
        """Return the fingerprint of what was taken."""
        return self._mac.digest()


def _same(account: str, key: str) -> tuple[sa.ColumnElement[bool], ...]:
    replays = schema.replays.c
    return replays.account == account, replays.key_hash == _hash(key)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _oldest() -> str:
    return stamp(datetime.now(UTC) - LIFETIME)
