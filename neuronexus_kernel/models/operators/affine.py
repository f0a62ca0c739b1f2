"""Operators that multiply by a weight and add a bias: linear and conv2d.

Weights and biases start uniform in ``± 1 / sqrt(fan in)``, as PyTorch's layers do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import WINDOW_LIMIT, Arguments, Flag, Sizes, Whole
from neuronexus_kernel.models.operators.base import Moment, Operator, Parameter, Run, Shape, image
from neuronexus_kernel.models.operators.windows import windows

if TYPE_CHECKING:
    from torch import Tensor


def _weight_and_bias(weight: Shape, arguments: Arguments) -> dict[str, Parameter]:
    bound = 1 / math.sqrt(math.prod(weight[1:]))
    parameters = {"weight": Parameter(weight, bound)}
    if arguments.flag("bias"):
        parameters["bias"] = Parameter(weight[:1], bound)
    return parameters


def _linear_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    return (*inputs[0][:-1], arguments.whole("out_features"))


def _linear_parameters(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
    return _weight_and_bias((arguments.whole("out_features"), inputs[0][-1]), arguments)


def _linear_flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return math.prod(output) * (2 * inputs[0][-1] + arguments.flag("bias"))


def _prepare_linear(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import linear

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        weight = parameters["weight"]
        assert weight is not None
        return linear(inputs[0], weight, parameters.get("bias"))

    return run


LINEAR = Operator(
    name="linear",
    arguments={"out_features": Whole(), "bias": Flag(default=True)},
    shape=_linear_shape,
    parameters=_linear_parameters,
    flops=_linear_flops,
    prepare=_prepare_linear,
)


def _conv2d_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    channels, height, width = image(inputs[0])
    groups, out = arguments.whole("groups"), arguments.whole("out_channels")
    if channels % groups or out % groups:
        raise ArchitectureError(
            f"its {channels} input and {out} output channels must both be multiples of "
            f"its {groups} groups."
        )
    return (out, *windows((height, width), arguments, dilation=arguments.pair("dilation")))


def _conv2d_weight(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    channels = inputs[0][0] // arguments.whole("groups")
    return (arguments.whole("out_channels"), channels, *arguments.sizes("kernel_size"))


def _conv2d_parameters(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
    return _weight_and_bias(_conv2d_weight(inputs, arguments), arguments)


def _conv2d_flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    each = 2 * math.prod(_conv2d_weight(inputs, arguments)[1:]) + arguments.flag("bias")
    return math.prod(output) * each


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


CONV2D = Operator(
    name="conv2d",
    arguments={
        "out_channels": Whole(),
        "kernel_size": Sizes(maximum=WINDOW_LIMIT),
        "stride": Sizes(maximum=WINDOW_LIMIT, default=(1, 1)),
        "padding": Sizes(minimum=0, maximum=WINDOW_LIMIT, default=(0, 0)),
        "dilation": Sizes(maximum=WINDOW_LIMIT, default=(1, 1)),
        "groups": Whole(default=1),
        "bias": Flag(default=True),
    },
    shape=_conv2d_shape,
    parameters=_conv2d_parameters,
    flops=_conv2d_flops,
    prepare=_prepare_conv2d,
)
