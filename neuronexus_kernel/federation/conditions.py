"""What must hold before a run begins: recipe, strategy, data and cohort fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.errors import InvalidInputError, RecipeError
from neuronexus_kernel.federation._flower import Strategy
from neuronexus_kernel.federation.participants import whole_number
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.federation.strategies import STRATEGIES
from neuronexus_kernel.federation.weights import check_loss, check_shapes, check_task

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset

LARGEST_COHORT = 1_000
"""Clients whose updates are held in memory one by one."""


def checked_recipe(recipe: Recipe, strategy: object, data: Sequence[Dataset]) -> Recipe:
    """Return the recipe with the strategy that was asked for, checked against the data.

    Raises
    ------
    RecipeError, InvalidInputError, ArchitectureError, DatasetError
        If recipe, strategy and data do not fit together.
    """
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"recipe must be a Recipe, not a {type(recipe).__name__}.")
    if isinstance(strategy, str):
        recipe = recipe.with_changes(strategy=strategy)
    elif strategy is not None and not isinstance(strategy, Strategy):
        raise InvalidInputError(
            f"strategy must be a name or a Flower Strategy object, not {strategy!r}."
        )
    check_task(recipe.architecture, data)
    check_loss(recipe, data[0].kind)
    return recipe


def cohort_size(asked: int | None, recipe: Recipe, clients: int) -> int:
    """Return how many clients train in a round: as asked, as the recipe says, or all.

    Raises
    ------
    InvalidInputError
        If there are fewer.
    """
    if asked is not None:
        return whole_number("clients_per_round", asked, 1, clients)
    if recipe.cohort_size > clients:
        raise InvalidInputError(
            f"The recipe's cohort_size is {recipe.cohort_size}, but there are {clients} clients: "
            "give clients_per_round, or share the data out among more."
        )
    return recipe.cohort_size or clients


def strategy_name(recipe: Recipe, strategy: object) -> str:
    """Return the name of a strategy object's class, or of the recipe's strategy."""
    return type(strategy).__name__ if isinstance(strategy, Strategy) else recipe.strategy


def is_named(name: str, strategy: object) -> bool:
    """Tell whether a name is in the catalogue and an object of that name is the one meant."""
    if not isinstance(strategy, Strategy):
        return name in STRATEGIES
    ours_or_flowers = ("flwr.serverapp.strategy", "neuronexus_kernel.federation.strategies")
    return name in STRATEGIES and type(strategy).__module__.startswith(ours_or_flowers)


def is_personal(name: str, strategy: object) -> bool:
    """Tell whether clients keep tensors of their own with a strategy."""
    return is_named(name, strategy) and STRATEGIES[name].personal


def check_size(
    size: int, recipe: Recipe, strategy: object, *, presum: bool, keep_updates: bool
) -> None:
    """Check that the updates of a round can be held in memory, or need not be.

    Raises
    ------
    InvalidInputError
        If not; the message says what to do instead.
    """
    name = strategy_name(recipe, strategy)
    linear = recipe.privacy == "none" and is_named(name, strategy) and STRATEGIES[name].linear
    summable = ", ".join(each for each, spec in STRATEGIES.items() if spec.linear)
    if not presum and size > LARGEST_COHORT:
        advice = "pass presum=True" if linear else f"or use one of {summable} with presum"
        raise InvalidInputError(
            f"clients_per_round is {size}, but {name} holds the updates of all of them at once, "
            f"and more than {LARGEST_COHORT} would not fit: ask for fewer, {advice}."
        )
    if presum and not linear:
        raise InvalidInputError(
            f"presum is for strategies that take a weighted mean ({summable}), without "
            f"privacy, not for {name}."
        )
    if keep_updates and name == "FedBuff":
        raise InvalidInputError(
            "keep_updates is for strategies whose clients all start from the round's model, "
            "which FedBuff's do not."
        )
    if presum and keep_updates:
        raise InvalidInputError("presum sums the updates, so keep_updates cannot keep them.")


def starting_weights(
    recipe: Recipe, given: Mapping[str, np.ndarray] | None, seed: int, dtype: str
) -> dict[str, np.ndarray]:
    """Return where a run begins: given weights, or the architecture's own for a seed.

    Raises
    ------
    ArchitectureError
        If the given weights do not belong to the architecture.
    """
    if given is None:
        fixed = recipe.seed_policy == "fixed-start"
        given = recipe.architecture.initial_weights(0 if fixed else seed)
    check_shapes(recipe.architecture, given)
    return {name: np.asarray(given[name]).astype(dtype) for name in recipe.architecture.parameters}
