"""Memory for the models of a round's clients, which are trained where they are handed over.

Memory fresh from the system costs as much to touch for the first time as a step of training.  So it
is used again in a later round, as soon as nobody holds an array in it any more: Python counts the
references, and every array that is a view of a piece holds one to it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neuronexus_kernel.models.operators import Shape

_CACHE_LINE = 64
_GENERATIONS = 2
"""How many rounds' memory is kept: Flower lets go of a round's replies when it has the next."""
_KEPT = 512 * 2**20
"""Bytes that are kept between rounds at most."""

_NOBODY_ELSE = 3
"""References to a piece that `Memory` alone holds, while it goes through its pieces and asks."""

Stacks: TypeAlias = Mapping[str, NDArray[np.floating]]
"""The models of several clients by full name, (clients, \\*shape)."""


class Memory:
    """Hands out memory, and takes it back without being told."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[NDArray[np.uint8]]] = {}

    def stacks(
        self, shapes: Mapping[str, Shape], clients: int, dtype: np.dtype[np.floating]
    ) -> dict[str, NDArray[np.floating]]:
        """Return memory for some clients' tensors, not initialised.

        Kernels of images (four dimensions) have their channels last in memory.
        """
        sizes = {name: clients * math.prod(each) * dtype.itemsize for name, each in shapes.items()}
        kept = _GENERATIONS * sum(sizes.values()) <= _KEPT
        made = {}
        for name, shape in shapes.items():
            piece = self._piece(name, sizes[name] + _CACHE_LINE, kept=kept)
            if len(shape) == 4:
                last = (clients, shape[0], *shape[2:], shape[1])
                made[name] = _aligned(piece, last, dtype).transpose(0, 1, 4, 2, 3)
            else:
                made[name] = _aligned(piece, (clients, *shape), dtype)
        return made

    def _piece(self, name: str, size: int, *, kept: bool) -> NDArray[np.uint8]:
        pieces = self._pieces.setdefault(name, [])
        for piece in pieces:
            if len(piece) >= size and sys.getrefcount(piece) == _NOBODY_ELSE:
                return piece
        # NumPy asks the system for large pages, which take a third of the time to be touched.
        made = np.empty(size, np.uint8)
        pieces.insert(0, made)
        del pieces[_GENERATIONS if kept else 0 :]
        return made


def _aligned(
    piece: NDArray[np.uint8], shape: Shape, dtype: np.dtype[np.floating]
) -> NDArray[np.floating]:
    """Return an array in a piece of memory that begins with a cache line.

    A product that updates its weights in place is a third slower where every vector crosses two
    lines.
    """
    address: int = piece.__array_interface__["data"][0]
    first = -address % _CACHE_LINE
    size = math.prod(shape) * dtype.itemsize
    return piece[first : first + size].view(dtype).reshape(shape)
