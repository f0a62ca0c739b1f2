"""Convolutions: conv1d, conv2d, and conv_transpose2d, which makes an image larger.

Weights and biases start uniform in ``± 1 / sqrt(fan in)``, as PyTorch's layers do; for
conv_transpose2d, PyTorch takes the second dimension of its weight for the fan in, and so do we.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import WINDOW_LIMIT, Arguments, Flag, Sizes, Whole
from neuronexus_kernel.models.operators.base import (
    Moment,
    Operator,
    Parameter,
    Run,
    Shape,
    image,
    series,
)
from neuronexus_kernel.models.operators.windows import windows

if TYPE_CHECKING:
    from torch import Tensor


def _grouped(channels: int, arguments: Arguments) -> None:
    groups, out = arguments.whole("groups"), arguments.whole("out_channels")
    if channels % groups or out % groups:
        raise ArchitectureError(
            f"its {channels} input and {out} output channels must both be multiples of "
            f"its {groups} groups."
        )


def _conv_shape(channels: int, size: Shape, arguments: Arguments) -> Shape:
    _grouped(channels, arguments)
    places = windows(size, arguments, dilation=arguments.sizes("dilation"))
    return (arguments.whole("out_channels"), *places)


def _conv1d_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    channels, length = series(inputs[0])
    return _conv_shape(channels, (length,), arguments)


def _conv2d_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    channels, height, width = image(inputs[0])
    return _conv_shape(channels, (height, width), arguments)


def _conv_weight(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    channels = inputs[0][0] // arguments.whole("groups")
    return (arguments.whole("out_channels"), channels, *arguments.sizes("kernel_size"))


def _weight_and_bias(weight: Shape, arguments: Arguments) -> dict[str, Parameter]:
    bound = 1 / math.sqrt(math.prod(weight[1:]))
    parameters = {"weight": Parameter(weight, bound)}
    if arguments.flag("bias"):
        parameters["bias"] = Parameter((arguments.whole("out_channels"),), bound)
    return parameters


def _conv_parameters(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
    return _weight_and_bias(_conv_weight(inputs, arguments), arguments)


def _conv_flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    each = 2 * math.prod(_conv_weight(inputs, arguments)[1:]) + arguments.flag("bias")
    return math.prod(output) * each


def _conv_workspace(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    """Count the windows, which torch may write out side by side to multiply them."""
    return inputs[0][0] * math.prod(arguments.sizes("kernel_size")) * math.prod(output[1:])


def _prepare_conv1d(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import conv1d

    stride, padding = arguments.sizes("stride"), arguments.sizes("padding")
    dilation, groups = arguments.sizes("dilation"), arguments.whole("groups")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        weight = parameters["weight"]
        assert weight is not None
        return conv1d(inputs[0], weight, parameters.get("bias"), stride, padding, dilation, groups)

    return run


def _prepare_conv2d(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import conv2d

    stride, padding = arguments.pair("stride"), arguments.pair("padding")
    dilation, groups = arguments.pair("dilation"), arguments.whole("groups")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        weight = parameters["weight"]
        assert weight is not None
        return conv2d(inputs[0], weight, parameters.get("bias"), stride, padding, dilation, groups)

    return run


def _transpose_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    channels, *size = image(inputs[0])
    _grouped(channels, arguments)
    kernel, stride = arguments.pair("kernel_size"), arguments.pair("stride")
    padding, dilation = arguments.pair("padding"), arguments.pair("dilation")
    further = arguments.pair("output_padding")
    made = []
    for axis in (0, 1):
        if further[axis] >= max(stride[axis], dilation[axis]):
            raise ArchitectureError(
                f"its output_padding {further} must be smaller than its stride {stride} or its "
                f"dilation {dilation}."
            )
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        made.append((size[axis] - 1) * stride[axis] + reach + further[axis] - 2 * padding[axis])
    if min(made) < 1:
        raise ArchitectureError(f"its padding {padding} leaves nothing of the image.")
    return (arguments.whole("out_channels"), *made)


def _transpose_weight(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    out = arguments.whole("out_channels") // arguments.whole("groups")
    return (inputs[0][0], out, *arguments.sizes("kernel_size"))


def _transpose_parameters(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
    return _weight_and_bias(_transpose_weight(inputs, arguments), arguments)


def _transpose_flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    each = 2 * math.prod(_transpose_weight(inputs, arguments)[1:])
    return math.prod(inputs[0]) * each + arguments.flag("bias") * math.prod(output)


def _transpose_workspace(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return output[0] * math.prod(arguments.sizes("kernel_size")) * math.prod(inputs[0][1:])


def _prepare_transpose(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import conv_transpose2d

    stride, padding = arguments.pair("stride"), arguments.pair("padding")
    further, dilation = arguments.pair("output_padding"), arguments.pair("dilation")
    groups = arguments.whole("groups")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        weight, bias = parameters["weight"], parameters.get("bias")
        assert weight is not None
        return conv_transpose2d(inputs[0], weight, bias, stride, padding, further, groups, dilation)

    return run


def _rules(count: int) -> dict[str, Whole | Sizes | Flag]:
    """Return the arguments of a convolution over `count` dimensions."""
    zeros, ones = (0,) * count, (1,) * count
    return {
        "out_channels": Whole(),
        "kernel_size": Sizes(count, count, maximum=WINDOW_LIMIT),
        "stride": Sizes(count, count, maximum=WINDOW_LIMIT, default=ones),
        "padding": Sizes(count, count, minimum=0, maximum=WINDOW_LIMIT, default=zeros),
        "dilation": Sizes(count, count, maximum=WINDOW_LIMIT, default=ones),
        "groups": Whole(default=1),
        "bias": Flag(default=True),
    }


CONV1D = Operator(
    name="conv1d",
    arguments=_rules(1),
    shape=_conv1d_shape,
    parameters=_conv_parameters,
    flops=_conv_flops,
    workspace=_conv_workspace,
    prepare=_prepare_conv1d,
)
CONV2D = Operator(
    name="conv2d",
    arguments=_rules(2),
    shape=_conv2d_shape,
    parameters=_conv_parameters,
    flops=_conv_flops,
    workspace=_conv_workspace,
    prepare=_prepare_conv2d,
)
CONV_TRANSPOSE2D = Operator(
    name="conv_transpose2d",
    arguments={
        **_rules(2),
        "output_padding": Sizes(minimum=0, maximum=WINDOW_LIMIT, default=(0, 0)),
    },
    shape=_transpose_shape,
    parameters=_transpose_parameters,
    flops=_transpose_flops,
    workspace=_transpose_workspace,
    prepare=_prepare_transpose,
)
