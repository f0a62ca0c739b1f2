"""Where the hub, its members and the clients of a run are in space.

The hub is the origin.  Members sit on a flattened sphere at golden-angle steps, clients in a halo
around them; a place depends only on the rank, so nobody moves when somebody joins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]

GOLDEN_ANGLE = np.pi * (3.0 - np.sqrt(5.0))
MEMBER_RADIUS = 3.4
CLIENT_RADIUS = 5.2
FLATNESS = 0.62
CAPACITY = 256
"""How many members and clients are drawn at most."""

_CLIENT = re.compile(r"client (\d{1,6})")


def member_places(count: int) -> Points:
    """Return the places of members by rank.

    Parameters
    ----------
    count
        How many, zero or more.

    Returns
    -------
    Points
        Shape ``(count, 3)``, float32.
    """
    return _shell(count, MEMBER_RADIUS, turn=0.6)


def client_places(count: int) -> Points:
    """Return the places of a run's clients by index, shape ``(count, 3)``, float32."""
    places = _shell(count, 1.0, turn=2.1)
    spread = CLIENT_RADIUS + 0.7 * (_low_discrepancy(count, 3) - 0.5)
    return (places * spread[:, None]).astype(np.float32)


def client_index(name: str) -> int | None:
    """Return the index of an anonymous client such as ``client 3``, or None for other names."""
    match = _CLIENT.fullmatch(name)
    return int(match[1]) if match else None


def arrange(members: Sequence[str], clients: int) -> tuple[Points, Mapping[str, int]]:
    """Place everybody but the hub, members first, up to `CAPACITY`.

    Parameters
    ----------
    members
        Names in the order they joined.
    clients
        Number of anonymous clients.

    Returns
    -------
    Points, mapping
        Places of shape ``(n, 3)`` and the row of each name; clients are ``client 0`` and so on.
    """
    shown = list(members)[:CAPACITY]
    anonymous = max(0, min(clients, CAPACITY - len(shown)))
    rows = {name: row for row, name in enumerate(shown)}
    for index in range(anonymous):
        rows.setdefault(f"client {index}", len(shown) + index)
    places = np.concatenate([member_places(len(shown)), client_places(anonymous)])
    return places.astype(np.float32), rows


def rows_of(names: Iterable[str], rows: Mapping[str, int]) -> list[int]:
    """Return the rows of those names that are placed."""
    return [rows[name] for name in names if name in rows]


def _shell(count: int, radius: float, *, turn: float) -> Points:
    angle = turn + GOLDEN_ANGLE * np.arange(count)
    height = 2.0 * _low_discrepancy(count, 2) - 1.0
    height *= 0.86  # nobody straight above the hub, where labels would meet
    ring = np.sqrt(1.0 - height**2)
    return np.column_stack(
        [radius * ring * np.cos(angle), radius * FLATNESS * height, radius * ring * np.sin(angle)]
    ).astype(np.float32)


def _low_discrepancy(count: int, base: int) -> NDArray[np.float64]:
    """Return the first points of the van der Corput sequence: evenly spread at every length."""
    values = np.zeros(count)
    index = np.arange(1, count + 1)
    scale = 1.0 / base
    while index.any():
        values += scale * (index % base)
        index //= base
        scale /= base
    return values
