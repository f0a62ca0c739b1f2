"""Operators that change the shape, and those that join two tensors element by element."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import Arguments, Sizes
from neuronexus_kernel.models.operators.base import Moment, Operator, Run, Shape

if TYPE_CHECKING:
    from torch import Tensor


def _free(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return 0


def _flat(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    return (math.prod(inputs[0]),)


def _reads_any(given: Shape, arguments: Arguments) -> bool:
    return True


def _prepare_flatten(arguments: Arguments, position: int) -> Run:
    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return inputs[0].flatten(1)

    return run


def _reshaped(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    sizes = arguments.sizes("sizes")
    if math.prod(sizes) != math.prod(inputs[0]):
        raise ArchitectureError(
            f"it cannot make {sizes} of its input {inputs[0]}: {math.prod(sizes)} elements "
            f"against {math.prod(inputs[0])}."
        )
    return sizes


def _reads_flat_or_squeezed(given: Shape, arguments: Arguments) -> bool:
    """Tell whether `given` is a flat row or differs from the sizes only in dimensions of one.

    Anything else, such as channels last, has as many elements but another order of them.
    """

    def squeezed(shape: Shape) -> Shape:
        return tuple(size for size in shape if size != 1)

    return len(given) == 1 or squeezed(given) == squeezed(arguments.sizes("sizes"))


def _prepare_reshape(arguments: Arguments, position: int) -> Run:
    sizes = arguments.sizes("sizes")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return inputs[0].reshape(inputs[0].shape[0], *sizes)

    return run


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


FLATTEN = Operator(
    name="flatten", shape=_flat, flops=_free, reads=_reads_any, prepare=_prepare_flatten
)
RESHAPE = Operator(
    name="reshape",
    arguments={"sizes": Sizes(1, 6)},
    shape=_reshaped,
    flops=_free,
    reads=_reads_flat_or_squeezed,
    prepare=_prepare_reshape,
)
ADD = Operator(name="add", arity=2, shape=_joined, prepare=_join(lambda a, b: a + b))
MULTIPLY = Operator(name="multiply", arity=2, shape=_joined, prepare=_join(lambda a, b: a * b))
