"""Embedding: each token is replaced by its row of a table.

The rows start uniform with standard deviation one, where PyTorch's start normal with the same:
the noise they are drawn from is uniform everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import RANK_LIMIT, Arguments, Whole
from neuronexus_kernel.models.operators.base import Moment, Operator, Parameter, Run, Shape, free

if TYPE_CHECKING:
    from torch import Tensor

_UNIT_DEVIATION = math.sqrt(3.0)


def _shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    if len(inputs[0]) == RANK_LIMIT:
        raise ArchitectureError(
            f"its input {inputs[0]} has {RANK_LIMIT} dimensions already and cannot get another."
        )
    return (*inputs[0], arguments.whole("embedding_dim"))


def _parameters(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
    table = (arguments.whole("num_embeddings"), arguments.whole("embedding_dim"))
    return {"weight": Parameter(table, _UNIT_DEVIATION)}


def _vocabulary(arguments: Arguments) -> int:
    return arguments.whole("num_embeddings")


def _prepare(arguments: Arguments, position: int) -> Run:
    from torch.nn.functional import embedding

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        weight = parameters["weight"]
        assert weight is not None
        return embedding(inputs[0], weight)

    return run


EMBEDDING = Operator(
    name="embedding",
    arguments={"num_embeddings": Whole(), "embedding_dim": Whole()},
    shape=_shape,
    parameters=_parameters,
    flops=free,
    tokens="yes",
    vocabulary=_vocabulary,
    prepare=_prepare,
)
