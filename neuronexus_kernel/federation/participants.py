"""Who takes part in a run: from data to clients, and what of them a checkpoint remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import DatasetError, InvalidInputError, RecipeError
from neuronexus_kernel.federation import randomness
from neuronexus_kernel.federation.executors.base import Client
from neuronexus_kernel.federation.fields import whole

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset, Partition

_DEFAULT_CLIENTS = 10
_TRAINING_SAMPLE = 10_000


def named_clients(dataset: object, partition: Partition | None, seed: int) -> dict[str, Client]:
    """Return the clients by name, in order of their partition ids.

    Parameters
    ----------
    dataset
        One data set, which `partition` shares out; or one per client; or one per name (partition
        ids follow the sorted names).
    partition
        How to share out a single data set; by default evenly at random over 10 clients.
    seed
        Seed of the default partition.

    Raises
    ------
    DatasetError
        If there is no data, or something is no data set.
    InvalidInputError
        If there is a partition, but not a single data set.
    """
    from neuronexus_kernel.datasets import Dataset

    if isinstance(dataset, Dataset):
        shares = dataset.partition(partition or default_partition(seed))
        named = {f"client-{place}": share for place, share in enumerate(shares)}
    elif partition is not None:
        raise InvalidInputError(
            "partition shares out a single data set, but several were given: leave it out."
        )
    elif isinstance(dataset, Mapping):
        named = {str(name): dataset[name] for name in sorted(dataset, key=str)}
    elif isinstance(dataset, Sequence):
        named = {f"client-{place}": share for place, share in enumerate(dataset)}
    else:
        kind = type(dataset).__name__
        raise DatasetError(f"dataset must be a Dataset, several, or a mapping, not a {kind}.")
    if not named:
        raise DatasetError("There is nobody to train with: give at least one data set.")
    for name, share in named.items():
        check_dataset(name, share)
    return {name: Client(place, share) for place, (name, share) in enumerate(named.items())}


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """Return an argument that must be a whole number between two bounds, both allowed.

    Raises
    ------
    InvalidInputError
        Naming the argument.
    """
    try:
        return cast(int, whole(low, high)(name, value))
    except RecipeError as error:
        raise InvalidInputError(str(error)) from None


def default_partition(seed: int) -> Partition:
    """Return how a single data set is shared out if nothing else is said."""
    from neuronexus_kernel.datasets.partition import iid

    return iid(_DEFAULT_CLIENTS, seed=seed)


def check_dataset(name: str, value: object) -> None:
    """Check that a value is a data set.

    Raises
    ------
    DatasetError
        Naming it.
    """
    from neuronexus_kernel.datasets import Dataset

    if not isinstance(value, Dataset):
        raise DatasetError(f"{name} must be a Dataset, not a {type(value).__name__}.")


def described(dataset: object, partition: Partition | None, seed: int) -> dict[str, Node]:
    """Return which data a run trains on, by content: for data that `named_clients` accepts."""
    from neuronexus_kernel.datasets import Dataset

    if isinstance(dataset, Dataset):
        shared = (partition or default_partition(seed)).to_dict()
        return {"data": str(dataset.cid), "partition": cast(Node, shared)}
    if isinstance(dataset, Mapping):
        cids = {str(name): str(cast(Dataset, share).cid) for name, share in dataset.items()}
    else:
        shares = enumerate(cast("Sequence[Dataset]", dataset))
        cids = {f"client-{place}": str(share.cid) for place, share in shares}
    return {"data": cast(Node, cids), "partition": None}


def training_sample(data: Sequence[Dataset], seed: int) -> Dataset:
    """Return at most 10,000 rows of all clients' data together, drawn once for a seed."""
    from neuronexus_kernel.datasets import Dataset

    ends = np.cumsum([len(share) for share in data])
    order = randomness.permutation("training sample", seed, count=int(ends[-1]))
    chosen = np.sort(order[:_TRAINING_SAMPLE])
    cuts = np.searchsorted(chosen, [0, *ends])
    parts = [
        (share, chosen[cuts[place] : cuts[place + 1]] - (ends[place] - len(share)))
        for place, share in enumerate(data)
    ]
    return Dataset(
        np.concatenate([share.inputs[rows] for share, rows in parts]),
        np.concatenate([share.labels[rows] for share, rows in parts]),
        kind=data[0].kind,
        classes=max(share.classes for share in data) or None,
        vocabulary=max(share.vocabulary for share in data) or None,
        name="training examples",
    )
