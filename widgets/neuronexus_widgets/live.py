"""Events from the hub, brought to whoever draws them: in batches, in order, never silently gone.

One thread follows the event stream, another hands on what has come at most ten times a second:
a page has no back-pressure, so what happens faster is merged here.  Batches are drawn on the
kernel's own loop; while that loop is busy with a long cell they are drawn from the thread, so
that a dashboard moves even under the cell that trains.  When the hub goes away the reader is
told, and the stream goes on from the last number seen once it is back.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from neuronexus_kernel.errors import AuthenticationError, NeuroNexusError
from neuronexus_kernel.hub.records import Contribution, Event, Network

if TYPE_CHECKING:
    from neuronexus_kernel.hub.hub import Hub

Connection = Literal["live", "reconnecting", "signed-out"]
Post = Callable[[Callable[[], None]], None]

INTERVAL = 0.1
"""Shortest time between two batches, in seconds."""
HEARTBEAT = 1.0
"""Longest time between two batches, so that clocks on the page go on."""
LOOK_EVERY = 10.0
"""How often the hub is asked who is here, in seconds."""
LOOK_AGAIN = 1.0
"""How soon it is asked again when an event changes more of the network than it tells."""
BUSY_AFTER = 0.5
"""How long the loop may leave a batch waiting before the thread delivers it itself."""

_log = logging.getLogger(__name__)
_TELLS_MORE = frozenset({"contribution.accepted", "contribution.rewarded"})
_MOVES_PEOPLE = frozenset({"account.registered", "run.finished", "contribution.rewarded"})


@dataclass(frozen=True, slots=True)
class Batch:
    """What has happened since the batch before.

    Attributes
    ----------
    events
        New events, oldest first.
    network
        A fresh look at the network, from time to time.
    contributions
        Contributions of which the record tells more than their events.
    connection
        How the stream stands.
    gap
        Whether events were missed, so that a new snapshot is needed.
    """

    events: tuple[Event, ...] = ()
    network: Network | None = None
    contributions: tuple[Contribution, ...] = ()
    connection: Connection = "live"
    gap: bool = False


class Live:
    """Follow a hub and deliver batches until `stop`.

    Parameters
    ----------
    hub
        Whose events to follow.
    on_batch
        Called with each `Batch`, never by two threads at once.  What it raises is logged.
    since
        Number of the last event already known.
    post
        How to run a function on the loop that draws; by default the running asyncio loop, or the
        calling thread if there is none.
    """

    def __init__(
        self,
        hub: Hub,
        on_batch: Callable[[Batch], None],
        *,
        since: int = 0,
        post: Post | None = None,
    ) -> None:
        self._hub = hub
        self._on_batch = on_batch
        self._post = post or on_running_loop()
        self._since = since
        self._events: list[Event] = []
        self._connection: Connection = "live"
        self._gap = False
        self._batch: Batch | None = None
        self._taken = threading.Event()
        self._drawing = threading.RLock()
        self._news = threading.Condition()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start to follow; returns at once."""
        for name, work in (("follow", self._follow), ("deliver", self._deliver)):
            thread = threading.Thread(target=work, name=f"neuronexus-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Deliver nothing more; the thread that waits for the hub ends with the next event."""
        self._stopped.set()
        with self._news:
            self._news.notify_all()

    @property
    def lock(self) -> threading.RLock:
        """Held while a batch is drawn; hold it to change what is drawn from elsewhere."""
        return self._drawing

    # -- following --------------------------------------------------------------------------

    def _follow(self) -> None:
        pause = 0.25
        while not self._stopped.is_set():
            try:
                self._hub.network()  # a call that fails at once tells that the hub is away
                self._tell("live")
                pause = 0.25
                for event in self._hub.follow(self._since):
                    if self._stopped.is_set():
                        return
                    self._take(event)
            except AuthenticationError:
                self._tell("signed-out")
            except (NeuroNexusError, OSError) as error:
                _log.info("The event stream broke off: %s", error)
                self._tell("reconnecting")
            except Exception:
                _log.exception("The event stream broke off.")
                self._tell("reconnecting")
            else:
                self._tell("reconnecting")
            self._stopped.wait(pause)
            pause = min(pause * 2, 5.0)

    def _take(self, event: Event) -> None:
        with self._news:
            if event.seq <= self._since:
                return
            self._gap = self._gap or event.previous != self._since
            self._since = event.seq
            self._events.append(event)
            self._connection = "live"
            self._news.notify_all()

    def _tell(self, connection: Connection) -> None:
        with self._news:
            if connection != self._connection:
                self._connection = connection
                self._news.notify_all()

    # -- delivering -------------------------------------------------------------------------

    def _deliver(self) -> None:
        told: Connection | None = None
        looked = time.monotonic()
        look_at = looked + LOOK_EVERY
        while not self._stopped.is_set():
            with self._news:
                if not self._events and self._connection == told:
                    self._news.wait(HEARTBEAT)
                events, self._events = tuple(self._events), []
                gap, self._gap = self._gap, False
                connection = told = self._connection
            if self._stopped.is_set():
                return
            network: Network | None = None
            contributions: tuple[Contribution, ...] = ()
            if any(event.kind in _MOVES_PEOPLE for event in events):
                look_at = min(look_at, looked + LOOK_AGAIN)
            if connection == "live" and time.monotonic() >= look_at:
                network, looked = self._look(), time.monotonic()
                look_at = looked + LOOK_EVERY
            if any(event.kind in _TELLS_MORE for event in events):
                contributions = self._read(events)
            self._hand_over(Batch(events, network, contributions, connection, gap))
            self._stopped.wait(INTERVAL)

    def _look(self) -> Network | None:
        try:
            return self._hub.network()
        except Exception as error:
            _log.info("The network could not be read: %s", error)
            return None

    def _read(self, events: tuple[Event, ...]) -> tuple[Contribution, ...]:
        wanted = {event.subject for event in events if event.kind in _TELLS_MORE}
        try:
            return tuple(self._hub.contribution(name) for name in sorted(wanted))
        except Exception as error:
            _log.info("A contribution could not be read: %s", error)
            return ()

    def _hand_over(self, batch: Batch) -> None:
        self._batch = batch
        self._taken.clear()
        try:
            self._post(self._draw)
        except RuntimeError:  # the loop is closed: the kernel is going down
            self.stop()
            return
        if not self._taken.wait(BUSY_AFTER):
            self._draw()

    def _draw(self) -> None:
        with self._drawing:
            batch, self._batch = self._batch, None
            if batch is None or self._stopped.is_set():
                return
            try:
                self._on_batch(batch)
            except Exception:
                _log.exception("A batch of events could not be drawn.")
            finally:
                self._taken.set()


def on_running_loop() -> Post:
    """Return how to run a function on the running asyncio loop, or at once if there is none."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return lambda work: work()
    return lambda work: _call_soon(loop, work)


def _call_soon(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(work)
