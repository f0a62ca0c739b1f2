"""The SuperLink's process: Flower's own server, with its back doors locked.

Flower 1.41 serves three interfaces on one port: Fleet (for nodes), Runtime (for the process of
the ServerApp) and Control (start a run, register a node).  Nodes sign every call, but Control is
open to whoever reaches the port unless an account plugin guards it: a stranger could register a
key, or have this machine run any app.  Here Control asks for a token that only the parent has,
and Runtime hands out tasks only to the holder of a second secret.  Apps are never given leave to
install anything.

This module is the one place that knows how a SuperLink is put together.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from neuronexus_kernel.federation import _flower as _no_telemetry  # noqa: F401
from neuronexus_kernel.federation.deployment.child import Reporter, instructions
from neuronexus_kernel.federation.deployment.tls import write_private

# isort: split

import uvicorn
from flwr.common.constant import (
    ACCESS_TOKEN_KEY,
    ISOLATION_MODE_PROCESS,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    TRANSPORT_TYPE_GRPC_RERE,
)
from flwr.supercore.auth.typing import (
    AccountAuthCredentials,
    AccountAuthLoginDetails,
    AccountInfo,
)
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.superlink.auth_plugin import ControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

_GOODBYE_SECONDS = 2


class TokenHolder(ControlAuthnPlugin):
    """Lets in whoever shows the one token that this SuperLink was started with.

    Parameters
    ----------
    token
        The secret; empty lets nobody in.
    """

    def __init__(self, token: str = "") -> None:
        self._token = token.encode()

    def get_login_details(self) -> AccountAuthLoginDetails | None:
        """Return nothing: there is no sign-in page."""
        return None

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Tell whether the token was shown."""
        shown = [value for name, value in metadata if name == ACCESS_TOKEN_KEY]
        if len(shown) != 1 or not self._token:
            return False, None
        given = shown[0].encode() if isinstance(shown[0], str) else shown[0]
        if not hmac.compare_digest(given, self._token):
            return False, None
        return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)

    def get_auth_tokens(self, device_code: str) -> AccountAuthCredentials | None:
        """Return nothing: tokens are not given out."""
        return None

    def refresh_tokens(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[Sequence[tuple[str, str | bytes]] | None, AccountInfo | None]:
        """Return nothing: tokens are not renewed."""
        return None, None


def main() -> None:
    """Serve until told to end."""
    told = instructions()
    folder, host = Path(str(told["folder"])), str(told["host"])
    reporter = Reporter(Path(str(told["report"])))
    listener = _listen(host, int(str(told["port"])))
    port = int(listener.getsockname()[1])
    secret = folder / "superexec.secret"
    write_private(secret, secrets.token_bytes(32))
    config = _config(folder, host, port, token=str(told["token"]), secret=secret)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(config, SuperLinkLifespan),
            ssl_certfile=config.ssl_certfile,
            ssl_keyfile=config.ssl_keyfile,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=_GOODBYE_SECONDS,
        )
    )
    helpers: list[subprocess.Popen[bytes]] = []
    threading.Thread(
        target=_when_up, args=(server, folder, host, port, secret, reporter, helpers), daemon=True
    ).start()
    try:
        server.run(sockets=[listener])
    finally:
        for helper in helpers:
            helper.terminate()


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before anything is told of it: 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def _config(
    folder: Path, host: str, port: int, *, token: str, secret: Path
) -> SuperLinkLifespanConfig:
    authority, certificate, key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=host,
        port=port,
        insecure=False,
        certificates=(authority.read_bytes(), certificate.read_bytes(), key.read_bytes()),
        superexec_auth_secret=secret.read_bytes(),
        authn_plugin=TokenHolder(token),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(authority),
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        database=FLWR_IN_MEMORY_DB_NAME,
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )


def _when_up(
    server: uvicorn.Server,
    folder: Path,
    host: str,
    port: int,
    secret: Path,
    reporter: Reporter,
    helpers: list[subprocess.Popen[bytes]],
) -> None:
    """Start Flower's launcher of ServerApps once the server answers, and say so.

    Should the launcher end, the server ends too: a run would wait for it for ever.
    """
    while not server.started:
        time.sleep(0.02)
    command = [str(Path(sysconfig.get_path("scripts")) / "flower-superexec")]
    command += ["--runtime-api-address", f"{_reachable(host)}:{port}"]
    command += ["--root-certificates", str(folder / "ca.pem")]
    command += ["--superexec-auth-secret-file", str(secret)]
    command += ["--parent-pid", str(os.getpid())]
    launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    helpers.append(launcher)
    reporter.say(port=port)
    launcher.wait()
    server.should_exit = True


def _reachable(host: str) -> str:
    """Return where this machine reaches itself when it listens on `host`."""
    if host in ("0.0.0.0", ""):
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    main()
