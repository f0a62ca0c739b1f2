"""Operators that bend each element, and the two that turn scores into probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import (
    FLOAT_LIMIT,
    Arguments,
    Choice,
    Real,
    Rule,
    Whole,
)
from neuronexus_kernel.models.operators.base import Shape, check_dimension
from neuronexus_kernel.models.operators.elementwise import EXPONENTIAL, elementwise

if TYPE_CHECKING:
    from torch import Tensor


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


def _softplus(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    from torch.nn import functional

    return lambda x: functional.softplus(x)


def _hardswish(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    from torch.nn import functional

    return lambda x: functional.hardswish(x)


def _mish(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    from torch.nn import functional

    return lambda x: functional.mish(x)


def _hardtanh(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    from torch.nn import functional

    minimum, maximum = arguments.real("minimum"), arguments.real("maximum")
    return lambda x: functional.hardtanh(x, minimum, maximum)


def _softmax(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    import torch

    dimension = arguments.whole("dim")
    return lambda x: torch.softmax(x, dimension)


def _log_softmax(arguments: Arguments) -> Callable[[Tensor], Tensor]:
    import torch

    dimension = arguments.whole("dim")
    return lambda x: torch.log_softmax(x, dimension)


def _along_a_dimension(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    check_dimension(arguments.whole("dim"), inputs[0])
    return inputs[0]


def _between(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    if arguments.real("minimum") > arguments.real("maximum"):
        raise ArchitectureError("its 'minimum' is above its 'maximum'.")
    return inputs[0]


# Dimensions count from the end, so that -1 is the last one and the batch is out of reach.
_DIMENSION: dict[str, Rule] = {"dim": Whole(-8, -1, default=-1)}

RELU = elementwise("relu", _relu, cost=1)
LEAKY_RELU = elementwise(
    "leaky_relu", _leaky_relu, cost=2, arguments={"negative_slope": Real(-1e6, 1e6, 0.01)}
)
GELU = elementwise(
    "gelu",
    _gelu,
    cost=4 + EXPONENTIAL,
    arguments={"approximate": Choice(("none", "tanh"), "none")},
)
ELU = elementwise("elu", _elu, cost=2 + EXPONENTIAL, arguments={"alpha": Real(-1e6, 1e6, 1.0)})
SILU = elementwise("silu", _silu, cost=3 + EXPONENTIAL)
TANH = elementwise("tanh", _tanh, cost=EXPONENTIAL)
SIGMOID = elementwise("sigmoid", _sigmoid, cost=2 + EXPONENTIAL)
SOFTMAX = elementwise(
    "softmax",
    _softmax,
    cost=3 + EXPONENTIAL,
    arguments=_DIMENSION,
    shape=_along_a_dimension,
)
LOG_SOFTMAX = elementwise(
    "log_softmax",
    _log_softmax,
    cost=4 + EXPONENTIAL,
    arguments=_DIMENSION,
    shape=_along_a_dimension,
)
SOFTPLUS = elementwise("softplus", _softplus, cost=2 + 2 * EXPONENTIAL)
HARDSWISH = elementwise("hardswish", _hardswish, cost=5)
HARDTANH = elementwise(
    "hardtanh",
    _hardtanh,
    cost=2,
    arguments={
        "minimum": Real(-FLOAT_LIMIT, FLOAT_LIMIT, -1.0),
        "maximum": Real(-FLOAT_LIMIT, FLOAT_LIMIT, 1.0),
    },
    shape=_between,
)
MISH = elementwise("mish", _mish, cost=3 + 3 * EXPONENTIAL)
