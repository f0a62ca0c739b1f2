"""The bytes of a data set: safetensors with exactly one spelling.

Eight bytes of header length (little-endian), a JSON header with sorted keys, padded with spaces
to a multiple of eight, then ``labels``, ``inputs`` and each column's codes, little-endian, in
C order.  The safetensors library writes its metadata in no fixed order, so the header is written
here; any safetensors reader reads it.  `decode` accepts exactly what `encode` writes: it reads
what the header says, writes the header anew and compares.

Numbers labelled with classes, without columns, are of format 1: labels I64, inputs F32.  All else
is of format 2, whose metadata also name the kind, the vocabulary (0: inputs are no tokens) and,
as JSON, each column's distinct values in rising order; the column itself is the place of each
row's value among them, I64.  There labels are F32 for regression, and inputs I64 for tokens.
Source: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuronexus_kernel.datasets.checking import KINDS, Column, Inputs, Kind, Labels
from neuronexus_kernel.errors import DatasetError

FORMAT = "neuronexus-dataset-1"
FORMAT_2 = "neuronexus-dataset-2"
HEADER_LIMIT = 4 * 1024 * 1024

Level = int | str


@dataclass(frozen=True, slots=True)
class Content:
    """What the bytes of a data set hold; see `Dataset` for the fields."""

    inputs: Inputs
    labels: Labels
    kind: Kind
    classes: int
    vocabulary: int
    columns: Mapping[str, Column]
    name: str


@dataclass(frozen=True, slots=True)
class _Header:
    """What a header says; all else in it follows from this."""

    input_shape: tuple[int, ...]
    label_shape: tuple[int, ...]
    kind: Kind
    classes: int
    name: str
    vocabulary: int = 0
    levels: Mapping[str, list[Level]] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether this is of format 1."""
        return self.kind == "classification" and not self.vocabulary and not self.levels

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return dtype and shape of each tensor, in the order in which they lie."""
        rows = self.input_shape[:1]
        columns = {f"column.{name}": ("I64", rows) for name in sorted(self.levels)}
        return {
            "labels": ("F32" if self.kind == "regression" else "I64", self.label_shape),
            "inputs": ("I64" if self.vocabulary else "F32", self.input_shape),
            **columns,
        }

    def metadata(self) -> dict[str, str]:
        """Return the metadata, all text."""
        named = {"classes": str(self.classes), "name": self.name}
        if self.plain:
            return {**named, "format": FORMAT}
        return {
            **named,
            "columns": _text(self.levels),
            "format": FORMAT_2,
            "kind": self.kind,
            "vocabulary": str(self.vocabulary),
        }

    def encode(self) -> bytes:
        """Return the header with its length before it."""
        header: dict[str, object] = {"__metadata__": self.metadata()}
        end = 0
        for name, (dtype, shape) in self.tensors().items():
            start, end = end, end + _SIZES[dtype] * math.prod(shape)
            header[name] = {"data_offsets": [start, end], "dtype": dtype, "shape": list(shape)}
        text = _text(header).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


_SIZES = {"F32": 4, "I64": 8}
_WIRE = {"F32": "<f4", "I64": "<i8"}


def encode(content: Content) -> bytes:
    """Return the canonical bytes of a data set.

    Raises
    ------
    DatasetError
        If a column has more distinct values than a header holds.
    """
    levels: dict[str, list[Level]] = {}
    arrays: list[NDArray[np.generic]] = [content.labels, content.inputs]
    for name, values in sorted(content.columns.items()):
        distinct, codes = np.unique(values, return_inverse=True)
        levels[name] = distinct.tolist()
        arrays.append(codes)
    header = _Header(
        content.inputs.shape,
        content.labels.shape,
        content.kind,
        content.classes,
        content.name,
        content.vocabulary,
        levels,
    )
    start = header.encode()
    if len(start) > HEADER_LIMIT:
        raise DatasetError(
            f"{content.name} has columns with too many distinct values to be written down: "
            f"{', '.join(f'{name} {len(values):,}' for name, values in levels.items())}. "
            "Number the values, or leave the column out."
        )
    parts = [
        np.ascontiguousarray(array, dtype=_WIRE[dtype]).data
        for array, (dtype, _) in zip(arrays, header.tensors().values(), strict=True)
    ]
    return b"".join([start, *parts])


def decode(data: bytes) -> Content:
    """Return what `encode` wrote; the arrays are read-only views of `data` where they can be.

    Raises
    ------
    DatasetError
        If the bytes are not exactly what `encode` writes.
    """
    data = bytes(data)
    if len(data) < 8:
        raise _malformed("they are cut off")
    (size,) = struct.unpack_from("<Q", data)
    start = 8 + size
    if start > HEADER_LIMIT or start > len(data):
        raise _malformed("the header is cut off or too long")
    header = _read_header(data[8:start])
    if data[:start] != header.encode():
        raise _malformed("the header is not in its canonical form")
    tensors = header.tensors()
    sizes = {name: _SIZES[dtype] * math.prod(shape) for name, (dtype, shape) in tensors.items()}
    if len(data) != start + sum(sizes.values()):
        raise _malformed("the length does not fit the header")
    arrays: dict[str, Any] = {}
    for name, (dtype, shape) in tensors.items():
        values = np.frombuffer(data, _WIRE[dtype], math.prod(shape), start).reshape(shape)
        arrays[name] = values.astype(values.dtype.newbyteorder("="), copy=False)
        start += sizes[name]
    return Content(
        inputs=arrays["inputs"],
        labels=arrays["labels"],
        kind=header.kind,
        classes=header.classes,
        vocabulary=header.vocabulary,
        columns={
            name: _column(arrays[f"column.{name}"], levels)
            for name, levels in header.levels.items()
        },
        name=header.name,
    )


def _column(codes: NDArray[np.int64], levels: list[Level]) -> Column:
    """Return a column's values; every level must be one of a row."""
    if codes.min() < 0 or codes.max() >= len(levels):
        raise _malformed("a column holds the place of no value")
    if not np.bincount(codes, minlength=len(levels)).all():
        raise _malformed("a column has a value that no row has")
    values: Column
    if isinstance(levels[0], str):
        values = np.array(levels, dtype=np.str_)[codes]
    else:
        values = np.array(levels, dtype=np.int64)[codes]
    return values


def _read_header(text: bytes) -> _Header:
    """Read what cannot be derived; everything else is compared by the caller."""
    try:
        header = json.loads(text)
        metadata = header["__metadata__"]
        inputs, labels = header["inputs"]["shape"], header["labels"]["shape"]
        classes, name = metadata["classes"], metadata["name"]
        newer = metadata["format"] == FORMAT_2
        if not newer and metadata["format"] != FORMAT:
            raise _malformed(f"the format is neither {FORMAT} nor {FORMAT_2}")
        kind = metadata["kind"] if newer else "classification"
        vocabulary = metadata["vocabulary"] if newer else "0"
        levels = json.loads(metadata["columns"]) if newer else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _malformed("the header is not that of a data set") from None
    if not isinstance(name, str) or not name.isprintable():
        raise _malformed("the name is missing or no printable text")
    for number, what in ((classes, "classes"), (vocabulary, "tokens")):
        if not isinstance(number, str) or not _is_number(number):
            raise _malformed(f"the number of {what} is missing")
    known = [each for each in KINDS if each == kind]
    if not known:
        raise _malformed("the kind is unknown")
    input_shape, label_shape = _read_shape(inputs, 2, "inputs"), _read_shape(labels, 1, "labels")
    return _Header(
        input_shape,
        label_shape,
        known[0],
        int(classes),
        name,
        int(vocabulary),
        _read_levels(levels, input_shape[0]),
    )


def _read_shape(shape: object, fewest: int, what: str) -> tuple[int, ...]:
    if not isinstance(shape, list) or not fewest <= len(shape) <= 32:
        raise _malformed(f"the {what} have no rows")
    if not all(type(side) is int and 0 < side < 1 << 48 for side in shape):
        raise _malformed(f"the shape of the {what} is impossible")
    return tuple(shape)


def _read_levels(node: object, rows: int) -> dict[str, list[Level]]:
    """Read each column's distinct values, which rise strictly."""
    if not isinstance(node, dict):
        raise _malformed("the columns are no map")
    for levels in node.values():
        if not isinstance(levels, list) or not 0 < len(levels) <= rows:
            raise _malformed("the values of a column are missing")
        kind = type(levels[0])
        if kind not in (int, str) or any(type(value) is not kind for value in levels):
            raise _malformed("the values of a column are neither whole numbers nor text")
        if any(low >= high for low, high in pairwise(levels)):
            raise _malformed("the values of a column are not in rising order")
        if any(_is_odd(value) for value in levels):
            raise _malformed("a value of a column is out of range or no printable text")
    return node


def _is_odd(value: Level) -> bool:
    if isinstance(value, str):
        return not value.isprintable()
    return not -(2**63) <= value < 2**63


def _text(node: object) -> str:
    return json.dumps(node, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _malformed(reason: str) -> DatasetError:
    return DatasetError(f"These bytes are no data set: {reason}. Encode it again at its source.")
