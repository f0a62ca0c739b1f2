"""Operators that compute nothing: they reshape, reorder, cut out or repeat what there is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import (
    RANK_LIMIT,
    WINDOW_LIMIT,
    Arguments,
    Sizes,
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


def _permuted(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    order, given = arguments.sizes("order"), inputs[0]
    if sorted(order) != list(range(len(given))):
        raise ArchitectureError(
            f"'order' is {order}, but its input {given} has {len(given)} dimensions besides the "
            f"batch: name each of 0 to {len(given) - 1} once."
        )
    return tuple(given[axis] for axis in order)


def _prepare_permute(arguments: Arguments, position: int) -> Run:
    order = tuple(axis + 1 for axis in arguments.sizes("order"))

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return inputs[0].permute(0, *order)

    return run


def _along(x: Tensor, dimension: int, place: int | slice) -> Tensor:
    """Return ``x[..., place, :, :]`` with `place` at a dimension counted from the end."""
    return x[(..., place, *[slice(None)] * (-dimension - 1))]


def _sliced(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    given, dimension = inputs[0], arguments.whole("dim")
    check_dimension(dimension, given)
    start, length, step = (arguments.whole(name) for name in ("start", "length", "step"))
    last = start + (length - 1) * step
    if last >= given[dimension]:
        raise ArchitectureError(
            f"it takes elements {start} to {last} of dimension {dimension}, but its input {given} "
            f"has {given[dimension]} there."
        )
    place = len(given) + dimension
    return (*given[:place], length, *given[place + 1 :])


def _prepare_slice(arguments: Arguments, position: int) -> Run:
    dimension, start = arguments.whole("dim"), arguments.whole("start")
    length, step = arguments.whole("length"), arguments.whole("step")
    place = slice(start, start + (length - 1) * step + 1, step)

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return _along(inputs[0], dimension, place)

    return run


def _selected(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    given, dimension = inputs[0], arguments.whole("dim")
    check_dimension(dimension, given)
    index = arguments.whole("index")
    if index >= given[dimension]:
        raise ArchitectureError(
            f"it takes element {index} of dimension {dimension}, but its input {given} has "
            f"{given[dimension]} there."
        )
    place = len(given) + dimension
    return (*given[:place], *given[place + 1 :])


def _prepare_select(arguments: Arguments, position: int) -> Run:
    dimension, index = arguments.whole("dim"), arguments.whole("index")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return _along(inputs[0], dimension, index)

    return run


def _upsampled(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    given, scale = inputs[0], arguments.sizes("scale")
    if len(given) != len(scale) + 1:
        raise ArchitectureError(
            f"'scale' holds {len(scale)} factor(s), but its input {given} has "
            f"{len(given) - 1} dimensions besides the batch and the channels."
        )
    return (given[0], *(size * factor for size, factor in zip(given[1:], scale, strict=True)))


def _prepare_upsample(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import interpolate

    factors = [float(factor) for factor in arguments.sizes("scale")]

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return interpolate(inputs[0], scale_factor=factors, mode="nearest")

    return run


FLATTEN = Operator(
    name="flatten",
    shape=_flat,
    flops=free,
    reads=_reads_any,
    tokens="keep",
    prepare=_prepare_flatten,
)
RESHAPE = Operator(
    name="reshape",
    arguments={"sizes": Sizes(1, RANK_LIMIT)},
    shape=_reshaped,
    flops=free,
    reads=_reads_flat_or_squeezed,
    tokens="keep",
    prepare=_prepare_reshape,
)
PERMUTE = Operator(
    name="permute",
    arguments={"order": Sizes(1, RANK_LIMIT, minimum=0, maximum=RANK_LIMIT - 1)},
    shape=_permuted,
    flops=free,
    tokens="keep",
    prepare=_prepare_permute,
)
SLICE = Operator(
    name="slice",
    arguments={
        "dim": Whole(-RANK_LIMIT, -1),
        "start": Whole(0, default=0),
        "length": Whole(),
        "step": Whole(default=1),
    },
    shape=_sliced,
    flops=free,
    tokens="keep",
    prepare=_prepare_slice,
)
SELECT = Operator(
    name="select",
    arguments={"dim": Whole(-RANK_LIMIT, -1), "index": Whole(0)},
    shape=_selected,
    flops=free,
    tokens="keep",
    prepare=_prepare_select,
)
UPSAMPLE_NEAREST = Operator(
    name="upsample_nearest",
    arguments={"scale": Sizes(1, 3, maximum=WINDOW_LIMIT)},
    shape=_upsampled,
    flops=free,
    prepare=_prepare_upsample,
)
