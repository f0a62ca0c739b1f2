"""What a benchmark reports, and how it takes the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement beside its peer's, in the same unit."""

    what: str
    ours: float
    against: float
    peer: str
    unit: str
    ratio: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", self.ours / self.against)


def best_seconds(action: Callable[[], object], repeats: int = 5) -> float:
    """Return the shortest time that `action` took; the shortest is the least disturbed."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return min(taken)
