"""Rules of the operators that move elements about: the delta moves back the same way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.fused.program import Derive, Site


def reshape(site: Site) -> Derive:
    """Flatten and reshape: the same elements under another shape."""
    x, y = site.inputs[0], site.output
    y.kept = not x.free

    def forward() -> None:
        y.value = x.value.reshape(y.shape)

    site.forward.append(forward)
    if x.image:
        return lambda: site.write(x, lambda into: into.copy_(y.delta.reshape(x.shape)), image=True)
    return lambda: site.give(x, lambda: y.delta.reshape(x.shape))


def permute(site: Site) -> Derive:
    """Permute: the delta goes back by the inverse order."""
    x, y = site.inputs[0], site.output
    y.kept = not x.free
    order = (0, 1, *(2 + place for place in site.arguments.sizes("order")))
    inverse = sorted(range(len(order)), key=order.__getitem__)

    def forward() -> None:
        y.value = x.value.permute(order)

    site.forward.append(forward)
    return lambda: site.give(x, lambda: y.delta.permute(inverse))


def select(site: Site) -> Derive:
    """Select: the delta is zero but for the place that was taken."""
    dimension, place = site.arguments.whole("dim"), site.arguments.whole("index")
    return _part(site, lambda tensor: tensor.select(dimension, place))


def slice_(site: Site) -> Derive:
    """Slice: the delta is zero but for the places that were taken."""
    arguments = site.arguments
    dimension, step = arguments.whole("dim"), arguments.whole("step")
    start, length = arguments.whole("start"), arguments.whole("length")
    stop = start + (length - 1) * step + 1

    def part(tensor: Tensor) -> Tensor:
        taken: Tensor = torch.ops.aten.slice(tensor, dimension, start, stop, step)
        return taken

    return _part(site, part)


def concatenate(site: Site) -> Derive:
    """Concatenate: each input takes its part of the delta."""
    left, right = site.inputs
    y, dimension = site.output, site.arguments.whole("dim")
    first, second = left.shape[dimension], right.shape[dimension]

    def forward() -> None:
        y.value = torch.cat((left.value, right.value), dimension)

    site.forward.append(forward)

    def derive() -> None:
        if left.wanted:
            site.write(left, lambda into: into.copy_(y.delta.narrow(dimension, 0, first)))
        if right.wanted:
            site.write(right, lambda into: into.copy_(y.delta.narrow(dimension, first, second)))

    return derive


def upsample_nearest(site: Site) -> Derive:
    """Upsample: an element's delta is the sum over its repetitions."""
    x, y, factors = site.inputs[0], site.output, site.arguments.sizes("scale")
    axes = range(3, 3 + len(factors))
    split = [
        number
        for size, factor in zip(x.shape[3:], factors, strict=True)
        for number in (size, factor)
    ]
    within = tuple(range(4, 4 + 2 * len(factors), 2))

    def forward() -> None:
        y.value = x.value
        for axis, factor in zip(axes, factors, strict=True):
            y.value = y.value.repeat_interleave(factor, axis)

    site.forward.append(forward)
    return lambda: site.give(x, lambda: y.delta.reshape(*x.shape[:3], *split).sum(within))


def _part(site: Site, part: Callable[[Tensor], Tensor]) -> Derive:
    """Return the rule of an operator that takes a part of its input, as a view."""
    x, y = site.inputs[0], site.output
    y.kept = not x.free

    def forward() -> None:
        y.value = part(x.value)

    site.forward.append(forward)
    return lambda: site.write(x, lambda into: part(into.zero_()).copy_(y.delta))
