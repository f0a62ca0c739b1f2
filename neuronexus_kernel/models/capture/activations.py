"""Rules for activations, softmax and dropout: each adds one node.

A function that changes its input in place is translated like one that does not, once it is clear
that nobody reads the input afterwards.
"""

from __future__ import annotations

from torch import nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture import sizes
from neuronexus_kernel.models.capture.context import Rule, Traced, Translation, tensor
from neuronexus_kernel.models.operators import show


def plain(operator: str) -> Rule:
    """Return the rule of a function of one tensor without arguments."""

    def rule(g: Translation, input: object, inplace: object = False) -> Traced:
        if inplace:
            g.check_in_place()
        return g.add(operator, input)

    return rule


def plain_layer(operator: str) -> Rule:
    """Return the rule of a layer without arguments."""
    function = plain(operator)

    def rule(g: Translation, layer: nn.Module, input: object) -> object:
        return function(g, input, bool(layer.__dict__.get("inplace", False)))

    return rule


def in_place(rule: Rule) -> Rule:
    """Return the rule of a function that changes its first argument, such as ``x.relu_()``."""

    def changing(g: Translation, *args: object, **kwargs: object) -> object:
        g.check_in_place()
        return rule(g, *args, **kwargs)

    return changing


def leaky_relu(
    g: Translation, input: object, negative_slope: object = 0.01, inplace: object = False
) -> Traced:
    """``F.leaky_relu``."""
    if inplace:
        g.check_in_place()
    return g.add("leaky_relu", input, negative_slope=negative_slope)


def leaky_relu_layer(g: Translation, layer: nn.LeakyReLU, input: object) -> Traced:
    """``nn.LeakyReLU``."""
    return leaky_relu(g, input, layer.negative_slope, layer.inplace)


def elu(g: Translation, input: object, alpha: object = 1.0, inplace: object = False) -> Traced:
    """``F.elu``."""
    if inplace:
        g.check_in_place()
    return g.add("elu", input, alpha=alpha)


def elu_layer(g: Translation, layer: nn.ELU, input: object) -> Traced:
    """``nn.ELU``."""
    return elu(g, input, layer.alpha, layer.inplace)


def gelu(g: Translation, input: object, approximate: object = "none") -> Traced:
    """``F.gelu``."""
    return g.add("gelu", input, approximate=approximate)


def gelu_layer(g: Translation, layer: nn.GELU, input: object) -> Traced:
    """``nn.GELU``."""
    return gelu(g, input, layer.approximate)


def softmax(operator: str) -> Rule:
    """Return the rule of ``softmax`` or ``log_softmax``."""

    def rule(
        g: Translation,
        input: object,
        dim: object = None,
        _stacklevel: object = 3,
        dtype: object = None,
    ) -> Traced:
        x = tensor(input)
        if dim is None:
            raise ArchitectureError("say which dimension: dim=-1 for the classes.")
        return g.add(operator, x, dim=sizes.axis(dim, x.shape) - len(x.shape))

    return rule


def softmax_layer(operator: str) -> Rule:
    """Return the rule of ``nn.Softmax`` or ``nn.LogSoftmax``."""
    function = softmax(operator)

    def rule(g: Translation, layer: nn.Softmax | nn.LogSoftmax, input: object) -> object:
        return function(g, input, layer.dim)

    return rule


def dropout(
    g: Translation,
    input: object,
    p: object = 0.5,
    training: object = True,
    inplace: object = False,
) -> Traced:
    """``F.dropout``: must follow the module's mode, or be off in both."""
    if inplace:
        g.check_in_place()
    evaluation = g.dropping.get(g.step.name, True) if g.step is not None else True
    if (training, evaluation) == (True, False):
        return g.add("dropout", input, p=p)
    if (training, evaluation) == (False, False):
        return tensor(input)
    raise ArchitectureError(
        f"it drops in evaluation too (training={show(evaluation)}); write "
        "F.dropout(x, p, training=self.training) or use nn.Dropout."
    )


def dropout_layer(g: Translation, layer: nn.Dropout, input: object) -> Traced:
    """``nn.Dropout``."""
    if layer.inplace:
        g.check_in_place()
    return g.add("dropout", input, p=layer.p)
