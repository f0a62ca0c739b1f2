"""Rules for normalisation: layer, group, instance and RMS norm, and batch norm.

Batch norm's running statistics are buffers of the module and tensors of the state here.
"""

from __future__ import annotations

from torch import nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.context import Translation
from neuronexus_kernel.models.capture.layers import refuse
from neuronexus_kernel.models.capture.values import Traced, Weight
from neuronexus_kernel.models.operators import show

_FLOAT32_EPSILON = 2.0**-23


def layer_norm(
    g: Translation,
    input: object,
    normalized_shape: object,
    weight: object = None,
    bias: object = None,
    eps: object = 1e-5,
) -> Traced:
    """``F.layer_norm``."""
    w, b = g.weight(weight), g.weight(bias)
    return g.add_layer(
        "layer_norm",
        _ending(g, input, normalized_shape),
        {"weight": w, "bias": b},
        normalized_shape=normalized_shape,
        eps=eps,
        affine=w is not None,
        bias=b is not None,
    )


def _ending(g: Translation, input: object, normalized_shape: object) -> Traced:
    x = g.tensor(input)
    count = len(normalized_shape) if isinstance(normalized_shape, tuple) else 0
    if x.batch is not None and x.batch >= len(x.full) - count:
        raise ArchitectureError("it would normalise over the batch; examples must not mix.")
    return x


def layer_norm_layer(g: Translation, layer: nn.LayerNorm, input: object) -> Traced:
    """``nn.LayerNorm``."""
    shape = tuple(layer.normalized_shape)
    return layer_norm(g, input, shape, layer.weight, layer.bias, layer.eps)


def rms_norm(
    g: Translation,
    input: object,
    normalized_shape: object,
    weight: object = None,
    eps: object = None,
) -> Traced:
    """``F.rms_norm``; without eps, that of float32, so that it is one network in any precision."""
    w = g.weight(weight)
    return g.add_layer(
        "rms_norm",
        _ending(g, input, normalized_shape),
        {"weight": w},
        normalized_shape=normalized_shape,
        eps=_FLOAT32_EPSILON if eps is None else eps,
        affine=w is not None,
    )


def rms_norm_layer(g: Translation, layer: nn.RMSNorm, input: object) -> Traced:
    """``nn.RMSNorm``."""
    return rms_norm(g, input, tuple(layer.normalized_shape), layer.weight, layer.eps)


def group_norm(
    g: Translation,
    input: object,
    num_groups: object,
    weight: object = None,
    bias: object = None,
    eps: object = 1e-5,
) -> Traced:
    """``F.group_norm``."""
    w, b = g.weight(weight), g.weight(bias)
    refuse((w is None) != (b is None), "a weight without a bias, or a bias without a weight,")
    return g.add_layer(
        "group_norm",
        g.batched(input),
        {"weight": w, "bias": b},
        num_groups=num_groups,
        eps=eps,
        affine=w is not None,
    )


def group_norm_layer(g: Translation, layer: nn.GroupNorm, input: object) -> Traced:
    """``nn.GroupNorm``."""
    return group_norm(g, input, layer.num_groups, layer.weight, layer.bias, layer.eps)


def instance_norm_layer(g: Translation, layer: nn.InstanceNorm2d, input: object) -> Traced:
    """``nn.InstanceNorm1d`` to 3d: group norm with a group for each channel."""
    refuse(layer.track_running_stats, "track_running_stats=True")
    x = g.batched(input)
    return group_norm(g, x, x.shape[0], layer.weight, layer.bias, layer.eps)


def instance_norm(
    g: Translation,
    input: object,
    running_mean: object = None,
    running_var: object = None,
    weight: object = None,
    bias: object = None,
    use_input_stats: object = True,
    momentum: object = 0.1,
    eps: object = 1e-5,
) -> Traced:
    """``F.instance_norm`` without running statistics."""
    refuse(running_mean is not None or use_input_stats is not True, "running statistics here")
    x = g.batched(input)
    return group_norm(g, x, x.shape[0], weight, bias, eps)


def batch_norm(
    g: Translation,
    input: object,
    running_mean: object,
    running_var: object,
    weight: object = None,
    bias: object = None,
    training: object = False,
    momentum: object = 0.1,
    eps: object = 1e-5,
) -> Traced:
    """``F.batch_norm``: must follow the module's mode."""
    advice = "F.batch_norm(..., training=self.training) or use nn.BatchNorm2d"
    if not g.follows_mode(training, advice) and g.judging:
        raise ArchitectureError(
            f"it uses running statistics in training (training={show(training)}); write {advice}."
        )
    statistics = (g.statistic(running_mean), g.statistic(running_var))
    return _batch_norm(g, input, statistics, g.weight(weight), g.weight(bias), momentum, eps)


def _batch_norm(
    g: Translation,
    input: object,
    statistics: tuple[Weight, Weight],
    weight: Weight | None,
    bias: Weight | None,
    momentum: object,
    eps: object,
) -> Traced:
    refuse((weight is None) != (bias is None), "a weight without a bias", "use both or neither")
    names = {"running_mean": statistics[0], "running_var": statistics[1]}
    return g.add_layer(
        "batch_norm",
        g.batched(input),
        {"weight": weight, "bias": bias, **names},
        eps=eps,
        momentum=momentum,
        affine=weight is not None,
    )


def batch_norm_layer(g: Translation, layer: nn.BatchNorm2d, input: object) -> Traced:
    """``nn.BatchNorm1d`` to 3d."""
    if layer.momentum is None:
        raise ArchitectureError(
            "momentum=None averages over all batches ever seen, which is no state of a client; "
            "give a number, such as momentum=0.1."
        )
    if not layer.track_running_stats or layer.running_mean is None or layer.running_var is None:
        raise ArchitectureError(
            "track_running_stats=False normalises by the batch in evaluation too, so that "
            "predictions depend on each other; leave it at True, or use nn.GroupNorm."
        )
    statistics = (g.statistic(layer.running_mean), g.statistic(layer.running_var))
    weight, bias = g.weight(layer.weight), g.weight(layer.bias)
    return _batch_norm(g, input, statistics, weight, bias, layer.momentum, layer.eps)
