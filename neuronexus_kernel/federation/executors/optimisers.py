"""Optimisers over stacked models: the updates of `torch.optim`, for many clients at once.

Every tensor has the clients on its first axis.  Clients are sorted so that those still training
are the first `active` rows; the parameters handed to `step` are views of those rows, and the
state's rows behind them are left alone, so a client that has finished does not move.  Optimisers
work element by element, hence the arithmetic is the same as for one model.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from neuronexus_kernel.federation.recipe import Recipe

Stack: TypeAlias = list[Tensor]


class StackedOptimiser(Protocol):
    """Moves stacked parameters, in place."""

    def step(self, parameters: Stack, gradients: Stack) -> None:
        """Take one step; both lists have the active clients only."""
        ...


class StackedSGD:
    """Stochastic gradient descent with momentum: `torch.optim.SGD`, stacked."""

    def __init__(self, recipe: Recipe) -> None:
        self._rate = recipe.learning_rate
        self._momentum = recipe.momentum
        self._decay = recipe.weight_decay
        self._velocity: Stack | None = None

    def step(self, parameters: Stack, gradients: Stack) -> None:
        """Take one step."""
        if self._decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=self._decay))
        if self._momentum:
            gradients = self._accelerated(gradients)
        torch._foreach_add_(parameters, gradients, alpha=-self._rate)

    def _accelerated(self, gradients: Stack) -> Stack:
        if self._velocity is None:
            self._velocity = [gradient.clone() for gradient in gradients]
            return self._velocity
        velocity = _first(self._velocity, len(gradients[0]))
        torch._foreach_mul_(velocity, self._momentum)
        torch._foreach_add_(velocity, gradients)
        return velocity


class StackedAdam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980): `torch.optim.Adam` with its defaults, stacked."""

    _BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, recipe: Recipe) -> None:
        self._rate = recipe.learning_rate
        self._decay = recipe.weight_decay
        self._steps = 0
        self._mean: Stack | None = None
        self._square: Stack | None = None

    def step(self, parameters: Stack, gradients: Stack) -> None:
        """Take one step."""
        if self._decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=self._decay))
        if self._mean is None or self._square is None:
            self._mean = [torch.zeros_like(gradient) for gradient in gradients]
            self._square = [torch.zeros_like(gradient) for gradient in gradients]
        mean = _first(self._mean, len(gradients[0]))
        square = _first(self._square, len(gradients[0]))
        self._steps += 1
        torch._foreach_lerp_(mean, gradients, 1 - self._BETA_1)
        torch._foreach_mul_(square, self._BETA_2)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - self._BETA_2)
        scale = torch._foreach_sqrt(square)
        torch._foreach_div_(scale, (1 - self._BETA_2**self._steps) ** 0.5)
        torch._foreach_add_(scale, self._EPSILON)
        torch._foreach_addcdiv_(
            parameters, mean, scale, -self._rate / (1 - self._BETA_1**self._steps)
        )


def stacked_optimiser(recipe: Recipe) -> StackedOptimiser:
    """Return the stacked optimiser that a recipe names, with no state yet."""
    return StackedAdam(recipe) if recipe.optimiser == "adam" else StackedSGD(recipe)


def _first(stack: Stack, active: int) -> Stack:
    return [tensor[:active] for tensor in stack]
