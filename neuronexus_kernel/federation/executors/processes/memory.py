"""Memory that processes share: an anonymous file, mapped by each of them.

A file without a name belongs to whoever holds its descriptor and is gone with the last of them,
however they end.  Nothing has to be unlinked, so nothing can leak, and no process has to keep
count as `multiprocessing.shared_memory` has its resource tracker do.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from neuronexus_kernel.content.dagcbor import Node

ALIGNMENT = 64
"""Arrays begin at multiples of a cache line."""

Place: TypeAlias = list[Node]
"""Where an array is: offset, type's name and shape."""


class SharedMemory:
    """A growing piece of memory behind a file descriptor.

    Parameters
    ----------
    descriptor
        Of memory that another process made; by default new memory.  It is closed by `close`.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _new() if descriptor is None else descriptor
        self.size = 0
        self._map: mmap.mmap | None = None

    def reserve(self, size: int) -> None:
        """Make the memory at least so large: what is in it stays."""
        if size > self.size:
            self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
            os.ftruncate(self.descriptor, self.size)
            self._map = mmap.mmap(self.descriptor, self.size)

    def follow(self, size: int) -> None:
        """See what another process has reserved."""
        if size > self.size:
            self.size = size
            self._map = mmap.mmap(self.descriptor, size)

    def array(self, place: Sequence[Node]) -> np.ndarray:
        """Return the array at a place: the memory itself, not a copy."""
        offset, kind, shape = place
        assert isinstance(offset, int)
        assert isinstance(kind, str)
        assert isinstance(shape, list)
        sizes = [int(str(size)) for size in shape]
        count = int(np.prod(sizes, dtype=np.int64))
        if count == 0:
            return np.zeros(sizes, dtype=kind)
        assert self._map is not None
        flat: np.ndarray = np.frombuffer(self._map, dtype=kind, count=count, offset=offset)
        return flat.reshape(sizes)

    def write(self, offset: int, array: np.ndarray) -> tuple[Place, int]:
        """Copy an array to an offset in reserved memory; return its place and where it ends."""
        place: Place = [offset, array.dtype.str, list(array.shape)]
        self.array(place)[...] = array
        return place, aligned(offset + array.nbytes)

    def close(self) -> None:
        """Give the descriptor back; arrays that are still in use keep their memory."""
        self._map = None
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def aligned(size: int) -> int:
    """Return a size, or an offset, rounded up to the next place for an array."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def room(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the memory that arrays take one after another."""
    return sum(aligned(array.nbytes) for array in arrays.values())


def _new() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("neuronexus")
    with tempfile.TemporaryFile() as file:  # a file that has lost its name
        return os.dup(file.fileno())
