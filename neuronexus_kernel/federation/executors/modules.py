"""Torch modules and number types for training: built from an architecture, weights to follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from neuronexus_kernel.models import Architecture
    from neuronexus_kernel.models.interpreter import Interpreter


def blank_module(architecture: Architecture, dtype: torch.dtype) -> Interpreter:
    """Return an architecture's module with all parameters zero, in a given number type.

    Drawing initial weights that are replaced at once would cost more than a round of training.
    """
    zeros = {
        name: np.zeros(shape, dtype=np.float32)
        for name, shape in architecture.parameter_shapes.items()
    }
    return architecture.build(zeros).to(dtype)


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's type for ``"float32"`` or ``"float64"``."""
    return {"float32": torch.float32, "float64": torch.float64}[name]


def finite_rows(stacks: Mapping[str, Tensor]) -> list[bool]:
    """Tell for each of several stacked models whether `weights.is_finite` holds for it.

    Parameters
    ----------
    stacks
        Its tensors by name: (models, \\*shape).
    """
    sizes = [torch.linalg.vector_norm(stack.flatten(1), dim=1) for stack in stacks.values()]
    found: list[bool] = torch.isfinite(torch.stack(sizes)).all(0).tolist()
    return found
