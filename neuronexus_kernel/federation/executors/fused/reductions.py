"""Rules of the operators that summarise whole dimensions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.fused.program import Derive, Site


def mean(site: Site) -> Derive:
    """Mean: each element takes its share of the delta."""
    over, _ = _over(site)
    shape = site.inputs[0].shape
    share = 1.0 / torch.Size([shape[axis] for axis in over]).numel()
    return _reduction(site, lambda x: x.mean(over, keepdim=True), lambda delta: delta * share)


def total(site: Site) -> Derive:
    """Sum: each element takes the delta."""
    over, _ = _over(site)
    return _reduction(site, lambda x: x.sum(over, keepdim=True), lambda delta: delta)


def amax(site: Site) -> Derive:
    """Largest element: it takes the delta; several equal ones share it, as in PyTorch."""
    x, y = site.inputs[0], site.output
    over, kept = _over(site)
    largest = site.take(kept)

    def forward() -> None:
        torch.amax(x.value, over, keepdim=True, out=largest)
        y.value = largest.view(y.shape)

    def backward() -> Tensor:
        hit = (x.value == largest).to(site.dtype)
        return hit.mul_(y.delta.view(kept) / hit.sum(over, keepdim=True))

    y.kept = True
    site.forward.append(forward)
    return lambda: site.give(x, backward)


def _over(site: Site) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the dimensions that are summarised, and the input's shape with ones for them."""
    over, shape = site.arguments.sizes("dims"), list(site.inputs[0].shape)
    for axis in over:
        shape[axis] = 1
    return over, tuple(shape)


def _reduction(
    site: Site, reduce: Callable[[Tensor], Tensor], spread: Callable[[Tensor], Tensor]
) -> Derive:
    x, y = site.inputs[0], site.output
    _, kept = _over(site)

    def forward() -> None:
        y.value = reduce(x.value).view(y.shape)

    site.forward.append(forward)
    return lambda: site.write(
        x, lambda into: into.copy_(spread(y.delta).reshape(kept)), image=x.image
    )
