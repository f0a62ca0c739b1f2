"""Identifiers made by the caller: UUIDv7 (RFC 9562), which sort by time.

The id of a record is also its idempotency key: sending the same record twice has one effect.
Python's own ``uuid.uuid7`` exists from 3.14 on.
"""

from __future__ import annotations

import re
import secrets
import time

from neuronexus_kernel.errors import InvalidInputError

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_id() -> str:
    """Return a new UUIDv7 as 36 characters of text."""
    milliseconds = time.time_ns() // 1_000_000
    number = milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64
    number |= 2 << 62 | secrets.randbits(62)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def check_id(value: str, field: str = "id") -> str:
    """Return `value` if it is a UUIDv7 in text form.

    Raises
    ------
    InvalidInputError
        If it is not; the message names `field`.
    """
    if not is_id(value):
        raise InvalidInputError(f"{field} must be a UUIDv7 such as {new_id()}, not {value!r}.")
    return value


def is_id(value: object) -> bool:
    """Tell whether a value is a UUIDv7 in text form."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None
