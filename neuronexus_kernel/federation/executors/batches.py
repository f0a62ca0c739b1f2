"""The batches of clients that train side by side, as rectangular tensors.

Clients are sorted by falling number of steps, so that those still training are always the first
rows.  A batch with fewer examples than the others is filled up with repetitions of its first row at
weight zero: the arithmetic is rectangular and the result exact.  Augmentation happens here, for all
executors that stack clients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from neuronexus_kernel.federation.augmentation import augment, row_keys
from neuronexus_kernel.federation.executors.base import Client, Cohort

if TYPE_CHECKING:
    from neuronexus_kernel.federation.recipe import Recipe

_WINDOW_ROWS = 2**20
"""For so many rows at a time it is worked out which batch they are in."""

_GATHERED = 2**19
"""So many input numbers are gathered at a time: a call for every step would cost more than the
copying, and what lies ready should lie in a cache."""


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
    long: steps are meant to be taken in order, and a batch lasts until the next is taken.
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
        self._window: _Window | None = None
        each_step = len(clients) * self.size * math.prod(cohort.recipe.architecture.input_shape)
        self._ready = max(1, _GATHERED // each_step)
        self._gathered: _Gathered | None = None
        self._room: np.ndarray | None = None
        self._noisy = _draws_noise(cohort.recipe)

    def __len__(self) -> int:
        return len(self.active)

    def __getitem__(self, step: int) -> Batch:
        active, window = self.active[step], self._window_of(step)
        at = step - window.first
        gathered = self._gathered_of(step, window)
        keys = window.keys[at, :active]
        inputs = gathered.inputs[step - gathered.first, :active]
        recipe = self._cohort.recipe
        if recipe.augmentation:
            flat = inputs.reshape(-1, *recipe.architecture.input_shape)
            flat = augment(flat, row_keys(keys, self.size).flatten(), recipe.augmentation)
            inputs = flat.view(active, self.size, *flat.shape[1:])
        return Batch(
            inputs,
            gathered.labels[step - gathered.first, :active],
            window.weights[at, :active],
            window.present[at, :active],
            window.sizes[at, :active],
            keys,
            window.full[at],
        )

    def _gathered_of(self, step: int, window: _Window) -> _Gathered:
        """Return the rows of some steps, this one among them, in the order of the batches."""
        first = step - (step - window.first) % self._ready
        if self._gathered is None or self._gathered.first != first:
            start = first - window.first
            rows = window.rows[start : start + self._ready, : self.active[first]]
            inputs = [client.dataset.inputs for client in self._clients]
            labels = [client.dataset.labels for client in self._clients]
            if self._room is None:  # memory that is used again need not be touched first again
                self._room = _room(rows, inputs[0], self._dtype)
            self._gathered = _Gathered(
                first,
                self._there(_gather(inputs, rows, self._room)),
                self._there(_gather(labels, rows, _room(rows, labels[0], self._dtype))),
            )
        return self._gathered

    def _there(self, array: np.ndarray) -> Tensor:
        """Return an array as a tensor where the clients train."""
        return torch.from_numpy(array).to(self._device)

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
            rows[:count, column] = taken
            if self._noisy:
                keys[:count, column] = self._cohort.noise_keys(client)[steps]
        is_present = np.arange(self.size) < sizes[:, :, None]
        whole = (sizes == self.size) | (sizes == 0)
        present = torch.from_numpy(is_present).to(self._device, self._dtype)
        size = torch.from_numpy(sizes).to(self._device, self._dtype)
        return _Window(
            first,
            rows,
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
    rows: np.ndarray
    keys: Tensor
    sizes: Tensor
    present: Tensor
    weights: Tensor
    full: list[bool]


@dataclass(frozen=True, slots=True)
class _Gathered:
    """Inputs and labels of some steps in a row: (steps, clients, batch, ...)."""

    first: int
    inputs: Tensor
    labels: Tensor


def _room(rows: np.ndarray, source: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Return memory for rows (steps, clients, batch) of such sources, the clients first.

    Its number type is that of the training, unless the source holds whole numbers.
    """
    kind = source.dtype if source.dtype.kind != "f" else np.dtype(str(dtype).removeprefix("torch."))
    steps, clients, size = rows.shape
    return np.empty((clients, steps * size, *source.shape[1:]), dtype=kind)


def _gather(sources: Sequence[np.ndarray], rows: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Write each client's rows (steps, clients, batch) of its own source; return what is written.

    What is returned has the shape (steps, clients, batch, ...), but each client's rows lie together
    in memory: they are written by one call.
    """
    steps, clients, size = rows.shape
    written = room[:clients, : steps * size]
    for place, source in enumerate(sources[:clients]):
        chosen = rows[:, place].reshape(-1)
        if source.dtype == room.dtype:
            np.take(source, chosen, axis=0, out=written[place], mode="clip")
            # "clip" needs no second buffer, as "raise" does; the rows are within bounds.
        else:
            written[place] = source[chosen]
    return written.reshape(clients, steps, size, *room.shape[2:]).swapaxes(0, 1)


def _draws_noise(recipe: Recipe) -> bool:
    """Tell whether steps draw noise: in augmentation, or in an operator with a probability p."""
    arguments = (name for node in recipe.architecture.nodes for name, _ in node.arguments.items)
    return bool(recipe.augmentation) or "p" in arguments


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
