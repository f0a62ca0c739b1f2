"""Who holds which rows: sharing a data set out among clients.

A `Partition` is data: it can be written down in a run's record and gives the same shares again.
Every scheme gives each client at least one row and no row to two clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.datasets import schemes
from neuronexus_kernel.datasets.checking import Column, Labels
from neuronexus_kernel.datasets.splitting import Rows, checked_seed
from neuronexus_kernel.errors import DatasetError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from neuronexus_kernel.datasets.dataset import Dataset

IID, DIRICHLET, SHARDS, QUANTITY, COLUMN = "iid", "dirichlet", "shards", "quantity", "column"

SCHEMES: Mapping[str, str | None] = MappingProxyType(
    {
        IID: "samples_per_client",
        DIRICHLET: "alpha",
        SHARDS: "shards_per_client",
        QUANTITY: "alpha",
        COLUMN: "column",
    }
)
"""Each scheme's own field."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Partition:
    """A way to share rows out; made by `iid`, `shards`, `dirichlet`, `quantity`, `by_column`.

    Attributes
    ----------
    scheme
        One of `SCHEMES`.
    clients
        Number of shares.
    seed
        The same seed gives the same shares; 0 for column, which draws nothing.
    samples_per_client
        For iid: rows of each client; None shares out all rows.
    alpha
        For dirichlet: how even the clients' mixes of classes are; for quantity: how even their
        sizes are.  Small is uneven.
    shards_per_client
        For shards: how many pieces of the rows in label order each client gets.
    column
        For column: its name.

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
    shards_per_client: int | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.scheme, str) or self.scheme not in SCHEMES:
            raise DatasetError(
                f"There is no partition scheme {self.scheme!r}; use {', '.join(SCHEMES)}."
            )
        _check_count("clients", self.clients)
        checked_seed(self.seed)
        own = SCHEMES[self.scheme]
        for field in _OWN_FIELDS:
            value = getattr(self, field)
            if field == own:
                object.__setattr__(self, field, _OWN_FIELDS[field](field, value, self.scheme))
            elif value is not None:
                raise DatasetError(
                    f"{field} does not belong to the partition scheme {self.scheme!r}."
                )
        if self.scheme == COLUMN and self.seed != 0:
            raise DatasetError(f"seed is 0 for a partition by column, not {self.seed}.")

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in self.to_dict().items() if k != "scheme")
        return f"{self.scheme}({fields})"

    def to_dict(self) -> dict[str, str | int | float]:
        """Return the partition as plain data, without the fields that its scheme lacks."""
        fields: dict[str, str | int | float] = {"scheme": self.scheme, "clients": self.clients}
        for field in _OWN_FIELDS:
            value = getattr(self, field)
            if value is not None:
                fields[field] = value
        return {**fields, "seed": self.seed}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Partition:
        """Return the partition that `to_dict` wrote.

        Raises
        ------
        DatasetError
            If a field is missing, unknown or out of range.
        """
        known = {"scheme", "clients", "seed", *_OWN_FIELDS}
        if not isinstance(data, Mapping) or not {"scheme", "clients"} <= set(data) <= known:
            raise DatasetError(f"A partition is a mapping with some of {sorted(known)}.")
        return cls(**data)  # type: ignore[arg-type]

    def assign(self, labels: Labels, classes: int, column: Column | None = None) -> list[Rows]:
        """Return each client's row numbers.

        Parameters
        ----------
        labels
            Label of every row: classes (n,), quantities (n, ...) or tokens (n, length).
        classes
            How many classes there are.
        column
            For the scheme column: its value for every row, shape ``(n,)``.

        Returns
        -------
        list of numpy.ndarray
            One int64 array per client, ascending; none is empty, no row is in two.

        Raises
        ------
        DatasetError
            If there are too few rows, or the scheme goes by labels or by a column and these are
            not of the right kind.
        """
        if self.scheme == COLUMN:
            return schemes.by_column(self.clients, str(self.column), column, len(labels))
        each = self.samples_per_client or self.shards_per_client or 1
        if self.clients * each > len(labels):
            fewer = {IID: " or fewer rows for each", SHARDS: " or fewer shards for each"}
            advice = fewer.get(self.scheme, "") if each > 1 else ""
            raise DatasetError(
                f"{self} needs {self.clients * each} rows, but there are {len(labels)}. "
                f"Ask for fewer clients{advice}."
            )
        if self.scheme == IID:
            shares = schemes.iid(len(labels), self.clients, self.samples_per_client, self.seed)
        elif self.scheme == QUANTITY:
            shares = schemes.quantity(len(labels), self.clients, self.alpha or 0, self.seed)
        elif self.scheme == SHARDS:
            values = schemes.one_value_per_row(labels, str(self))
            shares = schemes.shards(values, self.clients, self.shards_per_client or 1, self.seed)
        else:
            binned, classes = schemes.as_classes(labels, classes, str(self))
            shares = schemes.dirichlet(binned, classes, self.clients, self.alpha or 0, self.seed)
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


def shards(clients: int, shards_per_client: int = 2, seed: int = 0) -> Partition:
    """Cut the rows, in the order of their labels, into shards and give each client a few.

    With 2 shards most clients see two classes: the "pathological non-IID" data of McMahan et al.
    2017, "Communication-efficient learning of deep networks from decentralized data",
    arXiv 1602.05629.  Quantities are put in order likewise; tokens have no one label to go by.

    Parameters
    ----------
    clients
        Number of clients.
    shards_per_client
        Shards of each client; sizes of shards differ by one row at most.
    seed
        Decides the order of rows with equal labels, and who gets which shards.
    """
    return Partition(scheme=SHARDS, clients=clients, shards_per_client=shards_per_client, seed=seed)


def dirichlet(clients: int, alpha: float, seed: int = 0) -> Partition:
    """Share all rows out so that clients differ in their mix of classes.

    Each client draws its own mix from a Dirichlet distribution around the mix of all rows and
    then as many rows as the others (sizes differ by one at most); classes that are used up drop
    out of the mixes that follow.  A quantity counts as one of 10 classes, its tenth of all rows.
    Source: Hsu, Qi and Brown 2019, "Measuring the effects of non-identical data distribution for
    federated visual classification", arXiv 1909.06335, with alpha counted per class, as Reddi et
    al. 2021 (arXiv 2003.00295) and most libraries do: the paper's own alpha is this one times
    the number of classes.

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


def quantity(clients: int, alpha: float, seed: int = 0) -> Partition:
    """Share all rows out at random, so that clients differ in how many they hold and no more.

    Each client has one row, and the rest are dealt in shares drawn from a symmetric Dirichlet
    distribution.  Source: Li, Diao, Chen and He 2022, "Federated learning on non-IID data
    silos: an experimental study", arXiv 2102.02079, "quantity skew".

    Parameters
    ----------
    clients
        Number of clients.
    alpha
        Concentration: 100 gives nearly equal sizes, 0.1 gives most rows to a few clients.
    seed
        The same seed gives the same shares (with the same numpy, whose Dirichlet draws may
        change between versions).
    """
    return Partition(scheme=QUANTITY, clients=clients, alpha=alpha, seed=seed)


def by_column(dataset: Dataset, column: str) -> Partition:
    """Make a client of every distinct value of a column, such as each writer or hospital.

    Parameters
    ----------
    dataset
        The rows; give them a column with ``Dataset(..., columns={"writer": values})`` or
        `Dataset.with_column`.  It stays with the rows through `Dataset.subset` and `split`.
    column
        Its name.  Clients are in the order of the sorted values.

    Raises
    ------
    DatasetError
        If there is no such column.
    """
    distinct = np.unique(dataset.column(column))
    return Partition(scheme=COLUMN, clients=len(distinct), column=column)


def plot(
    data: Dataset | Sequence[Dataset] | Mapping[str, Dataset], partition: Partition | None = None
) -> Figure:
    """Draw who holds what: each client's rows, by class, and its size.

    Parameters
    ----------
    data
        A data set and how it is shared out; or the shares, one data set per client, by name or
        in order.
    partition
        How a single data set is shared out.

    Returns
    -------
    matplotlib.figure.Figure
        For few clients one circle for each client and class, its area the number of rows; for
        many a map, in which clients are in the order of their most frequent classes.  Quantities
        are put in bins, and of tokens the most frequent are shown.

    Raises
    ------
    DatasetError
        If there is no client, the shares do not go together, or `partition` is missing or too
        much.
    """
    from neuronexus_kernel.datasets.plotting import who_holds_what

    return who_holds_what(data, partition)


def _check_count(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise DatasetError(f"{field} must be a whole number above zero, not {value!r}.")


def _checked_samples(field: str, value: object, scheme: str) -> object:
    if value is not None:
        _check_count(field, value)
    return value


def _checked_shards(field: str, value: object, scheme: str) -> object:
    _check_count(field, value)
    return value


def _checked_alpha(field: str, value: object, scheme: str) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1e9:
        # 1 and 1.0 are the same partition, so they are written down the same.
        return float(value)
    raise DatasetError(f"alpha must be a number above zero, such as 0.3, not {value!r}.")


def _checked_column(field: str, value: object, scheme: str) -> object:
    if isinstance(value, str) and value:
        return value
    raise DatasetError(f"column must be the name of a column, not {value!r}.")


_OWN_FIELDS: Mapping[str, Callable[[str, object, str], object]] = MappingProxyType(
    {
        "samples_per_client": _checked_samples,
        "alpha": _checked_alpha,
        "shards_per_client": _checked_shards,
        "column": _checked_column,
    }
)
