"""Weights as Flower arrays, without writing and reading them at every touch.

Flower's `Array` holds the bytes of ``np.save`` and decodes them at each call of ``numpy()``.
Inside one process nobody needs those bytes, so `LocalArray` keeps the array and makes the bytes
only when somebody asks for them: averaging a hundred models of 1.7 million parameters becomes
about twenty times faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import numpy as np

from neuronexus_kernel.federation._flower import Array, ArrayRecord, SType


class LocalArray(Array):
    """A Flower array that keeps its ndarray.

    It serialises exactly as the `Array` of the same numbers does.  The ndarray is handed out
    itself, not a copy: whoever makes a `LocalArray` gives the array away.

    Parameters
    ----------
    ndarray
        The numbers, of any shape and memory layout.
    """

    def __init__(self, ndarray: np.ndarray) -> None:
        self._ndarray: np.ndarray | None = ndarray
        self._bytes: bytes | None = None
        self.dtype = str(ndarray.dtype)
        self.shape = tuple(ndarray.shape)
        self.stype = SType.NUMPY

    @property
    def data(self) -> bytes:
        """The bytes of ``np.save``, made when first asked for."""
        if self._bytes is None:
            assert self._ndarray is not None
            buffer = BytesIO()
            np.save(buffer, self._ndarray, allow_pickle=False)
            self._bytes = buffer.getvalue()
        return self._bytes

    @data.setter
    def data(self, value: bytes) -> None:
        self._bytes, self._ndarray = value, None

    def numpy(self) -> np.ndarray:
        """Return the ndarray."""
        return super().numpy() if self._ndarray is None else self._ndarray

    def deflate(self) -> bytes:
        """Serialise as a plain `Array`, which is what a reader elsewhere knows."""
        plain = Array(dtype=self.dtype, shape=self.shape, stype=self.stype, data=self.data)
        deflated: bytes = plain.deflate()
        return deflated


class LocalRecord(ArrayRecord):
    """A Flower array record that gives its arrays away without ceremony.

    Flower's own writes out every array and runs the garbage collector once per record when a
    strategy (QFedAvg, Bulyan) empties it, which takes seconds for a cohort.
    """

    def to_numpy_ndarrays(self, *, keep_input: bool = True) -> list[np.ndarray]:
        """Return the arrays; with ``keep_input=False`` the record is empty afterwards."""
        arrays = [array.numpy() for array in self.values()]
        if not keep_input:
            self.clear()
        return arrays

    def deflate(self) -> bytes:
        """Serialise as a plain `ArrayRecord`, which is what a reader elsewhere knows."""
        plain = ArrayRecord()
        for name, array in self.items():
            plain[name] = array
        deflated: bytes = plain.deflate()
        return deflated


def to_record(weights: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return weights as an array record; the arrays now belong to the record."""
    record = LocalRecord()
    for name, array in weights.items():  # its constructor would copy each into a plain Array
        record[name] = LocalArray(array)
    return record


def from_record(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Return the arrays of an `ArrayRecord` by name: do not write to them."""
    return {name: array.numpy() for name, array in record.items()}
