"""Operators that make one tensor of two: arithmetic, products of matrices, masks, concatenation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import (
    FLOAT_LIMIT,
    RANK_LIMIT,
    Arguments,
    Real,
    Whole,
)
from neuronexus_kernel.models.operators.base import (
    Moment,
    Operator,
    Run,
    Shape,
    check_dimension,
    free,
)

if TYPE_CHECKING:
    from torch import Tensor


def _joined(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    left, right = inputs
    fits = len(left) == len(right) and all(
        a == b or 1 in (a, b) for a, b in zip(left, right, strict=True)
    )
    if not fits:
        raise ArchitectureError(
            f"its inputs {left} and {right} do not fit together: both need as many dimensions, "
            "each equal or one of them 1."
        )
    return tuple(b if a == 1 else a for a, b in zip(left, right, strict=True))


def _join(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Arguments, int], Run]:
    def prepare(arguments: Arguments, position: int) -> Run:
        def run(
            inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
        ) -> Tensor:
            return function(inputs[0], inputs[1])

        return run

    return prepare


def _prepare_masked_fill(arguments: Arguments, position: int) -> Run:
    import torch

    filling = arguments.real("value")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        x, mask = inputs
        return torch.where(mask != 0, filling, x)

    return run


def _product(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    left, right = inputs
    if min(len(left), len(right)) < 2 or left[-1] != right[-2]:
        raise ArchitectureError(
            f"its inputs {left} and {right} are no matrices that can be multiplied: the last "
            "dimension of the first must equal the last but one of the second."
        )
    return (*_joined((left[:-2], right[:-2]), arguments), left[-2], right[-1])


def _product_flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return 2 * inputs[0][-1] * math.prod(output)


def _product_workspace(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    """Count the copies that torch makes where it repeats a matrix over the leading dimensions."""
    repeats = math.prod(output[:-2])
    return sum(repeats * math.prod(shape[-2:]) for shape in inputs if shape[:-2] != output[:-2])


def _concatenated(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    left, right = inputs
    dimension = arguments.whole("dim")
    check_dimension(dimension, left)
    place = len(left) + dimension
    if len(left) != len(right) or any(
        a != b for axis, (a, b) in enumerate(zip(left, right, strict=True)) if axis != place
    ):
        raise ArchitectureError(
            f"its inputs {left} and {right} do not fit together: all but dimension {dimension} "
            "must be equal."
        )
    return (*left[:place], left[place] + right[place], *left[place + 1 :])


def _prepare_concatenate(arguments: Arguments, position: int) -> Run:
    import torch

    dimension = arguments.whole("dim")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return torch.cat((inputs[0], inputs[1]), dimension)

    return run


ADD = Operator(name="add", arity=2, shape=_joined, prepare=_join(lambda a, b: a + b))
SUBTRACT = Operator(name="subtract", arity=2, shape=_joined, prepare=_join(lambda a, b: a - b))
MULTIPLY = Operator(name="multiply", arity=2, shape=_joined, prepare=_join(lambda a, b: a * b))
DIVIDE = Operator(name="divide", arity=2, shape=_joined, prepare=_join(lambda a, b: a / b))
MASKED_FILL = Operator(
    name="masked_fill",
    arity=2,
    arguments={"value": Real(-FLOAT_LIMIT, FLOAT_LIMIT)},
    shape=_joined,
    prepare=_prepare_masked_fill,
)
MATMUL = Operator(
    name="matmul",
    arity=2,
    shape=_product,
    flops=_product_flops,
    workspace=_product_workspace,
    prepare=_join(lambda a, b: a @ b),
)
CONCATENATE = Operator(
    name="concatenate",
    arity=2,
    arguments={"dim": Whole(-RANK_LIMIT, -1)},
    shape=_concatenated,
    flops=free,
    tokens="keep",
    prepare=_prepare_concatenate,
)
