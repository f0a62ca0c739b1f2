"""The allow-list: the only operations a graph may name.

To add one, write an `Operator` value in the file of its subject and name it here; if people
write it in PyTorch, add how it is recognised to ``capture/tables.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from neuronexus_kernel.models.operators import (
    activations,
    affine,
    dropout,
    normalisation,
    pooling,
    shaping,
)
from neuronexus_kernel.models.operators.arguments import Arguments, show
from neuronexus_kernel.models.operators.base import Moment, Operator, Parameter, Run, Shape

_ALL = (
    affine.LINEAR,
    affine.CONV2D,
    pooling.MAX_POOL2D,
    pooling.AVG_POOL2D,
    pooling.ADAPTIVE_AVG_POOL2D,
    shaping.FLATTEN,
    shaping.RESHAPE,
    shaping.ADD,
    shaping.MULTIPLY,
    activations.RELU,
    activations.LEAKY_RELU,
    activations.GELU,
    activations.ELU,
    activations.SILU,
    activations.TANH,
    activations.SIGMOID,
    activations.SOFTMAX,
    activations.LOG_SOFTMAX,
    dropout.DROPOUT,
    normalisation.LAYER_NORM,
    normalisation.GROUP_NORM,
)

OPERATORS: Mapping[str, Operator] = MappingProxyType({each.name: each for each in _ALL})

__all__ = ["OPERATORS", "Arguments", "Moment", "Operator", "Parameter", "Run", "Shape", "show"]
