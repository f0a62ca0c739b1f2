"""Who holds which rows: sharing a data set out among clients.

A `Partition` is data: it can be written down in a run's record and gives the same shares again.
Every scheme gives each client at least one row and no row to two clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuronexus_kernel.datasets.splitting import by_class, checked_seed, permutation
from neuronexus_kernel.errors import DatasetError

Rows = NDArray[np.int64]

IID, DIRICHLET = "iid", "dirichlet"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Partition:
    """A way to share rows out; made by `iid` and `dirichlet`.

    Attributes
    ----------
    scheme
        ``"iid"`` or ``"dirichlet"``.
    clients
        Number of shares.
    seed
        The same seed gives the same shares.
    samples_per_client
        For iid: rows of each client; None shares out all rows.
    alpha
        For dirichlet: how even the clients' mixes of classes are; small is uneven.

    Raises
    ------
    DatasetError
        If a field is out of range or does not belong to the scheme.
    """

    scheme: str
    clients: int
    seed: int = 0
    samples_per_client: int | None = None
    alpha: float | None = None

    def __post_init__(self) -> None:
        _check_count("clients", self.clients)
        checked_seed(self.seed)
        if self.scheme == IID:
            if self.samples_per_client is not None:
                _check_count("samples_per_client", self.samples_per_client)
            _check_absent("alpha", self.alpha, self.scheme)
        elif self.scheme == DIRICHLET:
            # 1 and 1.0 are the same partition, so they are written down the same.
            object.__setattr__(self, "alpha", _checked_alpha(self.alpha))
            _check_absent("samples_per_client", self.samples_per_client, self.scheme)
        else:
            raise DatasetError(f"There is no partition scheme {self.scheme!r}; use iid, dirichlet.")

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in self.to_dict().items() if k != "scheme")
        return f"{self.scheme}({fields})"

    def to_dict(self) -> dict[str, str | int | float]:
        """Return the partition as plain data, without the fields that its scheme lacks."""
        fields: dict[str, str | int | float] = {"scheme": self.scheme, "clients": self.clients}
        if self.samples_per_client is not None:
            fields["samples_per_client"] = self.samples_per_client
        if self.alpha is not None:
            fields["alpha"] = self.alpha
        return {**fields, "seed": self.seed}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Partition:
        """Return the partition that `to_dict` wrote.

        Raises
        ------
        DatasetError
            If a field is missing, unknown or out of range.
        """
        known = {"scheme", "clients", "seed", "samples_per_client", "alpha"}
        if not isinstance(data, Mapping) or not {"scheme", "clients"} <= set(data) <= known:
            raise DatasetError(f"A partition is a mapping with some of {sorted(known)}.")
        return cls(**data)  # type: ignore[arg-type]

    def assign(self, labels: NDArray[np.int64], classes: int) -> list[Rows]:
        """Return each client's row numbers.

        Parameters
        ----------
        labels
            Class of every row, shape ``(n,)``.
        classes
            How many classes there are.

        Returns
        -------
        list of numpy.ndarray
            One int64 array per client, ascending; none is empty, no row is in two.

        Raises
        ------
        DatasetError
            If there are too few rows.
        """
        needed = self.clients * (self.samples_per_client or 1)
        if needed > len(labels):
            raise DatasetError(
                f"{self} needs {needed} rows, but there are {len(labels)}. Ask for fewer clients"
                f"{' or fewer rows for each' if self.samples_per_client else ''}."
            )
        shares = _iid(self, labels) if self.alpha is None else _dirichlet(self, labels, classes)
        return [np.sort(rows) for rows in shares]


def iid(clients: int, samples_per_client: int | None = None, seed: int = 0) -> Partition:
    """Share rows out at random, so that all clients have much the same mix of classes.

    Parameters
    ----------
    clients
        Number of clients.
    samples_per_client
        Rows of each client; by default all rows are shared out, sizes differing by one at most.
    seed
        The same seed gives the same shares.
    """
    return Partition(scheme=IID, clients=clients, samples_per_client=samples_per_client, seed=seed)


def dirichlet(clients: int, alpha: float, seed: int = 0) -> Partition:
    """Share all rows out so that clients differ in their mix of classes.

    Each client draws its own mix from a Dirichlet distribution around the mix of all rows and
    then as many rows as the others (sizes differ by one at most); classes that are used up drop
    out of the mixes that follow.  Source: Hsu, Qi and Brown 2019, "Measuring the effects of
    non-identical data distribution for federated visual classification", arXiv 1909.06335, with
    alpha counted per class, as Reddi et al. 2021 (arXiv 2003.00295) and most libraries do: the
    paper's own alpha is this one times the number of classes.

    Parameters
    ----------
    clients
        Number of clients.
    alpha
        Concentration for each class: 100 is nearly even, 1 makes any mix as likely as another,
        0.1 gives most clients one or two classes.
    seed
        The same seed gives the same shares (with the same numpy, whose Dirichlet draws may
        change between versions).
    """
    return Partition(scheme=DIRICHLET, clients=clients, alpha=alpha, seed=seed)


def _even_sizes(rows: int, clients: int) -> list[int]:
    return [rows // clients + (client < rows % clients) for client in range(clients)]


def _iid(partition: Partition, labels: NDArray[np.int64]) -> list[Rows]:
    rows = permutation(len(labels), partition.seed)
    if partition.samples_per_client is not None:
        rows = rows[: partition.clients * partition.samples_per_client]
    ends = np.cumsum(_even_sizes(len(rows), partition.clients))
    return np.split(rows, ends[:-1])


def _dirichlet(partition: Partition, labels: NDArray[np.int64], classes: int) -> list[Rows]:
    assert partition.alpha is not None
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([partition.seed, 1])))
    rows = by_class(labels, partition.seed)
    left = np.bincount(labels, minlength=classes)
    begin = np.concatenate([[0], np.cumsum(left)[:-1]])
    prior = left / left.sum()
    alphas = partition.alpha * np.count_nonzero(left) * prior
    shares: list[Rows] = []
    for size in _even_sizes(len(labels), partition.clients):
        mix = _draw_mix(random, alphas, prior)
        take = _draw_rows(random, mix, left, size)
        chosen = [rows[at : at + count] for at, count in zip(begin, take, strict=True)]
        shares.append(np.concatenate(chosen))
        begin, left = begin + take, left - take
    return shares


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


def _check_count(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise DatasetError(f"{field} must be a whole number above zero, not {value!r}.")


def _checked_alpha(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1e9:
        return float(value)
    raise DatasetError(f"alpha must be a number above zero, such as 0.3, not {value!r}.")


def _check_absent(field: str, value: object, scheme: str) -> None:
    if value is not None:
        raise DatasetError(f"{field} does not belong to the partition scheme {scheme!r}.")
