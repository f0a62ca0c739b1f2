"""Checks that weights, an architecture and data belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.errors import ArchitectureError, DatasetError, RecipeError

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.federation.recipe import Recipe
    from neuronexus_kernel.models import Architecture

_LOSSES_FOR: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "classification": ("cross_entropy", "bce", "mse"),
        "next-token": ("next_token",),
        "regression": ("mse", "bce"),
    }
)


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

    A participant may hold the first few classes or tokens only; together they must have as many
    as the architecture has outputs.

    Raises
    ------
    ArchitectureError
        Saying what does not fit.
    DatasetError
        If the data sets are of different kinds.
    """
    if architecture.parameter_count == 0:
        raise ArchitectureError("The architecture has no parameters: there is nothing to train.")
    kinds = {share.kind for share in data}
    if len(kinds) > 1:
        raise DatasetError(
            f"The data sets are of different kinds ({', '.join(sorted(kinds))}); "
            "one model learns one kind."
        )
    classes = max(share.classes for share in data)
    for share in data:
        check_data(architecture, share, classes=classes)


def check_data(architecture: Architecture, dataset: Dataset, *, classes: int | None = None) -> None:
    """Check that an architecture can be used on a data set.

    Parameters
    ----------
    architecture
        The model.
    dataset
        Its examples.
    classes
        How many classes or tokens the task has; by default those of the data set, or as many as
        the architecture has if it has more.

    Raises
    ------
    ArchitectureError
        Saying what does not fit.
    """
    if (architecture.input_dtype == "int64") != (dataset.vocabulary > 0):
        takes, has = ("tokens", "numbers") if dataset.vocabulary == 0 else ("numbers", "tokens")
        raise ArchitectureError(
            f"The architecture takes {takes}, but the inputs of {dataset.name} are {has}. "
            + (
                "Give the data set's vocabulary: Dataset(..., vocabulary=n)."
                if has == "numbers"
                else "Begin the network with an embedding."
            )
        )
    known = architecture.vocabulary
    if known is not None and known < dataset.vocabulary:
        raise ArchitectureError(
            f"The architecture knows {known} tokens, but {dataset.name} has {dataset.vocabulary}."
        )
    architecture.check_task(dataset.input_shape, _outputs(architecture, dataset, classes))


def _outputs(
    architecture: Architecture, dataset: Dataset, classes: int | None
) -> int | tuple[int, ...]:
    """Return what `Architecture.check_task` is to be asked."""
    if dataset.kind == "regression":
        return dataset.output_shape
    if classes is None:
        classes = max((dataset.classes, *architecture.output_shape[-1:]))
    if dataset.kind == "classification":
        return classes
    return (*dataset.output_shape[:-1], classes)


def check_loss(recipe: Recipe, kind: str) -> None:
    """Check that a recipe's loss can learn a kind of data set.

    Raises
    ------
    RecipeError
        If it cannot; the message says which can.
    """
    fitting = _LOSSES_FOR[kind]
    if recipe.loss not in fitting:
        raise RecipeError(
            f"loss {recipe.loss!r} does not go with data for {kind}; "
            f"use {' or '.join(repr(loss) for loss in fitting)}."
        )


def is_finite(weights: Mapping[str, np.ndarray]) -> bool:
    """Tell whether no weight is NaN or infinite, nor so large that its square is."""
    flat = (array.ravel(order="K") for array in weights.values())
    return all(math.isfinite(float(np.dot(values, values))) for values in flat)
