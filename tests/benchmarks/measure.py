"""What a benchmark reports, and how it takes the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement beside its peer's, in the same unit.

    Attributes
    ----------
    what
        The work and our way of doing it.
    ours, against
        What was measured.
    peer
        What it is compared with.
    unit
        Of both.
    goal
        What the ratio should reach; None if it is only told.
    less
        Whether less is better.
    ratio, reached
        Ours over theirs; whether the goal was reached.
    """

    what: str
    ours: float
    against: float
    peer: str
    unit: str
    goal: float | None = None
    less: bool = False
    ratio: float = field(init=False)
    reached: bool | None = field(init=False)

    def __post_init__(self) -> None:
        ratio = self.ours / self.against
        object.__setattr__(self, "ratio", ratio)
        reached = None
        if self.goal is not None:
            reached = ratio <= self.goal if self.less else ratio >= self.goal
        object.__setattr__(self, "reached", reached)


def best_seconds(action: Callable[[], object], repeats: int = 5) -> float:
    """Return the shortest time that `action` took; the shortest is the least disturbed."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return min(taken)
