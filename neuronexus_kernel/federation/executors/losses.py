"""Losses that a recipe may name, each as a function that gives one number per example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor
from torch.nn import functional


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"cross_entropy": _cross_entropy}
)
"""Loss by name: takes outputs (n, classes) and labels (n,), returns losses (n,)."""
