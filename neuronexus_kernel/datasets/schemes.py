"""How each partition scheme deals rows; see `neuronexus_kernel.datasets.partition` for what.

Every function returns each client's row numbers, int64, none empty and no row in two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neuronexus_kernel.datasets.checking import Column, Labels
from neuronexus_kernel.datasets.splitting import Rows, by_class, by_value, permutation
from neuronexus_kernel.errors import DatasetError

BINS = 10
"""Classes that quantities count as, where a scheme goes by classes."""

# Streams of chance of one seed: what draws mixes, who gets which shards, and sizes.
_MIXES, _SHARDS, _SIZES = 1, 2, 3


def iid(rows: int, clients: int, samples_per_client: int | None, seed: int) -> list[Rows]:
    """Deal rows at random."""
    order = permutation(rows, seed)
    if samples_per_client is not None:
        order = order[: clients * samples_per_client]
    return _cut(order, _even_sizes(len(order), clients))


def quantity(rows: int, clients: int, alpha: float, seed: int) -> list[Rows]:
    """Deal rows at random, in sizes drawn from a Dirichlet distribution."""
    even = np.full(clients, 1 / clients)
    shares = _draw_mix(_random(seed, _SIZES), np.full(clients, alpha), even)
    # Rounding the ends, and not the sizes, keeps the sum exact.
    ends = np.floor(np.cumsum(shares) * (rows - clients)).astype(np.int64)
    ends[-1] = rows - clients
    sizes = 1 + np.diff(np.minimum(ends, rows - clients), prepend=0)
    return _cut(permutation(rows, seed), sizes.tolist())


def shards(
    values: NDArray[np.int64] | NDArray[np.float32],
    clients: int,
    shards_per_client: int,
    seed: int,
) -> list[Rows]:
    """Cut rows in the order of their values into shards, and deal those at random."""
    count = clients * shards_per_client
    pieces = _cut(by_value(values, seed), _even_sizes(len(values), count))
    dealt = permutation(count, [seed, _SHARDS]).reshape(clients, shards_per_client)
    return [np.concatenate([pieces[piece] for piece in hand]) for hand in dealt]


def dirichlet(
    labels: NDArray[np.int64], classes: int, clients: int, alpha: float, seed: int
) -> list[Rows]:
    """Deal each client a mix of classes drawn from a Dirichlet distribution."""
    random = _random(seed, _MIXES)
    rows = by_class(labels, seed)
    left = np.bincount(labels, minlength=classes)
    begin = np.concatenate([[0], np.cumsum(left)[:-1]])
    prior = left / left.sum()
    alphas = alpha * np.count_nonzero(left) * prior
    shares: list[Rows] = []
    for size in _even_sizes(len(labels), clients):
        mix = _draw_mix(random, alphas, prior)
        take = _draw_rows(random, mix, left, size)
        chosen = [rows[at : at + count] for at, count in zip(begin, take, strict=True)]
        shares.append(np.concatenate(chosen))
        begin, left = begin + take, left - take
    return shares


def by_column(clients: int, name: str, values: Column | None, rows: int) -> list[Rows]:
    """Deal each client the rows of one value of a column."""
    if values is None or len(values) != rows:
        raise DatasetError(
            f"A partition by the column {name!r} needs its value for each of the {rows} rows: "
            "use `dataset.partition(...)` of a data set that has it."
        )
    distinct, codes = np.unique(values, return_inverse=True)
    if len(distinct) != clients:
        raise DatasetError(
            f"The column {name!r} has {len(distinct)} distinct values, but the partition is for "
            f"{clients} clients. Make it anew with `partition.by_column(dataset, {name!r})`."
        )
    order = np.argsort(codes, kind="stable").astype(np.int64)
    return _cut(order, np.bincount(codes).tolist())


def one_value_per_row(labels: Labels, scheme: str) -> NDArray[np.int64] | NDArray[np.float32]:
    """Return classes or single quantities as shape ``(n,)``, by which rows have an order.

    Raises
    ------
    DatasetError
        If a label is more than one number.
    """
    if labels.ndim > 1 and labels[0].size > 1:
        raise DatasetError(
            f"{scheme} goes by one label per row, but a row's label has shape "
            f"{labels.shape[1:]}. Use iid, quantity or by_column."
        )
    if labels.dtype.kind == "i" and labels.ndim > 1:
        raise DatasetError(
            f"{scheme} goes by classes, and tokens are none. Use iid, quantity or by_column."
        )
    return labels.reshape(-1)


def as_classes(labels: Labels, classes: int, scheme: str) -> tuple[NDArray[np.int64], int]:
    """Return the class of every row, shape ``(n,)``, and how many there are.

    A single quantity counts as its quantile; `one_value_per_row` says what is refused.
    """
    values = one_value_per_row(labels, scheme)
    if values.dtype.kind == "i":
        return values.astype(np.int64, copy=False), classes
    edges = np.quantile(values, np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, values, side="right").astype(np.int64), BINS


def _random(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))


def _even_sizes(rows: int, clients: int) -> list[int]:
    return [rows // clients + (client < rows % clients) for client in range(clients)]


def _cut(rows: Rows, sizes: list[int]) -> list[Rows]:
    return np.split(rows, np.cumsum(sizes)[:-1])


def _draw_mix(
    random: np.random.Generator, alphas: NDArray[np.float64], prior: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Draw a mix of classes; classes without rows have none of it."""
    mix = np.zeros_like(alphas)
    present = alphas > 0
    mix[present] = random.dirichlet(alphas[present])
    if np.isfinite(mix).all() and mix.sum() > 0:
        return mix
    # So small an alpha that the draw underflows: in the limit, a single class.
    mix[:] = 0
    mix[random.choice(len(mix), p=prior)] = 1
    return mix


def _draw_rows(
    random: np.random.Generator,
    mix: NDArray[np.float64],
    left: NDArray[np.int64],
    size: int,
) -> NDArray[np.int64]:
    """Draw how many rows of each class a client gets, never more than are left.

    Draws of a class that is used up are repeated among the others, which is the same as drawing
    row by row without replacement of classes.
    """
    take = np.zeros_like(left)
    while (missing := size - int(take.sum())) > 0:
        weights = np.where(take < left, mix, 0.0)
        if weights.sum() <= 0:
            weights = (left - take).astype(np.float64)
        drawn = random.multinomial(missing, weights / weights.sum())
        take = np.minimum(take + drawn, left)
    return take
