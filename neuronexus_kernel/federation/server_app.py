"""The server's side: from a recipe to a Flower strategy, and from a strategy to a run.

Strategies are Flower's own; nothing here aggregates.  Ours is the naming (a recipe says
``"FedAvgM"`` and two numbers), the config that tells clients what to do, and the loop's two ends:
the weights that go in, and the function that hears of every round.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from neuronexus_kernel.errors import EvaluationError, InvalidInputError
from neuronexus_kernel.federation._flower import (
    AppExitException,
    ArrayRecord,
    ConfigRecord,
    MetricRecord,
    Strategy,
    quiet,
    strategy,
)
from neuronexus_kernel.federation.arrays import from_record, to_record
from neuronexus_kernel.federation.grid import LocalGrid
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.federation.strategies import STRATEGIES

RoundEnd: TypeAlias = Callable[[int, dict[str, np.ndarray]], Mapping[str, float] | None]
"""Called with round and weights before the first round (0) and after each; returns metrics."""

_NEVER = 10.0**9


def make_strategy(recipe: Recipe, *, cohort_size: int) -> Strategy:
    """Return the Flower strategy that a recipe names: it trains all nodes that it is offered.

    To be called within a grid's session.

    Parameters
    ----------
    recipe
        Names the strategy and its parameters.
    cohort_size
        Clients in a round.

    Raises
    ------
    InvalidInputError
        If the strategy cannot work with so few clients.
    """
    parameters = dict(recipe.strategy_parameters)
    needed = STRATEGIES[recipe.strategy].smallest_cohort(parameters)
    if cohort_size < needed:
        raise InvalidInputError(
            f"{recipe.strategy} with these parameters needs at least {needed} clients in a round, "
            f"but there are {cohort_size}."
        )
    if recipe.strategy == "QFedAvg":
        parameters["client_learning_rate"] = recipe.learning_rate
    kind: Callable[..., Strategy] = getattr(strategy, recipe.strategy)
    with quiet(logging.ERROR):  # Flower warns that nodes will not be asked to evaluate: intended
        return kind(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=1,
            min_evaluate_nodes=0,
            min_available_nodes=1,
            **parameters,
        )


def check_strategy_object(strategy: Strategy, *, cohort_size: int) -> None:
    """Check that a strategy made by the user does not ask for more nodes than there are.

    Raises
    ------
    InvalidInputError
        If it would wait for ever; the message names the parameter.
    """
    for name in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
        asked = getattr(strategy, name, 0)
        if isinstance(asked, int) and asked > cohort_size:
            raise InvalidInputError(
                f"The strategy's {name} is {asked}, but a round has {cohort_size} client(s): "
                f"set {name}={cohort_size} or lower."
            )


def train_config(recipe: Recipe, *, seed: int) -> ConfigRecord:
    """Return what every training message says: how to train, and with which chance."""
    return ConfigRecord(
        {
            "recipe": recipe.encode(),
            "architecture": recipe.architecture.encode(),
            "seed": seed,
        }
    )


def execute(
    strategy: Strategy,
    grid: LocalGrid,
    recipe: Recipe,
    weights: Mapping[str, np.ndarray],
    *,
    rounds: int,
    seed: int,
    round_end: RoundEnd,
) -> None:
    """Let a strategy train over a grid, within the grid's session.

    Parameters
    ----------
    strategy
        Any Flower strategy.
    grid
        The nodes.
    recipe
        How clients train.
    weights
        Where to begin; not changed.
    rounds
        How many rounds.
    seed
        Seed of the clients' chance.
    round_end
        Hears of the weights before the first round and after each.

    Raises
    ------
    EvaluationError
        If the strategy gives up.
    """

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        metrics = round_end(server_round, from_record(arrays))
        return None if metrics is None else MetricRecord(dict(metrics))

    try:
        strategy.start(
            grid=grid,
            initial_arrays=to_record({name: np.array(array) for name, array in weights.items()}),
            num_rounds=rounds,
            timeout=_NEVER,
            train_config=train_config(recipe, seed=seed),
            evaluate_config=train_config(recipe, seed=seed),
            evaluate_fn=evaluate,
        )
    except AppExitException as error:
        name = type(strategy).__name__
        raise EvaluationError(f"The strategy {name} could not go on: {error}") from error
