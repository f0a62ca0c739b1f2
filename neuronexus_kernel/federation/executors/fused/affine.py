"""Rules of the layers that multiply by a matrix of weights: linear, and products of two inputs.

With x (clients, n, in), W (clients, out, in) and y = x W^T + b, and with d the loss's derivative by
y: its derivative by x is d W, by W is d^T x, and by b the sum of the rows of d.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.fused.program import Derive, Site


def linear(site: Site) -> Derive:
    """Products over a chunk's clients: forward, the input's delta, and the step itself."""
    x, y = site.inputs[0], site.output
    weight, bias = site.state["weight"], site.state.get("bias")
    transposed = weight.transpose(1, 2)
    y.value = site.take(y.shape)
    out = rows(y.value)
    if bias is None:
        site.forward.append(lambda: torch.bmm(rows(x.value), transposed, out=out))
    else:
        start = bias.unsqueeze(1)
        site.forward.append(lambda: torch.baddbmm(start, rows(x.value), transposed, out=out))

    def derive() -> None:
        if x.wanted:
            site.write(x, lambda into: torch.bmm(rows(y.delta), weight, out=rows(into)))
        site.descend_product("weight", lambda: (rows(y.delta).transpose(1, 2), rows(x.value)))
        if bias is not None:
            site.descend_bias("bias", lambda: rows(y.delta))

    return derive


def rows(tensor: Tensor) -> Tensor:
    """Return (clients, batch, ..., features) as (clients, rows, features)."""
    return tensor if tensor.dim() == 3 else tensor.flatten(1, -2)
