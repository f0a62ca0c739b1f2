"""Operators that normalise within one example: layer norm, RMS norm and group norm.

Sources: Ba, Kiros, Hinton 2016 (arXiv 1607.06450); Zhang, Sennrich 2019 (arXiv 1910.07467); Wu,
He 2018 (arXiv 1803.08494).  Batch norm is another matter: it mixes examples and keeps running
statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import (
    RANK_LIMIT,
    Arguments,
    Flag,
    Real,
    Sizes,
    Whole,
)
from neuronexus_kernel.models.operators.base import Moment, Operator, Parameter, Run, Shape

if TYPE_CHECKING:
    from torch import Tensor

_EPSILON = Real(0.0, 1.0, 1e-5)


def _scale_and_shift(shape: Shape, scale: bool, shift: bool) -> dict[str, Parameter]:
    parameters = {"weight": Parameter(shape, centre=1.0)} if scale else {}
    return {**parameters, "bias": Parameter(shape)} if shift else parameters


def _flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return 7 * math.prod(output)  # mean 1, variance 3, normalise 1, scale and shift 2


def _ending(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    normalized = arguments.sizes("normalized_shape")
    if inputs[0][-len(normalized) :] != normalized:
        raise ArchitectureError(
            f"it normalises over {normalized}, but its input {inputs[0]} does not end with that."
        )
    return inputs[0]


def _layer_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    if arguments.flag("bias") and not arguments.flag("affine"):
        raise ArchitectureError("'bias' needs 'affine' to be true.")
    return _ending(inputs, arguments)


def _layer_parameters(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
    shape = arguments.sizes("normalized_shape")
    return _scale_and_shift(shape, arguments.flag("affine"), arguments.flag("bias"))


def _prepare_layer(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import layer_norm

    shape, eps = list(arguments.sizes("normalized_shape")), arguments.real("eps")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        weight, bias = parameters.get("weight"), parameters.get("bias")
        return layer_norm(inputs[0], shape, weight, bias, eps)

    return run


def _rms_parameters(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
    shape = arguments.sizes("normalized_shape")
    return _scale_and_shift(shape, arguments.flag("affine"), False)


def _rms_flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return 4 * math.prod(output)  # mean square 2, normalise 1, scale 1


def _prepare_rms(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import rms_norm

    shape, eps = list(arguments.sizes("normalized_shape")), arguments.real("eps")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return rms_norm(inputs[0], shape, parameters.get("weight"), eps)

    return run


def _group_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    groups = arguments.whole("num_groups")
    if inputs[0][0] % groups:
        raise ArchitectureError(
            f"its {inputs[0][0]} channels are no multiple of its {groups} groups."
        )
    if math.prod(inputs[0]) == groups:
        raise ArchitectureError("each group holds a single number, which becomes zero.")
    return inputs[0]


def _group_parameters(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
    affine = arguments.flag("affine")
    return _scale_and_shift(inputs[0][:1], affine, affine)


def _prepare_group(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import group_norm

    groups, eps = arguments.whole("num_groups"), arguments.real("eps")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return group_norm(inputs[0], groups, parameters.get("weight"), parameters.get("bias"), eps)

    return run


LAYER_NORM = Operator(
    name="layer_norm",
    arguments={
        "normalized_shape": Sizes(1, RANK_LIMIT),
        "eps": _EPSILON,
        "affine": Flag(default=True),
        "bias": Flag(default=True),
    },
    shape=_layer_shape,
    parameters=_layer_parameters,
    flops=_flops,
    prepare=_prepare_layer,
)

RMS_NORM = Operator(
    name="rms_norm",
    arguments={
        "normalized_shape": Sizes(1, RANK_LIMIT),
        "eps": Real(0.0, 1.0, 2.0**-23),  # of float32, which is what PyTorch takes
        "affine": Flag(default=True),
    },
    shape=_ending,
    parameters=_rms_parameters,
    flops=_rms_flops,
    prepare=_prepare_rms,
)

GROUP_NORM = Operator(
    name="group_norm",
    arguments={"num_groups": Whole(), "eps": _EPSILON, "affine": Flag(default=True)},
    shape=_group_shape,
    parameters=_group_parameters,
    flops=_flops,
    prepare=_prepare_group,
)
