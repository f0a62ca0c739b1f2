"""Rules for pooling; over sequences it is pooling of images of height one."""

from __future__ import annotations

from torch import nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.arithmetic import reshaped
from neuronexus_kernel.models.capture.context import Rule, Translation
from neuronexus_kernel.models.capture.layers import refuse, several
from neuronexus_kernel.models.capture.values import Traced
from neuronexus_kernel.models.operators import show


def _pooled(
    g: Translation, operator: str, input: object, rank: int, arguments: dict[str, object]
) -> Traced:
    """Pool over the last one or two dimensions."""
    x = g.batched(input)
    if rank == 2:
        return g.add(operator, x, **arguments)
    if len(x.shape) != 2:
        raise ArchitectureError(f"it needs (channels, length), but its input is {x.shape}.")
    high = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    wide = {
        key: (high[key], *value) if key in high and isinstance(value, tuple) else value
        for key, value in arguments.items()
    }
    made = g.add(operator, reshaped(g, x, (x.shape[0], 1, x.shape[1])), **wide)
    return reshaped(g, made, (made.shape[0], made.shape[2]))


def max_pool(rank: int) -> Rule:
    """Return the rule of ``F.max_pool1d`` or ``F.max_pool2d``."""

    def rule(
        g: Translation,
        input: object,
        kernel_size: object,
        stride: object = None,
        padding: object = 0,
        dilation: object = 1,
        ceil_mode: object = False,
        return_indices: object = False,
    ) -> Traced:
        refuse(return_indices is not False, "return_indices")
        arguments = {
            "kernel_size": several(kernel_size, rank),
            "stride": several(kernel_size if stride in (None, ()) else stride, rank),
            "padding": several(padding, rank),
            "dilation": several(dilation, rank),
            "ceil_mode": ceil_mode,
        }
        return _pooled(g, "max_pool2d", input, rank, arguments)

    return rule


def _max_layer(function: Rule) -> Rule:
    def rule(g: Translation, layer: nn.MaxPool1d | nn.MaxPool2d, input: object) -> object:
        return function(
            g,
            input,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.ceil_mode,
            layer.return_indices,
        )

    return rule


def avg_pool(rank: int) -> Rule:
    """Return the rule of ``F.avg_pool1d`` or ``F.avg_pool2d``."""

    def rule(
        g: Translation,
        input: object,
        kernel_size: object,
        stride: object = None,
        padding: object = 0,
        ceil_mode: object = False,
        count_include_pad: object = True,
        divisor_override: object = None,
    ) -> Traced:
        refuse(divisor_override is not None, "divisor_override")
        arguments = {
            "kernel_size": several(kernel_size, rank),
            "stride": several(kernel_size if stride in (None, ()) else stride, rank),
            "padding": several(padding, rank),
            "ceil_mode": ceil_mode,
            "count_include_pad": count_include_pad,
        }
        return _pooled(g, "avg_pool2d", input, rank, arguments)

    return rule


def _avg_layer(function: Rule) -> Rule:
    def rule(g: Translation, layer: nn.AvgPool1d | nn.AvgPool2d, input: object) -> object:
        return function(
            g,
            input,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.ceil_mode,
            layer.count_include_pad,
            getattr(layer, "divisor_override", None),
        )

    return rule


def adaptive_avg_pool2d(g: Translation, input: object, output_size: object) -> Traced:
    """``F.adaptive_avg_pool2d``; None keeps a size."""
    x = g.batched(input)
    wanted = several(output_size, 2)
    if isinstance(wanted, tuple) and len(wanted) == 2 and len(x.shape) == 3:
        wanted = tuple(
            own if each is None else each for each, own in zip(wanted, x.shape[1:], strict=True)
        )
    return g.add("adaptive_avg_pool2d", x, output_size=wanted)


def adaptive_avg_pool1d(g: Translation, input: object, output_size: object) -> Traced:
    """``F.adaptive_avg_pool1d``."""
    x = g.batched(input)
    size = output_size[0] if isinstance(output_size, tuple) else output_size
    if len(x.shape) != 2:
        raise ArchitectureError(f"it needs (channels, length), but its input is {x.shape}.")
    made = adaptive_avg_pool2d(g, reshaped(g, x, (x.shape[0], 1, x.shape[1])), (1, size))
    return reshaped(g, made, (made.shape[0], made.shape[2]))


def adaptive_max_pool(rank: int) -> Rule:
    """Return the rule of ``F.adaptive_max_pool2d`` and its like, to a single element."""

    def rule(
        g: Translation, input: object, output_size: object, return_indices: object = False
    ) -> Traced:
        refuse(return_indices is not False, "return_indices")
        if several(output_size, rank) != (1,) * rank:
            raise ArchitectureError(
                f"output_size={show(output_size)} is not supported, only 1; use MaxPool with a "
                "window, or AdaptiveAvgPool2d."
            )
        x = g.batched(input)
        return g.add("amax", x, dims=tuple(range(-rank, 0)), keepdim=True)

    return rule


def _adaptive_layer(function: Rule) -> Rule:
    def rule(g: Translation, layer: nn.AdaptiveAvgPool2d, input: object) -> object:
        refuse(bool(getattr(layer, "return_indices", False)), "return_indices")
        return function(g, input, layer.output_size)

    return rule


max_pool1d, max_pool2d = max_pool(1), max_pool(2)
avg_pool1d, avg_pool2d = avg_pool(1), avg_pool(2)
adaptive_max_pool1d, adaptive_max_pool2d = adaptive_max_pool(1), adaptive_max_pool(2)
max_pool1d_layer, max_pool2d_layer = _max_layer(max_pool1d), _max_layer(max_pool2d)
avg_pool1d_layer, avg_pool2d_layer = _avg_layer(avg_pool1d), _avg_layer(avg_pool2d)
adaptive_avg_pool1d_layer = _adaptive_layer(adaptive_avg_pool1d)
adaptive_avg_pool2d_layer = _adaptive_layer(adaptive_avg_pool2d)
adaptive_max_pool1d_layer = _adaptive_layer(adaptive_max_pool1d)
adaptive_max_pool2d_layer = _adaptive_layer(adaptive_max_pool2d)
