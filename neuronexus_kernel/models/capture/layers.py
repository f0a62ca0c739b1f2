"""Rules for layers and functions: each adds one node.

A rule has the signature of the PyTorch function it stands for, so that Python itself binds
positional and keyword arguments; a layer's rule calls its function's rule with the layer's
parameters.
"""

from __future__ import annotations

from torch import nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture import sizes
from neuronexus_kernel.models.capture.context import Rule, Traced, Translation, tensor


def pair(value: object) -> object:
    """Return (height, width) of one number or two."""
    if isinstance(value, tuple):
        return value * 2 if len(value) == 1 else value
    return (value, value)


def _refuse(present: bool, what: str) -> None:
    if present:
        raise ArchitectureError(f"{what} is not supported; leave it out.")


# Layers with weights


def linear(g: Translation, input: object, weight: object, bias: object = None) -> Traced:
    """``F.linear``."""
    w, b = g.needed_weight(weight), g.weight(bias)
    return g.add_layer(
        "linear",
        input,
        {"weight": w, "bias": b},
        out_features=w.shape[0],
        bias=b is not None,
    )


def linear_layer(g: Translation, layer: nn.Linear, input: object) -> Traced:
    """``nn.Linear``."""
    return linear(g, input, layer.weight, layer.bias)


def conv2d(
    g: Translation,
    input: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    groups: object = 1,
) -> Traced:
    """``F.conv2d``."""
    w, b = g.needed_weight(weight), g.weight(bias)
    if len(w.shape) != 4:
        raise ArchitectureError(f"its weight has shape {w.shape}, not four dimensions.")
    return g.add_layer(
        "conv2d",
        input,
        {"weight": w, "bias": b},
        out_channels=w.shape[0],
        kernel_size=w.shape[2:],
        stride=pair(stride),
        padding=_padding(padding, w.shape[2:], pair(dilation)),
        dilation=pair(dilation),
        groups=groups,
        bias=b is not None,
    )


def _padding(padding: object, kernel: tuple[int, ...], dilation: object) -> object:
    if padding == "valid":
        return (0, 0)
    if padding != "same":
        return pair(padding)
    if not isinstance(dilation, tuple):
        raise ArchitectureError("its dilation is no pair of numbers.")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(each % 2 for each in total):
        raise ArchitectureError(
            "padding='same' with an even window pads unevenly; use an odd window."
        )
    return tuple(each // 2 for each in total)


def conv2d_layer(g: Translation, layer: nn.Conv2d, input: object) -> Traced:
    """``nn.Conv2d``."""
    _refuse(layer.padding_mode != "zeros", f"padding_mode={layer.padding_mode!r}")
    return conv2d(
        g,
        input,
        layer.weight,
        layer.bias,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
    )


def layer_norm(
    g: Translation,
    input: object,
    normalized_shape: object,
    weight: object = None,
    bias: object = None,
    eps: object = 1e-5,
) -> Traced:
    """``F.layer_norm``."""
    w, b = g.weight(weight), g.weight(bias)
    return g.add_layer(
        "layer_norm",
        input,
        {"weight": w, "bias": b},
        normalized_shape=normalized_shape,
        eps=eps,
        affine=w is not None,
        bias=b is not None,
    )


def layer_norm_layer(g: Translation, layer: nn.LayerNorm, input: object) -> Traced:
    """``nn.LayerNorm``."""
    shape = tuple(layer.normalized_shape)
    return layer_norm(g, input, shape, layer.weight, layer.bias, layer.eps)


def group_norm(
    g: Translation,
    input: object,
    num_groups: object,
    weight: object = None,
    bias: object = None,
    eps: object = 1e-5,
) -> Traced:
    """``F.group_norm``."""
    w, b = g.weight(weight), g.weight(bias)
    _refuse((w is None) != (b is None), "a weight without a bias, or a bias without a weight,")
    return g.add_layer(
        "group_norm",
        input,
        {"weight": w, "bias": b},
        num_groups=num_groups,
        eps=eps,
        affine=w is not None,
    )


def group_norm_layer(g: Translation, layer: nn.GroupNorm, input: object) -> Traced:
    """``nn.GroupNorm``."""
    return group_norm(g, input, layer.num_groups, layer.weight, layer.bias, layer.eps)


# Pooling


def max_pool2d(
    g: Translation,
    input: object,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    dilation: object = 1,
    ceil_mode: object = False,
    return_indices: object = False,
) -> Traced:
    """``F.max_pool2d``."""
    _refuse(return_indices is not False, "return_indices")
    return g.add(
        "max_pool2d",
        input,
        kernel_size=pair(kernel_size),
        stride=pair(kernel_size if stride in (None, ()) else stride),
        padding=pair(padding),
        dilation=pair(dilation),
        ceil_mode=ceil_mode,
    )


def max_pool2d_layer(g: Translation, layer: nn.MaxPool2d, input: object) -> Traced:
    """``nn.MaxPool2d``."""
    return max_pool2d(
        g,
        input,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.ceil_mode,
        layer.return_indices,
    )


def avg_pool2d(
    g: Translation,
    input: object,
    kernel_size: object,
    stride: object = None,
    padding: object = 0,
    ceil_mode: object = False,
    count_include_pad: object = True,
    divisor_override: object = None,
) -> Traced:
    """``F.avg_pool2d``."""
    _refuse(divisor_override is not None, "divisor_override")
    return g.add(
        "avg_pool2d",
        input,
        kernel_size=pair(kernel_size),
        stride=pair(kernel_size if stride in (None, ()) else stride),
        padding=pair(padding),
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )


def avg_pool2d_layer(g: Translation, layer: nn.AvgPool2d, input: object) -> Traced:
    """``nn.AvgPool2d``."""
    return avg_pool2d(
        g,
        input,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.ceil_mode,
        layer.count_include_pad,
        layer.divisor_override,
    )


def adaptive_avg_pool2d(g: Translation, input: object, output_size: object) -> Traced:
    """``F.adaptive_avg_pool2d``; None keeps a size."""
    x = tensor(input)
    wanted = pair(output_size)
    if isinstance(wanted, tuple) and len(wanted) == 2 and len(x.shape) == 3:
        wanted = tuple(
            own if each is None else each for each, own in zip(wanted, x.shape[1:], strict=True)
        )
    return g.add("adaptive_avg_pool2d", x, output_size=wanted)


def adaptive_avg_pool2d_layer(g: Translation, layer: nn.AdaptiveAvgPool2d, input: object) -> Traced:
    """``nn.AdaptiveAvgPool2d``."""
    return adaptive_avg_pool2d(g, input, layer.output_size)


def mean(g: Translation, input: object, dim: object = None, keepdim: object = False) -> Traced:
    """``x.mean((2, 3))`` of an image: average pooling to one element."""
    x = tensor(input)
    axes = {sizes.axis(each, x.shape) for each in (dim if isinstance(dim, tuple) else ())}
    if len(x.shape) != 3 or axes != {1, 2}:
        raise ArchitectureError(
            "only the mean over height and width of an image is known; write x.mean((2, 3))."
        )
    pooled = g.add("adaptive_avg_pool2d", x, output_size=(1, 1))
    return pooled if keepdim is True else g.add("flatten", pooled)


# Shape and arithmetic


def flatten_layer(g: Translation, layer: nn.Flatten, input: object) -> Traced:
    """``nn.Flatten``."""
    return sizes.flatten(g, input, layer.start_dim, layer.end_dim)


def unflatten_layer(g: Translation, layer: nn.Unflatten, input: object) -> Traced:
    """``nn.Unflatten``."""
    unflattened = layer.unflattened_size
    return sizes.unflatten(g, input, layer.dim, tuple(unflattened))


def identity_layer(g: Translation, layer: nn.Module, input: object) -> Traced:
    """``nn.Identity``."""
    return tensor(input)


def join(operator: str, of_sizes: Rule) -> Rule:
    """Return the rule of ``+`` or ``*``: of two tensors, or of two sizes."""

    def rule(g: Translation, input: object, other: object) -> object:
        if isinstance(input, Traced) or isinstance(other, Traced):
            return g.add(operator, input, other)
        return of_sizes(g, input, other)

    return rule
