"""Who stays: connections and kernels that outlive the request that opened them.

A request is checked when it comes; a WebSocket would go on for days after its sign-in has ended.
So whatever stays says on which sign-in, and is sent away when that ends: at once where it was
ended by this process, and within half a minute where it expired or another process ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from neuronexus_kernel.errors import AuthenticationError, HubUnavailableError

if TYPE_CHECKING:
    from neuronexus_kernel.hub.local import LocalHub

SIGNED_OUT = 4401
"""Code with which a WebSocket is closed whose sign-in has ended."""

_CHECK_SECONDS = 30.0


class Guests:
    """Everything that stays, by the sign-in it depends on.

    Parameters
    ----------
    hub
        Tells when sign-ins end or change.
    call
        Runs a blocking method of a hub on a thread.
    """

    def __init__(self, hub: LocalHub, call: Callable[..., Any]) -> None:
        self._call = call
        self._leaving: dict[str, set[Callable[[], None]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        hub.on_end(self._ended)

    def join(self, visitor: LocalHub, leave: Callable[[], None]) -> Callable[[], None]:
        """Have `leave` called when a visitor's sign-in ends; return how to forget about it.

        Parameters
        ----------
        visitor
            Whose sign-in; nothing happens for a visitor without one.
        leave
            Is called on the event loop, once or more often.
        """
        self._loop = asyncio.get_running_loop()
        credentials = visitor.credentials
        if credentials is None:
            return lambda: None
        waiting = self._leaving.setdefault(credentials.id, set())
        waiting.add(leave)
        watch = asyncio.ensure_future(self._watch(visitor, leave))

        def forget() -> None:
            watch.cancel()
            waiting.discard(leave)
            if not waiting and self._leaving.get(credentials.id) is waiting:
                del self._leaving[credentials.id]

        return forget

    async def _watch(self, visitor: LocalHub, leave: Callable[[], None]) -> None:
        try:
            while True:
                await self._call(visitor.touch)
                await asyncio.sleep(_CHECK_SECONDS)
        except AuthenticationError:
            leave()
        except (HubUnavailableError, RuntimeError):
            return  # the hub is closing, and everything with it

    def _ended(self, signins: frozenset[str]) -> None:
        # Called on the hub's writer thread; a loop that was closed has nobody to send away.
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._send_away, signins)

    def _send_away(self, signins: frozenset[str]) -> None:
        for signin in signins:
            for leave in tuple(self._leaving.get(signin, ())):
                leave()
