"""Rules of products of two inputs: matmul, and attention, which is two of them.

For y = a b with the delta d: a takes d b^T and b takes a^T d.
"""

from __future__ import annotations

import math

import torch

from neuronexus_kernel.federation.executors.fused.dropout import mask
from neuronexus_kernel.federation.executors.fused.joining import fitted
from neuronexus_kernel.federation.executors.fused.program import Derive, Site


def matmul(site: Site) -> Derive:
    """Matmul: leading dimensions may be repeated."""
    left, right = site.inputs
    y = site.output

    def forward() -> None:
        y.value = torch.matmul(left.value, right.value)

    site.forward.append(forward)

    def derive() -> None:
        if left.wanted:
            site.give(left, lambda: fitted(y.delta @ right.value.mT, left))
        if right.wanted:
            site.give(right, lambda: fitted(left.value.mT @ y.delta, right))

    return derive


def attention(site: Site) -> Derive:
    """Attention: y = drop(p) v with p = softmax(scale q k^T).

    v takes drop(p)^T d; p takes e = d v^T through the mask; the scores take
    s = p (e - sum(p e)); q takes scale s k and k takes scale s^T q.
    """
    query, key, value = site.inputs
    y, arguments = site.output, site.arguments
    scale = arguments.real("scale") or 1.0 / math.sqrt(query.shape[-1])
    shape = (*query.shape[:-1], key.shape[-2])
    unseen = None
    if arguments.flag("causal"):
        unseen = torch.ones(shape[-2:], dtype=torch.bool).tril().logical_not_()
    drops = arguments.real("p") > 0.0
    shares, dropped, drawn = site.take(shape), site.take(shape), site.take(shape)
    scores = torch.ops.aten._softmax_backward_data.out

    def forward() -> None:
        nonlocal drawn
        torch.matmul(query.value * scale, key.value.mT, out=shares)
        if unseen is not None:
            shares.masked_fill_(unseen, -torch.inf)
        torch.ops.aten._softmax.out(shares, -1, False, out=shares)
        if drops:
            drawn = mask(site, shape)
            torch.mul(shares, drawn, out=dropped)
        y.value = (dropped if drops else shares) @ value.value

    site.forward.append(forward)

    def derive() -> None:
        delta = site.take(shape)

        def backward() -> None:
            torch.matmul(y.delta, value.value.mT, out=delta)
            if drops:
                delta.mul_(drawn)
            scores(delta, shares, -1, shares.dtype, grad_input=delta)
            delta.mul_(scale)

        if value.wanted:
            site.give(value, lambda: (dropped if drops else shares).mT @ y.delta)
        if query.wanted or key.wanted:
            site.backward.append(backward)
        if query.wanted:
            site.give(query, lambda: delta @ key.value)
        if key.wanted:
            site.give(key, lambda: delta.mT @ query.value)

    return derive
