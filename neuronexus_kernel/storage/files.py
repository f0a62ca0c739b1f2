"""Small files on a disk: read whole, written whole, and flushed; errors that say what to do."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import BoundedSemaphore
from typing import BinaryIO

from neuronexus_kernel.errors import ConflictError, InvalidInputError, NotFoundError, StoreError

MAX_BLOCK = 2 * 1024 * 1024
"""Bytes of a block: no other IPFS node would take a larger one."""


@contextmanager
def explained(
    where: str | Path, what: str = "could not be written; nothing was added"
) -> Iterator[None]:
    """Turn errors of the operating system into a `StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "The disk is full. Free some space and try again"
        elif error.errno == errno.EFBIG:
            advice = "A file would be larger than this process may write (see ulimit -f)"
        elif error.errno in (errno.EMFILE, errno.ENFILE):
            advice = "Too many files are open (see ulimit -n). Close some streams and try again"
        else:
            advice = f"{error.strerror or error}. Check the folder and its permissions"
        raise StoreError(f"{where} {what}. {advice}.") from error


def read_block(path: str | Path) -> bytes | None:
    """Return what a file holds, or None where it is too large to be a block."""
    handle = os.open(path, os.O_RDONLY)
    try:
        # The size first, then as much at once: two system calls for a whole block.
        size = os.fstat(handle).st_size
        if size > MAX_BLOCK:
            return None
        block = os.read(handle, size + 1)
        while len(block) < size:
            more = os.read(handle, size - len(block))
            if not more:
                break
            block += more
        return block
    finally:
        os.close(handle)


def create(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file that must not exist, without flushing it.

    A file that could not be written whole is removed again.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        count = os.write(handle, data)
        if count < len(data):
            rest = memoryview(data)[count:]
            while rest:
                rest = rest[os.write(handle, rest) :]
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(handle)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading.

    Raises
    ------
    NotFoundError, InvalidInputError
        If there is none, or it cannot be read.
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise NotFoundError(f"There is no file or folder {path}.") from None
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be opened: {error.strerror}.") from None
    with stream:
        yield stream


@contextmanager
def appearing(target: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Write a file that appears when it is whole, and not at all if an error is raised.

    Parameters
    ----------
    target
        Where it shall lie.
    private
        Whether it is for its owner alone.

    Raises
    ------
    ConflictError
        If something lies there already.
    StoreError
        If it cannot be written.
    """
    check_free(target)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    with explained(target, "could not be written; nothing was"):
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        handle = os.open(draft, flags, 0o600 if private else 0o666)
        try:
            with os.fdopen(handle, "w+b") as stream:
                yield stream
                stream.flush()
                os.fsync(handle)
            publish(draft, target)
        finally:
            draft.unlink(missing_ok=True)


def publish(made: Path, target: Path) -> None:
    """Move a file to its place, unless something appeared there meanwhile."""
    try:
        os.link(made, target, follow_symlinks=False)
    except FileExistsError:
        check_free(target)
    except OSError:  # A file system without hard links.
        check_free(target)
        os.rename(made, target)


def check_free(target: Path) -> None:
    """Refuse to write where something lies already.

    Raises
    ------
    ConflictError
        If something does.
    """
    if os.path.lexists(target):
        raise ConflictError(f"{target} exists already. Choose another place, or remove it first.")


def flush(path: str | Path) -> None:
    """Bring a file to the disk, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Flusher:
    """Brings files to the disk while the next ones are being written.

    A disk takes many flushes at once in hardly more time than one, as its journal writes them
    down together.  So a few threads flush side by side, each a group of files at a time, and
    whoever writes waits only when they fall far behind.  One file alone needs no thread.

    Parameters
    ----------
    sync
        False does nothing, and leaves it to the operating system.
    """

    THREADS = 8
    FILES = 32
    """In a group, at most."""
    BYTES = 4 * 1024 * 1024
    """In a group, after which the next one begins."""
    WAITING = 12
    """Groups that are not flushed yet: so much, and not more, may be lost to the cache."""

    def __init__(self, *, sync: bool) -> None:
        self._sync = sync
        self._group: list[str] = []
        self._size = 0
        self._pool: ThreadPoolExecutor | None = None
        self._room = BoundedSemaphore(self.WAITING)
        self._problem: OSError | None = None
        self._abandoned = False

    def take(self, path: str, size: int) -> None:
        """Flush a file that was written, sooner or later.

        Raises
        ------
        OSError
            If an earlier one could not be flushed.
        """
        self._raise()
        if not self._sync:
            return
        self._group.append(path)
        self._size += size
        if len(self._group) == self.FILES or self._size >= self.BYTES:
            self._submit(self._group)
            self._group, self._size = [], 0

    def finish(self) -> None:
        """Wait until all files are on the disk.

        Raises
        ------
        OSError
            If one could not be flushed.
        """
        rest, self._group, self._size = self._group, [], 0
        if len(rest) == 1:
            self._flush(rest)
        else:
            for path in rest:
                self._submit([path])
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._raise()

    def abandon(self) -> None:
        """Flush no more; what is in the files does not matter."""
        self._abandoned = True
        with suppress(OSError):
            self.finish()

    def _submit(self, group: list[str]) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.THREADS, thread_name_prefix="flush")
        self._room.acquire()
        self._pool.submit(self._flush_beside, group)

    def _flush_beside(self, group: list[str]) -> None:
        try:
            self._flush(group)
        finally:
            self._room.release()

    def _flush(self, group: list[str]) -> None:
        try:
            for path in group:
                if not self._abandoned:
                    flush(path)
        except OSError as error:
            self._problem = error

    def _raise(self) -> None:
        if self._problem is not None:
            raise self._problem
