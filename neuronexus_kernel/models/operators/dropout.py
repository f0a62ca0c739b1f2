"""Dropout of elements and of whole channels, by a key or by torch's generator.

Sources: Srivastava et al. 2014; Tompson et al. 2015 (arXiv 1411.4280) for channels.  With a key,
the mask is a hash of (key, position of the node, position of the example in its batch, element),
so a client trains the same whether it runs alone, in a vectorised cohort, or in a batch padded
to a common size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from neuronexus_kernel.models.noise import BITS, bits_tensor
from neuronexus_kernel.models.operators.arguments import Arguments, Real
from neuronexus_kernel.models.operators.base import Moment, Operator, Run, same_shape

if TYPE_CHECKING:
    from torch import Tensor


_Drop: TypeAlias = "Callable[[Tensor, Moment], Tensor]"


def dropper(probability: float, position: int) -> _Drop:
    """Return a function (x, moment) -> x with elements set to zero in training.

    Parameters
    ----------
    probability
        Of an element to be dropped; the others are scaled up, so that the mean stays.
    position
        Of the node in its graph: two nodes drop differently.
    """
    import torch
    from torch.nn.functional import dropout

    threshold = round((1.0 - probability) * 2**BITS)
    scale = 0.0 if probability == 1.0 else 1.0 / (1.0 - probability)

    def drop(x: Tensor, moment: Moment) -> Tensor:
        if not moment.training or probability == 0.0:
            return x
        if moment.noise_key is None:
            return dropout(x, probability, training=True)
        kept = bits_tensor(moment.noise_key, position, x.numel()).reshape(x.shape) < threshold
        return torch.where(kept, x * scale, 0.0)

    return drop


def _prepare(arguments: Arguments, position: int) -> Run:
    drop = dropper(arguments.real("p"), position)

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        return drop(inputs[0], moment)

    return run


def _prepare_channels(arguments: Arguments, position: int) -> Run:
    drop = dropper(arguments.real("p"), position)

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        x = inputs[0]
        if not moment.training:
            return x
        channels = x.new_ones(x.shape[:2])
        return x * drop(channels, moment).reshape(*x.shape[:2], *(1,) * (x.dim() - 2))

    return run


DROPOUT = Operator(
    name="dropout",
    arguments={"p": Real(0.0, 1.0, 0.5)},
    shape=same_shape,
    prepare=_prepare,
)
CHANNEL_DROPOUT = Operator(
    name="channel_dropout",
    arguments={"p": Real(0.0, 1.0, 0.5)},
    shape=same_shape,
    prepare=_prepare_channels,
)
