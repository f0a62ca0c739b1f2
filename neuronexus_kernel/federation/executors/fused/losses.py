"""The losses and their derivatives by the model's output, already weighted for the batch's mean.

`Batch.weights` has one over the batch's true size for examples and zero for filling, so the deltas
that start the backward pass need no further scaling, and filling takes part in nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from neuronexus_kernel.federation.executors.fused.program import Action, Feed, Slot
from neuronexus_kernel.models.operators import Shape

Take: TypeAlias = Callable[[Shape], Tensor]

LossRule: TypeAlias = Callable[[Slot, Feed, Take, float], Action]
"""(the output's slot, the feed, hands out buffers, label smoothing) -> what writes the losses and
the output's delta."""


def cross_entropy(output: Slot, feed: Feed, take: Take, smoothing: float) -> Action:
    """Derivative by the logits: softmax minus the target, which is one-hot where not smoothed.

    Of outputs (clients, batch, ..., classes) and labels (clients, batch, ...), averaged over the
    dimensions between, so that it is the loss of next tokens too.
    """
    log_softmax = torch.ops.aten._log_softmax.out
    shape, (positions, classes) = output.shape, _positions(output.shape)
    scores, chosen, target = take(shape), take((*shape[:-1], 1)), take((*shape[:-1], 1))
    delta = output.delta = take(shape)
    output.reached = True
    target.fill_(smoothing - 1.0)

    def act() -> None:
        labels = feed.batch.labels.unsqueeze(-1)
        log_softmax(output.value, -1, False, out=scores)
        torch.gather(scores, -1, labels, out=chosen)
        torch.exp(scores, out=delta)
        if smoothing:
            chosen.mul_(1.0 - smoothing).add_(scores.mean(-1, keepdim=True), alpha=smoothing)
            delta.sub_(smoothing / classes)
        delta.scatter_add_(-1, labels, target)
        if positions == 1:
            torch.neg(chosen.view(shape[:2]), out=feed.losses)
        else:
            torch.mean(chosen.view(*shape[:2], -1), 2, out=feed.losses).neg_()
        _weigh(delta, feed, positions)

    return act


def binary_cross_entropy(output: Slot, feed: Feed, take: Take, smoothing: float) -> Action:
    """Derivative by a logit: its sigmoid minus the target, over the number of outputs."""
    delta = output.delta = take(output.shape)
    output.reached = True
    count = torch.Size(output.shape[2:]).numel()

    def act() -> None:
        target = _dense(feed.batch.labels, output)
        each = functional.binary_cross_entropy_with_logits(output.value, target, reduction="none")
        torch.mean(each.flatten(2), 2, out=feed.losses)
        torch.sigmoid(output.value, out=delta).sub_(target)
        _weigh(delta, feed, count)

    return act


def mean_squared_error(output: Slot, feed: Feed, take: Take, smoothing: float) -> Action:
    """Derivative by an output: twice its error, over the number of outputs."""
    delta = output.delta = take(output.shape)
    output.reached = True
    count = torch.Size(output.shape[2:]).numel()

    def act() -> None:
        torch.sub(output.value, _dense(feed.batch.labels, output), out=delta)
        torch.mean(delta.square().flatten(2), 2, out=feed.losses)
        _weigh(delta.mul_(2.0), feed, count)

    return act


LOSS_RULES: Mapping[str, LossRule] = MappingProxyType(
    {
        "cross_entropy": cross_entropy,
        "next_token": cross_entropy,
        "bce": binary_cross_entropy,
        "mse": mean_squared_error,
    }
)
"""Rule by the name of the loss in a recipe."""


def _positions(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return over how many places an example's loss is averaged, and the number of classes."""
    return torch.Size(shape[2:-1]).numel(), shape[-1]


def _dense(labels: Tensor, output: Slot) -> Tensor:
    """Return labels as numbers of the output's shape: whole numbers become one-hot."""
    if labels.is_floating_point():
        return labels.view(output.shape)
    return functional.one_hot(labels, output.shape[-1]).to(output.value.dtype)


def _weigh(delta: Tensor, feed: Feed, count: int) -> None:
    """Scale each example's delta to its part in the batch's mean, and to the mean over `count`."""
    weights = feed.batch.weights if count == 1 else feed.batch.weights / count
    delta.mul_(weights.view(*weights.shape, *(1,) * (delta.dim() - 2)))
