"""The vectorised executor: all clients of a chunk take each step together.

The clients' models are stacked on a new first axis and `torch.func` runs the one model over all
of them, so that a hundred small matrix products become one batched product.  Clients do not
share parameters, hence the gradient of the sum of their losses is each client's own gradient.

Ragged clients are exact: clients are sorted by their number of steps, so that those still
training are always the first rows, and the last batch of an epoch is filled up with repetitions of
one of its own rows at weight zero.

Gradients of batched products come out with their axes swapped in memory.  Parameters are laid out
in the same way (guessed at first, corrected after the first step), which makes the update one pass
over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort
from neuronexus_kernel.federation.executors.batches import Batch, Batches, longest_first
from neuronexus_kernel.federation.executors.losses import LOSSES
from neuronexus_kernel.federation.executors.modules import blank_module, torch_dtype
from neuronexus_kernel.federation.executors.optimisers import Stack, stacked_optimiser


class VectorizedExecutor:
    """Trains the clients of a cohort at the same time, `chunk` of them at once.

    Parameters
    ----------
    chunk
        Clients trained together: a matter of memory and cache.
    dtype
        ``"float32"`` or ``"float64"``.
    """

    name = "vectorized"

    def __init__(self, *, chunk: int, dtype: str = "float32") -> None:
        self._chunk = chunk
        self._dtype = torch_dtype(dtype)

    def train(self, cohort: Cohort) -> list[ClientUpdate]:
        """Train the cohort chunk by chunk, those with most steps first."""
        model = blank_module(cohort.recipe.architecture, self._dtype)
        model.train()
        model.keyed = True
        order = longest_first(cohort)
        updates: dict[int, ClientUpdate] = {}
        for first in range(0, len(order), self._chunk):
            chosen = order[first : first + self._chunk]
            clients = [cohort.clients[place] for place in chosen]
            trained = _Chunk(model, cohort, clients, self._dtype).train()
            updates.update(zip(chosen, trained, strict=True))
        return [updates[place] for place in range(len(order))]


class _Chunk:
    """Clients that train together, sorted by falling number of steps."""

    def __init__(
        self, model: nn.Module, cohort: Cohort, clients: Sequence[Client], dtype: torch.dtype
    ) -> None:
        self._cohort = cohort
        self._clients = clients
        self._names = [name for name, _ in model.named_parameters()]
        self._start = [torch.tensor(cohort.weights[name], dtype=dtype) for name in self._names]
        count = len(clients)
        self._stack: Stack = [_stacked(start, count) for start in self._start]
        self._batches = Batches(cohort, clients, dtype)
        self._forward = _batched(model, self._names)
        self._optimiser = stacked_optimiser(cohort.recipe)

    def train(self) -> list[ClientUpdate]:
        """Take all steps and return each client's update."""
        totals = torch.zeros(len(self._clients), dtype=torch.float64)
        leaves = self._leaves(len(self._clients))
        for step, active in enumerate(self._batches.active):
            if active != len(leaves[0]):
                leaves = self._leaves(active)
            batch = self._batches[step]
            losses, gradients = self._gradients(leaves, batch)
            if step == 0 and self._adopt_layout(gradients):
                leaves = self._leaves(active)
            with torch.no_grad():
                if self._cohort.proximal_mu:
                    self._pull(leaves, gradients)
                self._optimiser.step(leaves, gradients)
                totals[:active] += losses * batch.sizes
        return self._updates(totals.tolist())

    def _leaves(self, active: int) -> Stack:
        """Return the active clients' parameters: views that autograd sees as inputs."""
        return [tensor[:active].detach().requires_grad_() for tensor in self._stack]

    def _gradients(self, leaves: Stack, batch: Batch) -> tuple[Tensor, Stack]:
        """Return each active client's mean loss (active,) and the stacked gradients."""
        outputs = self._forward(leaves, batch.keys, batch.inputs)
        each = LOSSES[self._cohort.recipe.loss](outputs.flatten(0, 1), batch.labels.flatten(0, 1))
        losses = (each.view(batch.weights.shape) * batch.weights).sum(1)
        return losses.detach(), list(torch.autograd.grad(losses.sum(), leaves))

    def _adopt_layout(self, gradients: Stack) -> bool:
        """Give the parameters the memory layout of their gradients; tell whether any changed."""
        changed = False
        for place, gradient in enumerate(gradients):
            if gradient.stride() != self._stack[place].stride():
                self._stack[place] = torch.empty_like(gradient).copy_(self._stack[place])
                changed = True
        return changed

    def _pull(self, leaves: Stack, gradients: Stack) -> None:
        """Add the gradient of FedProx's term, ``mu * (w - start)``."""
        for place, (leaf, start) in enumerate(zip(leaves, self._start, strict=True)):
            gradients[place] = gradients[place] + self._cohort.proximal_mu * (leaf - start)

    def _updates(self, totals: list[float]) -> list[ClientUpdate]:
        arrays = [tensor.numpy() for tensor in self._stack]
        updates = []
        for place, client in enumerate(self._clients):
            examples = len(client.dataset.labels)
            updates.append(
                ClientUpdate(
                    client.partition_id,
                    {name: array[place] for name, array in zip(self._names, arrays, strict=True)},
                    examples,
                    totals[place] / (examples * self._cohort.recipe.local_epochs),
                    self._cohort.steps(client),
                )
            )
        return updates


def _stacked(start: Tensor, count: int) -> Tensor:
    """Return `count` copies of a parameter; matrices with their axes swapped in memory."""
    if start.dim() != 2:
        return start.expand(count, *start.shape).clone(memory_format=torch.contiguous_format)
    swapped = start.t().expand(count, *start.t().shape)
    return swapped.clone(memory_format=torch.contiguous_format).transpose(1, 2)


def _batched(model: nn.Module, names: list[str]) -> Callable[[Stack, Tensor, Tensor], Tensor]:
    """Return a function that runs the model over stacked parameters, keys and inputs."""

    def one(parameters: Stack, key: Tensor, inputs: Tensor) -> Tensor:
        values = dict(zip(names, parameters, strict=True))
        output: Tensor = functional_call(model, {**values, "noise_key": key}, (inputs,))
        return output

    batched: Callable[[Stack, Tensor, Tensor], Tensor] = vmap(one)
    return batched
