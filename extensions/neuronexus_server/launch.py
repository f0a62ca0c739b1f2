"""Serving a hub: one Jupyter server for it alone, from opening its database to closing it.

The server takes nothing from the user's own Jupyter: no configuration, no extensions but ours,
no sign-in of its own, its files in the hub's home.  It listens on the port asked for or the next
free one, says where it is in ``hub.json`` once it answers, and takes that back when it ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronexus_kernel.errors import HubUnavailableError, NeuroNexusError
from neuronexus_kernel.hub.process import BUSY, HubAddress, remove_address, write_address
from neuronexus_kernel.settings import Settings

if TYPE_CHECKING:
    from tornado.web import RequestHandler

    from neuronexus_kernel.hub.local import LocalHub
    from neuronexus_server.app import HubServerApp
    from neuronexus_server.context import HubContext

_TEMPLATES = Path(__file__).parent / "templates"
_WILDCARDS = {"", "0.0.0.0", "::", "*"}
_IDLE_CHECK_SECONDS = 1.0
_HEADERS = {"X-Frame-Options": "SAMEORIGIN", "Referrer-Policy": "same-origin"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to serve a hub.

    Attributes
    ----------
    home
        Folder of the hub; as the environment says by default.
    host, port, port_retries
        Where to listen, and how many further ports to try.
    idle_seconds
        End after so long without requests, streams, kernels and evaluations; None for never.
    upload_limit
        Largest object accepted, in bytes; as the settings say by default.
    dashboard
        Notebook to serve in place of the packaged one.
    kernel_grace
        Seconds that a kernel outlives its page.
    warm_kernel
        Keep one kernel started in advance.
    """

    home: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    port_retries: int = 50
    idle_seconds: float | None = None
    upload_limit: int | None = None
    dashboard: Path | None = None
    kernel_grace: float = 300.0
    warm_kernel: bool = True


def serve(options: Options) -> int:
    """Serve a hub until it is told to stop or has been idle for long enough.

    Returns
    -------
    int
        Exit status: 0, or `BUSY` when another process holds the hub's database.
    """
    settings = Settings.load(options.home)
    if options.upload_limit is not None:
        settings = replace(settings, upload_limit=options.upload_limit)
    try:
        hub = _open(settings)
    except HubUnavailableError as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201
        return BUSY
    except NeuroNexusError as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201
        return 1
    try:
        listener = listen(options.host, options.port, options.port_retries)
        _leave_the_users_jupyter_alone(settings.home)
        _HubServer(hub, settings, options, listener).run()
    except HubUnavailableError as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201
        return 1
    finally:
        hub.close()
    return 0


def listen(host: str, port: int, retries: int) -> socket.socket:
    """Return a socket that listens on the first free port from `port` on; on any port for 0.

    Raises
    ------
    HubUnavailableError
        If none of them is free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + retries, 65535) + 1) if port else (0,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("" if host in _WILDCARDS else host, candidate))
            listener.listen(128)
            listener.setblocking(False)
        except OSError:
            listener.close()
            continue
        return listener
    raise HubUnavailableError(
        f"No port from {port} to {port + retries} is free on {host}; choose another with --port."
    )


class _HubServer:
    """A Jupyter server with a hub inside, and what belongs to its life."""

    def __init__(
        self, hub: LocalHub, settings: Settings, options: Options, listener: socket.socket
    ) -> None:
        self._hub = hub
        self._settings = settings
        self._options = options
        port = listener.getsockname()[1]
        host = "127.0.0.1" if options.host in _WILDCARDS else options.host
        self._address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._listener = listener
        self._context: HubContext | None = None
        self._ended_by = "request"

    def run(self) -> None:
        _skip_slow_import()
        from neuronexus_server.app import HubServerApp, attach
        from neuronexus_server.context import HubContext

        app = HubServerApp.instance(config=self._config(), listener=self._listener)
        logging.getLogger("tornado.general").addFilter(_is_news)
        app.initialize(argv=[], find_extensions=False)
        self._context = HubContext(
            self._hub,
            upload_limit=self._settings.upload_limit,
            archive_limit=self._settings.archive_limit,
        )
        attach(app, self._context, dashboard=self._options.dashboard)
        self._take_signals(app)
        app.io_loop.add_callback(self._ready, app)
        try:
            app.start()
        finally:
            remove_address(self._settings.home, os.getpid())
            if self._context is not None:
                self._context.close()
            HubServerApp.clear_instance()
            print(f"NeuroNexus hub ended ({self._ended_by})", flush=True)  # noqa: T201

    def _config(self) -> Any:
        from traitlets.config import Config

        from neuronexus_server.authorizer import NeuroNexusAuthorizer
        from neuronexus_server.guard import GuardedConnection
        from neuronexus_server.identity import NeuroNexusIdentityProvider
        from neuronexus_server.kernels import OwnKernelSpecManager, VisitorKernelManager

        runtime = _runtime(self._settings.home)
        root = runtime / "empty"
        root.mkdir(exist_ok=True)
        config = Config()
        config.ServerApp.update(
            ip=self._options.host,
            port=self._listener.getsockname()[1],
            open_browser=False,
            allow_root=True,
            root_dir=str(root),
            default_url="/neuronexus/dashboard",
            extra_template_paths=[str(_TEMPLATES)],
            allow_unauthenticated_access=False,
            identity_provider_class=NeuroNexusIdentityProvider,
            authorizer_class=NeuroNexusAuthorizer,
            kernel_manager_class=VisitorKernelManager,
            kernel_spec_manager_class=OwnKernelSpecManager,
            kernel_websocket_connection_class=GuardedConnection,
            terminals_enabled=False,
            quit_button=False,
            max_body_size=16 * 1024 * 1024,
            log_level=logging.WARNING,
            tornado_settings={
                "headers": dict(_HEADERS),
                "login_url": "/neuronexus/auth",
                "log_function": _log_faults,
                "xsrf_cookie_kwargs": {"path": "/", "samesite": "Strict"},
            },
        )
        config.VisitorKernelManager.update(
            hub_address=self._address,
            ipython_dir=str(runtime / "ipython"),
            grace=self._options.kernel_grace,
            warm_kernel=self._options.warm_kernel,
        )
        if VisitorKernelManager.class_traits().get("transport_encryption"):
            config.VisitorKernelManager.transport_encryption = "auto"
        # A live dashboard sends many small messages; the limit is meant for printed output.
        config.GuardedConnection.limit_rate = False
        return config

    def _take_signals(self, app: HubServerApp) -> None:
        def stop(number: int, _: object) -> None:
            self._ended_by = signal.Signals(number).name
            app.stop(from_signal=True)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)

    async def _ready(self, app: HubServerApp) -> None:
        self._hub.start_evaluator()
        self._hub.start_sharing()
        hub = HubAddress(self._address, os.getpid(), self._hub.owner_token)
        write_address(self._settings.home, hub)
        print(f"NeuroNexus hub: {self._address}", flush=True)  # noqa: T201
        if self._options.idle_seconds is not None:
            self._idle = asyncio.ensure_future(self._stop_when_idle(app))
        else:
            app.kernel_manager.warm_up()

    async def _stop_when_idle(self, app: HubServerApp) -> None:
        context, limit = self._context, self._options.idle_seconds
        assert context is not None
        assert limit is not None
        while True:
            await asyncio.sleep(min(_IDLE_CHECK_SECONDS, limit / 4))
            if context.in_use or app.kernel_manager.in_use or self._hub.busy:
                context.touch()
            elif time.monotonic() - context.last_request > limit:
                self._ended_by = f"idle for {limit:g} seconds"
                app.stop()
                return


def _open(settings: Settings) -> LocalHub:
    from neuronexus_kernel.hub.local import LocalHub

    return LocalHub.open(settings)


def _runtime(home: Path) -> Path:
    folder = home / "server"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _leave_the_users_jupyter_alone(home: Path) -> None:
    """Point Jupyter, in this process and its kernels, at folders of the hub's own."""
    runtime = _runtime(home)
    share = runtime / "share"
    os.environ["JUPYTER_CONFIG_DIR"] = str(runtime / "config")
    os.environ["JUPYTER_DATA_DIR"] = str(share)
    os.environ["JUPYTER_RUNTIME_DIR"] = str(runtime / "run")
    for variable in ("JUPYTER_TOKEN", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH"):
        os.environ.pop(variable, None)
    # Voila looks for page templates in Jupyter's data folders only.
    theirs = share / "voila" / "templates"
    shutil.rmtree(theirs, ignore_errors=True)
    shutil.copytree(_TEMPLATES / "voila", theirs)


def _skip_slow_import() -> None:
    # jsonschema, which Jupyter's events use, builds a grammar of web addresses at its import if
    # this package is there: two seconds for a format that no schema of Jupyter's names.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def _is_news(record: logging.LogRecord) -> bool:
    # Jupyter gives its ping times in milliseconds to Tornado, which takes them for seconds and
    # says of every WebSocket that they do not fit together.
    return "websocket_ping_timeout" not in record.getMessage()


def _log_faults(handler: RequestHandler) -> None:
    """Log requests that failed because of the server; not the visitor's mistakes."""
    if handler.get_status() >= 500:
        request = handler.request
        logging.getLogger("ServerApp").error(
            "%s %s answered %d", request.method, request.path, handler.get_status()
        )
