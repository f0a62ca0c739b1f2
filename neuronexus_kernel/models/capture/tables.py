"""The tables of capture: which layer, function or method is translated by which rule.

What is not here cannot be captured.  `HINTS` says what to write instead of things that people
commonly try.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional as F

from neuronexus_kernel.models.capture import activations, layers, sizes
from neuronexus_kernel.models.capture.context import Rule
from neuronexus_kernel.models.operators import OPERATORS

_add = layers.join("add", sizes.arithmetic(operator.add))
_multiply = layers.join("multiply", sizes.arithmetic(operator.mul))
_relu, _silu = activations.plain("relu"), activations.plain("silu")
_tanh, _sigmoid = activations.plain("tanh"), activations.plain("sigmoid")
_softmax, _log_softmax = activations.softmax("softmax"), activations.softmax("log_softmax")

MODULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: layers.linear_layer,
    nn.Conv2d: layers.conv2d_layer,
    nn.LayerNorm: layers.layer_norm_layer,
    nn.GroupNorm: layers.group_norm_layer,
    nn.MaxPool2d: layers.max_pool2d_layer,
    nn.AvgPool2d: layers.avg_pool2d_layer,
    nn.AdaptiveAvgPool2d: layers.adaptive_avg_pool2d_layer,
    nn.ReLU: activations.plain_layer("relu"),
    nn.SiLU: activations.plain_layer("silu"),
    nn.Tanh: activations.plain_layer("tanh"),
    nn.Sigmoid: activations.plain_layer("sigmoid"),
    nn.LeakyReLU: activations.leaky_relu_layer,
    nn.ELU: activations.elu_layer,
    nn.GELU: activations.gelu_layer,
    nn.Softmax: activations.softmax_layer("softmax"),
    nn.LogSoftmax: activations.softmax_layer("log_softmax"),
    nn.Dropout: activations.dropout_layer,
    nn.Flatten: layers.flatten_layer,
    nn.Unflatten: layers.unflatten_layer,
    nn.Identity: layers.identity_layer,
}

FUNCTIONS: Mapping[Callable[..., object], Rule] = {
    F.linear: layers.linear,
    F.conv2d: layers.conv2d,
    F.layer_norm: layers.layer_norm,
    F.group_norm: layers.group_norm,
    F.max_pool2d: layers.max_pool2d,
    torch.max_pool2d: layers.max_pool2d,
    F.avg_pool2d: layers.avg_pool2d,
    F.adaptive_avg_pool2d: layers.adaptive_avg_pool2d,
    torch.mean: layers.mean,
    F.relu: _relu,
    torch.relu: _relu,
    F.relu_: activations.in_place(_relu),
    torch.relu_: activations.in_place(_relu),
    F.silu: _silu,
    F.tanh: _tanh,
    torch.tanh: _tanh,
    F.sigmoid: _sigmoid,
    torch.sigmoid: _sigmoid,
    F.leaky_relu: activations.leaky_relu,
    F.leaky_relu_: activations.in_place(activations.leaky_relu),
    F.elu: activations.elu,
    F.elu_: activations.in_place(activations.elu),
    F.gelu: activations.gelu,
    F.softmax: _softmax,
    torch.softmax: _softmax,
    F.log_softmax: _log_softmax,
    torch.log_softmax: _log_softmax,
    F.dropout: activations.dropout,
    torch.flatten: sizes.flatten,
    torch.reshape: sizes.reshape,
    torch.unflatten: sizes.unflatten,
    torch.squeeze: sizes.squeeze,
    torch.unsqueeze: sizes.unsqueeze,
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    operator.mul: _multiply,
    operator.imul: _multiply,
    torch.mul: _multiply,
    torch.multiply: _multiply,
    operator.sub: sizes.arithmetic(operator.sub),
    operator.floordiv: sizes.arithmetic(operator.floordiv),
    operator.getitem: sizes.item,
    getattr: sizes.attribute,
}

METHODS: Mapping[str, Rule] = {
    "relu": _relu,
    "relu_": activations.in_place(_relu),
    "tanh": _tanh,
    "tanh_": activations.in_place(_tanh),
    "sigmoid": _sigmoid,
    "sigmoid_": activations.in_place(_sigmoid),
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "mean": layers.mean,
    "add": _add,
    "add_": activations.in_place(_add),
    "mul": _multiply,
    "mul_": activations.in_place(_multiply),
    "view": sizes.view,
    "reshape": sizes.view,
    "flatten": sizes.flatten,
    "unflatten": sizes.unflatten,
    "squeeze": sizes.squeeze,
    "unsqueeze": sizes.unsqueeze,
    "contiguous": sizes.unchanged,
    "clone": sizes.unchanged,
    "size": sizes.size,
    "dim": sizes.dim,
    "numel": sizes.numel,
}

_NORM = "use nn.GroupNorm or nn.LayerNorm, which treat each example by itself"
_WEIGHTS = "use nn.Linear for products with weights, and + or * to join tensors"
_AXES = "order the dimensions in the data, or use reshape"
_CURVES = "use ReLU, LeakyReLU, GELU, ELU, SiLU, Tanh or Sigmoid"

HINTS: Mapping[str, str] = {
    "BatchNorm1d": _NORM,
    "BatchNorm2d": _NORM,
    "batch_norm": _NORM,
    "Dropout2d": "use nn.Dropout",
    "Conv1d": "use nn.Conv2d with a window of height 1",
    "ReLU6": _CURVES,
    "Hardswish": _CURVES,
    "Softplus": _CURVES,
    "exp": _CURVES,
    "cat": "use + of tensors of one shape",
    "stack": "use + of tensors of one shape",
    "matmul": _WEIGHTS,
    "einsum": _WEIGHTS,
    "permute": _AXES,
    "transpose": _AXES,
    "truediv": "leave constant factors to the weights of a layer",
    "neg": "leave constant factors to the weights of a layer",
}


def hint(name: str) -> str:
    """Return what to write instead of `name`."""
    short = name.rpartition(".")[2]
    return HINTS.get(short, f"the allowed operators are: {', '.join(OPERATORS)}")
