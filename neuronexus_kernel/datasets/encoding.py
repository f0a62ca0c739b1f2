"""The bytes of a data set: safetensors with exactly one spelling.

Eight bytes of header length (little-endian), a JSON header with sorted keys, padded with spaces
to a multiple of eight, then ``labels`` (I64) and ``inputs`` (F32), little-endian, in C order.
The safetensors library writes its metadata in no fixed order, so the header is written here; any
safetensors reader reads it.  `decode` accepts exactly what `encode` writes: it reads what the
header says, writes the header anew and compares.
Source: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import struct

import numpy as np
from numpy.typing import NDArray

from neuronexus_kernel.errors import DatasetError

FORMAT = "neuronexus-dataset-1"
HEADER_LIMIT = 64 * 1024


def encode(
    inputs: NDArray[np.float32], labels: NDArray[np.int64], *, classes: int, name: str
) -> bytes:
    """Return the canonical bytes of a data set (shapes ``(n, ...)`` and ``(n,)``)."""
    header = _header(inputs.shape, classes, name)
    values = np.ascontiguousarray(inputs, dtype="<f4")
    numbers = np.ascontiguousarray(labels, dtype="<i8")
    return b"".join([header, numbers.data, values.data])


def decode(data: bytes) -> tuple[NDArray[np.float32], NDArray[np.int64], int, str]:
    """Return inputs, labels, classes and name; the arrays are read-only views of `data`.

    Raises
    ------
    DatasetError
        If the bytes are not exactly what `encode` writes.
    """
    data = bytes(data)
    if len(data) < 8:
        raise _malformed("they are cut off")
    (size,) = struct.unpack_from("<Q", data)
    if size > HEADER_LIMIT or 8 + size > len(data):
        raise _malformed("the header is cut off or too long")
    shape, classes, name = _read_header(data[8 : 8 + size])
    rows, start = shape[0], 8 + size
    if data[:start] != _header(shape, classes, name):
        raise _malformed("the header is not in its canonical form")
    if len(data) != start + 8 * rows + 4 * math.prod(shape):
        raise _malformed("the length does not fit the header")
    labels = np.frombuffer(data, "<i8", rows, start)
    inputs = np.frombuffer(data, "<f4", -1, start + 8 * rows).reshape(shape)
    return inputs.astype(np.float32, copy=False), labels.astype(np.int64, copy=False), classes, name


def _header(shape: tuple[int, ...], classes: int, name: str) -> bytes:
    labels_end = 8 * shape[0]
    inputs_end = labels_end + 4 * math.prod(shape)
    header = {
        "__metadata__": {"classes": str(classes), "format": FORMAT, "name": name},
        "inputs": {
            "data_offsets": [labels_end, inputs_end],
            "dtype": "F32",
            "shape": list(shape),
        },
        "labels": {"data_offsets": [0, labels_end], "dtype": "I64", "shape": [shape[0]]},
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _read_header(text: bytes) -> tuple[tuple[int, ...], int, str]:
    """Read shape, classes and name; everything else is compared by the caller."""
    try:
        header = json.loads(text)
        metadata, shape = header["__metadata__"], header["inputs"]["shape"]
        classes, name = metadata["classes"], metadata["name"]
        if metadata["format"] != FORMAT:
            raise _malformed(f"the format is not {FORMAT}")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _malformed("the header is not that of a data set") from None
    if not isinstance(name, str) or not name.isprintable():
        raise _malformed("the name is missing or no printable text")
    if not isinstance(classes, str) or not _is_number(classes):
        raise _malformed("the number of classes is missing")
    if not isinstance(shape, list) or not 2 <= len(shape) <= 32:
        raise _malformed("the inputs have no rows")
    if not all(type(side) is int and 0 < side < 1 << 48 for side in shape):
        raise _malformed("the shape of the inputs is impossible")
    return tuple(shape), int(classes), name


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _malformed(reason: str) -> DatasetError:
    return DatasetError(f"These bytes are no data set: {reason}. Encode it again at its source.")
