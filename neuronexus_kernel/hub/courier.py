"""A courier: a thread that brings roots to a place elsewhere, however long that does not answer.

What it is told of it lays into an outbox on disk, and then carries out what is due there: at once,
or when the outbox has left the place in peace for long enough.  Once after its start it also asks
what the place lacks: what was recorded before there was such a place, or by a process that was
killed before it could lay it into the outbox.  Whoever tells it of a root never waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from neuronexus_kernel.content import CID
from neuronexus_kernel.errors import NeuroNexusError, StoreUnavailable
from neuronexus_kernel.storage.outbox import Action, Outbox, Pushed, Task

Check = Callable[[], None]
Deliver = Callable[[CID, Check], None]

_log = logging.getLogger(__name__)

_CLOSING = 5.0
"""Seconds that what was broken off has to end."""
_LEAST = 1.0
"""Seconds between two attempts, at least, unless there is news."""
_TROUBLE = 30.0
"""Seconds before another attempt when something here went wrong: the disk is full, say."""


class Courier:
    """Brings roots to one place.

    Parameters
    ----------
    place
        What it is called in the log: ``"IPFS node"``.
    outbox
        What waits to be brought there; of this courier alone.
    deliver
        Brings a root there; see `Outbox.push` for what it raises.  What it is given beside the
        root it calls now and then: that raises an error when the hub is being closed.
    lacking
        Returns those of all roots that the place lacks.
    break_off
        Ends what is under way with the place.
    """

    def __init__(
        self,
        place: str,
        outbox: Outbox,
        deliver: Deliver,
        lacking: Callable[[], Iterable[CID]],
        break_off: Callable[[], None],
    ) -> None:
        self._place = place
        self._outbox = outbox
        self._deliver = deliver
        self._lacking = lacking
        self._break_off = break_off
        self._news: deque[CID] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._compare_at: float | None = 0.0  # None when it is done
        self._at_work = False
        self._away = False
        self._told: dict[CID | str, str] = {}
        self._thread: threading.Thread | None = None

    @property
    def at_work(self) -> bool:
        """Whether something is on its way, as far as the place answers."""
        return self._at_work and not self._away

    def note(self, root: CID) -> None:
        """Take up a root; it is laid into the outbox soon."""
        if self._thread is not None:
            self._news.append(root)
            self._wake.set()

    def start(self) -> None:
        """Begin, unless it has begun; the place is tried at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="nx-courier", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End soon: what is under way is broken off, and done again after the next start."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._break_off()
            self._thread.join(_CLOSING)

    # -- its thread ------------------------------------------------------------------------

    def _work(self) -> None:
        pause: float | None = 0.0
        is_first = True
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self._closing:
                return
            try:
                if is_first:
                    self._outbox.awake()
                    is_first = False
                pause = self._turn()
                self._told.pop("trouble", None)
            except NeuroNexusError as error:
                pause = _TROUBLE
                self._tell_once("trouble", f"What is for the {self._place} waits: {error}")
            except Exception:
                pause = _TROUBLE
                if not self._closing:
                    _log.exception("The courier to the %s made a mistake.", self._place)

    def _turn(self) -> float | None:
        """Do what is due; return in how many seconds to look again, or None for when told."""
        self._lay_down()
        problem = self._compare()
        pushed = Pushed()
        if not problem:
            self._at_work = True
            try:
                pushed = self._outbox.push(self._carry_out, due=True)
            finally:
                self._at_work = False
        self._tell(problem or pushed.problem, pushed.failed)
        pauses = [_LEAST] if self._news else []
        due = self._outbox.due_in()
        if due is not None:
            pauses.append(due)
        if self._compare_at is not None:
            pauses.append(max(self._compare_at - time.monotonic(), self._outbox.resting()))
        return max(min(pauses), _LEAST) if pauses else None

    def _lay_down(self) -> None:
        while self._news:
            self._outbox.put(self._news[0], Action.KEEP)
            self._news.popleft()

    def _compare(self) -> str:
        """Lay down what the place lacks, unless that was done; return why it does not answer."""
        if self._compare_at is None or self._compare_at > time.monotonic():
            return ""
        if self._outbox.resting():
            return ""
        try:
            lacking = list(self._lacking())
        except StoreUnavailable as error:
            self._outbox.rest()
            return str(error)
        except NeuroNexusError as error:  # It answers otherwise than it should, say.
            self._compare_at = time.monotonic() + _TROUBLE
            self._tell_once("compare", f"It is not known what the {self._place} lacks: {error}")
            return ""
        for root in lacking:
            self._check()
            self._outbox.put(root, Action.KEEP)
        self._compare_at = None
        self._outbox.awake()
        return ""

    def _carry_out(self, task: Task) -> None:
        self._check()
        self._lay_down()
        self._deliver(task.root, self._check)
        self._told.pop(task.root, None)
        if self._away:
            self._come_back()

    def _check(self) -> None:
        if self._closing:
            raise StoreUnavailable("The hub is being closed.")

    # -- what the operator should know -------------------------------------------------------

    def _tell(self, problem: str, failed: Iterable[tuple[CID, str]]) -> None:
        for root, reason in failed:
            self._tell_once(root, f"{root} could not be brought to the {self._place}: {reason}")
        if problem and not self._away and not self._closing:
            self._away = True
            count = len(self._outbox)
            _log.warning(
                "The %s is away, and %d roots wait for it: %s", self._place, count, problem
            )
        elif self._away and not problem and self._compare_at is None and not self._outbox.resting():
            self._come_back()

    def _come_back(self) -> None:
        self._away = False
        _log.warning("The %s is back; %d roots wait for it.", self._place, len(self._outbox))

    def _tell_once(self, about: CID | str, text: str) -> None:
        if self._told.get(about) != text and not self._closing:
            self._told[about] = text
            _log.warning("%s", text)
