"""What is being read: a collector leaves it alone, pinned or not.

Each process that reads has a folder of its own, in which an empty file named by a CID says that
what lies below that CID is in use.  The folder's lock goes when the process does, and with it
what it said.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuronexus_kernel.storage.locking import ContentLock, OwnedFolder, let_go


class Hold:
    """Keeps what lies below one root from being collected, until `release`."""

    def __init__(self, readers: Readers, name: str, lock: int | None) -> None:
        self._readers = readers
        self._name = name
        self._lock = lock
        self._process = os.getpid()
        self._held = True

    def release(self) -> None:
        """Let go; a second time does nothing."""
        # A process forked from the one that holds has inherited this object, not what it holds.
        if self._held and self._process == os.getpid():
            self._held = False
            self._readers.release(self._name, self._lock)


class Readers:
    """All that is being read in one store.

    Parameters
    ----------
    parent
        Where the folders of the processes are.
    lock
        The store's.
    """

    def __init__(self, parent: Path, lock: ContentLock) -> None:
        self._parent = parent
        self._lock = lock
        self._mutex = threading.Lock()
        self._folder: Path | None = None
        self._process = os.getpid()
        self._counts: dict[str, int] = {}

    def hold(self, name: str) -> Hold:
        """Keep what lies below a root from being collected.

        What is there when this returns stays: no collector is at work within it.  Where the
        file cannot be made (the disk is full, or may not be written to), collectors are kept
        away altogether meanwhile.

        Parameters
        ----------
        name
            The text of the root's CID, as its file is named.
        """
        self._begin_anew_after_a_fork()
        with self._mutex:
            folder = self._own_folder()
            if folder is not None and name in self._counts:
                self._counts[name] += 1
                return Hold(self, name, None)
            lock = self._lock.hold_shared()
            if folder is not None:
                with suppress(OSError):
                    os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600))
                    self._counts[name] = 1
                    let_go(lock)
                    return Hold(self, name, None)
            return Hold(self, name, lock)

    @contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Keep what lies below a root from being collected while the ``with`` block runs."""
        hold = self.hold(name)
        try:
            yield
        finally:
            hold.release()

    def release(self, name: str, lock: int | None) -> None:
        """Let go of a root once, or of the lock that was held instead."""
        if lock is not None:
            let_go(lock)
            return
        with self._mutex:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]
                if self._folder is not None:
                    with suppress(OSError):
                        os.unlink(self._folder / name)

    def roots(self) -> set[str]:
        """Return what is being read, by any process."""
        found: set[str] = set()
        with suppress(FileNotFoundError):
            for folder in self._parent.iterdir():
                with suppress(FileNotFoundError, NotADirectoryError):
                    found.update(os.listdir(folder))
        return found

    def _begin_anew_after_a_fork(self) -> None:
        if self._process != os.getpid():
            self._process, self._folder, self._counts = os.getpid(), None, {}
            self._mutex = threading.Lock()  # A thread of the parent may have held the old one.

    def _own_folder(self) -> Path | None:
        """Return the folder of this process, making it when it is first needed."""
        if self._folder is None:
            with suppress(OSError):
                owned = OwnedFolder(self._parent)
                self._folder = owned.path
                weakref.finalize(self, _remove, owned, os.getpid())
        return self._folder


def _remove(owned: OwnedFolder, process: int) -> None:
    if os.getpid() == process:
        owned.remove()
