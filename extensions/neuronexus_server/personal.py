"""A hub inside a personal JupyterLab: Jupyter's own sign-in counts, and the one user is operator.

``jupyter server extension enable neuronexus_server`` has a person's own JupyterLab or Jupyter
server serve the API of the hub in their home, so that no other process is needed.  Whoever Jupyter
lets in (by its token, its password or its cookie) may run any code as that person, and so may do
what an operator may: they have one account, named as they are on their machine.  Nobody else is
let in but by a token of the hub.  There is no dashboard here and no page of ours; notebooks show
panels themselves.  Kernels find the hub in their environment, with a token of it.

A server for several people is another thing: it needs `NeuroNexusIdentityProvider` and its
companions (see ``app.py``), and is started by ``neuronexus hub start``.
"""

from __future__ import annotations

import atexit
import getpass
import os
import re
from typing import TYPE_CHECKING, Any

from jupyter_server.utils import url_path_join

from neuronexus_kernel.errors import AuthenticationError, HubUnavailableError
from neuronexus_kernel.hub.permissions import SCOPES
from neuronexus_kernel.hub.process import HubAddress, remove_address, write_address
from neuronexus_kernel.hub.routes import STREAM
from neuronexus_kernel.settings import Settings
from neuronexus_server.context import SETTING, HubContext

if TYPE_CHECKING:
    from jupyter_server.base.handlers import JupyterHandler
    from jupyter_server.serverapp import ServerApp

    from neuronexus_kernel.hub.local import LocalHub

PROVIDER = "Jupyter"
LABEL = "kernels of this JupyterLab"
_DAYS = 365.0
_HEADER = re.compile(r"(?:bearer|token)\s+(\S+)\s*", re.IGNORECASE)


class PersonalContext(HubContext):
    """A hub whose visitors Jupyter has let in already."""

    def __init__(self, hub: LocalHub, *, upload_limit: int, archive_limit: int) -> None:
        super().__init__(hub, upload_limit=upload_limit, archive_limit=archive_limit)
        self._token: str | None = None

    async def identify(self, handler: JupyterHandler) -> None:
        """Make the request the one user's, or that of whoever has a token of the hub.

        Raises
        ------
        AuthenticationError
            If it is neither.
        """
        source = handler.request.remote_ip or ""
        if handler.current_user is not None:
            handler.neuronexus_visitor = await self.call(self.myself, source)
        else:
            match = _HEADER.fullmatch(handler.request.headers.get("Authorization", ""))
            if match is None:
                raise AuthenticationError("Sign in to this JupyterLab first, or send a token.")
            visitor = await self.call(self.hub.visitor, match.group(1), source=source)
            handler.neuronexus_visitor = visitor
            handler.current_user = visitor.whoami()
            handler._token_authenticated = True
        handler.neuronexus_credentials = True

    def myself(self, source: str = "") -> LocalHub:
        """Return the hub as the one user sees it, signed in anew where that has ended."""
        try:
            if self._token is not None:
                return self.hub.visitor(self._token, source=source)
        except AuthenticationError:
            self._token = None
        me = self.hub.visitor(source=source)
        session = me.login_by(PROVIDER, getpass.getuser())
        if session.account.role != "operator":
            self.hub.visitor(self.hub.owner_token).add_operator(session.account.name)
        self._token = session.token
        return me

    def kernel_token(self) -> str:
        """Return a new token for the kernels; those of earlier servers end."""
        me = self.myself()
        for token in me.tokens():
            if token.label == LABEL:
                me.revoke(token.id)
        return me.create_token(LABEL, SCOPES, _DAYS).token


def load(server: ServerApp) -> None:
    """Serve the hub of the home from a personal Jupyter server, unless another process does."""
    from neuronexus_kernel.hub.local import LocalHub
    from neuronexus_server.archives import archive_handlers
    from neuronexus_server.gateway import PATTERN, GatewayHandler
    from neuronexus_server.handlers import api_handlers
    from neuronexus_server.stream import StreamHandler

    settings = Settings.load()
    try:
        hub = LocalHub.open(settings)
    except HubUnavailableError as error:
        server.log.warning("NeuroNexus: %s", error)
        return
    context = PersonalContext(
        hub, upload_limit=settings.upload_limit, archive_limit=settings.archive_limit
    )
    server.web_app.settings[SETTING] = context
    base = server.web_app.settings["base_url"]
    handlers: list[tuple[Any, ...]] = [
        (STREAM, StreamHandler),
        (PATTERN, GatewayHandler),
        *archive_handlers(),
        *api_handlers(),
    ]
    server.web_app.add_handlers(
        ".*$", [(url_path_join(base, pattern), *rest) for pattern, *rest in handlers]
    )

    def close() -> None:
        remove_address(settings.home, os.getpid())
        context.close()
        hub.close()

    def ready() -> None:
        hub.start_evaluator()
        address = f"http://127.0.0.1:{server.port}{base.rstrip('/')}"
        write_address(settings.home, HubAddress(address, os.getpid(), hub.owner_token))
        os.environ["NEURONEXUS_HUB"] = address
        os.environ["NEURONEXUS_TOKEN"] = context.kernel_token()
        server.log.info("NeuroNexus hub: %s", address)

    atexit.register(close)
    # The port is known for certain once the server listens.
    server.io_loop.add_callback(ready)
