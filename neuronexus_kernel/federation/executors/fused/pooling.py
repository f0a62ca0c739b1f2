"""Rules of the operators that summarise windows of an image.

The largest element of a window takes the window's whole delta, each element of an averaged one its
share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.fused.program import Derive, Site

aten = torch.ops.aten


def max_pool2d(site: Site) -> Derive:
    """Max pooling: the place of each window's largest element is kept from the forward pass."""
    x, y, arguments = site.inputs[0], site.output, site.arguments
    how = (
        arguments.sizes("kernel_size"),
        arguments.sizes("stride"),
        arguments.sizes("padding"),
        arguments.sizes("dilation"),
        arguments.flag("ceil_mode"),
    )
    y.image = True
    value = y.value = site.buffer(y.shape, image=True)
    places = torch.empty_like(_merged(value), dtype=torch.int64)

    def forward() -> None:
        aten.max_pool2d_with_indices.out(_merged(x.value), *how, out=_merged(value), indices=places)

    site.forward.append(forward)
    return lambda: site.write(
        x,
        lambda into: aten.max_pool2d_with_indices_backward.grad_input(
            _merged(y.delta), _merged(x.value), *how, places, grad_input=_merged(into)
        ),
        image=True,
    )


def avg_pool2d(site: Site) -> Derive:
    """Average pooling."""
    x, y, arguments = site.inputs[0], site.output, site.arguments
    how = (
        arguments.sizes("kernel_size"),
        arguments.sizes("stride"),
        arguments.sizes("padding"),
        arguments.flag("ceil_mode"),
        arguments.flag("count_include_pad"),
        None,
    )
    y.image = True
    value = y.value = site.buffer(y.shape, image=True)
    site.forward.append(lambda: aten.avg_pool2d.out(_merged(x.value), *how, out=_merged(value)))
    return lambda: site.write(
        x,
        lambda into: aten.avg_pool2d_backward.grad_input(
            _merged(y.delta), _merged(x.value), *how, grad_input=_merged(into)
        ),
        image=True,
    )


def adaptive_avg_pool2d(site: Site) -> Derive:
    """Adaptive average pooling; over the whole image it is a mean."""
    x, y = site.inputs[0], site.output
    size = site.arguments.sizes("output_size")
    if size == (1, 1):
        y.value = site.take(y.shape)
        share = 1.0 / (x.shape[3] * x.shape[4])
        site.forward.append(lambda: torch.mean(x.value, (3, 4), keepdim=True, out=y.value))
        return lambda: site.write(x, lambda into: into.copy_(y.delta.mul_(share)), image=True)

    def forward() -> None:
        y.value = aten._adaptive_avg_pool2d(_merged(x.value), size).view(y.shape)

    def backward() -> Tensor:
        delta: Tensor = aten._adaptive_avg_pool2d_backward(_merged(y.delta), _merged(x.value))
        return delta.view(x.shape)

    site.forward.append(forward)
    return lambda: site.give(x, backward)


def _merged(tensor: Tensor) -> Tensor:
    """Return (clients, batch, ...) as (clients * batch, ...): a view."""
    return tensor.flatten(0, 1)
