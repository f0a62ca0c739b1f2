"""The batches of clients that train side by side, as rectangular tensors.

Clients are sorted by falling number of steps, so that those still training are always the first
rows.  A batch with fewer examples than the others is filled up with repetitions of its first row at
weight zero: the arithmetic is rectangular and the result exact.  Augmentation happens here, for all
executors that stack clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neuronexus_kernel.federation.augmentation import augment, row_keys
from neuronexus_kernel.federation.executors.base import Client, Cohort

_WINDOW_ROWS = 2**20
"""For so many rows at a time it is worked out which batch they are in."""


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
        (active, batch, \\*shape), augmented, in the number type of the training; int64 for tokens.
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

    Notes
    -----
    Which rows are in which batch is worked out for some steps at a time, since a round may be
    long: steps are meant to be taken in order.
    """

    def __init__(
        self,
        cohort: Cohort,
        clients: Sequence[Client],
        dtype: torch.dtype,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self._cohort = cohort
        self._clients = clients
        self._dtype, self._device = dtype, device
        steps = np.array([cohort.steps(client) for client in clients])
        self.active: tuple[int, ...] = tuple(
            np.searchsorted(-steps, -np.arange(steps[0])).tolist()  # how many have more steps
        )
        longest = max(len(client.dataset) for client in clients)
        self.size = min(cohort.recipe.batch_size, longest)
        self._length = max(1, _WINDOW_ROWS // (len(clients) * self.size))
        self._offsets = np.cumsum([0, *(len(client.dataset) for client in clients)])
        self._window: _Window | None = None
        inputs = torch.from_numpy(np.concatenate([each.dataset.inputs for each in clients]))
        self._inputs = inputs.to(device, dtype if inputs.is_floating_point() else inputs.dtype)
        labels = torch.from_numpy(np.concatenate([each.dataset.labels for each in clients]))
        self._labels = labels.to(device, dtype if labels.is_floating_point() else labels.dtype)

    def __len__(self) -> int:
        return len(self.active)

    def __getitem__(self, step: int) -> Batch:
        active, window = self.active[step], self._window_of(step)
        at = step - window.first
        rows, keys = window.rows[at, :active], window.keys[at, :active]
        flat = rows.flatten()
        inputs = self._inputs.index_select(0, flat)
        recipe = self._cohort.recipe
        if recipe.augmentation:
            inputs = inputs.view(-1, *recipe.architecture.input_shape)
            inputs = augment(inputs, row_keys(keys, self.size).flatten(), recipe.augmentation)
        labels = self._labels.index_select(0, flat)
        return Batch(
            inputs.view(*rows.shape, *inputs.shape[1:]),
            labels.view(*rows.shape, *labels.shape[1:]),
            window.weights[at, :active],
            window.present[at, :active],
            window.sizes[at, :active],
            keys,
            window.full[at],
        )

    def _window_of(self, step: int) -> _Window:
        """Return the window that a step lies in."""
        first = step - step % self._length
        if self._window is None or self._window.first != first:
            self._window = self._made(first)
        return self._window

    def _made(self, first: int) -> _Window:
        """Return the window whose first step this is."""
        active = self.active[first : first + self._length]
        shape = (len(active), len(self._clients), self.size)
        rows = np.zeros(shape, dtype=np.int64)
        sizes = np.zeros(shape[:2], dtype=np.int64)
        keys = np.zeros(shape[:2], dtype=np.int64)
        for column, client in enumerate(self._clients[: active[0]]):
            steps = slice(first, min(first + len(active), self._cohort.steps(client)))
            count = steps.stop - steps.start
            taken, sizes[:count, column] = _batches(self._cohort, client, steps, self.size)
            rows[:count, column] = taken + self._offsets[column]
            keys[:count, column] = self._cohort.noise_keys(client)[steps]
        is_present = np.arange(self.size) < sizes[:, :, None]
        whole = (sizes == self.size) | (sizes == 0)
        present = torch.from_numpy(is_present).to(self._device, self._dtype)
        size = torch.from_numpy(sizes).to(self._device, self._dtype)
        return _Window(
            first,
            torch.from_numpy(rows).to(self._device),
            torch.from_numpy(keys).to(self._device),
            size,
            present,
            present / size.clamp(min=1)[:, :, None],
            whole.all(1).tolist(),
        )


@dataclass(frozen=True, slots=True)
class _Window:
    """What is known of some steps in a row: (steps, clients) or (steps, clients, batch)."""

    first: int
    rows: Tensor
    keys: Tensor
    sizes: Tensor
    present: Tensor
    weights: Tensor
    full: list[bool]


def _batches(
    cohort: Cohort, client: Client, steps: slice, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (steps, width) and the true sizes (steps,) of a client's batches.

    They are those of `Cohort.batches`, filled up with the first row of each.
    """
    examples = len(client.dataset)
    each = -(-examples // width)
    turns = range(steps.start // each, -(-steps.stop // each))
    rows = np.empty((len(turns), each * width), dtype=np.int64)
    for place, turn in enumerate(turns):
        rows[place, :examples] = cohort.order_of(client, turn)
        rows[place, examples:] = rows[place, (each - 1) * width]
    sizes = np.full((len(turns), each), width)
    sizes[:, -1] = examples - (each - 1) * width
    taken = slice(steps.start - turns.start * each, steps.stop - turns.start * each)
    return rows.reshape(-1, width)[taken], sizes.flatten()[taken]
