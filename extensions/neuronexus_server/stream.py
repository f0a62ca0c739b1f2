"""Events as they happen: history first, then live, without a gap or a repetition.

The hub tells of each commit on its writer thread; `Broadcast` carries that to the event loop and
hands it to every reader.  A reader subscribes before it reads history, so that nothing falls in
between, and drops what history already held.  A reader that cannot keep up is not remembered
for: its queue is thrown away and it reads history again from the last event it was given.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from neuronexus_kernel.errors import AuthenticationError, InvalidInputError
from neuronexus_kernel.hub.events import chain
from neuronexus_server.authorizer import ForMembers
from neuronexus_server.guests import SIGNED_OUT
from neuronexus_server.problems import Problems

if TYPE_CHECKING:
    from neuronexus_kernel.hub.records import Event

_PAGE = 500
_BACKLOG = 2000
_PING_SECONDS = 15.0


class Reader:
    """What one stream has yet to send.

    Parameters
    ----------
    backlog
        Events to remember for it before it must read history again.
    """

    def __init__(self, backlog: int = _BACKLOG) -> None:
        self._events: deque[Event] = deque()
        self._backlog = backlog
        self._news = asyncio.Event()
        self.behind = True

    def offer(self, events: Sequence[Event]) -> None:
        """Add events that were just committed."""
        if not self.behind:
            self._events.extend(events)
            if len(self._events) > self._backlog:
                self._events.clear()
                self.behind = True
        self._news.set()

    def caught_up(self) -> None:
        """Note that history has been read to its end, and remember events from here on."""
        self.behind = False

    def take(self) -> list[Event]:
        """Return what was committed since the last call."""
        self._news.clear()
        taken = list(self._events)
        self._events.clear()
        return taken

    async def wait(self) -> None:
        """Wait until there is something to take."""
        await self._news.wait()


class Broadcast:
    """Carries commits from the hub's writer thread to readers on the event loop.

    Parameters
    ----------
    subscribe
        Registers a callback for commits and returns how to take it back.
    """

    def __init__(
        self, subscribe: Callable[[Callable[[Sequence[Event]], None]], Callable[[], None]]
    ) -> None:
        self._readers: set[Reader] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsubscribe = subscribe(self._committed)

    def join(self) -> Reader:
        """Return a reader that is offered every commit from now on."""
        self._loop = asyncio.get_running_loop()
        reader = Reader()
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Offer a reader nothing more."""
        self._readers.discard(reader)

    def close(self) -> None:
        """Stop listening to the hub."""
        self._unsubscribe()

    def _committed(self, events: Sequence[Event]) -> None:
        # A loop that was closed meanwhile has no readers; the commit must not suffer from that.
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._offer, tuple(events))

    def _offer(self, events: Sequence[Event]) -> None:
        for reader in self._readers:
            reader.offer(events)


class StreamHandler(ForMembers, Problems, WebSocketHandler, JupyterHandler):
    """Sends JSON lists of events above ``since``, of one project if asked.

    Each event's ``previous`` is the one sent before it, ``since`` for the first.
    """

    def set_default_headers(self) -> None:
        """Leave the headers to the WebSocket handshake."""

    @property
    def ping_interval(self) -> float:  # type: ignore[override]
        """Seconds between pings; a reader that does not answer one is let go."""
        return _PING_SECONDS

    def check_origin(self, origin: str) -> bool:
        """Refuse pages of other sites, unless they bring a token."""
        return JupyterHandler.check_origin(self, origin)

    async def prepare(self) -> None:  # type: ignore[override]
        """Identify the visitor."""
        from neuronexus_server.context import context_of

        await JupyterHandler.prepare(self, _redirect_to_login=False)
        await context_of(self).identify(self)

    @allow_unauthenticated
    async def get(self) -> None:  # type: ignore[override]
        """Check what is asked for and open the stream."""
        from neuronexus_server.context import visitor_of

        if self.neuronexus_credentials and self.current_user is None:
            raise AuthenticationError("The sign-in has ended; sign in again.")
        self._hub = visitor_of(self)
        self._last = self._since()
        self._project = self.get_query_argument("project", "") or None
        self._task: asyncio.Task[None] | None = None
        await super().get()

    def open(self) -> None:  # type: ignore[override]
        """Begin to send."""
        from neuronexus_server.context import context_of

        super().open()
        self._context = context_of(self)
        self._context.streams += 1
        self._task = asyncio.ensure_future(self._send_until_closed())

    def on_message(self, message: str | bytes) -> None:
        """Ignore what the reader says; there is nothing to say."""

    def on_close(self) -> None:
        """Stop sending."""
        if self._task is not None:
            self._task.cancel()
            self._context.streams -= 1
            self._context.touch()

    async def _send_until_closed(self) -> None:
        reader = self._context.broadcast.join()
        forget = self._context.guests.join(self._hub, lambda: self.close(SIGNED_OUT))
        try:
            while True:
                if reader.behind:
                    await self._send_history(reader)
                await reader.wait()
                await self._send(reader.take())
        except (WebSocketClosedError, asyncio.CancelledError):
            return
        except AuthenticationError:
            self.close(SIGNED_OUT)
        except Exception:
            self.log.exception("An event stream failed")
            self.close(1011)
        finally:
            forget()
            self._context.broadcast.leave(reader)

    async def _send_history(self, reader: Reader) -> None:
        # From here on the reader remembers what is committed; history covers what was before.
        reader.take()
        reader.caught_up()
        while not reader.behind:
            page = await self._context.call(
                self._hub.events, self._last, limit=_PAGE, project=self._project
            )
            await self._send(page)
            if len(page) < _PAGE:
                return

    async def _send(self, events: Sequence[Event]) -> None:
        chained = chain(events, self._last, project=self._project)
        if chained:
            self._last = chained[-1].seq
            await self.write_message(msgspec.json.encode(chained))

    def _since(self) -> int:
        try:
            return max(0, int(self.get_query_argument("since", "0")))
        except ValueError:
            raise InvalidInputError("since: Expected `int`.") from None
