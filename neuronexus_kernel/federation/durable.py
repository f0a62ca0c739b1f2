"""A folder whose files survive a kill: a reader sees what was before a change, or after it.

One process holds a folder at a time.  Every file is flushed to the disk before the call that
writes it returns, and `Folder.replace` puts a whole file in the place of another in one step; so
a file that names others and is replaced last makes many changes one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

LOCK = "lock"


class Folder:
    """A folder of durable files; every method may raise `OSError`.

    Parameters
    ----------
    path
        Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def make(self) -> None:
        """Make the folder if it does not exist."""
        self.path.mkdir(parents=True, exist_ok=True)

    def take(self) -> bool:
        """Hold the folder until `release`; return False if another process or opening does."""
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let go of the folder."""
        if self._lock >= 0:
            with suppress(OSError):
                os.close(self._lock)
            self._lock = -1

    def names(self) -> Iterator[str]:
        """Yield the names of all files."""
        return (path.name for path in self.path.iterdir())

    def read(self, name: str) -> bytes:
        """Return what a file holds."""
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Write a file that nothing names yet."""
        handle = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def replace(self, name: str, data: bytes) -> None:
        """Write a file so that it is there as a whole or as it was before."""
        new = f"{name}.new"
        self.write(new, data)
        self._flush()
        os.replace(self.path / new, self.path / name)
        self._flush()

    def append(self, name: str, data: bytes, at: int) -> int:
        """Write behind the first `at` bytes of a file and return its new length."""
        handle = os.open(self.path / name, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.truncate(at)
            file.seek(at)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return at + len(data)

    def sweep(self, keep: Collection[str]) -> None:
        """Remove all files but some and the lock."""
        for path in self.path.iterdir():
            if path.name != LOCK and path.name not in keep:
                path.unlink()

    def _flush(self) -> None:
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
