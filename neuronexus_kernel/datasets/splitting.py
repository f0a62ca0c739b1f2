"""Exact shares of rows, the same for ever.

What is held out today must be held out tomorrow, so nothing here depends on numpy's random
methods, whose streams may change between versions (NEP 19): a permutation is the sorted order of
raw 64-bit words of PCG64, whose stream is fixed.  All rounding is done in integers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from neuronexus_kernel.errors import DatasetError

Rows = NDArray[np.int64]


def checked_seed(seed: int) -> int:
    """Return `seed` if it is a whole number from 0 to 2^63 - 1, else raise `DatasetError`."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise DatasetError(f"seed must be a whole number from 0 on, not {seed!r}.")
    return seed


def permutation(count: int, seed: int | Sequence[int]) -> Rows:
    """Return the numbers below `count` in an order fixed by the seed, or seeds."""
    words = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
    return np.argsort(np.asarray(words, dtype=np.uint64), kind="stable").astype(np.int64)


def by_class(labels: NDArray[np.int64], seed: int) -> Rows:
    """Return all row numbers class by class, shuffled within each class."""
    return by_value(labels, seed)


def by_value(values: NDArray[np.int64] | NDArray[np.float32], seed: int) -> Rows:
    """Return all row numbers in the order of their values, shuffled among equal ones."""
    order = permutation(len(values), seed)
    return order[np.argsort(values[order], kind="stable")]


def split(labels: NDArray[np.int64], fractions: Mapping[str, float], seed: int) -> dict[str, Rows]:
    """Share out rows so that every part has the same mix of classes; see `Dataset.split`.

    Returns
    -------
    dict
        For each part its row numbers, int64, ascending.
    """
    sizes = _sizes(len(labels), fractions)
    rows = by_class(labels, checked_seed(seed))
    left = np.bincount(labels)
    begin = np.concatenate([[0], np.cumsum(left)[:-1]])
    parts: dict[str, Rows] = {}
    for part, size in zip(fractions, sizes, strict=True):
        take = _proportional(size, left)
        chosen = [rows[at : at + count] for at, count in zip(begin, take, strict=True)]
        parts[part] = np.sort(np.concatenate(chosen))
        begin, left = begin + take, left - take
    return parts


def _proportional(size: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Take `size` out of these counts, from each its share, rounded so that the sum is exact."""
    ends = np.concatenate([[0], np.cumsum(counts)])
    share: NDArray[np.int64] = np.diff(size * ends // ends[-1])
    return share


def _sizes(rows: int, fractions: Mapping[str, float]) -> list[int]:
    """Round the shares of `rows` by largest remainder."""
    values = list(fractions.values())
    if not values or not all(isinstance(f, (int, float)) and 0 < f <= 1 for f in values):
        raise DatasetError(f"Every fraction lies between 0 and 1; given were {dict(fractions)}.")
    if not math.isclose(sum(values), 1, abs_tol=1e-9):
        raise DatasetError(f"The fractions sum to {sum(values):g}, not to 1.")
    sizes = _largest_remainder(rows, values)
    for part, size in zip(fractions, sizes, strict=True):
        if size == 0:
            raise DatasetError(
                f"The part {part!r} would have no row: {rows} rows are too few for the fraction "
                f"{fractions[part]:g}. Ask for a larger fraction or bring more data."
            )
    return sizes


def _largest_remainder(total: int, shares: Sequence[float]) -> list[int]:
    exact = [share * total for share in shares]
    sizes = [math.floor(value) for value in exact]
    order = sorted(range(len(sizes)), key=lambda k: (sizes[k] - exact[k], k))
    for k in order[: total - sum(sizes)]:
        sizes[k] += 1
    return sizes
