"""The hub's process: finding the one that is alive, and starting one.

A running hub says where it is in ``hub.json`` in its home: its address, its process, and a token
that acts for whoever can read that folder.  A stale file is told from a live hub by asking: only
the process that wrote the file knows its token.  The server itself lives in another package and
is reached as a program, ``python -m neuronexus_server``, so that nothing here imports it.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import msgspec

from neuronexus_kernel.errors import HubUnavailableError
from neuronexus_kernel.hub.routes import API

BUSY = 75
"""Exit status of a hub whose database is open in another process."""

_PROBE_SECONDS = 5.0
_POLL_SECONDS = 0.05
_LOG_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HubAddress:
    """Where a live hub answers.

    Attributes
    ----------
    address
        Its URL.
    pid
        Its process.
    token
        Acts for the owner of the hub's home, as operator.
    """

    address: str
    pid: int
    token: str = field(repr=False)


def address_file(home: Path) -> Path:
    """Return the path of ``hub.json`` in a hub's home."""
    return home / "hub.json"


def live_hub(home: Path) -> HubAddress | None:
    """Return the hub that runs on a home, or None when none does.

    Parameters
    ----------
    home
        Folder of the hub.
    """
    try:
        written = msgspec.json.decode(address_file(home).read_bytes(), type=HubAddress)
    except (OSError, msgspec.MsgspecError):
        return None
    return written if _is_running(written.pid) and _answers(written) else None


def write_address(home: Path, hub: HubAddress) -> None:
    """Write ``hub.json`` in one step, readable by its owner only."""
    path = address_file(home)
    draft = path.with_name(f".hub.json.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(hub))
    os.replace(draft, path)


def remove_address(home: Path, pid: int) -> None:
    """Remove ``hub.json`` if it is still the one that process `pid` wrote."""
    path = address_file(home)
    try:
        if msgspec.json.decode(path.read_bytes(), type=HubAddress).pid == pid:
            path.unlink()
    except (OSError, msgspec.MsgspecError):
        return


class HubProcess:
    """A hub that was started here.

    Parameters
    ----------
    hub
        Where it answers.
    process
        The process, or None when another one was found to serve the same home.
    """

    def __init__(self, hub: HubAddress, process: subprocess.Popen[bytes] | None) -> None:
        self._hub = hub
        self._process = process

    def __repr__(self) -> str:
        return f"HubProcess({self._hub.address!r}, pid={self._hub.pid})"

    def __enter__(self) -> HubProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """The hub's URL."""
        return self._hub.address

    @property
    def pid(self) -> int:
        """The hub's process."""
        return self._hub.pid

    @property
    def token(self) -> str:
        """Acts for the owner of the hub's home."""
        return self._hub.token

    def alive(self) -> bool:
        """Return whether the process runs."""
        if self._process is None:
            return _is_running(self.pid)
        return self._process.poll() is None

    def stop(self, timeout: float = 20.0) -> None:
        """End the hub, if it was started here, and wait until it and its kernels are gone."""
        if self._process is not None:
            _end(self._process, timeout)


def start_hub(
    home: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    idle_seconds: float | None = None,
    log: Path | None = None,
    timeout: float = 60.0,
    arguments: tuple[str, ...] = (),
) -> HubProcess:
    """Start a hub in the background and wait until it answers.

    When another process gets ahead and serves the same home, that hub is returned.

    Parameters
    ----------
    home
        Folder of the hub; made when it is missing.
    host, port
        Where to listen; the next free port is taken when `port` is in use.
    idle_seconds
        Let the hub end itself after being idle for so long.
    log
        File for its warnings and errors, ``hub.log`` in the home by default.
    arguments
        Further arguments of ``python -m neuronexus_server``.

    Raises
    ------
    HubUnavailableError
        If it does not come up; the message holds what it said.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = log or home / "hub.log"
    command = [sys.executable, "-m", "neuronexus_server", "--home", str(home)]
    command += ["--host", host, "--port", str(port), *arguments]
    if idle_seconds is not None:
        command += ["--idle-seconds", f"{idle_seconds:g}"]
    with _private_log(log) as output:
        start = output.tell()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        return _wait_until_up(home, process, timeout)
    except TimeoutError as error:
        _end(process, 5.0)
        raise HubUnavailableError(
            f"The hub in {home} did not start: {_tail(log, start) or error}"
        ) from None
    except BaseException:
        _end(process, 5.0)
        raise


def _wait_until_up(home: Path, process: subprocess.Popen[bytes], timeout: float) -> HubProcess:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        code = process.poll()
        hub = live_hub(home)
        if hub is not None and hub.pid == process.pid:
            return HubProcess(hub, process)
        if code is not None:
            if hub is not None:
                return HubProcess(hub, None)
            # Another process may hold the database and be about to answer.
            until = min(until, time.monotonic() + 5.0) if code == BUSY else until
            if code != BUSY:
                raise TimeoutError(f"it ended with status {code}")
        time.sleep(_POLL_SECONDS)
    raise TimeoutError(f"no answer within {timeout:g} seconds")


def _private_log(path: Path) -> IO[bytes]:
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    file = os.fdopen(descriptor, "ab")
    file.seek(0, os.SEEK_END)
    return file


def _tail(log: Path, start: int, size: int = 2000) -> str:
    try:
        with log.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")[-size:].strip()
    except OSError:
        return ""


def _end(process: subprocess.Popen[bytes], timeout: float) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _is_running(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _answers(hub: HubAddress) -> bool:
    """Ask the hub who holds the token; only the one that wrote it knows."""
    parts = urlsplit(hub.address)
    if parts.hostname is None:
        return False
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=_PROBE_SECONDS)
    try:
        headers = {"Authorization": f"Bearer {hub.token}"}
        connection.request("GET", f"{parts.path}{API}/accounts/me", headers=headers)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
