"""Rules of the operators that bend each element by itself.

For y = f(x) the input's delta is the output's times f'(x), formed in place.  Where f' can be told
from y alone, as with ReLU, the value too is formed in place: x is not needed any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.fused.program import Derive, Rule, Site
from neuronexus_kernel.models.operators import Arguments

aten = torch.ops.aten

Bend: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Forward: (x, where to write) -> y, which may be x itself.  Backward: (delta, x or y) -> delta,
changed in place."""


def _pointwise(
    bend: Callable[[Arguments], tuple[Bend, Bend]], *, reads: Literal["input", "output"]
) -> Rule:
    """Return the rule of an operator whose derivative reads its input, or its output alone."""

    def rule(site: Site) -> Derive:
        x, y = site.inputs[0], site.output
        forward, backward = bend(site.arguments)
        y.image, y.kept = x.image, reads == "output"
        if y.kept and x.free:

            def in_place() -> None:
                y.value = forward(x.value, x.value)

            site.forward.append(in_place)
        else:
            out = y.value = site.buffer(y.shape, image=y.image)
            site.forward.append(lambda: forward(x.value, out))
        saved = y if y.kept else x

        def derive() -> None:
            site.give(x, lambda: backward(y.delta, saved.value))

        return derive

    return rule


def _relu(arguments: Arguments) -> tuple[Bend, Bend]:
    bent = aten.threshold_backward.grad_input
    return (
        lambda x, out: torch.clamp_min(x, 0.0, out=out),
        lambda delta, y: bent(delta, y, 0.0, grad_input=delta),
    )


def _leaky_relu(arguments: Arguments) -> tuple[Bend, Bend]:
    slope = arguments.real("negative_slope")
    return (
        lambda x, out: aten.leaky_relu.out(x, slope, out=out),
        lambda delta, x: aten.leaky_relu_backward.grad_input(
            delta, x, slope, False, grad_input=delta
        ),
    )


def _elu(arguments: Arguments) -> tuple[Bend, Bend]:
    alpha = arguments.real("alpha")
    return (
        lambda x, out: aten.elu.out(x, alpha, out=out),
        lambda delta, x: aten.elu_backward.grad_input(
            delta, alpha, 1.0, 1.0, False, x, grad_input=delta
        ),
    )


def _gelu(arguments: Arguments) -> tuple[Bend, Bend]:
    kind = arguments.word("approximate")
    return (
        lambda x, out: aten.gelu.out(x, approximate=kind, out=out),
        lambda delta, x: aten.gelu_backward.grad_input(
            delta, x, approximate=kind, grad_input=delta
        ),
    )


def _silu(arguments: Arguments) -> tuple[Bend, Bend]:
    return (
        lambda x, out: aten.silu.out(x, out=out),
        lambda delta, x: aten.silu_backward.grad_input(delta, x, grad_input=delta),
    )


def _mish(arguments: Arguments) -> tuple[Bend, Bend]:
    return (
        lambda x, out: aten.mish.out(x, out=out),
        lambda delta, x: delta.copy_(aten.mish_backward(delta, x)),
    )


def _softplus(arguments: Arguments) -> tuple[Bend, Bend]:
    return (
        lambda x, out: aten.softplus.out(x, 1.0, 20.0, out=out),
        lambda delta, x: aten.softplus_backward.grad_input(delta, x, 1.0, 20.0, grad_input=delta),
    )


def _hardswish(arguments: Arguments) -> tuple[Bend, Bend]:
    return (
        lambda x, out: aten.hardswish.out(x, out=out),
        lambda delta, x: delta.copy_(aten.hardswish_backward(delta, x)),
    )


def _hardtanh(arguments: Arguments) -> tuple[Bend, Bend]:
    low, high = arguments.real("minimum"), arguments.real("maximum")
    return (
        lambda x, out: aten.hardtanh.out(x, low, high, out=out),
        lambda delta, x: aten.hardtanh_backward.grad_input(delta, x, low, high, grad_input=delta),
    )


def _tanh(arguments: Arguments) -> tuple[Bend, Bend]:
    return (
        lambda x, out: torch.tanh(x, out=out),
        lambda delta, y: aten.tanh_backward.grad_input(delta, y, grad_input=delta),
    )


def _sigmoid(arguments: Arguments) -> tuple[Bend, Bend]:
    return (
        lambda x, out: torch.sigmoid(x, out=out),
        lambda delta, y: aten.sigmoid_backward.grad_input(delta, y, grad_input=delta),
    )


def _exp(arguments: Arguments) -> tuple[Bend, Bend]:
    return lambda x, out: torch.exp(x, out=out), lambda delta, y: delta.mul_(y)


def _log(arguments: Arguments) -> tuple[Bend, Bend]:
    return lambda x, out: torch.log(x, out=out), lambda delta, x: delta.div_(x)


def _sqrt(arguments: Arguments) -> tuple[Bend, Bend]:
    return lambda x, out: torch.sqrt(x, out=out), lambda delta, y: delta.div_(y).mul_(0.5)


def _abs(arguments: Arguments) -> tuple[Bend, Bend]:
    return lambda x, out: torch.abs(x, out=out), lambda delta, x: delta.mul_(x.sign())


def _power(arguments: Arguments) -> tuple[Bend, Bend]:
    exponent = arguments.real("exponent")
    return (
        lambda x, out: torch.pow(x, exponent, out=out),
        lambda delta, x: delta.mul_(x.pow(exponent - 1.0)).mul_(exponent),
    )


def _scale(arguments: Arguments) -> tuple[Bend, Bend]:
    factor, offset = arguments.real("factor"), arguments.real("offset")
    return (
        lambda x, out: torch.mul(x, factor, out=out).add_(offset),
        lambda delta, y: delta.mul_(factor),
    )


def _softmax(arguments: Arguments) -> tuple[Bend, Bend]:
    """For y = softmax(x): the delta times y, minus y times the sum of that."""
    dimension = arguments.whole("dim")
    backward = aten._softmax_backward_data.out
    return (
        lambda x, out: aten._softmax.out(x, dimension, False, out=out),
        lambda delta, y: backward(delta, y, dimension, y.dtype, grad_input=delta),
    )


def _log_softmax(arguments: Arguments) -> tuple[Bend, Bend]:
    """For y = log softmax(x): the delta minus exp(y) times the sum of the delta."""
    dimension = arguments.whole("dim")
    backward = aten._log_softmax_backward_data.out
    return (
        lambda x, out: aten._log_softmax.out(x, dimension, False, out=out),
        lambda delta, y: backward(delta, y, dimension, y.dtype, out=delta),
    )


POINTWISE: Mapping[str, Rule] = MappingProxyType(
    {
        "relu": _pointwise(_relu, reads="output"),
        "tanh": _pointwise(_tanh, reads="output"),
        "sigmoid": _pointwise(_sigmoid, reads="output"),
        "exp": _pointwise(_exp, reads="output"),
        "sqrt": _pointwise(_sqrt, reads="output"),
        "softmax": _pointwise(_softmax, reads="output"),
        "log_softmax": _pointwise(_log_softmax, reads="output"),
        "leaky_relu": _pointwise(_leaky_relu, reads="input"),
        "elu": _pointwise(_elu, reads="input"),
        "gelu": _pointwise(_gelu, reads="input"),
        "silu": _pointwise(_silu, reads="input"),
        "mish": _pointwise(_mish, reads="input"),
        "softplus": _pointwise(_softplus, reads="input"),
        "hardswish": _pointwise(_hardswish, reads="input"),
        "hardtanh": _pointwise(_hardtanh, reads="input"),
        "log": _pointwise(_log, reads="input"),
        "abs": _pointwise(_abs, reads="input"),
        "power": _pointwise(_power, reads="input"),
        "scale": _pointwise(_scale, reads="input"),
    }
)
"""Rule by operator."""
