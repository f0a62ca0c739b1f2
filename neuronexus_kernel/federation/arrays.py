"""Weights as Flower arrays, without writing and reading them at every touch.

Flower's `Array` holds the bytes of ``np.save`` and decodes them at each call of ``numpy()``.
Inside one process nobody needs those bytes, so `LocalArray` keeps the array and makes the bytes
only when somebody asks for them: averaging a hundred models of 1.7 million parameters becomes
about twenty times faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from io import BytesIO
from typing import Any, TypeAlias, cast

import numpy as np

from neuronexus_kernel.federation._flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    MetricRecord,
    RecordDict,
    SType,
    TypedDict,
)

Record: TypeAlias = ArrayRecord | MetricRecord | ConfigRecord


class LocalArray(Array):
    """A Flower array that keeps its ndarray.

    It serialises exactly as the `Array` of the same numbers does.  The ndarray is handed out
    itself, not a copy: whoever makes a `LocalArray` gives the array away.

    Parameters
    ----------
    ndarray
        The numbers, of any shape and memory layout.
    """

    _ndarray: np.ndarray | None
    _bytes: bytes | None

    def __init__(self, ndarray: np.ndarray) -> None:
        # Straight into the dict: Flower's __setattr__ keeps count of each change.
        self.__dict__.update(
            _ndarray=ndarray,
            _bytes=None,
            dtype=_name_of(ndarray.dtype),
            shape=ndarray.shape,
            stype=SType.NUMPY,
        )

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
    strategy (QFedAvg, Bulyan) empties it, which takes seconds for a cohort.  What is put into it
    is not checked.
    """

    def __setitem__(self, key: str, value: Array) -> None:
        """Put an array into the record."""
        self.__dict__["_data"][key] = value
        self.__dict__["_is_dirty"] = True

    def put(self, weights: Mapping[str, np.ndarray]) -> None:
        """Put arrays into the record, which they belong to from now on."""
        self.__dict__["_data"].update({name: LocalArray(each) for name, each in weights.items()})
        self.__dict__["_is_dirty"] = True

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


class LocalMetrics(MetricRecord):
    """A Flower metric record whose first entries need no check: it takes longer than a step.

    Parameters
    ----------
    metrics
        Numbers by name; the record keeps a copy.
    """

    def __init__(self, metrics: Mapping[str, int | float]) -> None:
        super().__init__()
        self.__dict__["_data"].update(metrics)

    def deflate(self) -> bytes:
        """Serialise as a plain `MetricRecord`, which is what a reader elsewhere knows."""
        deflated: bytes = MetricRecord(dict(self.items())).deflate()
        return deflated


class LocalContent(RecordDict):
    """A Flower record dict for a message within this process: making and reading it is cheap.

    Flower's own copies its records, with all its checks, whenever somebody asks for those of one
    kind, which strategies do several times for every reply.
    """

    def __setitem__(self, key: str, value: Record) -> None:
        """Put a record into the dict."""
        self.__dict__["_data"][key] = value

    @property
    def array_records(self) -> TypedDict[str, ArrayRecord]:
        """The array records."""
        return cast("TypedDict[str, ArrayRecord]", _Records(self, ArrayRecord))

    @property
    def metric_records(self) -> TypedDict[str, MetricRecord]:
        """The metric records."""
        return cast("TypedDict[str, MetricRecord]", _Records(self, MetricRecord))

    @property
    def config_records(self) -> TypedDict[str, ConfigRecord]:
        """The config records."""
        return cast("TypedDict[str, ConfigRecord]", _Records(self, ConfigRecord))

    def deflate(self) -> bytes:
        """Serialise as a plain `RecordDict`, which is what a reader elsewhere knows."""
        deflated: bytes = RecordDict(dict(self.items())).deflate()
        return deflated


class _Records(dict[str, Record]):
    """The records of one kind; what is put here is put into the content too, as Flower does."""

    def __init__(self, content: LocalContent, kind: type[Record]) -> None:
        super().__init__(
            {name: record for name, record in content.items() if isinstance(record, kind)}
        )
        self._content = content

    def __setitem__(self, key: str, value: Record) -> None:
        super().__setitem__(key, value)
        self._content[key] = value

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        del self._content[key]


def array_records(content: RecordDict) -> dict[str, ArrayRecord]:
    """Return the array records of any content by name."""
    return {name: record for name, record in content.items() if isinstance(record, ArrayRecord)}


@cache
def _name_of(dtype: np.dtype[Any]) -> str:
    """Return the name of a type of numbers, which numpy puts together anew each time."""
    return str(dtype)


def to_record(weights: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return weights as an array record; the arrays now belong to the record."""
    record = LocalRecord()
    record.put(weights)  # its constructor would copy each into a plain Array
    return record


def from_record(record: ArrayRecord) -> dict[str, np.ndarray]:
    """Return the arrays of an `ArrayRecord` by name: do not write to them."""
    return {name: array.numpy() for name, array in record.items()}
