"""Rules of convolutions: torch's own kernels, one client after another.

A convolution of even one client's batch is large enough for a kernel of its own, and each client
has its own weights.  What is won is what is left out (the first layer's input delta, stored
gradients) and the layout: with the channels last in memory the kernels are fastest, most of all for
few channels, and nothing between two layers is ever rearranged.

For y = w * x with the delta d: the input's delta is d convolved with w transposed, the weight's
gradient x correlated with d, the bias's the sum of d.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.fused.program import Derive, Site


def convolution(site: Site) -> Derive:
    """Convolutions in one and two dimensions."""
    return _convolution(site, transposed=False)


def convolution_transposed(site: Site) -> Derive:
    """The convolution that makes an image larger."""
    return _convolution(site, transposed=True)


def _convolution(site: Site, *, transposed: bool) -> Derive:
    x, y, arguments = site.inputs[0], site.output, site.arguments
    weight, bias = site.state["weight"], site.state.get("bias")
    space = len(x.shape) - 3
    y.image = space == 2
    further = arguments.sizes("output_padding") if transposed else (0,) * space
    how = (
        arguments.sizes("stride"),
        arguments.sizes("padding"),
        arguments.sizes("dilation"),
        transposed,
        further,
        arguments.whole("groups"),
    )
    apply = torch.ops.aten.convolution.default
    weights = weight.unbind()
    biases = [None] * site.clients if bias is None else list(bias.unbind())
    join = site.join(y.shape, image=y.image)
    taken = _as_image(site)

    def forward() -> None:
        each = zip(taken(), weights, biases, strict=True)
        y.value = join([apply(inputs, w, b, *how) for inputs, w, b in each])

    site.forward.append(forward)

    def derive() -> None:
        differentiate = torch.ops.aten.convolution_backward.default
        mask = (x.wanted, True, False)
        deltas = site.join(x.shape, image=y.image)
        gradients = site.join(tuple(weight.shape), image=y.image)
        found: Sequence[tuple[Tensor, Tensor, Tensor]] = ()

        def backward() -> None:
            nonlocal found
            each = zip(y.delta, taken(), weights, strict=True)
            found = [differentiate(d, i, w, None, *how, mask) for d, i, w in each]

        site.backward.append(backward)
        if x.wanted:
            site.give(x, lambda: deltas([dx for dx, _, _ in found]))
        site.descend("weight", lambda: gradients([dw for _, dw, _ in found]))
        if bias is not None:
            site.descend_bias("bias", lambda: y.delta.movedim(2, -1).flatten(1, -2))

    return derive


def _as_image(site: Site) -> Callable[[], Sequence[Tensor]]:
    """Return what gives each client's input, with its channels last if it is an image."""
    x = site.inputs[0]
    if len(x.shape) != 5 or x.image:
        return lambda: x.value.unbind()
    buffer = site.buffer(x.shape, image=True)
    each = buffer.unbind()
    site.forward.append(lambda: buffer.copy_(x.value))
    return lambda: each
