"""Scaled dot-product attention: softmax(q kᵀ · scale) v, with dropout on the weights.

Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.1, in the form of
``torch.nn.functional.scaled_dot_product_attention``; its causal mask lets step i of the queries
see steps 0 to i of the keys.  It is written out, so that it is the same in every executor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import Arguments, Flag, Real
from neuronexus_kernel.models.operators.base import Moment, Operator, Run, Shape
from neuronexus_kernel.models.operators.dropout import dropper
from neuronexus_kernel.models.operators.elementwise import EXPONENTIAL

if TYPE_CHECKING:
    from torch import Tensor


def _shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    query, key, value = inputs
    fits = (
        len(query) == len(key) == len(value) >= 2
        and query[:-2] == key[:-2] == value[:-2]
        and query[-1] == key[-1]
        and key[-2] == value[-2]
    )
    if not fits:
        raise ArchitectureError(
            f"its query {query}, key {key} and value {value} do not fit together: they must be "
            "(..., steps, width), keys as wide as queries and as many as values."
        )
    return (*query[:-1], value[-1])


def _scores(inputs: Sequence[Shape]) -> int:
    return math.prod(inputs[0][:-1]) * inputs[1][-2]


def _flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    each = 2 * inputs[0][-1] + 2 * inputs[2][-1] + 4 + EXPONENTIAL
    return _scores(inputs) * each


def _activations(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    kept = 3 if arguments.real("p") else 1  # the weights; with dropout their mask and product too
    return math.prod(output) + math.prod(inputs[0]) + kept * _scores(inputs)


def _workspace(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return 2 * _scores(inputs)


def _prepare(arguments: Arguments, position: int) -> Run:
    import torch

    causal, given = arguments.flag("causal"), arguments.real("scale")
    drop = dropper(arguments.real("p"), position)

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        query, key, value = inputs
        scale = given or 1.0 / math.sqrt(query.shape[-1])
        scores = (query * scale) @ key.transpose(-2, -1)
        if causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = torch.where(seen, scores, -torch.inf)
        return drop(torch.softmax(scores, -1), moment) @ value

    return run


ATTENTION = Operator(
    name="attention",
    arity=3,
    arguments={
        "causal": Flag(default=False),
        "scale": Real(0.0, 1e6, 0.0),
        "p": Real(0.0, 1.0, 0.0),
    },
    shape=_shape,
    flops=_flops,
    activations=_activations,
    workspace=_workspace,
    prepare=_prepare,
)
