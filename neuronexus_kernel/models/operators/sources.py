"""Operators that read nothing: constants, parameters of their own, and positions.

They give every example of the batch the same tensor, which is not copied: torch repeats it by
steps of zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import (
    RANK_LIMIT,
    REALS_LIMIT,
    Arguments,
    Real,
    Reals,
    Sizes,
    Whole,
)
from neuronexus_kernel.models.operators.base import Moment, Operator, Parameter, Run, Shape, free

if TYPE_CHECKING:
    from torch import Tensor


def _constant_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    sizes, count = arguments.sizes("sizes"), len(arguments.reals("values"))
    if math.prod(sizes) != count:
        raise ArchitectureError(f"its {count} values do not fill its sizes {sizes}.")
    return sizes


def _prepare_constant(arguments: Arguments, position: int) -> Run:
    import torch

    sizes = arguments.sizes("sizes")
    values = torch.tensor(arguments.reals("values"), dtype=torch.float64).reshape(sizes)

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        dtype = torch.get_default_dtype() if moment.dtype is None else moment.dtype
        return values.to(device=moment.device, dtype=dtype).expand(moment.batch, *sizes)

    return run


def _sizes(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    return arguments.sizes("sizes")


def _own_tensor(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
    bound, centre = arguments.real("bound"), arguments.real("centre")
    return {"value": Parameter(arguments.sizes("sizes"), bound, centre)}


def _prepare_parameter(arguments: Arguments, position: int) -> Run:
    sizes = arguments.sizes("sizes")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        value = parameters["value"]
        assert value is not None
        return value.expand(moment.batch, *sizes)

    return run


def _count(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    return (arguments.whole("count"),)


def _positions_known(arguments: Arguments) -> int:
    return arguments.whole("count")


def _prepare_positions(arguments: Arguments, position: int) -> Run:
    import torch

    count = arguments.whole("count")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        places = torch.arange(count, dtype=torch.int64, device=moment.device)
        return places.expand(moment.batch, count)

    return run


CONSTANT = Operator(
    name="constant",
    arity=0,
    arguments={"sizes": Sizes(1, RANK_LIMIT, maximum=REALS_LIMIT), "values": Reals()},
    shape=_constant_shape,
    flops=free,
    prepare=_prepare_constant,
)
PARAMETER = Operator(
    name="parameter",
    arity=0,
    arguments={
        "sizes": Sizes(1, RANK_LIMIT),
        "bound": Real(0.0, 1e6, 0.0),
        "centre": Real(-1e6, 1e6, 0.0),
    },
    shape=_sizes,
    parameters=_own_tensor,
    flops=free,
    prepare=_prepare_parameter,
)
POSITIONS = Operator(
    name="positions",
    arity=0,
    arguments={"count": Whole()},
    shape=_count,
    flops=free,
    tokens="gives",
    vocabulary=_positions_known,
    prepare=_prepare_positions,
)
