"""Where the hub, its members and the clients of a run are in space.

The hub is the origin.  Members sit on a flattened sphere, clients in a halo around them.  Places
follow a low-discrepancy sequence (R2: Roberts 2018, "The unreasonable effectiveness of
quasirandom sequences"): they are evenly spread at every number, and a place depends only on the
rank, so nobody moves when somebody joins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]

PLASTIC = 1.3247179572447460
"""The real root of x³ = x + 1."""
MEMBER_RADIUS = 3.9
CLIENT_RADIUS = 5.5
FLATNESS = 0.62
CAPACITY = 256
"""How many members and clients are drawn at most."""


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
    return (MEMBER_RADIUS * _shell(count, turn=0.0)).astype(np.float32)


def client_places(count: int) -> Points:
    """Return the places of a run's clients by index, shape ``(count, 3)``, float32."""
    spread = CLIENT_RADIUS + 0.7 * (np.arange(count) * (PLASTIC - 1.0) % 1.0 - 0.5)
    return (spread[:, None] * _shell(count, turn=0.13)).astype(np.float32)


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


def _shell(count: int, *, turn: float) -> NDArray[np.float64]:
    """Return places on a flattened sphere of radius 1, turned by a part of a full turn."""
    rank = np.arange(1, count + 1)
    angle = 2.0 * np.pi * ((0.5 + turn + rank / PLASTIC) % 1.0)
    height = 2.0 * ((0.5 + rank / PLASTIC**2) % 1.0) - 1.0
    height *= 0.86  # nobody straight above the hub, where labels would meet
    ring = np.sqrt(1.0 - height**2)
    return np.column_stack([ring * np.cos(angle), FLATNESS * height, ring * np.sin(angle)])
