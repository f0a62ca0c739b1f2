"""A data set is a value: labelled rows that do not change, checked once, named by their content.

Every way of making a `Dataset` runs the same checks, so whoever holds one need not ask whether
it has NaN, a label out of range or rows of different shapes.
"""

from __future__ import annotations

import hashlib
import html
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuronexus_kernel.content import CID
from neuronexus_kernel.content.unixfs import build, chunks_of
from neuronexus_kernel.datasets import encoding, splitting
from neuronexus_kernel.errors import DatasetError

if TYPE_CHECKING:
    import pandas as pd

    from neuronexus_kernel.datasets.partition import Partition

Inputs: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]
Scalar = TypeVar("Scalar", bound=np.generic)

_NAME_LIMIT = 200


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Dataset:
    """Labelled rows for classification.

    Parameters
    ----------
    inputs
        Numbers, shape ``(n, *input_shape)``; kept as float32.
    labels
        Classes counted from 0, shape ``(n,)``; kept as int64.
    classes
        How many classes there are; by default the largest label plus one.
    name
        What to call it in tables and plots; at most 200 characters.

    Attributes
    ----------
    inputs : numpy.ndarray
        float32, read-only, C order.
    labels : numpy.ndarray
        int64, read-only.
    classes : int
        Labels lie in ``range(classes)``.
    name : str
        The name.

    Raises
    ------
    DatasetError
        If there are no rows, the lengths differ, a value is NaN or infinite, or a label lies
        outside ``range(classes)``; the message names the first bad row.

    Notes
    -----
    Arrays that can be written to are copied; read-only float32 and int64 arrays are kept.
    """

    inputs: Inputs
    labels: Labels
    classes: int
    name: str

    def __init__(
        self,
        inputs: ArrayLike,
        labels: ArrayLike,
        *,
        classes: int | None = None,
        name: str = "data",
    ) -> None:
        checked_inputs = _checked_inputs(inputs)
        checked_labels = _checked_labels(labels, len(checked_inputs))
        object.__setattr__(self, "inputs", checked_inputs)
        object.__setattr__(self, "labels", checked_labels)
        object.__setattr__(self, "classes", _checked_classes(classes, checked_labels))
        object.__setattr__(self, "name", _checked_name(name))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {len(self):,} rows, input_shape={self.input_shape}, "
            f"classes={self.classes})"
        )

    def _repr_html_(self) -> str:
        counts = np.bincount(self.labels, minlength=self.classes)
        shown = counts[:50]
        bars = "".join(
            f'<div title="class {label}: {count} rows" style="width:10px;background:#4c78a8;'
            f'height:{max(1, round(40 * int(count) / int(counts.max())))}px"></div>'
            for label, count in enumerate(shown)
        )
        more = f" (first {len(shown)} shown)" if len(counts) > len(shown) else ""
        return (
            f"<div><b>{html.escape(self.name)}</b>: {len(self):,} rows of shape "
            f"{self.input_shape}, {self.classes} classes{more}"
            f'<div style="display:flex;align-items:flex-end;gap:2px">{bars}</div></div>'
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row's input."""
        return self.inputs.shape[1:]

    def subset(self, indices: ArrayLike, name: str | None = None) -> Dataset:
        """Return some rows, in the order asked for.

        Parameters
        ----------
        indices
            Row numbers from 0, or a mask with one bool per row.
        name
            Of the new data set; by default the same.

        Raises
        ------
        DatasetError
            If a row does not exist or none is asked for.
        """
        rows = self._rows(indices)
        inputs, labels = self.inputs[rows], self.labels[rows]
        inputs.flags.writeable = labels.flags.writeable = False
        return Dataset(inputs, labels, classes=self.classes, name=name or self.name)

    def _rows(self, indices: ArrayLike) -> NDArray[np.int64]:
        rows = np.asarray(indices)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise DatasetError(
                    f"A mask for {self.name} needs {len(self)} values, not shape {rows.shape}."
                )
            return np.flatnonzero(rows)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise DatasetError(
                f"Row numbers are a list of integers, not {rows.dtype} of shape {rows.shape}."
            )
        bad = (rows < 0) | (rows >= len(self))
        if bad.any():
            raise DatasetError(
                f"There is no row {rows[bad][0]} in {self.name}; it has {len(self)} rows."
            )
        return rows.astype(np.int64)

    def concat(self, other: Dataset) -> Dataset:
        """Return the rows of this data set followed by those of another of the same kind.

        Raises
        ------
        DatasetError
            If the input shapes or the numbers of classes differ.
        """
        if (other.input_shape, other.classes) != (self.input_shape, self.classes):
            raise DatasetError(
                f"{other.name} (input shape {other.input_shape}, {other.classes} classes) does "
                f"not fit {self.name} (input shape {self.input_shape}, {self.classes} classes)."
            )
        inputs = np.concatenate([self.inputs, other.inputs])
        labels = np.concatenate([self.labels, other.labels])
        inputs.flags.writeable = labels.flags.writeable = False
        return Dataset(inputs, labels, classes=self.classes, name=self.name)

    def with_labels(self, labels: ArrayLike) -> Dataset:
        """Return the same rows with other labels; the inputs are shared, not copied."""
        return Dataset(self.inputs, labels, classes=self.classes, name=self.name)

    def partition(self, partition: Partition) -> list[Dataset]:
        """Return one data set per client; see `neuronexus_kernel.datasets.partition`."""
        shares = partition.assign(self.labels, self.classes)
        return [self.subset(rows, f"{self.name}/{k}") for k, rows in enumerate(shares)]

    def split(self, fractions: Mapping[str, float], *, seed: int) -> dict[str, Dataset]:
        """Share out all rows at random, every part with the same mix of classes.

        Parameters
        ----------
        fractions
            Name of each part and its share; they sum to 1.
        seed
            The same seed gives the same parts, on every computer and with every numpy.

        Returns
        -------
        dict
            The parts in the order asked for.  Sizes are the exact shares rounded by largest
            remainder; within each class every part is within one row of its share of what the
            parts before it left.  Rows keep their order.

        Raises
        ------
        DatasetError
            If the fractions do not sum to 1, or a part would have no row.
        """
        parts = splitting.split(self.labels, fractions, seed)
        return {part: self.subset(rows, f"{self.name}/{part}") for part, rows in parts.items()}

    def row_hashes(self) -> list[bytes]:
        """Return the SHA-256 of every row's input (32 bytes each), by which duplicates are found.

        Hashed are the number of dimensions and each dimension as little-endian uint64, then the
        values as little-endian float32 with -0 written as 0.  Labels do not count: the same
        picture with another label is the same picture.
        """
        shape = self.input_shape
        start = hashlib.sha256(struct.pack(f"<{1 + len(shape)}Q", len(shape), *shape))
        hashes = []
        for row in self.inputs:
            digest = start.copy()
            digest.update((row + np.float32(0)).astype("<f4", copy=False).tobytes())
            hashes.append(digest.digest())
        return hashes

    def encode(self) -> bytes:
        """Return the data set as safetensors bytes; the same data give the same bytes."""
        return encoding.encode(self.inputs, self.labels, classes=self.classes, name=self.name)

    @classmethod
    def decode(cls, data: bytes) -> Dataset:
        """Return the data set that `encode` wrote.

        Raises
        ------
        DatasetError
            If the bytes are anything else; they may come from a stranger.
        """
        inputs, labels, classes, name = encoding.decode(data)
        return cls(inputs, labels, classes=classes, name=name)

    @property
    def cid(self) -> CID:
        """Content address: that of `encode` as a file, so a store gives it the same one."""
        return build(chunks_of(self.encode()))

    def summary(self) -> pd.DataFrame:
        """Return a table with the columns class, rows and share."""
        import pandas as pd

        counts = np.bincount(self.labels, minlength=self.classes)
        return pd.DataFrame(
            {"class": np.arange(self.classes), "rows": counts, "share": counts / len(self)}
        )


def _array(values: ArrayLike, what: str) -> NDArray[np.generic]:
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DatasetError(f"The {what} are no array: {error}.") from None


def _checked_inputs(values: ArrayLike) -> Inputs:
    array = _array(values, "inputs")
    if array.dtype.kind not in "fiub":
        raise DatasetError(f"The inputs are {array.dtype}; they must be numbers.")
    if array.ndim < 2:
        raise DatasetError(
            f"The inputs have shape {array.shape}; they need rows and at least one value in "
            "each, as in (n, features). Reshape a single column with inputs.reshape(-1, 1)."
        )
    if array.size == 0:
        raise DatasetError(f"The data set is empty: its inputs have shape {array.shape}.")
    with np.errstate(over="ignore"):
        inputs = _own(array, np.float32)
    if not np.isfinite(inputs).all():
        row, at, value = _first_bad_value(array, inputs)
        raise DatasetError(
            f"Row {row} of the inputs holds {value} at {at}. Remove such rows or fill them in."
        )
    return inputs


def _first_bad_value(
    given: NDArray[np.generic], inputs: Inputs
) -> tuple[int, tuple[int, ...], object]:
    """Return row, position within the row and value of the first that is not finite."""
    position = np.unravel_index(int(np.argmin(np.isfinite(inputs))), inputs.shape)
    row, *at = (int(index) for index in position)
    return row, tuple(at), given[position]


def _own(array: NDArray[np.generic], dtype: type[Scalar]) -> NDArray[Scalar]:
    """Return the array in this type and C order, read-only, and shared with nobody who writes."""
    result = np.ascontiguousarray(array, dtype=dtype)
    if result.flags.writeable and np.shares_memory(result, array):
        result = result.copy()
    result.flags.writeable = False
    return result


def _checked_labels(values: ArrayLike, rows: int) -> Labels:
    array = _array(values, "labels")
    if array.ndim != 1:
        raise DatasetError(
            f"The labels have shape {array.shape}; they need one number per row, shape ({rows},)."
            " Turn one-hot rows into numbers with labels.argmax(axis=1)."
        )
    if len(array) != rows:
        raise DatasetError(f"There are {rows} rows of inputs, but {len(array)} labels.")
    if array.dtype.kind == "f":
        array = _whole_numbers(array)
    elif array.dtype.kind not in "iub":
        raise DatasetError(f"The labels are {array.dtype}; number the classes from 0.")
    bad = np.less(array, 0) | np.greater(array, np.iinfo(np.int32).max)
    if bad.any():
        row = int(np.argmax(bad))
        raise DatasetError(f"Row {row} has the label {array[row]}; labels count from 0.")
    return _own(array, np.int64)


def _whole_numbers(array: NDArray[np.generic]) -> NDArray[np.generic]:
    bad = ~(np.isfinite(array) & (np.abs(array) < 2**31) & (np.floor(array) == array))
    if bad.any():
        row = int(np.argmax(bad))
        raise DatasetError(f"Row {row} has the label {array[row]}, which is no whole number.")
    return array.astype(np.int64)


def _checked_classes(classes: int | None, labels: Labels) -> int:
    needed = int(labels.max()) + 1
    if classes is None:
        return needed
    if isinstance(classes, bool) or not isinstance(classes, (int, np.integer)) or classes < 1:
        raise DatasetError(f"classes must be a whole number above zero, not {classes!r}.")
    if needed > classes:
        row = int(np.argmax(labels >= classes))
        raise DatasetError(
            f"Row {row} has the label {labels[row]}, but there are {classes} classes "
            f"(labels 0 to {classes - 1})."
        )
    return int(classes)


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _NAME_LIMIT or not name.isprintable():
        raise DatasetError(
            f"The name of a data set is printable text of 1 to {_NAME_LIMIT} characters."
        )
    return name
