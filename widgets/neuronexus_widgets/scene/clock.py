"""The clock of the network view: motion that costs the kernel nothing.

A pythreejs animation runs in the browser at full frame rate.  It moves one object along x, whose
position the shaders read as the time, and turns the scene slowly.  The kernel only starts, sets
and stops it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pythreejs as three

TURN = 120.0
"""Seconds of one turn of the scene while something happens."""
_DAY = 3600.0


class Clock:
    """The scene's clock, which runs in the browser only while something moves.

    Parameters
    ----------
    world
        Group that turns.
    hand
        Object inside it whose x position shows the time.
    now
        Where to read the time, in seconds.
    """

    def __init__(
        self, world: three.Group, hand: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        steps = int(_DAY / TURN * 4)
        angles = np.arange(steps + 1) * math.pi / 4  # half of the angle turned
        turns = np.zeros((steps + 1, 4), np.float32)
        turns[:, 1], turns[:, 3] = np.sin(angles), np.cos(angles)
        tracks = (
            three.VectorKeyframeTrack(
                name=f"{hand}.position",
                times=np.array([0, _DAY], np.float32),
                values=np.array([0, 0, 0, _DAY, 0, 0], np.float32),
            ),
            three.QuaternionKeyframeTrack(
                name=".quaternion",
                times=np.arange(steps + 1, dtype=np.float32) * np.float32(TURN / 4),
                values=turns.ravel(),
            ),
        )
        clip = three.AnimationClip(name="clock", duration=_DAY, tracks=tracks)
        self._action = three.AnimationAction(three.AnimationMixer(world), clip, world)
        self._now = now
        self._shown = 0.0
        self._since: float | None = None

    @property
    def time(self) -> float:
        """What the clock shows, in seconds."""
        return self._shown + (0.0 if self._since is None else self._now() - self._since)

    @property
    def running(self) -> bool:
        """Whether the clock runs."""
        return self._since is not None

    def run(self) -> float:
        """Start the clock, or set it again if it runs; return how far it was turned back.

        A page that was opened while the clock ran learns the time from this.
        """
        shown = self.time
        turns = math.floor(shown / TURN) if shown > _DAY / 2 else 0
        back = turns * TURN
        if self.running:
            self._action.pause()
        self._shown, self._since = shown - back, self._now()
        self._action.time = self._shown
        self._action.play()
        return back

    def pause(self) -> None:
        """Stop the clock where it is."""
        if self.running:
            self._shown, self._since = self.time, None
            self._action.pause()
