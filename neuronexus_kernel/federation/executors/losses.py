"""Losses that a recipe may name, each as a function that gives one number per example.

The loss of a batch is the mean of these numbers, whatever the batch holds; an executor that fills
up batches weighs them instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from torch import Tensor
from torch.nn import functional

from neuronexus_kernel.federation.recipe import Recipe

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(outputs (n, ...), labels (n, ...)) -> losses (n,)."""


def _cross_entropy(outputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="none", label_smoothing=smoothing)


def _next_token(outputs: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    places = _cross_entropy(outputs.flatten(0, 1), labels.flatten(), smoothing)
    return places.view(labels.shape).mean(1)


def _bce(outputs: Tensor, labels: Tensor) -> Tensor:
    each = functional.binary_cross_entropy_with_logits(
        outputs, _targets(outputs, labels), reduction="none"
    )
    return each.flatten(1).mean(1)


def _mse(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - _targets(outputs, labels)).square().flatten(1).mean(1)


def _targets(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return labels as numbers, one for each output; classes become one-hot."""
    if labels.is_floating_point():
        return labels
    return functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {"cross_entropy": _cross_entropy, "bce": _bce, "mse": _mse, "next_token": _next_token}
)
"""Loss by name, without label smoothing: what models are measured by.

``cross_entropy`` takes scores (n, classes) and labels (n,).  ``next_token`` takes scores
(n, places, vocabulary) and labels (n, places); its number is the mean over places.  ``bce`` (on
scores) and ``mse`` take outputs and numbers of one shape, or outputs (n, classes) and labels (n,),
taken one-hot; theirs is the mean over an example's outputs.
"""


def training_loss(recipe: Recipe) -> Loss:
    """Return the loss that a recipe trains with, label smoothing included."""
    smoothed = {"cross_entropy": _cross_entropy, "next_token": _next_token}
    if recipe.label_smoothing:
        return partial(smoothed[recipe.loss], smoothing=recipe.label_smoothing)
    return LOSSES[recipe.loss]
