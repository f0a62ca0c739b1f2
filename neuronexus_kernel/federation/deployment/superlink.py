"""Starting and ending a SuperLink: Flower's server for nodes, as a child process.

It speaks TLS with a certificate made for it, knows only nodes whose keys were registered, keeps
its state in memory and its files in one folder, and ends with whoever started it.  One that is
started in the folder of an earlier one shows the same certificate.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation.deployment.child import Child
from neuronexus_kernel.federation.deployment.tls import ensure_certificates

START_SECONDS = 90.0


class SuperLink:
    """A running SuperLink.

    Parameters
    ----------
    folder
        For its certificates, its log and Flower's files; made if missing.
    address
        ``HOST:PORT`` to listen on; port 0 takes a free one.
    names
        Further names or IP addresses under which nodes reach this machine.

    Raises
    ------
    InvalidInputError
        If the address is none.
    HubUnavailableError
        If it does not come up.
    """

    def __init__(
        self, folder: Path, address: str = "127.0.0.1:0", *, names: tuple[str, ...] = ()
    ) -> None:
        host, port = split_address(address)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.certificates = ensure_certificates(folder, [host, *names])
        self.authority = self.certificates.authority.read_bytes()
        self.token = secrets.token_urlsafe(32)
        self._child = Child(
            "neuronexus_kernel.federation.deployment.superlink_process",
            {"folder": str(folder), "host": host, "port": port, "token": self.token},
            folder=folder,
            name="superlink",
        )
        port = int(str(self._child.wait_for_report(START_SECONDS)["port"]))
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.port = port

    @property
    def pid(self) -> int:
        """Its process, and the process group of all that it started."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.alive

    @property
    def log(self) -> Path:
        """Its log, which holds the ServerApp's too."""
        return self._child.log

    def stop(self) -> None:
        """End it and the ServerApp that it may be running."""
        self._child.stop()


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT`` or ``[IPv6]:PORT``.

    Raises
    ------
    InvalidInputError
        If it is neither.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidInputError(
            f"An address is HOST:PORT, for example 0.0.0.0:9092, not {address!r}."
        )
    return host, int(port)
