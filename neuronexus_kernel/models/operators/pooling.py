"""Operators that summarise windows of an image: max, average and adaptive average pooling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import WINDOW_LIMIT, Arguments, Flag, Sizes
from neuronexus_kernel.models.operators.base import Moment, Operator, Run, Shape, image
from neuronexus_kernel.models.operators.windows import windows

if TYPE_CHECKING:
    from torch import Tensor


def _check_padding(arguments: Arguments) -> None:
    kernel, padding = arguments.pair("kernel_size"), arguments.pair("padding")
    if any(2 * p > k for k, p in zip(kernel, padding, strict=True)):
        raise ArchitectureError(
            f"its padding {padding} is more than half of its window {kernel}; use less padding."
        )


def _max_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    channels, height, width = image(inputs[0])
    _check_padding(arguments)
    dilation, ceil = arguments.pair("dilation"), arguments.flag("ceil_mode")
    return (channels, *windows((height, width), arguments, dilation=dilation, ceil=ceil))


def _average_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    channels, height, width = image(inputs[0])
    _check_padding(arguments)
    ceil = arguments.flag("ceil_mode")
    return (channels, *windows((height, width), arguments, dilation=(1, 1), ceil=ceil))


def _adaptive_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    channels, _, _ = image(inputs[0])
    return (channels, *arguments.sizes("output_size"))


def _window_flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return math.prod(output) * math.prod(arguments.sizes("kernel_size"))


def _adaptive_flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return max(math.prod(inputs[0]), math.prod(output))


def _prepare_max(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import max_pool2d

    kernel, stride = arguments.pair("kernel_size"), arguments.pair("stride")
    padding, dilation = arguments.pair("padding"), arguments.pair("dilation")
    ceil = arguments.flag("ceil_mode")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return max_pool2d(inputs[0], kernel, stride, padding, dilation, ceil)

    return run


def _prepare_average(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import avg_pool2d

    kernel, stride = arguments.pair("kernel_size"), arguments.pair("stride")
    padding, ceil = arguments.pair("padding"), arguments.flag("ceil_mode")
    count_padding = arguments.flag("count_include_pad")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return avg_pool2d(inputs[0], kernel, stride, padding, ceil, count_padding)

    return run


def _prepare_adaptive(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import adaptive_avg_pool2d

    size = arguments.pair("output_size")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return adaptive_avg_pool2d(inputs[0], size)

    return run


_WINDOW = {
    "kernel_size": Sizes(maximum=WINDOW_LIMIT),
    "stride": Sizes(maximum=WINDOW_LIMIT),
    "padding": Sizes(minimum=0, maximum=WINDOW_LIMIT, default=(0, 0)),
}

MAX_POOL2D = Operator(
    name="max_pool2d",
    arguments={
        **_WINDOW,
        "dilation": Sizes(maximum=WINDOW_LIMIT, default=(1, 1)),
        "ceil_mode": Flag(default=False),
    },
    shape=_max_shape,
    flops=_window_flops,
    prepare=_prepare_max,
)

AVG_POOL2D = Operator(
    name="avg_pool2d",
    arguments={
        **_WINDOW,
        "ceil_mode": Flag(default=False),
        "count_include_pad": Flag(default=True),
    },
    shape=_average_shape,
    flops=_window_flops,
    prepare=_prepare_average,
)

ADAPTIVE_AVG_POOL2D = Operator(
    name="adaptive_avg_pool2d",
    arguments={"output_size": Sizes()},
    shape=_adaptive_shape,
    flops=_adaptive_flops,
    prepare=_prepare_adaptive,
)
