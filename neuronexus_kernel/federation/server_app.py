"""The server's side: from a recipe to a Flower strategy, and from a strategy to a run.

A recipe says ``"FedAvgM"`` and two numbers; `make_strategy` finds the class, Flower's or ours, and
what it must know of the recipe.  `execute` joins a strategy to a grid: the config that tells
clients what to do, the weights that go in, the check of what comes back, and the function that
hears of every round.  It never looks inside a strategy, so any Flower strategy will do.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from neuronexus_kernel.errors import EvaluationError, InvalidInputError
from neuronexus_kernel.federation._flower import (
    AppExitException,
    ArrayRecord,
    ConfigRecord,
    Grid,
    MetricRecord,
    Strategy,
    quiet,
)
from neuronexus_kernel.federation._flower import strategy as flower
from neuronexus_kernel.federation.arrays import from_record, to_record
from neuronexus_kernel.federation.checked import CheckedGrid, Rejected
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.federation.strategies import STRATEGIES
from neuronexus_kernel.federation.strategies.ditto import Ditto
from neuronexus_kernel.federation.strategies.fedbn import FedBN
from neuronexus_kernel.federation.strategies.fedbuff import FedBuff
from neuronexus_kernel.federation.strategies.fednova import FedNova
from neuronexus_kernel.federation.strategies.fedper import FedPer
from neuronexus_kernel.federation.strategies.later import Later, has_own_loop
from neuronexus_kernel.federation.strategies.options import FedAvgOptions
from neuronexus_kernel.federation.strategies.private import EQUALLY, private
from neuronexus_kernel.federation.strategies.scaffold import SCAFFOLD

RoundEnd: TypeAlias = Callable[[int, dict[str, np.ndarray]], Mapping[str, float] | None]
"""Called with round and weights before the first round (0) and after each; returns metrics."""

_NEVER = 10.0**9
_OURS: Mapping[str, Callable[..., Strategy]] = {
    kind.__name__: kind for kind in (SCAFFOLD, FedNova, FedBN, FedPer, Ditto, FedBuff)
}


def make_strategy(recipe: Recipe, *, cohort_size: int, clients: int | None = None) -> Strategy:
    """Return the Flower strategy that a recipe names: it trains all nodes that it is offered.

    To be called within a grid's session.

    Parameters
    ----------
    recipe
        Names the strategy, its parameters, and privacy, which wraps it.
    cohort_size
        Clients in a round.
    clients
        Clients in all, those of other rounds included; by default as many as in a round.

    Raises
    ------
    InvalidInputError
        If the strategy cannot work with so few clients, or with this recipe.
    """
    parameters = dict(recipe.strategy_parameters)
    needed = STRATEGIES[recipe.strategy].smallest_cohort(parameters)
    if cohort_size < needed:
        raise InvalidInputError(
            f"{recipe.strategy} with these parameters needs at least {needed} clients in a round, "
            f"but there are {cohort_size}."
        )
    options: FedAvgOptions = {
        "fraction_train": 1.0,
        "fraction_evaluate": 0.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 0,
        "min_available_nodes": 1,
    }
    if recipe.privacy != "none":
        options["weighted_by_key"] = EQUALLY
    kind = _OURS.get(recipe.strategy) or getattr(flower, recipe.strategy)
    known = _known_of(recipe, cohort_size, clients or cohort_size)
    with quiet(logging.ERROR):  # Flower warns that nodes will not be asked to evaluate: intended
        made: Strategy = kind(**options, **known, **parameters)
    return private(made, recipe.privacy, recipe.privacy_parameters, cohort_size=cohort_size)


def _known_of(recipe: Recipe, cohort_size: int, clients: int) -> dict[str, object]:
    """Return what a strategy must know of the rest of the recipe, by its argument's name."""
    statistics = recipe.architecture.statistics
    match recipe.strategy:
        case "QFedAvg":
            return {"client_learning_rate": recipe.learning_rate}
        case "SCAFFOLD":
            _require_sgd(recipe)
            return {"clients": clients, "statistics": statistics}
        case "FedNova":
            _require_sgd(recipe)
            return {
                "momentum": recipe.momentum,
                "nesterov": recipe.nesterov,
                "learning_rate": recipe.learning_rate_at,
                "statistics": statistics,
            }
        case "FedBN" | "FedPer":
            return {"architecture": recipe.architecture}
        case "FedBuff":
            return {"concurrency": cohort_size}
    return {}


def _require_sgd(recipe: Recipe) -> None:
    if recipe.optimiser != "sgd":
        raise InvalidInputError(
            f"{recipe.strategy} reads the clients' gradients from how far sgd went: set optimiser "
            f"'sgd', not {recipe.optimiser!r}."
        )
    pull = recipe.learning_rate * float(recipe.strategy_parameters.get("proximal_mu", 0.0))
    if pull >= 1.0:
        raise InvalidInputError(
            f"{recipe.strategy} needs learning_rate * proximal_mu below 1, not {pull:g}."
        )


def check_strategy_object(strategy: Strategy, *, cohort_size: int) -> None:
    """Check that a strategy made by the user does not ask for more nodes than there are.

    Raises
    ------
    InvalidInputError
        If it would wait for ever; the message names the parameter.
    """
    inner = getattr(strategy, "strategy", None)
    if isinstance(inner, Strategy):
        check_strategy_object(inner, cohort_size=cohort_size)
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
    grid: Grid,
    recipe: Recipe,
    weights: Mapping[str, np.ndarray],
    *,
    rounds: int,
    seed: int,
    round_end: RoundEnd,
    first_round: int = 1,
    update_bound: float = math.inf,
    rejected: Rejected | None = None,
) -> None:
    """Let a strategy train over a grid, within the grid's session.

    Whatever the strategy, it sees only replies that fit (`checked.CheckedGrid`).

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
        Number of the last round.
    seed
        Seed of the clients' chance.
    round_end
        Hears of the weights before the first round, as round 0, and after each.
    first_round
        Number of the first round: above 1 for a run that goes on, whose `weights` and `strategy`
        are as they were after the round before.  Round 0 is not told of again then.
    update_bound
        Largest L2 distance of a client's model from the one it was sent; further ones are
        refused.
    rejected
        Told the node and the reason of each reply that does not reach the strategy.

    Raises
    ------
    InvalidInputError
        If the strategy has a loop of its own, which cannot begin at a later round.
    EvaluationError
        If the strategy gives up.
    """

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 0 and first_round > 1:
            return None
        number = server_round + first_round - 1 if server_round else 0
        metrics = round_end(number, from_record(arrays))
        return None if metrics is None else MetricRecord(dict(metrics))

    direct = first_round == 1 and has_own_loop(strategy)
    engine = strategy if direct else Later(strategy, first_round=first_round)
    try:
        engine.start(
            grid=CheckedGrid(grid, rejected=rejected, update_bound=update_bound),
            initial_arrays=to_record({name: np.array(array) for name, array in weights.items()}),
            num_rounds=rounds - first_round + 1,
            timeout=_NEVER,
            train_config=train_config(recipe, seed=seed),
            evaluate_config=train_config(recipe, seed=seed),
            evaluate_fn=evaluate,
        )
    except AppExitException as error:
        name = type(strategy).__name__
        raise EvaluationError(f"The strategy {name} could not go on: {error}") from error
