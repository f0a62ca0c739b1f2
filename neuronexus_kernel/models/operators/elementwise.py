"""Operators that apply one function to each element: scale, power, exp, log, sqrt and abs.

`elementwise` makes such an operator of a torch function; the activations are made by it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.models.operators.arguments import FLOAT_LIMIT, Arguments, Real, Rule
from neuronexus_kernel.models.operators.base import Moment, Operator, Run, Shape, same_shape

if TYPE_CHECKING:
    from torch import Tensor

EXPONENTIAL = 4
"""What one exponential, logarithm or tanh is counted as, in floating-point operations."""


def elementwise(
    name: str,
    function: Callable[[Arguments], Callable[[Tensor], Tensor]],
    *,
    cost: int,
    arguments: Mapping[str, Rule] | None = None,
    shape: Callable[[Sequence[Shape], Arguments], Shape] = same_shape,
) -> Operator:
    """Return an operator that applies a function of one tensor and keeps its shape.

    Parameters
    ----------
    name
        The operator's.
    function
        (arguments) -> the torch function; called only when a module is built.
    cost
        Floating-point operations for each element.
    arguments
        The rules of its arguments.
    shape
        Its shape rule, if there is something to check.
    """

    def prepare(arguments: Arguments, position: int) -> Run:
        bend = function(arguments)

        def run(
            inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
        ) -> Tensor:
            return bend(inputs[0])

        return run

    def flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
        return cost * math.prod(output)

    return Operator(name=name, arguments=arguments or {}, shape=shape, flops=flops, prepare=prepare)


def _scale(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    factor, offset = arguments.real("factor"), arguments.real("offset")
    if offset == 0.0:
        return lambda x: x * factor
    if factor == 1.0:
        return lambda x: x + offset
    return lambda x: x * factor + offset


def _power(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    exponent = arguments.real("exponent")
    return lambda x: x**exponent


def _exp(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    import torch

    return torch.exp


def _log(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    import torch

    return torch.log


def _sqrt(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    import torch

    return torch.sqrt


def _abs(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    import torch

    return torch.abs


SCALE = elementwise(
    "scale",
    _scale,
    cost=2,
    arguments={
        "factor": Real(-FLOAT_LIMIT, FLOAT_LIMIT, 1.0),
        "offset": Real(-FLOAT_LIMIT, FLOAT_LIMIT, 0.0),
    },
)
POWER = elementwise(
    "power", _power, cost=2 * EXPONENTIAL, arguments={"exponent": Real(-100.0, 100.0)}
)
EXP = elementwise("exp", _exp, cost=EXPONENTIAL)
LOG = elementwise("log", _log, cost=EXPONENTIAL)
SQRT = elementwise("sqrt", _sqrt, cost=1)
ABS = elementwise("abs", _abs, cost=1)
