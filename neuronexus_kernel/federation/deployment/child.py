"""Child processes that never outlive who started them.

A child is told what to do by one line of JSON on its standard input, so that no secret is seen in
a process list, and the pipe then stays open as a lifeline: when its other end goes, however the
parent ended, the child ends too.  What a child has to say it writes to a small JSON file, each
time as a whole; what it and its libraries log goes to a file.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TypeAlias

from neuronexus_kernel.errors import HubUnavailableError
from neuronexus_kernel.federation.deployment.tls import write_private
from neuronexus_kernel.settings import environment_without_secrets

Document: TypeAlias = dict[str, object]
"""A JSON object: what travels between a child and its parent."""

_POLL_SECONDS = 0.05
_LAST_RESORT_SECONDS = 10.0


class Child:
    """A child process, seen by its parent.

    Parameters
    ----------
    module
        Run as ``python -m module``.
    instructions
        What it is to do; it reads them with `instructions`.
    folder
        Where its log (``NAME.log``) and its reports (``NAME.json``) go; made if missing.
    name
        What it is called.
    """

    def __init__(
        self, module: str, instructions: Mapping[str, object], *, folder: Path, name: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.name = name
        self.log = folder / f"{name}.log"
        self._report = folder / f"{name}.json"
        self._report.unlink(missing_ok=True)
        with open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(folder),
                start_new_session=True,
            )
        line = {**instructions, "report": str(self._report)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def report(self) -> Document:
        """What it said last; empty before it said anything."""
        return _read(self._report)

    def wait_for_report(self, timeout: float) -> Document:
        """Wait until it says something, and return that.

        Raises
        ------
        HubUnavailableError
            If it ends or stays silent; the message holds the end of its log.
        """
        until = time.monotonic() + timeout
        while not (report := self.report):
            if not self.alive or time.monotonic() > until:
                self.stop()
                raise HubUnavailableError(f"The {self.name} did not start: {self.tail()}")
            time.sleep(_POLL_SECONDS)
        return report

    def tail(self, size: int = 2000) -> str:
        """Return the end of its log."""
        try:
            return self.log.read_bytes()[-size:].decode(errors="replace").strip()
        except OSError:
            return ""

    def stop(self, timeout: float = _LAST_RESORT_SECONDS) -> None:
        """End it and whatever it started, and wait until they are gone."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout)
        _end_group(process.pid)
        process.wait()


def last_report(folder: Path, name: str) -> Document:
    """Return what a child of this name said last in a folder; empty if it never was there."""
    return _read(folder / f"{name}.json")


def instructions() -> Document:
    """Return what the parent wrote; from now on, end when the parent's side of the pipe closes.

    To be called once, by a child, before anything else.  Ending begins with SIGTERM, so that the
    child can say goodbye; what still runs ten seconds later is killed.  Whatever the child has
    started ends with it.
    """
    line = sys.stdin.buffer.readline()
    signal.signal(signal.SIGTERM, _leave)
    atexit.register(_end_descendants)
    threading.Thread(target=_hold_on, daemon=True, name="nx-lifeline").start()
    told = json.loads(line)
    if not isinstance(told, dict):
        raise ValueError("A child is told what to do by a JSON object.")
    return told


class Reporter:
    """Writes a child's reports, each replacing the one before.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._said: Document = {}

    def say(self, **entries: object) -> None:
        """Change entries of the report, and write it if that changes anything."""
        with self._lock:
            said = {**self._said, **entries}
            if said != self._said:
                self._said = said
                write_private(self._path, json.dumps(said).encode())


def _read(path: Path) -> Document:
    try:
        written = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return written if isinstance(written, dict) else {}


def _hold_on() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_RESORT_SECONDS)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _leave(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _end_descendants() -> None:
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _end_group(group: int) -> None:
    """Kill what is left of a process group: a child may have left children of its own."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _environment(folder: Path) -> dict[str, str]:
    """Return the environment of a child: nothing is reported home, Flower's files stay apart."""
    scripts = sysconfig.get_path("scripts")
    return {
        **environment_without_secrets(),
        "FLWR_HOME": str(folder / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", "")]),
    }
