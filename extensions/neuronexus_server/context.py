"""What handlers share: the hub, threads for its calls, and who is asking.

All methods of a hub block, so that a handler never calls one itself: it asks `HubContext.call`,
which runs it on a thread.  There is one context for each server, kept in the web application's
settings; nothing here is global.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from neuronexus_server.stream import Broadcast

if TYPE_CHECKING:
    from tornado.web import RequestHandler

    from neuronexus_kernel.hub.local import LocalHub

P = ParamSpec("P")
T = TypeVar("T")

SETTING = "neuronexus"
_THREADS = 8
_READERS = 4
# A password check takes 64 MiB and all of one core; more at a time would starve the rest.
_PASSWORD_CHECKS = 2


class HubContext:
    """One hub as the handlers of one server see it.

    Parameters
    ----------
    hub
        The anonymous view of the hub.
    upload_limit
        Largest object that may be uploaded, in bytes.
    archive_limit
        Largest archive of a project that may be, in bytes.
    """

    def __init__(self, hub: LocalHub, *, upload_limit: int, archive_limit: int) -> None:
        self.hub = hub
        self.upload_limit = upload_limit
        self.archive_limit = archive_limit
        self.password_checks = asyncio.Semaphore(_PASSWORD_CHECKS)
        self.broadcast = Broadcast(hub.subscribe)
        self.last_request = time.monotonic()
        self.streams = 0
        self.visits = 0
        self._calls = 0
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="nx-hub")
        # Blocks of content have threads of their own, so that records do not wait for them.
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="nx-gateway")

    async def call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking method of the hub on a thread."""
        return await self._run(self._threads, lambda: method(*args, **kwargs))

    async def read(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what reads blocks of content, on one of a few threads for that."""
        return await self._run(self._readers, lambda: method(*args, **kwargs))

    async def _run(self, threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        self._calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, call)
        finally:
            self._calls -= 1

    @property
    def in_use(self) -> bool:
        """Whether a stream is open or a call is under way."""
        return self.streams > 0 or self._calls > 0

    def touch(self) -> None:
        """Note that somebody uses the hub."""
        self.last_request = time.monotonic()

    def close(self) -> None:
        """Stop listening to the hub and let its calls finish."""
        self.broadcast.close()
        for threads in (self._readers, self._threads):
            threads.shutdown(wait=True, cancel_futures=True)


def context_of(handler: RequestHandler) -> HubContext:
    """Return the context of the server that a handler belongs to."""
    context: HubContext = handler.settings[SETTING]
    return context


def visitor_of(handler: RequestHandler) -> LocalHub:
    """Return the hub as the visitor of this request sees it."""
    visitor: LocalHub | None = getattr(handler, "neuronexus_visitor", None)
    return visitor if visitor is not None else context_of(handler).hub.visitor()
