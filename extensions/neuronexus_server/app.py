"""Attaching the hub to a Jupyter server: one place where its parts are put together.

The server must identify visitors by `NeuroNexusIdentityProvider`, ask `NeuroNexusAuthorizer`, start
kernels by `VisitorKernelManager` and guard them by `GuardedConnection`: without them every visitor
could run code, so that `attach` refuses.  `launch` makes such a server.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from jupyter_server.base.handlers import PublicStaticFileHandler
from jupyter_server.serverapp import ServerApp
from jupyter_server.utils import url_path_join
from traitlets import Instance

from neuronexus_kernel.errors import ForbiddenError
from neuronexus_kernel.hub.routes import STREAM
from neuronexus_server.archives import archive_handlers
from neuronexus_server.authorizer import NeuroNexusAuthorizer
from neuronexus_server.context import SETTING, HubContext
from neuronexus_server.dashboard import dashboard_handlers, find_dashboard
from neuronexus_server.gateway import PATTERN, GatewayHandler
from neuronexus_server.guard import GuardedConnection
from neuronexus_server.handlers import api_handlers
from neuronexus_server.identity import NeuroNexusIdentityProvider
from neuronexus_server.kernels import VisitorKernelManager
from neuronexus_server.pages import page_handlers
from neuronexus_server.stream import StreamHandler

STATIC = Path(__file__).parent / "static"


class HubServerApp(ServerApp):
    """A Jupyter server for a hub alone: it is configured by `launch` and by nothing else."""

    listener = Instance(socket.socket, help="The socket that listens for it.")

    def load_config_file(self, suppress_errors: bool = True) -> None:
        """Read no configuration of the person who runs it."""

    def _find_http_port(self) -> None:
        """Look for no port: the socket listens already."""

    def _bind_http_server(self) -> None:
        self.http_server.add_socket(self.listener)

    def init_signal(self) -> None:
        """Leave the signals to `launch`, which asks nobody whether it is sure."""

    def write_server_info_file(self) -> None:
        """Announce nothing to other Jupyter tools: ``hub.json`` says where the hub is."""

    def write_browser_open_files(self) -> None:
        """Write no file that opens a browser."""


def attach(server: ServerApp, context: HubContext, *, dashboard: Path | None = None) -> None:
    """Add the hub's pages and API to a server.

    Parameters
    ----------
    server
        A server that identifies, authorises and guards by this package's classes.
    context
        The hub to serve.
    dashboard
        Notebook to serve in place of the packaged one.

    Raises
    ------
    ForbiddenError
        If the server lacks one of those classes: then every visitor could run code.
    """
    if not is_guarded(server):
        raise ForbiddenError(
            "This server does not use NeuroNexus's identity provider, authoriser, kernel manager "
            "and kernel guard, so a hub is not served from it. Use `neuronexus hub start`."
        )
    server.web_app.settings[SETTING] = context
    handlers: list[tuple[Any, ...]] = [
        (STREAM, StreamHandler),
        (PATTERN, GatewayHandler),
        *archive_handlers(),
        *api_handlers(),
        *page_handlers(),
        *dashboard_handlers(server, dashboard or find_dashboard()),
        (r"/neuronexus/static/(.*)", PublicStaticFileHandler, {"path": str(STATIC)}),
    ]
    base = server.web_app.settings["base_url"]
    server.web_app.add_handlers(
        ".*$", [(url_path_join(base, pattern), *rest) for pattern, *rest in handlers]
    )


def is_guarded(server: ServerApp) -> bool:
    """Return whether a server knows visitors by their accounts and keeps them from code."""
    return (
        isinstance(server.identity_provider, NeuroNexusIdentityProvider)
        and isinstance(server.authorizer, NeuroNexusAuthorizer)
        and isinstance(server.kernel_manager, VisitorKernelManager)
        and issubclass(server.kernel_websocket_connection_class, GuardedConnection)
    )
