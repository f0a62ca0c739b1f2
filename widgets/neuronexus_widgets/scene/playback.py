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
TRAIL = 4
"""Sparks that follow each other as one comet, fewer in a large cohort."""
PER_ROUND = 96
"""How many sparks one round may use: several rounds are in flight at once."""

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
        case "ledger.entry":
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
    cohort = [rows[name] for name in clients if name in rows]
    cohort = cohort[:: max(1, -(-2 * len(cohort) // PER_ROUND))]
    tail = max(1, min(TRAIL, PER_ROUND // max(1, 2 * len(cohort))))
    sparks = []
    last = now
    for order, row in enumerate(cohort):
        delay = 0.3 * _jitter(order)
        answer = now + delay + _TRAVEL + _THINK + 0.35 * _jitter(order + 7)
        sparks += _comet(row, "out", now + delay, "accent", tail=tail)
        sparks += _comet(row, "in", answer, "green", tail=tail)
        last = max(last, answer + _TRAVEL)
    return [*sparks, _ring(HUB, last, "accent")] if sparks else []


def _from_author(event: Event, now: float, rows: Mapping[str, int]) -> list[Spark]:
    author = event.data.get("author")
    if not isinstance(author, str) or author not in rows:
        return [_ring(HUB, now, "violet")]
    comet = _comet(rows[author], "in", now, "violet", size=1.6)
    return [_ring(rows[author], now, "violet"), *comet, _ring(HUB, now + _TRAVEL, "violet")]


def _reward(event: Event, now: float, rows: Mapping[str, int]) -> list[Spark]:
    """Gold goes to everybody whom an entry of the ledger pays."""
    amounts = event.data.get("amounts")
    paid = [rows[name] for name in amounts if name in rows] if isinstance(amounts, dict) else []
    sparks = [_ring(HUB, now, "gold")]
    for row in paid[:8]:
        for step in range(4):
            sparks += _comet(row, "out", now + 0.12 * step, "gold", size=1.5)
        for step in range(3):
            sparks.append(_ring(row, now + _TRAVEL + 0.2 * step, "gold", 1.5 - 0.2 * step))
    return sparks


def _comet(
    row: int, way: Way, birth: float, colour: str, *, size: float = 1.0, tail: int = TRAIL
) -> list[Spark]:
    return [
        Spark(row, way, birth + 0.032 * step, _TRAVEL, COLOURS.index(colour), size * 0.8**step)
        for step in range(tail)
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


@dataclass(frozen=True, slots=True)
class Buffers:
    """Sparks as rows of numbers, one row a slot; empty slots have life 0.

    Attributes
    ----------
    ends
        Outer ends, shape ``(SLOTS, 3)``.
    births
        In seconds, shape ``(SLOTS,)``.
    looks
        Life, way, colour and size, shape ``(SLOTS, 4)``.
    """

    ends: NDArray[np.float32]
    births: NDArray[np.float32]
    looks: NDArray[np.float32]


def encode(sparks: Sequence[Spark], places: NDArray[np.float32]) -> Buffers:
    """Return sparks as buffers.

    Parameters
    ----------
    sparks
        At most `SLOTS` are taken.
    places
        Places of the nodes, shape ``(n, 3)``.
    """
    ends = np.zeros((SLOTS, 3), np.float32)
    births = np.zeros(SLOTS, np.float32)
    looks = np.zeros((SLOTS, 4), np.float32)
    for slot, spark in enumerate(sparks[:SLOTS]):
        if spark.row != HUB:
            ends[slot] = places[spark.row]
        births[slot] = spark.birth
        looks[slot] = (spark.life, _WAYS.index(spark.way), spark.colour, spark.size)
    return Buffers(ends, births, looks)


def where(buffers: Buffers, now: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return where sparks are at `now` and which are alive: the shader's rule, for reference.

    Returns
    -------
    places of shape ``(SLOTS, 3)`` and a mask of shape ``(SLOTS,)``.
    """
    births, life, way = buffers.births, buffers.looks[:, 0], buffers.looks[:, 1]
    alive = (life > 0) & (now >= births) & (now < births + life)
    part = np.clip((now - births) / np.maximum(life, 1e-6), 0.0, 1.0)
    eased = part * part * (3.0 - 2.0 * part)
    along = np.where(way == 0, eased, np.where(way == 1, 1.0 - eased, 1.0))
    return (buffers.ends * along[:, None]).astype(np.float32), alive
