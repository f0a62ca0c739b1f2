"""Rules for layers with weights: linear, convolutions, embedding.

A rule has the signature of the PyTorch function it stands for, so that Python itself binds
positional and keyword arguments; a layer's rule calls its function's rule with the layer's
parameters.
"""

from __future__ import annotations

from torch import nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture import sizes
from neuronexus_kernel.models.capture.constants import tokens
from neuronexus_kernel.models.capture.context import Rule, Translation
from neuronexus_kernel.models.capture.values import BATCH, Traced
from neuronexus_kernel.models.operators import show


def several(value: object, count: int) -> object:
    """Return `count` numbers of one number or several."""
    if isinstance(value, tuple):
        return value * count if len(value) == 1 else value
    return (value,) * count


def refuse(present: bool, what: str, advice: str = "leave it out") -> None:
    """Refuse an argument that is present."""
    if present:
        raise ArchitectureError(f"{what} is not supported; {advice}.")


def linear(g: Translation, input: object, weight: object, bias: object = None) -> Traced:
    """``F.linear``."""
    w, b = g.needed_weight(weight), g.weight(bias)
    x = g.tensor(input)
    if x.full[-1] is BATCH:
        raise ArchitectureError("its input has the batch last; examples must not mix.")
    return g.add_layer(
        "linear", x, {"weight": w, "bias": b}, out_features=w.full[0], bias=b is not None
    )


def linear_layer(g: Translation, layer: nn.Linear, input: object) -> Traced:
    """``nn.Linear``."""
    return linear(g, input, layer.weight, layer.bias)


def convolution(operator: str, rank: int) -> Rule:
    """Return the rule of ``F.conv1d`` or ``F.conv2d``."""

    def rule(
        g: Translation,
        input: object,
        weight: object,
        bias: object = None,
        stride: object = 1,
        padding: object = 0,
        dilation: object = 1,
        groups: object = 1,
    ) -> Traced:
        w, b = g.needed_weight(weight), g.weight(bias)
        if len(w.shape) != rank + 2:
            raise ArchitectureError(f"its weight has shape {w.shape}, not {rank + 2} dimensions.")
        return g.add_layer(
            operator,
            g.batched(input),
            {"weight": w, "bias": b},
            out_channels=w.shape[0],
            kernel_size=w.shape[2:],
            stride=several(stride, rank),
            padding=_padding(padding, w.shape[2:], several(dilation, rank)),
            dilation=several(dilation, rank),
            groups=groups,
            bias=b is not None,
        )

    return rule


def _padding(padding: object, kernel: tuple[int, ...], dilation: object) -> object:
    if padding == "valid":
        return (0,) * len(kernel)
    if padding != "same":
        return several(padding, len(kernel))
    if not isinstance(dilation, tuple):
        raise ArchitectureError("its dilation is no list of numbers.")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(each % 2 for each in total):
        raise ArchitectureError(
            "padding='same' with an even window pads unevenly; use an odd window."
        )
    return tuple(each // 2 for each in total)


conv1d = convolution("conv1d", 1)
conv2d = convolution("conv2d", 2)


def _convolution_layer(function: Rule) -> Rule:
    def rule(g: Translation, layer: nn.Conv1d | nn.Conv2d, input: object) -> object:
        _zeros_only(layer.padding_mode)
        return function(
            g,
            input,
            layer.weight,
            layer.bias,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )

    return rule


def _zeros_only(mode: str) -> None:
    refuse(mode != "zeros", f"padding_mode={mode!r}", "pad with zeros")


conv1d_layer = _convolution_layer(conv1d)
conv2d_layer = _convolution_layer(conv2d)


def conv_transpose2d(
    g: Translation,
    input: object,
    weight: object,
    bias: object = None,
    stride: object = 1,
    padding: object = 0,
    output_padding: object = 0,
    groups: object = 1,
    dilation: object = 1,
) -> Traced:
    """``F.conv_transpose2d``."""
    w, b = g.needed_weight(weight), g.weight(bias)
    if len(w.shape) != 4 or not isinstance(groups, int):
        raise ArchitectureError(f"its weight has shape {w.shape}, not four dimensions.")
    return g.add_layer(
        "conv_transpose2d",
        g.batched(input),
        {"weight": w, "bias": b},
        out_channels=w.shape[1] * groups,
        kernel_size=w.shape[2:],
        stride=several(stride, 2),
        padding=several(padding, 2),
        output_padding=several(output_padding, 2),
        dilation=several(dilation, 2),
        groups=groups,
        bias=b is not None,
    )


def conv_transpose2d_layer(
    g: Translation, layer: nn.ConvTranspose2d, input: object, output_size: object = None
) -> Traced:
    """``nn.ConvTranspose2d``."""
    _zeros_only(layer.padding_mode)
    refuse(output_size is not None, "output_size", "give output_padding to the layer instead")
    return conv_transpose2d(
        g,
        input,
        layer.weight,
        layer.bias,
        layer.stride,
        layer.padding,
        layer.output_padding,
        layer.groups,
        layer.dilation,
    )


def embedding(
    g: Translation,
    input: object,
    weight: object,
    padding_idx: object = None,
    max_norm: object = None,
    norm_type: object = 2.0,
    scale_grad_by_freq: object = False,
    sparse: object = False,
) -> Traced:
    """``F.embedding``."""
    refuse(
        padding_idx is not None, "padding_idx", "leave it out: every row of the table is trained"
    )
    refuse(max_norm is not None, "max_norm")
    refuse(scale_grad_by_freq is not False, "scale_grad_by_freq")
    w = g.needed_weight(weight)
    if len(w.shape) != 2:
        raise ArchitectureError(f"its weight has shape {w.shape}, not (tokens, features).")
    return g.add_layer(
        "embedding",
        tokens(g, input),
        {"weight": w},
        num_embeddings=w.shape[0],
        embedding_dim=w.shape[1],
    )


def embedding_layer(g: Translation, layer: nn.Embedding, input: object) -> Traced:
    """``nn.Embedding``."""
    return embedding(
        g,
        input,
        layer.weight,
        layer.padding_idx,
        layer.max_norm,
        layer.norm_type,
        layer.scale_grad_by_freq,
    )


def interpolate(
    g: Translation,
    input: object,
    size: object = None,
    scale_factor: object = None,
    mode: object = "nearest",
    align_corners: object = None,
    recompute_scale_factor: object = None,
    antialias: object = False,
) -> Traced:
    """``F.interpolate`` by whole factors, each element repeated."""
    if mode != "nearest":
        raise ArchitectureError(f"mode={show(mode)} is not supported; use mode='nearest'.")
    x = g.batched(input)
    spatial = x.shape[1:]
    if size is not None:
        wanted = several(size, len(spatial))
        pairs = zip(wanted if isinstance(wanted, tuple) else (), spatial, strict=True)
        factors = [sizes.integer(new, "a size") / own for new, own in pairs]
    else:
        given = several(scale_factor, len(spatial))
        known = given if isinstance(given, tuple) else ()
        factors = [float(each) for each in known if isinstance(each, (int, float))]
    if len(factors) != len(spatial) or any(f < 1 or f != int(f) for f in factors):
        raise ArchitectureError("it must enlarge by whole factors, such as scale_factor=2.")
    return g.add("upsample_nearest", x, scale=tuple(int(each) for each in factors))


def upsample_layer(g: Translation, layer: nn.Upsample, input: object) -> Traced:
    """``nn.Upsample``."""
    return interpolate(g, input, layer.size, layer.scale_factor, layer.mode)


def flatten_layer(g: Translation, layer: nn.Flatten, input: object) -> Traced:
    """``nn.Flatten``."""
    return sizes.flatten(g, input, layer.start_dim, layer.end_dim)


def unflatten_layer(g: Translation, layer: nn.Unflatten, input: object) -> Traced:
    """``nn.Unflatten``."""
    return sizes.unflatten(g, input, layer.dim, tuple(layer.unflattened_size))


def identity_layer(g: Translation, layer: nn.Module, input: object) -> Traced:
    """``nn.Identity``."""
    return g.tensor(input)
