"""Rules of the operators that make one tensor of two.

Where an input was repeated along a dimension to fit the other, its delta is the sum over it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.fused.program import Derive, Site, Slot


def add(site: Site) -> Derive:
    """Add: both inputs take the delta as it is; the second of them gets a copy."""
    return _sum(site, 1)


def subtract(site: Site) -> Derive:
    """Subtract: the first input takes the delta, the second its negative."""
    return _sum(site, -1)


def multiply(site: Site) -> Derive:
    """Multiply: each input takes the delta times the other input."""
    left, right = site.inputs
    y = site.output
    y.image = left.image and right.image
    out = y.value = site.buffer(y.shape, image=y.image)
    site.forward.append(lambda: torch.mul(left.value, right.value, out=out))

    def derive() -> None:
        for mine, other in ((left, right), (right, left)):
            if mine.wanted:
                site.give(mine, lambda m=mine, o=other: fitted(y.delta * o.value, m))  # type: ignore[misc]

    return derive


def divide(site: Site) -> Derive:
    """Divide: for y = a / b, a takes d / b, and b takes - d y / b."""
    left, right = site.inputs
    y = site.output
    y.kept, y.image = True, left.image and right.image
    out = y.value = site.buffer(y.shape, image=y.image)
    site.forward.append(lambda: torch.div(left.value, right.value, out=out))

    def derive() -> None:
        if right.wanted:
            site.give(right, lambda: fitted((y.delta * y.value).div_(right.value).neg_(), right))
        if left.wanted:
            site.give(left, lambda: fitted(y.delta.div_(right.value), left))

    return derive


def masked_fill(site: Site) -> Derive:
    """Masked fill: no delta where the filling lies; none at all for the mask."""
    x, mask = site.inputs
    y, filling = site.output, site.arguments.real("value")

    def forward() -> None:
        y.value = torch.where(mask.value != 0, filling, x.value)

    def derive() -> None:
        if mask.wanted:
            site.write(mask, lambda into: into.zero_())
        if x.wanted:
            site.give(x, lambda: fitted(y.delta.masked_fill_(mask.value != 0, 0.0), x))

    site.forward.append(forward)
    return derive


def fitted(delta: Tensor, slot: Slot) -> Tensor:
    """Return a delta summed over the dimensions along which a slot was repeated."""
    if tuple(delta.shape) == slot.shape:
        return delta
    return delta.sum_to_size(slot.shape)


def _sum(site: Site, sign: int) -> Derive:
    left, right = site.inputs
    y = site.output
    y.image = left.image and right.image
    out = y.value = site.buffer(y.shape, image=y.image)
    site.forward.append(lambda: torch.add(left.value, right.value, alpha=sign, out=out))

    def derive() -> None:
        owner = left if left.wanted and not left.reached else right
        if sign < 0:
            owner = left
        both = left.wanted and right.wanted
        other = right if owner is left else left
        if both or not owner.wanted:
            factor = sign if other is right else 1
            site.give(other, lambda: fitted(y.delta * factor, other))
        if owner.wanted:
            site.give(owner, lambda: fitted(y.delta, owner))

    return derive
