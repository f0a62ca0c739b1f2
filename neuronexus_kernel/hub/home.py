"""A hub's own folder: closed to others, served by one process, and with a name of its own.

Several hubs may share a database; each has a home of its own, and what only the process in that
home can do (a federation that it serves, an evaluation that it carries out) is recorded under the
home's name.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from neuronexus_kernel.content import new_id
from neuronexus_kernel.errors import HubUnavailableError, StoreError


class Home:
    """The folder of a hub that runs in this process.

    Parameters
    ----------
    folder
        Made if there is none, and closed to other users: it holds hashes and held-out data.

    Raises
    ------
    StoreError
        If it cannot be made or closed.
    HubUnavailableError
        If another process, or this one, serves it already.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)
        except OSError as error:
            raise StoreError(
                f"The hub's folder {folder} could not be made, or not be closed to others: "
                f"{error}. Give the hub a folder of your own (NEURONEXUS_HOME)."
            ) from None
        self._lock = self._claim()
        try:
            self.name = self._named()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let another process serve it."""
        os.close(self._lock)

    def _claim(self) -> int:
        lock = os.open(self.folder / "hub.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "not known"
            os.close(lock)
            if holder == str(os.getpid()):
                raise HubUnavailableError(
                    f"The hub of {self.folder} is open already, in this process (PID {holder}): "
                    "use that hub, for example by its `visitor()`, or close it first."
                ) from None
            raise HubUnavailableError(
                f"The hub of {self.folder} is open in another process (PID {holder}). Connect to "
                "it with `nx.connect()`, which finds its address in hub.json there, or end that "
                "process first."
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock

    def _named(self) -> str:
        path = self.folder / "hub.id"
        try:
            name = path.read_text().strip()
            if name:
                return name
        except FileNotFoundError:
            pass
        name = new_id()
        draft = path.with_name(".hub.id")
        draft.write_text(name)
        os.replace(draft, path)
        return name
