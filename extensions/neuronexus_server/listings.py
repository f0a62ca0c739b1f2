"""Listings page by page: ``limit`` and ``cursor`` in the query, ``Link: rel="next"`` in the answer.

Every operation that returns a list is a listing.  A cursor says where the page before it ended, so
that no record is given twice or left out when others are added meanwhile.  Long listings are
cut by the database (`hub.paging`), the others here.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.hub.paging import Place, Window

USUAL, MOST = 500, 1000
"""How many records a page has, if nothing is said, and at most."""

# By what the long ones are sorted; see the services.
_PLACES: dict[str, tuple[str, ...]] = {
    "roots": ("created", "cid", "visibility"),
    "versions": ("number",),
    "runs": ("created", "id"),
    "contributions": ("created", "id"),
    "ledger_lines": ("index", "account"),
}
# What tells the records of the others apart, where it is not their first field.
_NAMES = {"history": "number"}
_NUMBERS = frozenset({"index", "number"})
_LARGEST = 2**63 - 1


class Listing:
    """One page of a listing.

    Parameters
    ----------
    operation
        Name of the `Hub` method.
    query
        What the query says; ``limit`` and ``cursor`` are taken out of it.

    Raises
    ------
    InvalidInputError
        If they are none.
    """

    def __init__(self, operation: str, query: dict[str, str]) -> None:
        self._operation = operation
        self._query = query
        self.limit = _limit(query.pop("limit", str(USUAL)))
        cursor = query.pop("cursor", None)
        self._after = None if cursor is None else _decode(cursor, operation)

    @property
    def _fields(self) -> tuple[str, ...] | None:
        return _PLACES.get(self._operation)

    @property
    def arguments(self) -> dict[str, object]:
        """What the hub's method takes besides the parameters of the interface."""
        # One more than the page has tells whether there is another.
        is_cut_there = self._fields is not None
        return {"window": Window(self.limit + 1, self._after)} if is_cut_there else {}

    def page(self, found: Sequence[Any]) -> tuple[Sequence[Any], str | None]:
        """Return the records of the page, and the address of the next page if there is one.

        Parameters
        ----------
        found
            What the hub's method returned.
        """
        start = 0 if self._fields is not None or self._after is None else self._start(found)
        page = found[start : start + self.limit]
        if len(found) <= start + self.limit:
            return page, None
        last, names = page[-1], self._fields
        place: Place = (start + self.limit, self._name(last))
        if names is not None:
            place = tuple(getattr(last, name) for name in names)
        return page, self._link(_encode(self._operation, place))

    def _start(self, found: Sequence[Any]) -> int:
        """Return where a page begins in a listing that is cut here."""
        assert self._after is not None
        position, name = self._after
        # Where it was, or further down when records were added before it.
        for at in (position, *range(len(found), 0, -1)):
            if isinstance(at, int) and 0 < at <= len(found) and self._name(found[at - 1]) == name:
                return at
        return position if isinstance(position, int) else 0

    def _name(self, record: Any) -> str | int:
        if not is_dataclass(record):
            return str(record)
        name = getattr(record, _NAMES.get(self._operation, fields(record)[0].name))
        return name if isinstance(name, (str, int)) else str(name)

    def _link(self, cursor: str) -> str:
        return "?" + urlencode({**self._query, "limit": self.limit, "cursor": cursor})


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MOST):
        raise InvalidInputError(f"limit is a number from 1 to {MOST}, not {text[:40]!r}.")
    return int(text)


def _encode(operation: str, place: Place) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([operation, *place])).decode().rstrip("=")


def _decode(cursor: str, operation: str) -> Place:
    try:
        data = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), b"-_", validate=True)
        name, *place = msgspec.json.decode(data, type=list[str | int])
    except (ValueError, msgspec.MsgspecError):
        raise _no_cursor() from None
    kinds = [(int,) if field in _NUMBERS else (str,) for field in _PLACES.get(operation, ())]
    if name != operation or not _are(place, kinds or [(int,), (int, str)]):
        raise _no_cursor()
    return tuple(place)


def _are(values: list[str | int], kinds: Sequence[tuple[type, ...]]) -> bool:
    return len(values) == len(kinds) and all(
        isinstance(value, kind) and (isinstance(value, str) or 0 <= value <= _LARGEST)
        for value, kind in zip(values, kinds, strict=True)
    )


def _no_cursor() -> InvalidInputError:
    return InvalidInputError(
        "cursor is not one of this listing; take it from the link to the next page."
    )
