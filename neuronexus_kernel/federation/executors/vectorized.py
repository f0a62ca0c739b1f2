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

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort
from neuronexus_kernel.federation.executors.batches import Batch, Batches, longest_first
from neuronexus_kernel.federation.executors.losses import training_loss
from neuronexus_kernel.federation.executors.modules import blank_module, torch_dtype
from neuronexus_kernel.federation.executors.optimisers import Stack, clipped, stacked_optimiser
from neuronexus_kernel.models.interpreter import Interpreter


class VectorizedExecutor:
    """Trains the clients of a cohort at the same time, `chunk` of them at once.

    Parameters
    ----------
    chunk
        Clients trained together: a matter of memory and cache.
    dtype
        ``"float32"`` or ``"float64"``.
    device
        Where torch computes.
    """

    name = "vectorized"

    def __init__(
        self, *, chunk: int, dtype: str = "float32", device: torch.device | str = "cpu"
    ) -> None:
        self._chunk = chunk
        self._dtype = torch_dtype(dtype)
        self._device = torch.device(device)

    def train(self, cohort: Cohort) -> list[ClientUpdate]:
        """Train the cohort chunk by chunk, those with most steps first."""
        model = blank_module(cohort.recipe.architecture, self._dtype)
        order = longest_first(cohort)
        updates: dict[int, ClientUpdate] = {}
        for first in range(0, len(order), self._chunk):
            chosen = order[first : first + self._chunk]
            clients = [cohort.clients[place] for place in chosen]
            trained = _Chunk(model, cohort, clients, self._dtype, self._device).train()
            updates.update(zip(chosen, trained, strict=True))
        return [updates[place] for place in range(len(order))]


class _Chunk:
    """Clients that train together, sorted by falling number of steps."""

    def __init__(
        self,
        model: Interpreter,
        cohort: Cohort,
        clients: Sequence[Client],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._model = model
        self._cohort = cohort
        self._clients = clients
        self._dtype = dtype
        self._device = device
        architecture = cohort.recipe.architecture
        self._names = [name for name, spec in architecture.parameters.items() if spec.trainable]
        self._stack: Stack = [_swapped(self._stacked(name)) for name in self._names]
        self._statistics = {name: self._stacked(name) for name in architecture.statistics}
        self._anchor = [self._tensor(cohort.weights[name]) for name in self._names]
        self._corrections = self._stacked_corrections()
        self._batches = Batches(cohort, clients, dtype, device=device)
        self._optimiser = stacked_optimiser(cohort.recipe, cohort.learning_rate)
        self._loss_of = training_loss(cohort.recipe)

    def train(self) -> list[ClientUpdate]:
        """Take all steps and return each client's update."""
        totals = torch.zeros(len(self._clients), dtype=torch.float64, device=self._device)
        leaves = self._leaves(len(self._clients))
        for step, active in enumerate(self._batches.active):
            if active != len(leaves[0]):
                leaves = self._leaves(active)
            batch = self._batches[step]
            losses, gradients = self._gradients(leaves, batch)
            if step == 0 and self._adopt_layout(gradients):
                leaves = self._leaves(active)
            with torch.no_grad():
                self._optimiser.step(leaves, self._adjusted(leaves, gradients))
                totals[:active] += losses * batch.sizes
        return self._updates(totals.tolist())

    def _leaves(self, active: int) -> Stack:
        """Return the active clients' parameters: views that autograd sees as inputs."""
        return [tensor[:active].detach().requires_grad_() for tensor in self._stack]

    def _gradients(self, leaves: Stack, batch: Batch) -> tuple[Tensor, Stack]:
        """Return each active client's mean loss (active,) and the stacked gradients.

        The clients' running statistics are renewed on the way.
        """
        outputs, statistics = self._forward(leaves, batch)
        each = self._loss_of(outputs.flatten(0, 1), batch.labels.flatten(0, 1))
        losses = (each.view(batch.weights.shape) * batch.weights).sum(1)
        gradients = torch.autograd.grad(
            losses.sum(), leaves, allow_unused=True, materialize_grads=True
        )
        for name, value in statistics.items():
            self._statistics[name][: len(value)] = value.detach()
        return losses.detach(), list(gradients)

    def _forward(self, leaves: Stack, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return outputs (active, batch, ...) and new running statistics by name."""

        def one(
            state: dict[str, Tensor], key: Tensor, inputs: Tensor, rows: Tensor | None = None
        ) -> tuple[Tensor, dict[str, Tensor]]:
            return self._model.compute(state, inputs, training=True, noise_key=key, rows=rows)

        active = len(leaves[0])
        state = dict(zip(self._names, leaves, strict=True))
        state |= {name: value[:active] for name, value in self._statistics.items()}
        filling = () if batch.full else (batch.present,)
        result: tuple[Tensor, dict[str, Tensor]]
        result = vmap(one)(state, batch.keys, batch.inputs, *filling)
        return result

    def _adopt_layout(self, gradients: Stack) -> bool:
        """Give the parameters the memory layout of their gradients; tell whether any changed."""
        changed = False
        for place, gradient in enumerate(gradients):
            if gradient.stride() != self._stack[place].stride() and _is_dense(gradient):
                self._stack[place] = torch.empty_like(gradient).copy_(self._stack[place])
                changed = True
        return changed

    def _adjusted(self, leaves: Stack, gradients: Stack) -> Stack:
        """Return gradients pulled, clipped and corrected, in the order that `Cohort` fixes."""
        recipe, mu = self._cohort.recipe, self._cohort.proximal_mu
        if mu:
            gradients = [
                gradient + mu * (leaf - anchor)
                for gradient, leaf, anchor in zip(gradients, leaves, self._anchor, strict=True)
            ]
        if recipe.gradient_clip:
            gradients = clipped(gradients, recipe.gradient_clip)
        if self._corrections is not None:
            active = len(leaves[0])
            corrections = [correction[:active] for correction in self._corrections]
            gradients = list(torch._foreach_add(gradients, corrections))
        return gradients

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(array, dtype=self._dtype, device=self._device)

    def _stacked(self, name: str) -> Tensor:
        """Return what each client starts from: (clients, \\*shape)."""
        own = [self._cohort.own.get(client.partition_id, {}) for client in self._clients]
        shared = self._tensor(self._cohort.weights[name])
        stack = shared.expand(len(own), *shared.shape).clone(memory_format=torch.contiguous_format)
        for place, tensors in enumerate(own):
            if name in tensors:
                stack[place] = self._tensor(tensors[name])
        return stack

    def _stacked_corrections(self) -> Stack | None:
        """Return each client's corrections (clients, \\*shape), or None if nobody has any."""
        given = [self._cohort.corrections.get(each.partition_id, {}) for each in self._clients]
        if not any(given):
            return None
        stack = [torch.zeros_like(tensor) for tensor in self._stack]
        for place, corrections in enumerate(given):
            for target, name in zip(stack, self._names, strict=True):
                if name in corrections:
                    target[place] = self._tensor(corrections[name])
        return stack

    def _updates(self, totals: list[float]) -> list[ClientUpdate]:
        stacks = {**dict(zip(self._names, self._stack, strict=True)), **self._statistics}
        arrays = {name: stack.cpu().numpy() for name, stack in sorted(stacks.items())}
        return [
            ClientUpdate(
                client.partition_id,
                {name: array[place] for name, array in arrays.items()},
                len(client.dataset),
                totals[place] / self._cohort.seen(client),
                self._cohort.steps(client),
            )
            for place, client in enumerate(self._clients)
        ]


def _swapped(stack: Tensor) -> Tensor:
    """Return stacked matrices with their axes swapped in memory; other tensors as they are."""
    return stack.transpose(1, 2).contiguous().transpose(1, 2) if stack.dim() == 3 else stack


def _is_dense(tensor: Tensor) -> bool:
    """Tell whether a tensor fills its memory: an expanded one shares it between its elements."""
    return 0 not in tensor.stride()
