"""Kernels that know their visitor, belong to them, and end with their page.

Voila starts a kernel for each visit.  Here that kernel is given the hub's address and a ticket:
a token of the visitor's own account, valid for hours, in its environment.  The browser's cookie
never reaches a kernel.  Who started a kernel owns it; the authoriser asks `owner_of`.  A kernel
whose page is gone is ended after a grace period, and with it its ticket.

One kernel is kept warm: started, with the dashboard's imports done, and nobody's.  It learns
whose it is when it is given away.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_server import CallContext
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError
from traitlets import Bool, Float, Unicode

from neuronexus_kernel.errors import AuthenticationError, NeuroNexusError
from neuronexus_kernel.settings import environment_without_secrets
from neuronexus_server.context import context_of

if TYPE_CHECKING:
    from neuronexus_kernel.hub.local import LocalHub

KERNEL_NAME = "python3"
_PAGES = 8
_START_SECONDS = 30.0
_REFILL_SECONDS = 4.0
_WARM_UP = """
import contextlib
for _name in ("neuronexus_kernel", "requests", "websocket", "ipywidgets", "bqplot", "pythreejs",
              "neuronexus_widgets", "neuronexus_widgets.dashboard"):
    with contextlib.suppress(ImportError):
        __import__(_name)
del contextlib, _name
"""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a kernel is.

    Attributes
    ----------
    account
        Name of the account.
    session
        Id of the sign-in it was started from; the kernel ends when that does.
    ticket
        Token that the kernel was given.
    page
        Whether it serves a page, and ends when that is gone.
    """

    account: str
    session: str
    ticket: str
    page: bool


class ShowsKernel:
    """Marks a handler that sends a page with a kernel behind it."""

    kernel_shown: str | None = None


class OwnKernelSpecManager(KernelSpecManager):
    """Knows one kernel: this very Python, whatever is installed elsewhere."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return the specification of this Python's kernel."""
        if kernel_name != KERNEL_NAME:
            raise NoSuchKernel(kernel_name)
        return KernelSpec(
            argv=[
                sys.executable,
                "-m",
                "ipykernel_launcher",
                "-f",
                "{connection_file}",
                "--HistoryManager.enabled=False",
            ],
            name=KERNEL_NAME,
            display_name="Python 3",
            language="python",
            metadata=get_kernel_dict()["metadata"],
        )

    def find_kernel_specs(self) -> dict[str, str]:
        """Return the one kernel there is."""
        return {KERNEL_NAME: ""}


class VisitorKernelManager(AsyncMappingKernelManager):
    """Starts kernels for visitors and remembers whose they are."""

    hub_address = Unicode(config=True, help="Where the kernels find the hub.")
    ipython_dir = Unicode(config=True, help="Folder that stands in for ~/.ipython.")
    grace = Float(300.0, config=True, help="Seconds that a kernel outlives its page.")
    warm_kernel = Bool(True, config=True, help="Keep one kernel started in advance.")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._owners: dict[str, Owner] = {}
        self._forget: dict[str, Callable[[], None]] = {}
        self._endings: dict[str, asyncio.TimerHandle] = {}
        self._warm: str | None = None
        self._warming: asyncio.Task[None] | None = None
        self._refill: asyncio.TimerHandle | None = None
        self._returns: set[asyncio.Task[None]] = set()
        self._context: Any = None

    # -- whose kernels ---------------------------------------------------------------------

    def owner_of(self, kernel_id: str) -> str | None:
        """Return the account that a kernel belongs to, or None."""
        owner = self._owners.get(kernel_id)
        return owner.account if owner is not None and kernel_id in self else None

    @property
    def in_use(self) -> int:
        """How many kernels belong to somebody."""
        return len(self._owners)

    async def end_session(self, session: str) -> None:
        """End the kernels that were started from a sign-in."""
        for kernel_id, owner in list(self._owners.items()):
            if owner.session == session:
                await self.end(kernel_id)

    # -- starting --------------------------------------------------------------------------

    async def start_kernel(  # type: ignore[override]
        self, *, kernel_id: str | None = None, path: Any = None, **kwargs: Any
    ) -> str:
        """Start a kernel for the visitor of the request that is being handled."""
        handler = CallContext.get(CallContext.JUPYTER_HANDLER)
        visitor = getattr(handler, "neuronexus_visitor", None)
        if visitor is None:
            raise NeuroNexusError("A kernel of the hub is started for somebody who is signed in.")
        self._context = context_of(handler)
        page = isinstance(handler, ShowsKernel)
        if page:
            await self._make_room(handler.current_user.username)
        session = await self._context.call(visitor.ticket)
        credentials = visitor.credentials
        signin = credentials.id if credentials is not None else ""
        identity = self._environment(session.account.name, session.token)
        environment = {**environment_without_secrets(), **kwargs.pop("env", {}), **identity}
        found = await self._take_warm(environment) if page else None
        if found is None:
            found = await self._async_start_kernel(
                kernel_id=kernel_id, path=path, env=environment, **kwargs
            )
        self._owners[found] = Owner(session.account.name, signin, session.token, page)
        self._forget[found] = self._context.guests.join(
            visitor, lambda: asyncio.ensure_future(self._end_if_signed_out(found, visitor))
        )
        if page:
            handler.kernel_shown = found
            self.warm_up(after=_REFILL_SECONDS)
        return found

    async def _make_room(self, account: str) -> None:
        """End the oldest page without a reader when an account has too many open."""
        theirs = [id for id, owner in self._owners.items() if owner.account == account]
        unread = [id for id in theirs if self._kernel_connections.get(id, 0) <= 0]
        if len(theirs) < _PAGES:
            return
        if not unread:
            raise HTTPError(429, f"You have {_PAGES} dashboards open; close one of them first.")
        await self.end(unread[0])

    def _environment(self, account: str, token: str) -> dict[str, str]:
        return {
            **self._surroundings(),
            "NEURONEXUS_HUB": self.hub_address,
            "NEURONEXUS_TOKEN": token,
            "NEURONEXUS_USER": account,
        }

    def _surroundings(self) -> dict[str, str]:
        return {"IPYTHONDIR": self.ipython_dir} if self.ipython_dir else {}

    # -- the warm kernel -------------------------------------------------------------------

    def warm_up(self, *, after: float = 0.0) -> None:
        """See to it that a warm kernel is there soon; does nothing when there is one."""
        if self._refill is not None:
            self._refill.cancel()
            self._refill = None
        if not self.warm_kernel or self._warm is not None or self._is_warming():
            return
        if after:
            # Later, so that it does not take the processor from a page that is loading.
            loop = asyncio.get_running_loop()
            self._refill = loop.call_later(after, self.warm_up)
        else:
            self._warming = asyncio.ensure_future(self._prepare_warm())

    def _is_warming(self) -> bool:
        return self._warming is not None and not self._warming.done()

    async def _prepare_warm(self) -> None:
        environment = {**environment_without_secrets(), **self._surroundings()}
        kernel_id = await self._async_start_kernel(
            kernel_name=KERNEL_NAME, path="", env=environment
        )
        try:
            await self._tell(kernel_id, _WARM_UP)
            self._warm = kernel_id
        except Exception:
            self.log.warning("No kernel could be started in advance", exc_info=True)
            await self.end(kernel_id)

    async def _take_warm(self, environment: dict[str, str]) -> str | None:
        """Give the warm kernel away, if there is one or is about to be one."""
        if self._warm is None and self._warming is not None and self._is_warming():
            await asyncio.wait([self._warming], timeout=_START_SECONDS)
        kernel_id, self._warm = self._warm, None
        if kernel_id is None or kernel_id not in self:
            return None
        news = {name: text for name, text in environment.items() if os.environ.get(name) != text}
        try:
            # Over the kernel's own signed channel, and silent: nobody else is told.
            await self._tell(
                kernel_id,
                f"import json, os\nos.environ.update(json.loads({json.dumps(news)!r}))",
            )
        except Exception:
            self.log.warning("The warm kernel did not answer; starting another", exc_info=True)
            await self.end(kernel_id)
            return None
        return kernel_id

    async def _tell(self, kernel_id: str, code: str) -> None:
        client = self.get_kernel(kernel_id).client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=_START_SECONDS)
            reply = await client.execute(
                code, silent=True, store_history=False, reply=True, timeout=_START_SECONDS
            )
            if reply["content"]["status"] != "ok":
                raise RuntimeError(reply["content"].get("evalue", "the kernel refused"))
        finally:
            client.stop_channels()

    # -- ending ----------------------------------------------------------------------------

    async def shutdown_all(self, now: bool = False) -> None:  # type: ignore[override]
        """End every kernel at once; none has anything to save."""
        if self._refill is not None:
            self._refill.cancel()
        if self._warming is not None:
            self._warming.cancel()
        await self._async_shutdown_all(now=True)

    def page_sent(self, handler: ShowsKernel) -> None:
        """End the kernel of a page that was sent, unless the page connects soon."""
        if handler.kernel_shown is not None:
            self._end_later(handler.kernel_shown)

    def notify_connect(self, kernel_id: str) -> None:
        """Keep a kernel while a page is connected to it."""
        super().notify_connect(kernel_id)
        ending = self._endings.pop(kernel_id, None)
        if ending is not None:
            ending.cancel()

    def notify_disconnect(self, kernel_id: str) -> None:
        """End a kernel some time after its last page has gone."""
        super().notify_disconnect(kernel_id)
        self._end_later(kernel_id)

    def remove_kernel(self, kernel_id: str) -> Any:
        """Forget a kernel that has ended, and take back its ticket."""
        ending = self._endings.pop(kernel_id, None)
        if ending is not None:
            ending.cancel()
        if self._warm == kernel_id:
            self._warm = None
        self._forget.pop(kernel_id, lambda: None)()
        owner = self._owners.pop(kernel_id, None)
        if owner is not None and self._context is not None:
            task = asyncio.ensure_future(self._take_back(owner.ticket))
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)
        return super().remove_kernel(kernel_id)

    def _end_later(self, kernel_id: str) -> None:
        owner = self._owners.get(kernel_id)
        if owner is None or not owner.page or self._kernel_connections.get(kernel_id, 0) > 0:
            return
        previous = self._endings.pop(kernel_id, None)
        if previous is not None:
            previous.cancel()
        loop = asyncio.get_running_loop()
        self._endings[kernel_id] = loop.call_later(
            self.grace, lambda: asyncio.ensure_future(self.end(kernel_id))
        )

    async def end(self, kernel_id: str) -> None:
        """End a kernel at once, if it is there."""
        try:
            if kernel_id in self:
                await self._async_shutdown_kernel(kernel_id, now=True)
        except Exception:
            self.log.warning("Kernel %s could not be ended", kernel_id, exc_info=True)

    async def _end_if_signed_out(self, kernel_id: str, visitor: LocalHub) -> None:
        try:
            await self._context.call(visitor.touch)
        except AuthenticationError:
            await self.end(kernel_id)
        except (NeuroNexusError, RuntimeError):
            return  # the hub is closing, and its kernels with it

    async def _take_back(self, ticket: str) -> None:
        try:
            visitor = await self._context.call(self._context.hub.visitor, ticket)
            await self._context.call(visitor.logout)
        except (NeuroNexusError, RuntimeError):
            return  # it has expired, or the hub is closing and its tickets are short-lived
