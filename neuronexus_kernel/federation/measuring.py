"""Measuring a round: the joined model, or with a personalised strategy the clients' own ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.federation import randomness
from neuronexus_kernel.federation.evaluation import Evaluator
from neuronexus_kernel.federation.recorder import Measure
from neuronexus_kernel.federation.strategies.client import OWN, States

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.models import Architecture

_SAMPLE = 100


def measure_of(
    architecture: Architecture,
    data: Dataset,
    *,
    states: Callable[[], States] | None,
    clients: int,
    seed: int,
) -> Measure:
    """Return what measures a model, or the clients' own models.

    Parameters
    ----------
    architecture, data
        What is measured, and on what.
    states
        What clients keep at that moment, if each has a model of its own: then the mean over at
        most 100 of those that have one, always the same for a seed.
    clients
        How many there are.
    seed
        Of the run.
    """
    evaluator = Evaluator(architecture, data)

    def one(weights: Mapping[str, np.ndarray]) -> tuple[float, float]:
        evaluation = evaluator.evaluate(weights)
        return evaluation.loss, evaluation.accuracy

    if states is None:
        return one
    order = randomness.permutation("personal sample", seed, count=clients)

    def each(weights: dict[str, np.ndarray]) -> tuple[float, float]:
        kept = states()
        own = [kept[place][OWN] for place in order.tolist() if OWN in kept.get(place, {})]
        scores = [one({**weights, **mine}) for mine in own[:_SAMPLE]] or [one(weights)]
        loss, metric = np.mean(scores, axis=0)
        return float(loss), float(metric)

    return each


def own_tensors(states: States, names: Mapping[int, str]) -> dict[str, dict[str, np.ndarray]]:
    """Return the tensors that each client keeps for itself, by the client's name."""
    return {
        name: {tensor: np.array(array) for tensor, array in states[place][OWN].items()}
        for place, name in names.items()
        if OWN in states.get(place, {})
    }
