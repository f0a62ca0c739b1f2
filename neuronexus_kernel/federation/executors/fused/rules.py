"""The operators that `fused` knows, each with its rule.

To add one, write its rule in the file of its subject and name it here.  An operator that is not
here is no fault: a run with it is trained by another executor, and its record says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from neuronexus_kernel.federation.executors.fused import (
    affine,
    attention,
    convolution,
    dropout,
    joining,
    lookup,
    normalisation,
    pooling,
    reductions,
    shaping,
)
from neuronexus_kernel.federation.executors.fused.pointwise import POINTWISE
from neuronexus_kernel.federation.executors.fused.program import Rule

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "linear": affine.linear,
        "conv1d": convolution.convolution,
        "conv2d": convolution.convolution,
        "conv_transpose2d": convolution.convolution_transposed,
        "attention": attention.attention,
        "matmul": attention.matmul,
        "embedding": lookup.embedding,
        "positions": lookup.positions,
        "constant": lookup.constant,
        "parameter": lookup.parameter,
        "max_pool2d": pooling.max_pool2d,
        "avg_pool2d": pooling.avg_pool2d,
        "adaptive_avg_pool2d": pooling.adaptive_avg_pool2d,
        "batch_norm": normalisation.batch_norm,
        "group_norm": normalisation.group_norm,
        "layer_norm": normalisation.layer_norm,
        "rms_norm": normalisation.rms_norm,
        "dropout": dropout.dropout,
        "channel_dropout": dropout.channel_dropout,
        "mean": reductions.mean,
        "sum": reductions.total,
        "amax": reductions.amax,
        "flatten": shaping.reshape,
        "reshape": shaping.reshape,
        "permute": shaping.permute,
        "select": shaping.select,
        "slice": shaping.slice_,
        "upsample_nearest": shaping.upsample_nearest,
        "concatenate": shaping.concatenate,
        "add": joining.add,
        "subtract": joining.subtract,
        "multiply": joining.multiply,
        "divide": joining.divide,
        "masked_fill": joining.masked_fill,
        **POINTWISE,
    }
)
"""Rule by operator."""
