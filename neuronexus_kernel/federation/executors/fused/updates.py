"""Plain gradient descent, written in place by the product that forms the gradient.

A step with rate r, weight decay d, FedProx's pull m towards the start s and a correction c is

    w <- w - r (g + m (w - s) + c + d w)  =  (1 - r (m + d)) w  -  r g  +  r (m s - c)

The first two terms are what a matrix product ``baddbmm(beta=keep, alpha=-rate)`` does as it writes
its result; the last is constant over a round and costs one addition, where there is any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from neuronexus_kernel.federation.executors.base import Client, Cohort

Move: TypeAlias = Callable[[Tensor], object]
RowsMove: TypeAlias = Callable[[Tensor, Tensor], object]
ProductMove: TypeAlias = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True, slots=True)
class Updates:
    """How trained tensors move in a round.

    Attributes
    ----------
    rate
        Learning rate of the round.
    keep
        What remains of a weight: ``1 - rate * (proximal_mu + weight_decay)``.
    pulls
        By full name: what is added at every step, (clients or 1, \\*shape).
    dtype
        Number type of the training.
    """

    rate: float
    keep: float
    pulls: Mapping[str, Tensor]
    dtype: torch.dtype

    def first(self, active: int) -> Updates:
        """Return the same for the first `active` clients."""
        pulls = {name: pull[:active] for name, pull in self.pulls.items()}
        return Updates(self.rate, self.keep, pulls, self.dtype)

    def by_product(self, name: str, tensor: Tensor, seen: Tensor) -> ProductMove:
        """Return what moves a tensor, seen as matrices, against the product of two factors."""
        keep, rate, pull = self.keep, -self.rate, self.pulls.get(name)
        if pull is None:
            return lambda left, right: seen.baddbmm_(left, right, beta=keep, alpha=rate)

        def move(left: Tensor, right: Tensor) -> None:
            seen.baddbmm_(left, right, beta=keep, alpha=rate)
            tensor.add_(pull)

        return move

    def by_gradient(self, name: str, tensor: Tensor) -> Move:
        """Return what moves a tensor against a gradient of its shape."""
        keep, rate, pull = self.keep, -self.rate, self.pulls.get(name)

        def move(gradient: Tensor) -> None:
            if keep != 1.0:
                tensor.mul_(keep)
            tensor.add_(gradient, alpha=rate)
            if pull is not None:
                tensor.add_(pull)

        return move

    def by_rows(self, name: str, tensor: Tensor) -> RowsMove:
        """Return what moves single rows of a table (clients, n, size), given as one of all."""
        keep, rate, pull = self.keep, -self.rate, self.pulls.get(name)
        table = tensor.flatten(0, 1)

        def move(rows: Tensor, gradients: Tensor) -> None:
            if keep != 1.0:
                tensor.mul_(keep)
            table.index_add_(0, rows, gradients, alpha=rate)
            if pull is not None:
                tensor.add_(pull)

        return move


def updates_of(cohort: Cohort, clients: Sequence[Client], dtype: torch.dtype) -> Updates:
    """Return how the tensors of some of a cohort's clients move in its round."""
    recipe, rate, mu = cohort.recipe, cohort.learning_rate, cohort.proximal_mu
    pulls: dict[str, Tensor] = {}
    for name, spec in recipe.architecture.parameters.items():
        given = [cohort.corrections.get(client.partition_id, {}).get(name) for client in clients]
        corrected = any(correction is not None for correction in given)
        if not spec.trainable or not (mu or corrected):
            continue
        pull = torch.tensor(cohort.weights[name], dtype=dtype).mul_(rate * mu).unsqueeze(0)
        if corrected:
            pull = pull.repeat(len(clients), *(1,) * len(spec.shape))
            for row, correction in zip(pull, given, strict=True):
                if correction is not None:
                    row.sub_(torch.tensor(correction, dtype=dtype), alpha=rate)
        pulls[name] = pull
    return Updates(rate, 1.0 - rate * (mu + recipe.weight_decay), pulls, dtype)
