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

    def __init__(self, recipe: Recipe, learning_rate: float) -> None:
        self._rate = learning_rate
        self._momentum = recipe.momentum
        self._nesterov = recipe.nesterov
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
            velocity = self._velocity
        else:
            velocity = _first(self._velocity, len(gradients[0]))
            torch._foreach_mul_(velocity, self._momentum)
            torch._foreach_add_(velocity, gradients)
        if self._nesterov:
            return list(torch._foreach_add(gradients, velocity, alpha=self._momentum))
        return velocity


class StackedAdam:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) and AdamW (Loshchilov and Hutter 2019,
    arXiv:1711.05101): `torch.optim.Adam` and `AdamW` with their betas and epsilon, stacked.
    """

    _BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8

    def __init__(self, recipe: Recipe, learning_rate: float) -> None:
        self._rate = learning_rate
        decoupled = recipe.optimiser == "adamw"
        self._penalty = 0.0 if decoupled else recipe.weight_decay
        self._shrinking = learning_rate * recipe.weight_decay if decoupled else 0.0
        self._steps = 0
        self._mean: Stack | None = None
        self._square: Stack | None = None

    def step(self, parameters: Stack, gradients: Stack) -> None:
        """Take one step."""
        if self._shrinking:
            torch._foreach_mul_(parameters, 1 - self._shrinking)
        if self._penalty:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=self._penalty))
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


def stacked_optimiser(recipe: Recipe, learning_rate: float) -> StackedOptimiser:
    """Return the stacked optimiser that a recipe names, at a given rate, with no state yet."""
    if recipe.optimiser == "sgd":
        return StackedSGD(recipe, learning_rate)
    return StackedAdam(recipe, learning_rate)


def clipped(gradients: Stack, norm: float) -> Stack:
    """Return gradients scaled down so that each client's, all tensors together, have a norm.

    The arithmetic is that of `torch.nn.utils.clip_grad_norm_`, for each client apart.
    """
    squares = [
        gradient[..., None].square().sum(tuple(range(1, gradient.dim() + 1)))
        for gradient in gradients
    ]
    norms = torch.stack(squares).sum(0).sqrt()
    factors = (norm / (norms + 1e-6)).clamp(max=1.0)
    return [gradient * factors.view(-1, *(1 for _ in gradient.shape[1:])) for gradient in gradients]


def _first(stack: Stack, active: int) -> Stack:
    return [tensor[:active] for tensor in stack]
