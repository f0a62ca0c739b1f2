"""Operators that summarise whole dimensions: mean, sum and largest element (amax)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.models.operators.arguments import Arguments, Dimensions, Flag
from neuronexus_kernel.models.operators.base import Moment, Operator, Run, Shape, check_dimension

if TYPE_CHECKING:
    from torch import Tensor


def _reduced(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    given, dimensions, keep = inputs[0], arguments.sizes("dims"), arguments.flag("keepdim")
    for dimension in dimensions:
        check_dimension(dimension, given)
    gone = {len(given) + dimension for dimension in dimensions}
    if keep:
        return tuple(1 if axis in gone else size for axis, size in enumerate(given))
    return tuple(size for axis, size in enumerate(given) if axis not in gone)


def _flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return math.prod(inputs[0])


def _reduction(name: str, function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Operator:
    def prepare(arguments: Arguments, position: int) -> Run:
        dimensions, keep = arguments.sizes("dims"), arguments.flag("keepdim")

        def run(
            inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
        ) -> Tensor:
            return function(inputs[0], dimensions, keep)

        return run

    return Operator(
        name=name,
        arguments={"dims": Dimensions(), "keepdim": Flag(default=False)},
        shape=_reduced,
        flops=_flops,
        prepare=prepare,
    )


MEAN = _reduction("mean", lambda x, dims, keep: x.mean(dims, keepdim=keep))
SUM = _reduction("sum", lambda x, dims, keep: x.sum(dims, keepdim=keep))
AMAX = _reduction("amax", lambda x, dims, keep: x.amax(dims, keepdim=keep))
