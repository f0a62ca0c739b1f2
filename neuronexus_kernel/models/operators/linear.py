"""The linear layer: a product with a weight, and a bias.

Both start uniform in ``± 1 / sqrt(fan in)``, as PyTorch's layer does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.models.operators.arguments import Arguments, Flag, Whole
from neuronexus_kernel.models.operators.base import Moment, Operator, Parameter, Run, Shape

if TYPE_CHECKING:
    from torch import Tensor


def _linear_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    return (*inputs[0][:-1], arguments.whole("out_features"))


def _linear_parameters(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
    out, fan_in = arguments.whole("out_features"), inputs[0][-1]
    bound = 1 / math.sqrt(fan_in)
    parameters = {"weight": Parameter((out, fan_in), bound)}
    if arguments.flag("bias"):
        parameters["bias"] = Parameter((out,), bound)
    return parameters


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
