"""Rules of dropout: the mask is the same hash of (key, node, element) as in `operators.dropout`.

The delta goes back through the same mask and scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.fused.program import Derive, Site
from neuronexus_kernel.models.noise import BITS, bits_tensor
from neuronexus_kernel.models.operators import Shape


def dropout(site: Site) -> Derive:
    """Dropout of single elements."""
    return _dropout(site, site.inputs[0].shape)


def channel_dropout(site: Site) -> Derive:
    """Dropout of whole channels."""
    shape = site.inputs[0].shape
    return _dropout(site, (*shape[:3], *(1,) * (len(shape) - 3)))


def mask(site: Site, shape: Shape) -> Tensor:
    """Return what multiplies (clients, batch, ...) at this step: zero, or the scale."""
    probability = site.arguments.real("p")
    scale = 0.0 if probability == 1.0 else 1.0 / (1.0 - probability)
    threshold = round((1.0 - probability) * 2**BITS)
    keys = site.feed.batch.keys.unsqueeze(1)
    bits = bits_tensor(keys, site.position, torch.Size(shape[1:]).numel())
    kept: Tensor = bits < threshold
    return kept.to(site.dtype).mul_(scale).view(shape)


def _dropout(site: Site, shape: Shape) -> Derive:
    x, y = site.inputs[0], site.output
    y.image = x.image
    out = y.value = site.buffer(y.shape, image=y.image)
    drawn: Tensor

    def forward() -> None:
        nonlocal drawn
        drawn = mask(site, shape)
        torch.mul(x.value, drawn, out=out)

    site.forward.append(forward)
    return lambda: site.give(x, lambda: y.delta.mul_(drawn))
