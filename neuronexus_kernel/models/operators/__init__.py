"""The allow-list: the only operations a graph may name.

To add one, write an `Operator` value in the file of its subject and name it here; if people
write it in PyTorch, add how it is recognised to ``capture/tables.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from neuronexus_kernel.models.operators import (
    activations,
    attention,
    batch_norm,
    convolution,
    dropout,
    elementwise,
    embedding,
    joining,
    linear,
    normalisation,
    pooling,
    recurrent,
    reductions,
    shaping,
    sources,
)
from neuronexus_kernel.models.operators.arguments import Arguments, show
from neuronexus_kernel.models.operators.base import Moment, Operator, Parameter, Run, Shape

_ALL = (
    linear.LINEAR,
    convolution.CONV1D,
    convolution.CONV2D,
    convolution.CONV_TRANSPOSE2D,
    recurrent.LSTM,
    recurrent.GRU,
    attention.ATTENTION,
    embedding.EMBEDDING,
    sources.POSITIONS,
    sources.CONSTANT,
    sources.PARAMETER,
    pooling.MAX_POOL2D,
    pooling.AVG_POOL2D,
    pooling.ADAPTIVE_AVG_POOL2D,
    shaping.FLATTEN,
    shaping.RESHAPE,
    shaping.PERMUTE,
    shaping.SLICE,
    shaping.SELECT,
    shaping.UPSAMPLE_NEAREST,
    joining.ADD,
    joining.SUBTRACT,
    joining.MULTIPLY,
    joining.DIVIDE,
    joining.MATMUL,
    joining.MASKED_FILL,
    joining.CONCATENATE,
    reductions.MEAN,
    reductions.SUM,
    reductions.AMAX,
    elementwise.SCALE,
    elementwise.POWER,
    elementwise.EXP,
    elementwise.LOG,
    elementwise.SQRT,
    elementwise.ABS,
    activations.RELU,
    activations.LEAKY_RELU,
    activations.GELU,
    activations.ELU,
    activations.SILU,
    activations.TANH,
    activations.SIGMOID,
    activations.SOFTPLUS,
    activations.HARDSWISH,
    activations.HARDTANH,
    activations.MISH,
    activations.SOFTMAX,
    activations.LOG_SOFTMAX,
    dropout.DROPOUT,
    dropout.CHANNEL_DROPOUT,
    normalisation.LAYER_NORM,
    normalisation.RMS_NORM,
    normalisation.GROUP_NORM,
    batch_norm.BATCH_NORM,
)

OPERATORS: Mapping[str, Operator] = MappingProxyType({each.name: each for each in _ALL})

__all__ = ["OPERATORS", "Arguments", "Moment", "Operator", "Parameter", "Run", "Shape", "show"]
