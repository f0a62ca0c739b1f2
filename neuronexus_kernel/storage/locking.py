"""Locks between threads and processes, and folders that say whether their owner is alive.

Both are ``flock``: the kernel gives a lock back when its owner dies, so that nobody ever waits for
a dead process.  Each acquisition opens the file anew, because a lock belongs to an open file: so
threads exclude each other as processes do.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuronexus_kernel.errors import StoreError

TICK = 2_000_000_000
"""Nanoseconds: the coarsest that file systems keep times in (FAT)."""

_ATTEMPT = 0.25
_PAUSE = 0.05
_POLL = 0.001


def hold(path: Path, *, shared: bool = False, wait: bool = True) -> int:
    """Lock a file, which is made if there is none; return what `let_go` takes.

    Raises
    ------
    BlockingIOError
        If somebody else has the lock and `wait` is false.
    """
    # Python opens files so that programs it starts do not inherit them, and with them the lock.
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(
            handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        )
    except BaseException:
        os.close(handle)
        raise
    return handle


def let_go(handle: int) -> None:
    """Give a lock back, also if a forked process has inherited it."""
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold a file's lock alone; gives the open file."""
    handle = hold(path)
    try:
        yield handle
    finally:
        let_go(handle)


class ContentLock:
    """Who adds and who removes: many may add at once, one may remove, for a moment.

    Adders hold it *shared* while what they add appears (`Batch.commit`), not while they write.  A
    collector holds it *exclusively* for the few milliseconds of each of its steps.  Where adders
    follow each other without a gap, a collector gets its turn all the same: it closes a door that
    they all pass, but only for a quarter of a second at a time.

    The lock's file holds the *epoch*, a time in nanoseconds.  What appears is stamped with the
    present time or the epoch, whichever is later; a collector begins by moving the epoch past all
    stamps that there can be.  So what has a stamp before the epoch was complete when the
    collection began, and what appeared since does not, even if the computer's clock is set back.
    The epoch is a multiple of two seconds, as not every file system keeps finer times.

    Parameters
    ----------
    folder
        Where the files of the lock are.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "content"
        self._door = folder / "door"

    def prepare(self) -> None:
        """Make the files, so that a collector needs no room on a disk that is full."""
        for path in (self._file, self._door):
            let_go(hold(path, shared=True))
        if not self._file.stat().st_size:
            with locked(self._file) as handle:
                if not os.fstat(handle).st_size:
                    os.pwrite(handle, b"%020d" % 0, 0)

    @contextmanager
    def shared(self) -> Iterator[int]:
        """Keep collectors away; gives the stamp of what appears now."""
        handle = self.hold_shared()
        try:
            yield max(time.time_ns(), _epoch(handle))
        finally:
            let_go(handle)

    def hold_shared(self) -> int:
        """Keep collectors away until `let_go` is called with what this returns."""
        door = hold(self._door)
        try:
            return hold(self._file, shared=True)
        finally:
            let_go(door)

    @contextmanager
    def exclusive(self, *, patience: float = 600.0) -> Iterator[int]:
        """Keep adders and other collectors away; gives the open file of the lock.

        Raises
        ------
        StoreError
            If adders held on to the lock for longer than `patience` seconds.
        """
        handle = self._hold_alone(time.monotonic() + patience)
        try:
            yield handle
        finally:
            let_go(handle)

    def new_epoch(self) -> int:
        """Begin a new epoch, after all stamps so far; return it."""
        with self.exclusive() as handle:
            epoch = self.next_epoch(handle)
            os.pwrite(handle, b"%020d" % epoch, 0)
        return epoch

    @staticmethod
    def next_epoch(handle: int) -> int:
        """Return what would be the next epoch now."""
        return max(time.time_ns() // TICK * TICK, _epoch(handle)) + TICK

    def _hold_alone(self, deadline: float) -> int:
        while True:
            door = hold(self._door)
            try:
                end = time.monotonic() + _ATTEMPT
                while time.monotonic() < end:
                    with suppress(BlockingIOError):
                        return hold(self._file, wait=False)
                    time.sleep(_POLL)
            finally:
                let_go(door)
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{self._file.parent.parent} is being added to without end, perhaps by a "
                    "process that is stopped. Try again when it is done."
                )
            time.sleep(_PAUSE)


def _epoch(handle: int) -> int:
    text = os.pread(handle, 20, 0)
    return int(text) if text.isdigit() else 0


class OwnedFolder:
    """A folder that is removed when its owner is done with it, or found dead.

    Parameters
    ----------
    parent
        Where to make it.
    """

    def __init__(self, parent: Path) -> None:
        while True:
            self.path = parent / secrets.token_hex(8)
            self.path.mkdir(mode=0o700)
            with suppress(FileNotFoundError):
                self._lock = os.open(self.path, os.O_RDONLY)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                if self.path.exists():
                    return
                os.close(self._lock)  # Taken for remains between the two lines above.

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        let_go(self._lock)


def remove_remains(parent: Path, before: Callable[[], None] = lambda: None) -> int:
    """Remove the folders below `parent` whose owner is dead; return how many there were.

    Parameters
    ----------
    parent
        Where `OwnedFolder` made them.
    before
        Called before each is removed.
    """
    count = 0
    for folder in list(parent.iterdir()):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            before()
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
    return count
