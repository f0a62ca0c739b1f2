"""Torch modules and number types for training: built from an architecture, weights to follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

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
