"""How much a store holds, and the quota that bounds it.

The count of bytes and blocks lies in a small file.  Whoever places or removes blocks changes it
under the file's lock, in the same stroke, so that it is right for all processes.  Only a crash can
come between the two; then the folder that the dead process owned in the store is found, the count
is forgotten, and the next who needs it counts the files.  The same happens after the computer was
started anew, as the count is never flushed.

A quota is kept by reserving: before bytes are written, they are reserved in the folder of the one
who writes, under the same lock.  What is counted and what is reserved never exceed the quota.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from neuronexus_kernel.errors import QuotaError
from neuronexus_kernel.storage.locking import locked

RESERVED = ".reserved"
_STEP = 16 * 1024 * 1024
_PLENTY = 64 * _STEP


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store holds.

    Attributes
    ----------
    bytes, blocks
        Of the blocks that are in place; each counts once, however many roots need it.
    reserved
        Bytes that adds which are under way may still need; 0 in a store without a quota.
    quota
        The most that both together may be, or None.
    """

    bytes: int
    blocks: int
    reserved: int
    quota: int | None


class Tally:
    """The count while its lock is held; None while nobody has counted."""

    def __init__(self, known: tuple[int, int] | None) -> None:
        self.known = known

    def add(self, size: int, blocks: int) -> None:
        """Count what appeared, or with negative numbers what is gone."""
        if self.known is not None:
            self.known = (self.known[0] + size, self.known[1] + blocks)


class Counter:
    """The count of one store, shared by all processes.

    Parameters
    ----------
    path
        The file that holds it.
    staging
        Folder of the folders in which writers note what they reserved.
    quota
        In bytes, or None.
    recount
        Counts the files, while nobody can place or remove any, and notes the result here.
    clean
        Removes the folders of dead writers.
    """

    def __init__(
        self,
        path: Path,
        staging: Path,
        quota: int | None,
        *,
        recount: Callable[[], object],
        clean: Callable[[], object],
    ) -> None:
        self._path = path
        self._staging = staging
        self._quota = quota
        self._recount = recount
        self._clean = clean

    @contextmanager
    def tally(self) -> Iterator[Tally]:
        """Hold the count; what it is changed to is kept."""
        with locked(self._path) as handle:
            before = _decode(os.pread(handle, 128, 0))
            tally = Tally(before)
            try:
                yield tally
            finally:
                if tally.known is not None and tally.known != before:
                    try:
                        # Over what was there: that needs no room on a disk that is full.
                        os.pwrite(handle, _encode(tally.known), 0)
                    except OSError:
                        tally.known = None
                if tally.known is None:
                    os.ftruncate(handle, 0)

    def forget(self) -> None:
        """Have the next who needs it count anew."""
        with self.tally() as tally:
            tally.known = None

    def usage(self) -> Usage:
        """Return the count, counting first if it is not known."""
        while True:
            with self.tally() as tally:
                if tally.known is not None:
                    return Usage(*tally.known, self._all_reserved(), self._quota)
            self._recount()

    def reservation(self, folder: Path) -> Reservation:
        """Return what a writer with this folder reserves."""
        return Reservation(self, folder)

    def reserve(self, folder: Path, size: int, more: int) -> int:
        """Let a writer that has reserved `size` bytes reserve `more`; return all that it has now.

        Where there is plenty, it gets more than that, so that it need not ask for each block.

        Raises
        ------
        QuotaError
            If it would exceed the quota.
        """
        if self._quota is None:
            return size
        cleaned = False
        while True:
            with self.tally() as tally:
                if tally.known is not None:
                    free = self._quota - tally.known[0] - self._all_reserved()
                    if more <= free:
                        size += more + (_STEP if free > _PLENTY else 0)
                        _write_number(folder / RESERVED, size)
                        return size
            if tally.known is None:
                self._recount()
            elif cleaned:
                raise self._exhausted(more)
            else:
                self._clean()
                cleaned = True

    def _exhausted(self, more: int) -> QuotaError:
        usage = self.usage()
        meanwhile = f", and {usage.reserved:,} are reserved by adds" if usage.reserved else ""
        return QuotaError(
            f"{more:,} more bytes do not fit into the store: it holds {usage.bytes:,} of "
            f"{self._quota:,} bytes{meanwhile}. Unpin what is not needed any more and collect "
            "it, or raise the quota (NEURONEXUS_STORE_QUOTA_MIB)."
        )

    def _all_reserved(self) -> int:
        if self._quota is None:
            return 0
        return sum(_read_number(folder / RESERVED) for folder in self._staging.iterdir())


class Reservation:
    """What one writer has reserved and not used yet.

    Parameters
    ----------
    counter
        The store's count.
    folder
        The writer's own.
    """

    def __init__(self, counter: Counter, folder: Path) -> None:
        self._counter = counter
        self._folder = folder
        self._size = 0
        self._written = 0

    def take(self, size: int) -> None:
        """Reserve for a block that is about to be written.

        Raises
        ------
        QuotaError
            If the store would become too large.
        """
        missing = self._written + size - self._size
        if missing > 0:
            self._size = self._counter.reserve(self._folder, self._size, missing)
        self._written += size

    def placed(self, tally: Tally, size: int, blocks: int) -> None:
        """Count what was written as placed; the lock of the count is held."""
        tally.add(size, blocks)
        if self._size:
            self._size = max(0, self._size - size)
            _write_number(self._folder / RESERVED, self._size)


def _decode(text: bytes) -> tuple[int, int] | None:
    """Read the count; None if there is none, or it is from before the computer was started."""
    fields = text.split()
    if len(fields) != 3 or fields[2] != _boot() or not (fields[0] + fields[1]).isdigit():
        return None
    return int(fields[0]), int(fields[1])


def _encode(count: tuple[int, int]) -> bytes:
    return b"%020d %020d %s\n" % (*count, _boot())


@cache
def _boot() -> bytes:
    """Return what tells one start of the computer from another, where the system says so."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    return b"-"


def _read_number(path: Path) -> int:
    with suppress(OSError):
        text = path.read_bytes()
        return int(text) if text.isdigit() else 0
    return 0


def _write_number(path: Path, number: int) -> None:
    path.write_bytes(b"%d" % number)
