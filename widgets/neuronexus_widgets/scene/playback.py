"""What moves in the network view, as plain values and pure functions of events and time.

A `Spark` travels on the line between the hub and one node, or is a ring that opens around a
node.  Where all sparks are at a moment follows from their birth and life alone (`where`); the
same rule is written as a shader in ``network_view.py`` and runs on the viewer's graphics card,
so that sparks move at full frame rate while the kernel sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neuronexus_kernel.hub.records import Event

Way = Literal["out", "in", "ring"]
HUB = -1
"""Row of the hub in place of a node's row."""
SLOTS = 512
"""How many sparks can be alive at once."""
TRAIL = 5
"""Sparks that follow each other as one comet."""

_WAYS: tuple[Way, ...] = ("out", "in", "ring")
COLOURS = ("accent", "green", "gold", "violet", "red")
_TRAVEL = 0.9
_THINK = 0.25


@dataclass(frozen=True, slots=True)
class Spark:
    """Something that moves.

    Parameters
    ----------
    row
        Row of the node at the outer end, or `HUB` for a ring around the hub.
    way
        ``out`` from the hub, ``in`` to the hub, or ``ring`` around the node.
    birth, life
        When it appears and for how long, in seconds.
    colour
        Index into `COLOURS`.
    size
        Relative size.
    """

    row: int
    way: Way
    birth: float
    life: float
    colour: int
    size: float = 1.0

    @property
    def death(self) -> float:
        """When it is gone."""
        return self.birth + self.life


def choreograph(event: Event, now: float, rows: Mapping[str, int]) -> list[Spark]:
    """Return the sparks of an event.

    Parameters
    ----------
    event
        What happened.
    now
        Time of the first spark, in seconds on the scene's clock.
    rows
        Row of each node that is drawn, by name.
    """
    match event.kind:
        case "run.round":
            return _round(_strings(event.data.get("clients")), now, rows)
        case "contribution.submitted":
            return _from_author(event, now, rows)
        case "contribution.rewarded":
            return _reward(event, now, rows)
        case "contribution.rejected" | "contribution.failed":
            return [_ring(HUB, now, "red")]
        case "head.changed" | "recipe.changed" | "data.joined":
            return [_ring(HUB, now, "gold", 1.5), _ring(HUB, now + 0.25, "gold", 1.2)]
        case "account.registered":
            return [_ring(rows[event.subject], now, "green")] if event.subject in rows else []
        case _:
            return []


def _round(clients: Sequence[str], now: float, rows: Mapping[str, int]) -> list[Spark]:
    """The global model goes out to the cohort, updates come back, the hub averages them."""
    sparks = []
    last = now
    for order, name in enumerate(clients):
        if name not in rows:
            continue
        delay = 0.3 * _jitter(order)
        answer = now + delay + _TRAVEL + _THINK + 0.35 * _jitter(order + 7)
        sparks += _comet(rows[name], "out", now + delay, "accent")
        sparks += _comet(rows[name], "in", answer, "green")
        last = max(last, answer + _TRAVEL)
    return [*sparks, _ring(HUB, last, "accent")] if sparks else []


def _from_author(event: Event, now: float, rows: Mapping[str, int]) -> list[Spark]:
    author = event.data.get("author")
    if not isinstance(author, str) or author not in rows:
        return [_ring(HUB, now, "violet")]
    comet = _comet(rows[author], "in", now, "violet", 1.6)
    return [_ring(rows[author], now, "violet"), *comet, _ring(HUB, now + _TRAVEL, "violet")]


def _reward(event: Event, now: float, rows: Mapping[str, int]) -> list[Spark]:
    author = event.data.get("author")
    if not isinstance(author, str) or author not in rows:
        return [_ring(HUB, now, "gold")]
    row = rows[author]
    rings = [_ring(row, now + _TRAVEL + 0.2 * step, "gold", 1.5 - 0.2 * step) for step in range(3)]
    comets = [
        spark for step in range(4) for spark in _comet(row, "out", now + 0.12 * step, "gold", 1.5)
    ]
    return [_ring(HUB, now, "gold"), *comets, *rings]


def _comet(row: int, way: Way, birth: float, colour: str, size: float = 1.0) -> list[Spark]:
    return [
        Spark(row, way, birth + 0.028 * tail, _TRAVEL, COLOURS.index(colour), size * 0.82**tail)
        for tail in range(TRAIL)
    ]


def _ring(row: int, birth: float, colour: str, size: float = 1.0) -> Spark:
    return Spark(row, "ring", birth, 1.1, COLOURS.index(colour), size)


def _jitter(order: int) -> float:
    return float((order * 0.6180339887) % 1.0)


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def keep(sparks: Iterable[Spark], now: float) -> list[Spark]:
    """Return the sparks not yet gone at `now`, the newest `SLOTS` of them."""
    return sorted((spark for spark in sparks if spark.death > now), key=_birth)[-SLOTS:]


def shift(sparks: Iterable[Spark], seconds: float) -> list[Spark]:
    """Return the sparks on a clock that shows `seconds` less."""
    return [replace(spark, birth=spark.birth - seconds) for spark in sparks]


def end(sparks: Iterable[Spark]) -> float:
    """Return when the last spark is gone; minus infinity for none."""
    return max((spark.death for spark in sparks), default=float("-inf"))


def _birth(spark: Spark) -> float:
    return spark.birth


def encode(
    sparks: Sequence[Spark], places: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return sparks as the buffers of one geometry.

    Parameters
    ----------
    sparks
        At most `SLOTS`.
    places
        Places of the nodes, shape ``(n, 3)``.

    Returns
    -------
    outer ends, shape ``(SLOTS, 3)``, and looks, shape ``(SLOTS, 4)``: birth, life, way and
    colour as ``10 * way + colour``, size.  Empty slots have life 0.
    """
    ends = np.zeros((SLOTS, 3), np.float32)
    looks = np.zeros((SLOTS, 4), np.float32)
    for slot, spark in enumerate(sparks[:SLOTS]):
        if spark.row != HUB:
            ends[slot] = places[spark.row]
        code = 10 * _WAYS.index(spark.way) + spark.colour
        looks[slot] = (spark.birth, spark.life, code, spark.size)
    return ends, looks


def where(
    ends: NDArray[np.float32], looks: NDArray[np.float32], now: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return where sparks are at `now` and which are alive: the shader's rule, for reference."""
    birth, life, way = looks[:, 0], looks[:, 1], looks[:, 2] // 10
    alive = (life > 0) & (now >= birth) & (now < birth + life)
    part = np.clip((now - birth) / np.maximum(life, 1e-6), 0.0, 1.0)
    eased = part * part * (3.0 - 2.0 * part)
    along = np.where(way == 0, eased, np.where(way == 1, 1.0 - eased, 1.0))
    return (ends * along[:, None]).astype(np.float32), alive
