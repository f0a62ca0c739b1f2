"""Dropout, whose mask can be decided by a key instead of by torch's generator.

Source of the method: Srivastava et al. 2014.  With a key, the mask is a hash of (key, position
of the node, position of the example in its batch, element), so a client trains the same whether
it runs alone, in a vectorised cohort, or in a batch padded to a common size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from neuronexus_kernel.models.noise import BITS, bits_tensor
from neuronexus_kernel.models.operators.arguments import Arguments, Real
from neuronexus_kernel.models.operators.base import Moment, Operator, Run, Shape, same_shape

if TYPE_CHECKING:
    from torch import Tensor


def _prepare(arguments: Arguments, position: int) -> Run:
    import torch
    from torch.nn.functional import dropout

    probability = arguments.real("p")
    threshold = round((1.0 - probability) * 2**BITS)
    scale = 0.0 if probability == 1.0 else 1.0 / (1.0 - probability)

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        x = inputs[0]
        if not moment.training or probability == 0.0:
            return x
        if moment.noise_key is None:
            return dropout(x, probability, training=True)
        kept = bits_tensor(moment.noise_key, position, x.numel()).reshape(x.shape) < threshold
        return torch.where(kept, x * scale, 0.0)

    return run


def _flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return math.prod(output)


DROPOUT = Operator(
    name="dropout",
    arguments={"p": Real(0.0, 1.0, 0.5)},
    shape=same_shape,
    flops=_flops,
    prepare=_prepare,
)
