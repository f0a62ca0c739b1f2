"""Entries: the lines of the ledger, each with one canonical encoding.

An entry moves units between accounts and its postings sum to zero.  It holds the root of the
Merkle tree before it, so that a single entry commits to all that came earlier.  Its bytes are
DAG-CBOR; amounts are decimal integers as text, because 64-bit integers are too small for units.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal, TypeAlias, cast

from neuronexus_kernel.content import CID, check_id, dagcbor
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import LedgerError, NeuroNexusError
from neuronexus_kernel.ledger import merkle
from neuronexus_kernel.ledger.amounts import MAX_UNITS

FORMAT = "neuronexus/entry@1"
EMISSION = "nx:emission"
"""Where new units come from; the only account that may be below zero."""

Kind: TypeAlias = Literal["mint", "transfer"]
Memo: TypeAlias = Mapping[str, str | int | CID]

_KINDS = ("mint", "transfer")
_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}|nx:[a-z0-9][a-z0-9:._-]{0,95}")
_AMOUNT = re.compile(r"-?[1-9][0-9]{0,38}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)
_FIELDS = {"format", "id", "index", "kind", "memo", "postings", "previous_root", "time"}


@dataclass(frozen=True, slots=True)
class Posting:
    """What one entry adds to one account.

    Parameters
    ----------
    account
        A user name, or a system account such as ``nx:emission``.
    amount
        Units of 10^-18 NXS: above zero is received, below zero is given.  Never zero.
    """

    account: str
    amount: int

    def __post_init__(self) -> None:
        if not isinstance(self.account, str) or not _ACCOUNT.fullmatch(self.account):
            raise LedgerError(f"{self.account!r} is not the name of an account.")
        if isinstance(self.amount, bool) or not isinstance(self.amount, int):
            kind = type(self.amount).__name__
            raise LedgerError(f"The amount of {self.account} is {kind}, not an integer of units.")
        if self.amount == 0 or abs(self.amount) > MAX_UNITS:
            raise LedgerError(f"The amount of {self.account} is zero or more than fits.")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger.

    Parameters
    ----------
    index
        Position in the log, from 0.
    id
        UUIDv7 made by the caller; the same id is never entered twice.
    time
        When, as RFC 3339 text in UTC such as ``2026-11-22T10:00:00Z``.
    kind
        ``mint`` creates units out of `EMISSION`; ``transfer`` moves units that exist.
    postings
        At least two, sorted by account, each account once, sum zero.
    memo
        What for: text, integers and CIDs under text keys.  A mint for a contribution names it
        under ``contribution``.
    previous_root
        Root of the Merkle tree over all entries before this one, 32 bytes.

    Raises
    ------
    LedgerError
        If a field is malformed or the entry does not balance; the message names the entry.
    """

    index: int
    id: str
    time: str
    kind: Kind
    postings: Sequence[Posting]
    memo: Memo
    previous_root: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "postings", tuple(self.postings))
        object.__setattr__(self, "memo", MappingProxyType(dict(self.memo)))
        try:
            _check_fields(self)
            _check_postings(self)
        except NeuroNexusError as error:
            raise LedgerError(f"Entry {self.index!r}: {error}") from None

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """Read an entry from its canonical bytes.

        Raises
        ------
        LedgerError
            If the bytes are not exactly what `encode` writes for a valid entry.
        """
        try:
            node = dagcbor.decode(data)
        except NeuroNexusError as error:
            raise LedgerError(f"The bytes are no ledger entry: {error}") from None
        if not isinstance(node, dict) or set(node) != _FIELDS or node["format"] != FORMAT:
            raise LedgerError(f"The document is no ledger entry of format {FORMAT}.")
        if not isinstance(node["postings"], list) or not isinstance(node["memo"], dict):
            raise LedgerError("The entry's postings are no list, or its memo is no map.")
        return cls(
            index=cast(int, node["index"]),
            id=cast(str, node["id"]),
            time=cast(str, node["time"]),
            kind=cast(Kind, node["kind"]),
            postings=[_read_posting(item) for item in node["postings"]],
            memo=cast(Memo, node["memo"]),
            previous_root=cast(bytes, node["previous_root"]),
        )

    def encode(self) -> bytes:
        """Return the canonical bytes: what is stored, hashed and verified."""
        return dagcbor.encode(
            {
                "format": FORMAT,
                "id": self.id,
                "index": self.index,
                "kind": self.kind,
                "memo": self.memo,
                "postings": [
                    {"account": posting.account, "amount": str(posting.amount)}
                    for posting in self.postings
                ],
                "previous_root": self.previous_root,
                "time": self.time,
            }
        )

    @property
    def leaf_hash(self) -> bytes:
        """The entry's leaf in the Merkle tree, 32 bytes."""
        return merkle.leaf_hash(self.encode())


def _read_posting(node: Node) -> Posting:
    if not isinstance(node, dict) or set(node) != {"account", "amount"}:
        raise LedgerError("A posting holds exactly an account and an amount.")
    account, amount = node["account"], node["amount"]
    if not isinstance(amount, str) or not _AMOUNT.fullmatch(amount):
        raise LedgerError(f"{amount!r} is not an amount of units in decimal text.")
    return Posting(cast(str, account), int(amount))


def _check_fields(entry: Entry) -> None:
    if isinstance(entry.index, bool) or not isinstance(entry.index, int) or entry.index < 0:
        raise LedgerError("an index is an integer from 0.")
    check_id(entry.id)
    if entry.kind not in _KINDS:
        raise LedgerError(f"the kind is {entry.kind!r}, not one of {', '.join(_KINDS)}.")
    if not isinstance(entry.time, str) or not _is_time(entry.time):
        raise LedgerError(f"{entry.time!r} is no time in UTC such as 2026-11-22T10:00:00Z.")
    if not isinstance(entry.previous_root, bytes) or len(entry.previous_root) != merkle.HASH_SIZE:
        raise LedgerError(f"the previous root must be {merkle.HASH_SIZE} bytes.")
    for key, value in entry.memo.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, CID)):
            raise LedgerError(f"memo {key!r} is {type(value).__name__}, not text, integer or CID.")


def _check_postings(entry: Entry) -> None:
    accounts = [posting.account for posting in entry.postings]
    if len(accounts) < 2 or accounts != sorted(set(accounts)):
        raise LedgerError("postings are at least two, sorted by account, each account once.")
    total = sum(posting.amount for posting in entry.postings)
    if total != 0:
        raise LedgerError(f"the postings sum to {total} units, not to zero.")
    givers = {posting.account for posting in entry.postings if posting.amount < 0}
    if entry.kind == "mint" and givers != {EMISSION}:
        raise LedgerError(f"a mint takes from {EMISSION} and from no other account.")
    if entry.kind == "transfer" and EMISSION in accounts:
        raise LedgerError(f"a transfer does not touch {EMISSION}.")


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text[:19])
    except ValueError:
        return False
    return True
