"""JSON bodies of requests, and what is refused before anything is made of them."""

from __future__ import annotations

import re

import msgspec

from neuronexus_kernel.errors import InvalidInputError

MAX_DEPTH = 64
"""The most arrays and objects inside one another."""

MAX_VALUES = 200_000
"""The most values in arrays and objects, all together."""

# Texts are skipped as a whole: what looks like structure inside them is none.
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{\]},]', re.DOTALL)


def json_object(body: bytes) -> dict[str, object]:
    """Return a body that is one JSON object; nothing is an object without members.

    Raises
    ------
    InvalidInputError
        If it is something else, lies too deep or holds too much.
    """
    if not body:
        return {}
    _check_structure(body)
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"The body must be one JSON object: {error}.") from None


def _check_structure(body: bytes) -> None:
    # Counting is quick, and says of most bodies that there is nothing to look for.
    opening = body.count(b"[") + body.count(b"{")
    if opening <= MAX_DEPTH and body.count(b",") + opening <= MAX_VALUES:
        return
    depth = values = 0
    for match in _STRUCTURE.finditer(body):
        mark = match.group()
        if mark in (b"[", b"{"):
            depth += 1
            values += 1
            if depth > MAX_DEPTH:
                raise InvalidInputError(
                    f"The body has more than {MAX_DEPTH} arrays and objects inside one another."
                )
        elif mark in (b"]", b"}"):
            depth -= 1
        elif mark == b",":
            values += 1
        if values > MAX_VALUES:
            raise InvalidInputError(f"The body has more than {MAX_VALUES:,} values.")
