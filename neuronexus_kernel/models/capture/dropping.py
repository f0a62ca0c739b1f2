"""Rules for dropout, of single elements and of whole channels.

It must follow the module's mode: on in training, off in evaluation.
"""

from __future__ import annotations

from torch import nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.context import Rule, Translation
from neuronexus_kernel.models.capture.values import Traced


def _function(operator: str, name: str) -> Rule:
    def rule(
        g: Translation,
        input: object,
        p: object = 0.5,
        training: object = True,
        inplace: object = False,
    ) -> Traced:
        g.in_place |= bool(inplace)
        on = g.follows_mode(
            training, f"F.{name}(x, p, training=self.training) or use nn.{name.title()}"
        )
        return dropped(g, operator, input, p) if on else g.tensor(input)

    return rule


def dropped(g: Translation, operator: str, input: object, p: object) -> Traced:
    """Drop elements or channels in training."""
    if operator == "dropout":
        x = g.tensor(input)
        if x.batch is None:
            raise ArchitectureError(
                "it drops parts of what is the same for every example; add it to something "
                "computed from the input first."
            )
    else:
        x = g.batched(input)
    return g.add(operator, x, p=p)


def _layer(operator: str) -> Rule:
    def rule(g: Translation, layer: nn.Dropout, input: object) -> Traced:
        g.in_place |= layer.inplace
        return dropped(g, operator, input, layer.p)

    return rule


dropout = _function("dropout", "dropout")
dropout1d = _function("channel_dropout", "dropout1d")
dropout2d = _function("channel_dropout", "dropout2d")
dropout_layer = _layer("dropout")
channel_dropout_layer = _layer("channel_dropout")
