"""The checks that every data set passes once, so that whoever holds one need not ask.

Each takes what a caller gave and returns it in the one form that a `Dataset` keeps: C order,
read-only, shared with nobody who writes.  Messages name the first bad row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuronexus_kernel.errors import DatasetError

Kind: TypeAlias = Literal["classification", "regression", "next-token"]
Inputs: TypeAlias = NDArray[np.float32] | NDArray[np.int64]
Labels: TypeAlias = NDArray[np.int64] | NDArray[np.float32]
Column: TypeAlias = NDArray[np.int64] | NDArray[np.str_]
Scalar = TypeVar("Scalar", bound=np.generic)

KINDS: tuple[Kind, ...] = get_args(Kind)
NAME_LIMIT = 200

_COLUMN_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_MOST_CLASSES = 2**31


def checked_fields(
    inputs: ArrayLike,
    labels: ArrayLike,
    kind: str,
    classes: int | None,
    vocabulary: int | None,
) -> dict[str, object]:
    """Return the fields ``kind``, ``inputs``, ``labels``, ``classes`` and ``vocabulary``."""
    found = checked_kind(kind)
    if found == "next-token":
        return {"kind": found, **_next_token_fields(inputs, labels, classes, vocabulary)}
    checked, tokens = _inputs(inputs, vocabulary)
    if found == "regression":
        if classes is not None:
            raise DatasetError(f"A data set for regression has no classes; leave out {classes=}.")
        known: Labels = checked_quantities(labels, len(checked))
        count = 0
    else:
        numbers = checked_classes(labels, len(checked))
        known, count = numbers, checked_count("classes", classes, numbers)
    return {
        "kind": found,
        "inputs": checked,
        "labels": known,
        "classes": count,
        "vocabulary": tokens,
    }


def _inputs(inputs: ArrayLike, vocabulary: int | None) -> tuple[Inputs, int]:
    """Return numbers, or tokens if there is a vocabulary, and how many tokens there are."""
    if vocabulary is None:
        return checked_numbers(inputs), 0
    tokens = checked_tokens(inputs)
    return tokens, checked_count("vocabulary", vocabulary, tokens)


def _next_token_fields(
    inputs: ArrayLike, labels: ArrayLike, classes: int | None, vocabulary: int | None
) -> dict[str, object]:
    if classes is not None and vocabulary is not None and classes != vocabulary:
        raise DatasetError(
            f"For next-token prediction the vocabulary is the classes: {classes=} and "
            f"{vocabulary=} differ."
        )
    given = classes if vocabulary is None else vocabulary
    tokens = checked_tokens(inputs)
    following = checked_next_tokens(labels, tokens)
    count = checked_count("vocabulary", given, tokens, following)
    return {"inputs": tokens, "labels": following, "classes": count, "vocabulary": count}


def checked_kind(kind: str) -> Kind:
    """Return `kind` if it is one of `KINDS`, else raise `DatasetError`."""
    for known in KINDS:
        if kind == known:
            return known
    raise DatasetError(f"kind is one of {', '.join(KINDS)}, not {kind!r}.")


def checked_numbers(values: ArrayLike) -> NDArray[np.float32]:
    """Return inputs that are numbers, shape ``(n, *input_shape)``, as float32."""
    array = _rows(values)
    if array.dtype.kind not in "fiub":
        raise DatasetError(f"The inputs are {array.dtype}; they must be numbers.")
    return _finite(array, "inputs")


def checked_tokens(values: ArrayLike) -> NDArray[np.int64]:
    """Return inputs that are tokens, shape ``(n, *input_shape)``, as int64."""
    return _counted(_rows(values), "inputs", "token")


def checked_classes(values: ArrayLike, rows: int) -> NDArray[np.int64]:
    """Return labels that are classes, shape ``(n,)``, as int64."""
    array = _array(values, "labels")
    if array.ndim != 1:
        raise DatasetError(
            f"The labels have shape {array.shape}; they need one number per row, shape ({rows},)."
            " Turn one-hot rows into numbers with labels.argmax(axis=1); for labels that are"
            " quantities give kind='regression'."
        )
    _check_length(array, rows)
    if array.dtype.kind == "f":
        array = _whole_numbers(array)
    return _counted(array, "labels", "label")


def checked_quantities(values: ArrayLike, rows: int) -> NDArray[np.float32]:
    """Return labels that are quantities, ``(n, *shape)``, as float32; ``(n,)`` gets a column."""
    array = _array(values, "labels")
    if array.dtype.kind not in "fiub":
        raise DatasetError(f"The labels are {array.dtype}; for regression they are numbers.")
    if array.ndim == 0:
        raise DatasetError(f"The labels are one number; they need one per row, shape ({rows},).")
    _check_length(array, rows)
    if array.size == 0:
        raise DatasetError(f"The labels have shape {array.shape}: there is nothing to predict.")
    return _finite(array[:, np.newaxis] if array.ndim == 1 else array, "labels")


def checked_next_tokens(values: ArrayLike, inputs: Inputs) -> NDArray[np.int64]:
    """Return the token that follows each of the inputs', shape ``(n, length)``, as int64."""
    if inputs.ndim != 2:
        raise DatasetError(
            f"For next-token prediction the inputs have shape (n, length), not {inputs.shape}."
        )
    array = _array(values, "labels")
    if array.shape != inputs.shape:
        raise DatasetError(
            f"The labels have shape {array.shape}; for next-token prediction they have that of "
            f"the inputs, {inputs.shape}: Dataset.from_tokens makes both of one sequence."
        )
    return _counted(array, "labels", "label")


def checked_count(field: str, count: int | None, *arrays: NDArray[np.int64]) -> int:
    """Return how many classes or tokens there are: what was given, else what the arrays need."""
    needed = 1 + max(int(array.max()) for array in arrays)
    if count is None:
        return needed
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise DatasetError(f"{field} must be a whole number above zero, not {count!r}.")
    if count > _MOST_CLASSES:
        raise DatasetError(f"{field} is at most {_MOST_CLASSES}, not {count}.")
    for array in arrays if needed > count else ():
        bad = array >= count
        if bad.any():
            row = int(np.unravel_index(int(np.argmax(bad)), array.shape)[0])
            what = "label" if field == "classes" else "token"
            raise DatasetError(
                f"Row {row} has the {what} {array[bad][0]}, but there are {count} "
                f"{'classes' if field == 'classes' else 'tokens'} ({what}s 0 to {count - 1})."
            )
    return int(count)


def checked_name(name: str) -> str:
    """Return the name of a data set if it is one, else raise `DatasetError`."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT or not name.isprintable():
        raise DatasetError(
            f"The name of a data set is printable text of 1 to {NAME_LIMIT} characters."
        )
    return name


def checked_columns(
    columns: Mapping[str, ArrayLike] | None, rows: int
) -> tuple[tuple[str, Column], ...]:
    """Return the columns in the order of their names; their values as int64 or text."""
    named = {} if columns is None else dict(columns)
    for name in named:
        if not isinstance(name, str) or not _COLUMN_NAME.fullmatch(name):
            raise DatasetError(
                f"{name!r} does not name a column: use 1 to 64 of a-z, A-Z, 0-9 and '_'."
            )
    return tuple((name, _checked_column(name, named[name], rows)) for name in sorted(named))


def _checked_column(name: str, values: ArrayLike, rows: int) -> Column:
    array = _array(values, f"values of the column {name!r}")
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):
        array = array.astype(np.str_)
    if array.shape != (rows,):
        raise DatasetError(
            f"The column {name!r} has shape {array.shape}; it needs one value per row, ({rows},)."
        )
    if array.dtype.kind in "iub":
        if np.greater(array, np.iinfo(np.int64).max).any():
            raise DatasetError(f"The column {name!r} holds a number above 2^63.")
        return _own(array, np.int64)
    if array.dtype.kind != "U":
        raise DatasetError(
            f"The column {name!r} is {array.dtype}; its values are whole numbers or text. "
            "Round quantities or put them in bins first."
        )
    for row, value in enumerate(array):
        if len(value) > NAME_LIMIT or not value.isprintable():
            raise DatasetError(
                f"Row {row} of the column {name!r} is no printable text of at most "
                f"{NAME_LIMIT} characters."
            )
    return _own(array, np.str_)


def _array(values: ArrayLike, what: str) -> NDArray[np.generic]:
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DatasetError(f"The {what} are no array: {error}.") from None


def _rows(values: ArrayLike) -> NDArray[np.generic]:
    array = _array(values, "inputs")
    if array.ndim < 2:
        raise DatasetError(
            f"The inputs have shape {array.shape}; they need rows and at least one value in "
            "each, as in (n, features). Reshape a single column with inputs.reshape(-1, 1)."
        )
    if array.size == 0:
        raise DatasetError(f"The data set is empty: its inputs have shape {array.shape}.")
    return array


def _check_length(labels: NDArray[np.generic], rows: int) -> None:
    if len(labels) != rows:
        raise DatasetError(f"There are {rows} rows of inputs, but {len(labels)} labels.")


def _finite(array: NDArray[np.generic], what: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        values = _own(array, np.float32)
    if not np.isfinite(values).all():
        position = np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)
        row, *at = (int(index) for index in position)
        raise DatasetError(
            f"Row {row} of the {what} holds {array[position]} at {tuple(at)}. "
            "Remove such rows or fill them in."
        )
    return values


def _counted(array: NDArray[np.generic], what: str, each: str) -> NDArray[np.int64]:
    """Return classes or tokens, which count from 0, as int64."""
    if array.dtype.kind not in "iub":
        advice = "number the classes from 0" if each == "label" else "tokens are whole numbers"
        raise DatasetError(f"The {what} are {array.dtype}; {advice}.")
    bad = np.less(array, 0) | np.greater(array, np.iinfo(np.int32).max)
    if bad.any():
        row = int(np.unravel_index(int(np.argmax(bad)), array.shape)[0])
        raise DatasetError(f"Row {row} has the {each} {array[bad][0]}; {each}s count from 0.")
    return _own(array, np.int64)


def _whole_numbers(array: NDArray[np.generic]) -> NDArray[np.generic]:
    bad = ~(np.isfinite(array) & (np.abs(array) < 2**31) & (np.floor(array) == array))
    if bad.any():
        row = int(np.argmax(bad))
        raise DatasetError(
            f"Row {row} has the label {array[row]}, which is no whole number. "
            "If labels are quantities and not classes, give kind='regression'."
        )
    return array.astype(np.int64)


def _own(array: NDArray[np.generic], dtype: type[Scalar]) -> NDArray[Scalar]:
    """Return the array in this type and C order, read-only, and shared with nobody who writes."""
    result = np.ascontiguousarray(array, dtype=dtype)
    if not result.flags.aligned or (result.flags.writeable and np.shares_memory(result, array)):
        result = result.copy()
    result.flags.writeable = False
    return result
