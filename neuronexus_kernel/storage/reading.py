"""What is being read: a collector leaves it alone, pinned or not.

Each process that reads has a folder of its own, in which an empty file named by a CID says that
what lies below that CID is in use.  The folder's lock goes when the process does, and with it
what it said.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EPERM, EROFS
from functools import partial
from pathlib import Path

from neuronexus_kernel.storage.files import explained
from neuronexus_kernel.storage.locking import ContentLock, OwnedFolder, let_go


class Hold:
    """Keeps what lies below one root from being collected, until `release`.

    Parameters
    ----------
    release
        Lets go.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release
        self._process = os.getpid()

    def release(self) -> None:
        """Let go; a second time does nothing."""
        release, self._release = self._release, None
        # A process forked from the one that holds has inherited this object, not what it holds.
        if release is not None and self._process == os.getpid():
            release()


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
        self._begin()

    def hold(self, name: str) -> Hold:
        """Keep what lies below a root from being collected.

        What is there when this returns stays: no collector is at work within it.  Where the file
        cannot be made (the disk is full, say), collectors are kept away altogether meanwhile.
        Where not even a lock can be had (a medium that is only read), nobody collects.

        Parameters
        ----------
        name
            The text of the root's CID, as its file is named.

        Raises
        ------
        StoreError
            If too many files are open.
        """
        if self._process != os.getpid():
            self._begin()
        with explained(self._parent, "could not be used"):
            try:
                with self._mutex:
                    return self._hold(name)
            except OSError as error:
                if error.errno not in (EACCES, EPERM, EROFS):
                    raise
                return Hold(lambda: None)
            finally:
                self._settle()

    @contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Keep what lies below a root from being collected while the ``with`` block runs."""
        hold = self.hold(name)
        try:
            yield
        finally:
            hold.release()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._folder: Path | None = None
        self._counts: dict[str, int] = {}
        self._released: deque[str] = deque()
        self._mutex = threading.Lock()

    def _hold(self, name: str) -> Hold:
        folder = self._own_folder()
        if folder is None or name not in self._counts:
            lock = self._lock.hold_shared()
            try:
                if folder is None:
                    raise FileNotFoundError(folder)
                os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600))
            except OSError:
                return Hold(partial(let_go, lock))
            let_go(lock)
        self._counts[name] = self._counts.get(name, 0) + 1
        return Hold(partial(self._let_go_of, name))

    def _let_go_of(self, name: str) -> None:
        self._released.append(name)
        self._settle()

    def _settle(self) -> None:
        """Carry out what was released.

        A stream that is forgotten is closed whenever the interpreter likes, also in the midst
        of `hold`.  So this never waits: who has the mutex looks here after letting go of it.
        """
        while self._released and self._mutex.acquire(blocking=False):
            try:
                while self._released:
                    name = self._released.popleft()
                    self._counts[name] -= 1
                    if not self._counts[name]:
                        del self._counts[name]
                        with suppress(OSError):
                            os.unlink(f"{self._folder}/{name}")
            finally:
                self._mutex.release()

    def roots(self) -> set[str]:
        """Return what is being read, by any process."""
        found: set[str] = set()
        with suppress(FileNotFoundError):
            for folder in self._parent.iterdir():
                with suppress(FileNotFoundError, NotADirectoryError):
                    found.update(os.listdir(folder))
        return found

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
