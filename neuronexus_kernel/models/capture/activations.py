"""Rules for activations and softmax: each adds one node, or a few where no operator is the same.

A function that changes its input in place is translated like one that does not; the tracer sees
to it that nobody reads the input afterwards.
"""

from __future__ import annotations

from torch import nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture import sizes
from neuronexus_kernel.models.capture.arithmetic import add, clamp, divide, multiply, scaled
from neuronexus_kernel.models.capture.context import Rule, Translation
from neuronexus_kernel.models.capture.values import Traced


def plain(operator: str) -> Rule:
    """Return the rule of a function of one tensor without arguments."""

    def rule(g: Translation, input: object, inplace: object = False) -> Traced:
        g.in_place |= bool(inplace)
        return g.add(operator, input)

    return rule


def plain_layer(operator: str) -> Rule:
    """Return the rule of a layer without arguments."""
    function = plain(operator)

    def rule(g: Translation, layer: nn.Module, input: object) -> object:
        return function(g, input, bool(layer.__dict__.get("inplace", False)))

    return rule


def leaky_relu(
    g: Translation, input: object, negative_slope: object = 0.01, inplace: object = False
) -> Traced:
    """``F.leaky_relu``."""
    g.in_place |= bool(inplace)
    return g.add("leaky_relu", input, negative_slope=negative_slope)


def leaky_relu_layer(g: Translation, layer: nn.LeakyReLU, input: object) -> Traced:
    """``nn.LeakyReLU``."""
    return leaky_relu(g, input, layer.negative_slope, layer.inplace)


def elu(g: Translation, input: object, alpha: object = 1.0, inplace: object = False) -> Traced:
    """``F.elu``."""
    g.in_place |= bool(inplace)
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


def softplus(g: Translation, input: object, beta: object = 1, threshold: object = 20) -> Traced:
    """``F.softplus``; past the threshold it is the input to within float32 anyway."""
    if beta == 1:
        return g.add("softplus", input)
    return divide(g, g.add("softplus", multiply(g, input, beta)), beta)


def softplus_layer(g: Translation, layer: nn.Softplus, input: object) -> Traced:
    """``nn.Softplus``."""
    return softplus(g, input, layer.beta, layer.threshold)


def hardtanh(
    g: Translation,
    input: object,
    min_val: object = -1.0,
    max_val: object = 1.0,
    inplace: object = False,
) -> Traced:
    """``F.hardtanh``."""
    g.in_place |= bool(inplace)
    return clamp(g, input, min_val, max_val)


def hardtanh_layer(g: Translation, layer: nn.Hardtanh, input: object) -> Traced:
    """``nn.Hardtanh`` and ``nn.ReLU6``."""
    return hardtanh(g, input, layer.min_val, layer.max_val, layer.inplace)


def relu6(g: Translation, input: object, inplace: object = False) -> Traced:
    """``F.relu6``."""
    return hardtanh(g, input, 0.0, 6.0, inplace)


def hardsigmoid(g: Translation, input: object, inplace: object = False) -> Traced:
    """``F.hardsigmoid``: relu6(x + 3) / 6."""
    return scaled(g, relu6(g, scaled(g, input, 1.0, 3.0), inplace), 1 / 6)


def hardsigmoid_layer(g: Translation, layer: nn.Hardsigmoid, input: object) -> Traced:
    """``nn.Hardsigmoid``."""
    return hardsigmoid(g, input, layer.inplace)


def log_sigmoid(g: Translation, input: object) -> Traced:
    """``F.logsigmoid``: -softplus(-x)."""
    return scaled(g, g.add("softplus", scaled(g, input, -1.0)), -1.0)


def log_sigmoid_layer(g: Translation, layer: nn.LogSigmoid, input: object) -> Traced:
    """``nn.LogSigmoid``."""
    return log_sigmoid(g, input)


def softsign(g: Translation, input: object) -> Traced:
    """``F.softsign``: x / (1 + abs(x))."""
    return divide(g, input, add(g, g.add("abs", input), 1.0))


def softsign_layer(g: Translation, layer: nn.Softsign, input: object) -> Traced:
    """``nn.Softsign``."""
    return softsign(g, input)


_SELU = (1.0507009873554804934193349852946, 1.6732632423543772848170429916717)


def selu(g: Translation, input: object, inplace: object = False) -> Traced:
    """``F.selu``: a scaled ELU (Klambauer et al. 2017)."""
    g.in_place |= bool(inplace)
    return scaled(g, g.add("elu", input, alpha=_SELU[1]), _SELU[0])


def selu_layer(g: Translation, layer: nn.SELU, input: object) -> Traced:
    """``nn.SELU``."""
    return selu(g, input, layer.inplace)


def glu(g: Translation, input: object, dim: object = -1) -> Traced:
    """``F.glu``: the first half times the sigmoid of the second."""
    from neuronexus_kernel.models.capture.arranging import chunk

    parts = chunk(g, input, 2, dim)
    if not isinstance(parts, tuple) or len(parts) != 2:
        raise ArchitectureError("its dimension cannot be halved.")
    return multiply(g, parts[0], g.add("sigmoid", parts[1]))


def glu_layer(g: Translation, layer: nn.GLU, input: object) -> Traced:
    """``nn.GLU``."""
    return glu(g, input, layer.dim)


def softmax(operator: str) -> Rule:
    """Return the rule of ``softmax`` or ``log_softmax``."""

    def rule(
        g: Translation,
        input: object,
        dim: object = None,
        _stacklevel: object = 3,
        dtype: object = None,
    ) -> Traced:
        x = g.tensor(input)
        if dim is None:
            raise ArchitectureError("say which dimension: dim=-1 for the classes.")
        return g.add(operator, x, dim=sizes.axis(dim, x) - len(x.shape))

    return rule


def softmax_layer(operator: str) -> Rule:
    """Return the rule of ``nn.Softmax`` or ``nn.LogSoftmax``."""
    function = softmax(operator)

    def rule(g: Translation, layer: nn.Softmax | nn.LogSoftmax, input: object) -> object:
        return function(g, input, layer.dim)

    return rule
