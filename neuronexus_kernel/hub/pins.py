"""The names under which a hub pins, in its own folder: nobody takes those pins back by hand.

What the hub records it keeps for as long as it records it, and what an account promised to keep
until that account takes the promise back.  Pins under other names, or none, are those of whoever
uses the store on the command line.
"""

from __future__ import annotations

OWN = "hub"
"""Of what the hub records."""

_ACCOUNT = "account:"


def of(account: str) -> str:
    """Return the name of an account's promises."""
    return f"{_ACCOUNT}{account}"


def is_taken(name: str) -> bool:
    """Tell whether a name is that of pins of the hub or its accounts."""
    return name == OWN or name.startswith(_ACCOUNT)
