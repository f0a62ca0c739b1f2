"""The batches of clients that train side by side, as rectangular tensors.

Clients are sorted by falling number of steps, so that those still training are always the first
rows.  A batch with fewer examples than the others is filled up with repetitions of its first row at
weight zero: the arithmetic is rectangular and the result exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.base import Client, Cohort


def longest_first(cohort: Cohort) -> list[int]:
    """Return the places of a cohort's clients, those with most steps first."""
    places = range(len(cohort.clients))
    return sorted(places, key=lambda place: (-cohort.steps(cohort.clients[place]), place))


@dataclass(frozen=True, slots=True)
class Batch:
    """What the clients that are still training take at one step.

    Attributes
    ----------
    inputs
        (active, batch, \\*shape), in the number type of the training; int64 for tokens.
    labels
        (active, batch, ...).
    weights
        (active, batch): one over the batch's true size, zero for filling.  The weighted sum of an
        example's losses is the batch's mean loss.
    present
        (active, batch): one for examples, zero for filling.
    sizes
        (active,): the batch's true size.
    keys
        int64 (active,): decides all noise of the step.
    full
        Whether no row is filling.
    """

    inputs: Tensor
    labels: Tensor
    weights: Tensor
    present: Tensor
    sizes: Tensor
    keys: Tensor
    full: bool


class Batches:
    """All batches of a round, for clients sorted by falling number of steps.

    Parameters
    ----------
    cohort
        Where the clients are from.
    clients
        Those that train side by side.
    dtype
        Number type of the training.
    device
        Where they train.

    Attributes
    ----------
    active
        Number of clients still training, for each step: always the first ones.
    """

    def __init__(
        self,
        cohort: Cohort,
        clients: Sequence[Client],
        dtype: torch.dtype,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        rows, sizes, keys = _layout(cohort, clients)
        present = np.arange(rows.shape[2]) < sizes[:, :, None]
        self.active: tuple[int, ...] = tuple(np.count_nonzero(sizes, axis=1).tolist())
        self._full = [bool(present[step, :active].all()) for step, active in enumerate(self.active)]
        self._rows = torch.from_numpy(rows).to(device)
        self._keys = torch.from_numpy(keys).to(device)
        self._sizes = torch.from_numpy(sizes).to(device, dtype)
        self._present = torch.from_numpy(present).to(device, dtype)
        self._weights = self._present / self._sizes.clamp(min=1)[:, :, None]
        inputs = torch.from_numpy(np.concatenate([each.dataset.inputs for each in clients]))
        self._inputs = inputs.to(device, dtype if inputs.is_floating_point() else inputs.dtype)
        labels = torch.from_numpy(np.concatenate([each.dataset.labels for each in clients]))
        self._labels = labels.to(device, dtype if labels.is_floating_point() else labels.dtype)

    def __len__(self) -> int:
        return len(self.active)

    def __getitem__(self, step: int) -> Batch:
        active = self.active[step]
        rows = self._rows[step, :active]
        flat = rows.flatten()
        inputs = self._inputs.index_select(0, flat)
        labels = self._labels.index_select(0, flat)
        return Batch(
            inputs.view(*rows.shape, *inputs.shape[1:]),
            labels.view(*rows.shape, *labels.shape[1:]),
            self._weights[step, :active],
            self._present[step, :active],
            self._sizes[step, :active],
            self._keys[step, :active],
            self._full[step],
        )


def _layout(cohort: Cohort, clients: Sequence[Client]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows of the joined data (steps, clients, batch), true sizes and keys."""
    steps = [cohort.steps(client) for client in clients]
    longest = max(len(client.dataset.labels) for client in clients)
    shape = (steps[0], len(clients), min(cohort.recipe.batch_size, longest))
    rows = np.zeros(shape, dtype=np.int64)
    sizes = np.zeros(shape[:2], dtype=np.int64)
    keys = np.zeros(shape[:2], dtype=np.int64)
    offset = 0
    for column, client in enumerate(clients):
        for step, batch in enumerate(cohort.batches(client)):
            rows[step, column] = batch[0] + offset
            rows[step, column, : len(batch)] = batch + offset
            sizes[step, column] = len(batch)
        keys[: steps[column], column] = cohort.noise_keys(client)
        offset += len(client.dataset.labels)
    return rows, sizes, keys
