"""A data set is a value: labelled rows that do not change, checked once, named by their content.

There are three kinds, told apart by what a label is: a class, a quantity, or the tokens that
follow.  Every way of making a `Dataset` runs the same checks, so whoever holds one need not ask
whether it has NaN, a label out of range or rows of different shapes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuronexus_kernel.content import CID
from neuronexus_kernel.content.unixfs import build, chunks_of
from neuronexus_kernel.datasets import checking, encoding, splitting
from neuronexus_kernel.datasets.checking import Column, Inputs, Kind, Labels
from neuronexus_kernel.errors import DatasetError

if TYPE_CHECKING:
    import pandas as pd

    from neuronexus_kernel.datasets.partition import Partition


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Dataset:
    """Labelled rows.

    Parameters
    ----------
    inputs
        Numbers, shape ``(n, *input_shape)``; kept as float32.  With a `vocabulary`, and for
        next-token prediction, whole numbers from 0 on: tokens, kept as int64.
    labels
        For classification classes counted from 0, shape ``(n,)``, kept as int64; for regression
        quantities, shape ``(n, *output_shape)``, kept as float32, where ``(n,)`` becomes
        ``(n, 1)``; for next-token prediction the token that follows each of the inputs',
        shape ``(n, length)``, kept as int64.
    classes
        How many classes there are; by default the largest label plus one.  For next-token
        prediction the vocabulary; for regression there are none.
    kind
        ``"classification"``, ``"regression"`` or ``"next-token"``.  It is never guessed from the
        labels: a single 0.5 among them would turn classes into quantities unseen.
    vocabulary
        How many tokens there are, if the inputs are tokens.
    columns
        What else is known of every row, by name: whole numbers or text, shape ``(n,)``, such as
        the writer or the hospital, by which `partition.by_column` deals the rows.
    name
        What to call it in tables and plots; at most 200 characters.

    Attributes
    ----------
    inputs : numpy.ndarray
        float32, or int64 for tokens; read-only, C order.
    labels : numpy.ndarray
        int64, or float32 for regression; read-only.
    kind : str
        What a label is.
    classes : int
        Labels lie in ``range(classes)``; 0 for regression.
    vocabulary : int
        Inputs lie in ``range(vocabulary)``; 0 if they are no tokens.
    name : str
        The name.

    Raises
    ------
    DatasetError
        If there are no rows, the lengths differ, a value is NaN or infinite, or a label or token
        is out of range; the message names the first bad row.

    Notes
    -----
    Arrays that can be written to are copied; read-only arrays of the right type are kept.
    """

    inputs: Inputs
    labels: Labels
    kind: Kind
    classes: int
    vocabulary: int
    name: str
    _columns: tuple[tuple[str, Column], ...]

    def __init__(
        self,
        inputs: ArrayLike,
        labels: ArrayLike,
        *,
        classes: int | None = None,
        kind: str = "classification",
        vocabulary: int | None = None,
        columns: Mapping[str, ArrayLike] | None = None,
        name: str = "data",
    ) -> None:
        fields = checking.checked_fields(inputs, labels, kind, classes, vocabulary)
        for field, value in fields.items():
            object.__setattr__(self, field, value)
        object.__setattr__(self, "name", checking.checked_name(name))
        object.__setattr__(self, "_columns", checking.checked_columns(columns, len(self)))

    @classmethod
    def from_tokens(
        cls,
        tokens: ArrayLike,
        vocabulary: int | None = None,
        *,
        columns: Mapping[str, ArrayLike] | None = None,
        name: str = "data",
    ) -> Dataset:
        """Return the data set in which every token is to be foretold from those before it.

        Parameters
        ----------
        tokens
            Sequences, whole numbers from 0 on, shape ``(n, length + 1)``: inputs are all but the
            last, labels all but the first.
        vocabulary
            How many tokens there are; by default the largest plus one.
        columns, name
            As for `Dataset`.

        Raises
        ------
        DatasetError
            If the sequences are shorter than 2, or a token is no whole number or out of range.
        """
        sequences = checking.checked_tokens(tokens)
        if sequences.ndim != 2 or sequences.shape[1] < 2:
            raise DatasetError(
                f"Sequences of tokens have shape (n, length + 1) with length 1 or more, "
                f"not {sequences.shape}."
            )
        return cls(
            sequences[:, :-1],
            sequences[:, 1:],
            kind="next-token",
            vocabulary=vocabulary,
            columns=columns,
            name=name,
        )

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        from neuronexus_kernel.datasets.showing import text

        return text(self)

    def _repr_html_(self) -> str:
        from neuronexus_kernel.datasets.showing import page

        return page(self)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row's input."""
        return self.inputs.shape[1:]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what a model answers to one row.

        ``(classes,)`` for classification, a label's shape for regression, and
        ``(length, classes)`` for next-token prediction.
        """
        if self.kind == "classification":
            return (self.classes,)
        shape = self.labels.shape[1:]
        return shape if self.kind == "regression" else (*shape, self.classes)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, sorted."""
        return tuple(name for name, _ in self._columns)

    def column(self, name: str) -> Column:
        """Return a column's value for every row: int64 or text, shape ``(n,)``.

        Raises
        ------
        DatasetError
            If there is no such column; the message lists those there are.
        """
        for known, values in self._columns:
            if known == name:
                return values
        there = f"it has {', '.join(self.columns)}" if self._columns else "it has none"
        raise DatasetError(
            f"{self.name} has no column {name!r}; {there}. "
            f"Add it with `dataset.with_column({name!r}, values)`."
        )

    def with_column(self, name: str, values: ArrayLike) -> Dataset:
        """Return the same rows with one more column, or another one in place of an old one."""
        return self._with(columns={**dict(self._columns), name: values})

    def with_labels(self, labels: ArrayLike) -> Dataset:
        """Return the same rows with other labels; the inputs are shared, not copied."""
        return self._with(labels=labels)

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
        return self._with(
            inputs=_frozen(self.inputs[rows]),
            labels=_frozen(self.labels[rows]),
            columns={column: _frozen(values[rows]) for column, values in self._columns},
            name=name or self.name,
        )

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

        Columns that only one of the two has are left out.

        Raises
        ------
        DatasetError
            If the kinds, the shapes, or the numbers of classes or tokens differ.
        """
        if other._form != self._form:
            raise DatasetError(
                f"{other.name} ({_told(other)}) does not fit {self.name} ({_told(self)})."
            )
        shared = [name for name in self.columns if name in other.columns]
        return self._with(
            inputs=_frozen(np.concatenate([self.inputs, other.inputs])),
            labels=_frozen(np.concatenate([self.labels, other.labels])),
            columns={
                name: np.concatenate([self.column(name), other.column(name)]) for name in shared
            },
        )

    @property
    def _form(self) -> tuple[object, ...]:
        """What must be equal for rows of two data sets to go together."""
        return self.kind, self.input_shape, self.output_shape, self.vocabulary

    def _with(self, **changes: object) -> Dataset:
        fields: dict[str, object] = {
            "inputs": self.inputs,
            "labels": self.labels,
            "classes": None if self.kind == "regression" else self.classes,
            "kind": self.kind,
            "vocabulary": self.vocabulary or None,
            "columns": dict(self._columns),
            "name": self.name,
        }
        return Dataset(**{**fields, **changes})  # type: ignore[arg-type]

    def partition(self, partition: Partition) -> list[Dataset]:
        """Return one data set per client; see `neuronexus_kernel.datasets.partition`.

        Raises
        ------
        DatasetError
            If there are too few rows, or the scheme goes by classes or by a column and the data
            set has none.
        """
        column = None if partition.column is None else self.column(partition.column)
        shares = partition.assign(self.labels, self.classes, column)
        return [self.subset(rows, f"{self.name}/{k}") for k, rows in enumerate(shares)]

    def split(self, fractions: Mapping[str, float], *, seed: int) -> dict[str, Dataset]:
        """Share out all rows at random, every part with the same mix of classes if there are any.

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
        classes = self.labels if self.kind == "classification" else np.zeros(len(self))
        parts = splitting.split(classes.astype(np.int64, copy=False), fractions, seed)
        return {part: self.subset(rows, f"{self.name}/{part}") for part, rows in parts.items()}

    def row_hashes(self) -> list[bytes]:
        """Return the SHA-256 of every row's input (32 bytes each), by which duplicates are found.

        Hashed are the number of dimensions and each dimension as little-endian uint64, then the
        values as little-endian float32 with -0 written as 0, or as little-endian int64 for
        tokens.  Labels do not count: the same picture with another label is the same picture.
        """
        shape = self.input_shape
        start = hashlib.sha256(struct.pack(f"<{1 + len(shape)}Q", len(shape), *shape))
        wire = self.inputs.dtype.newbyteorder("<")
        zero = self.inputs.dtype.type(0)
        hashes = []
        for row in self.inputs:
            digest = start.copy()
            digest.update((row + zero).astype(wire, copy=False).tobytes())
            hashes.append(digest.digest())
        return hashes

    def encode(self) -> bytes:
        """Return the data set as safetensors bytes; the same data give the same bytes."""
        return encoding.encode(
            encoding.Content(
                self.inputs,
                self.labels,
                kind=self.kind,
                classes=self.classes,
                vocabulary=self.vocabulary,
                columns=dict(self._columns),
                name=self.name,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Dataset:
        """Return the data set that `encode` wrote.

        Raises
        ------
        DatasetError
            If the bytes are anything else; they may come from a stranger.
        """
        content = encoding.decode(data)
        none = content.kind == "regression" and content.classes == 0
        return cls(
            content.inputs,
            content.labels,
            classes=None if none else content.classes,
            kind=content.kind,
            vocabulary=content.vocabulary or None,
            columns=content.columns,
            name=content.name,
        )

    @property
    def cid(self) -> CID:
        """Content address: that of `encode` as a file, so a store gives it the same one."""
        return build(chunks_of(self.encode()))

    def summary(self) -> pd.DataFrame:
        """Return a table of the labels.

        Returns
        -------
        pandas.DataFrame
            For classification the columns class, rows and share; for next-token prediction
            token, positions and share, the most frequent first; for regression output, mean,
            deviation, minimum, median and maximum, a row for each number to predict.
        """
        from neuronexus_kernel.datasets.showing import table

        return table(self)


def _frozen(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Mark an array that nobody else holds as read-only, so that it is not copied again."""
    array.flags.writeable = False
    return array


def _told(dataset: Dataset) -> str:
    kind = "" if dataset.kind == "classification" else f"{dataset.kind}, "
    tokens = f"{dataset.vocabulary} tokens, " if dataset.vocabulary else ""
    outputs = (
        f"outputs of shape {dataset.output_shape}"
        if dataset.kind == "regression"
        else f"{dataset.classes} classes"
    )
    return f"{kind}input shape {dataset.input_shape}, {tokens}{outputs}"
