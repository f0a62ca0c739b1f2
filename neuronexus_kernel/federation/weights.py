"""Checks that weights, an architecture and data belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.errors import ArchitectureError

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.models import Architecture


def check_shapes(architecture: Architecture, weights: Mapping[str, np.ndarray]) -> None:
    """Check that weights have the names and shapes of an architecture's parameters.

    Values are not looked at: those of a diverged model are NaN, and it must still be possible
    to measure how bad it is.

    Raises
    ------
    ArchitectureError
        Naming the parameter that is missing, unknown or mis-shaped.
    """
    shapes = architecture.parameter_shapes
    odd = sorted(shapes.keys() ^ weights.keys())
    if odd:
        raise ArchitectureError(
            f"The weights do not belong to this architecture: {odd[0]!r} is missing or unknown."
        )
    for name, shape in shapes.items():
        given = np.shape(weights[name])
        if given != tuple(shape):
            raise ArchitectureError(f"Weights {name!r} have shape {given}, not {tuple(shape)}.")


def check_task(architecture: Architecture, data: Sequence[Dataset]) -> None:
    """Check that an architecture can be trained on data sets that belong to one task.

    A participant may hold the first few classes only; together they must have as many as the
    architecture has outputs.

    Raises
    ------
    ArchitectureError
        Saying what does not fit.
    """
    if architecture.parameter_count == 0:
        raise ArchitectureError("The architecture has no parameters: there is nothing to train.")
    classes = max(share.classes for share in data)
    for share in data:
        architecture.check_task(share.input_shape, classes)


def is_finite(weights: Mapping[str, np.ndarray]) -> bool:
    """Tell whether no weight is NaN or infinite, nor so large that its square is."""
    flat = (array.ravel(order="K") for array in weights.values())
    return all(math.isfinite(float(np.dot(values, values))) for values in flat)
