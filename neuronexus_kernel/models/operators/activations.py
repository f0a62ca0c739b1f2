"""Operators that bend each element, and the two that turn scores into probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import Arguments, Choice, Real, Rule, Whole
from neuronexus_kernel.models.operators.base import Moment, Operator, Run, Shape, same_shape

if TYPE_CHECKING:
    from torch import Tensor

_EXPONENTIAL = 4  # what one exponential or tanh is counted as, in floating-point operations


def _elementwise(
    name: str,
    function: Callable[[Arguments], Callable[[Tensor], Tensor]],
    *,
    cost: int,
    arguments: Mapping[str, Rule] | None = None,
    shape: Callable[[Sequence[Shape], Arguments], Shape] = same_shape,
) -> Operator:
    """Return an operator that applies a function of one tensor and keeps its shape.

    `function` gets the arguments and returns the torch function; it is called only when a
    module is built.
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


def _relu(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    import torch

    return torch.relu


def _tanh(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    import torch

    return torch.tanh


def _sigmoid(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    import torch

    return torch.sigmoid


def _silu(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    from torch.nn import functional

    return lambda x: functional.silu(x)


def _leaky_relu(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    from torch.nn import functional

    slope = arguments.real("negative_slope")
    return lambda x: functional.leaky_relu(x, slope)


def _elu(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    from torch.nn import functional

    alpha = arguments.real("alpha")
    return lambda x: functional.elu(x, alpha)


def _gelu(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    from torch.nn import functional

    approximate = arguments.word("approximate")
    return lambda x: functional.gelu(x, approximate=approximate)


def _softmax(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    import torch

    dimension = arguments.whole("dim")
    return lambda x: torch.softmax(x, dimension)


def _log_softmax(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    import torch

    dimension = arguments.whole("dim")
    return lambda x: torch.log_softmax(x, dimension)


def _along_a_dimension(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    dimension, rank = arguments.whole("dim"), len(inputs[0])
    if -dimension > rank:
        raise ArchitectureError(
            f"'dim' is {dimension}, but its input {inputs[0]} has {rank} dimensions besides the "
            f"batch; use a value from -{rank} to -1."
        )
    return inputs[0]


# Dimensions count from the end, so that -1 is the last one and the batch is out of reach.
_DIMENSION: dict[str, Rule] = {"dim": Whole(-8, -1, default=-1)}

RELU = _elementwise("relu", _relu, cost=1)
LEAKY_RELU = _elementwise(
    "leaky_relu", _leaky_relu, cost=2, arguments={"negative_slope": Real(-1e6, 1e6, 0.01)}
)
GELU = _elementwise(
    "gelu",
    _gelu,
    cost=4 + _EXPONENTIAL,
    arguments={"approximate": Choice(("none", "tanh"), "none")},
)
ELU = _elementwise("elu", _elu, cost=2 + _EXPONENTIAL, arguments={"alpha": Real(-1e6, 1e6, 1.0)})
SILU = _elementwise("silu", _silu, cost=3 + _EXPONENTIAL)
TANH = _elementwise("tanh", _tanh, cost=_EXPONENTIAL)
SIGMOID = _elementwise("sigmoid", _sigmoid, cost=2 + _EXPONENTIAL)
SOFTMAX = _elementwise(
    "softmax",
    _softmax,
    cost=3 + _EXPONENTIAL,
    arguments=_DIMENSION,
    shape=_along_a_dimension,
)
LOG_SOFTMAX = _elementwise(
    "log_softmax",
    _log_softmax,
    cost=4 + _EXPONENTIAL,
    arguments=_DIMENSION,
    shape=_along_a_dimension,
)
