"""Federated training: recipes, executors, and Flower's strategies over a grid in this process.

``train`` and ``evaluate`` are looked up when first used, so that naming a `Recipe` costs neither
torch nor Flower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuronexus_kernel.federation.recipe import FIELDS, HYPERPARAMETERS, TECHNIQUE, Recipe
from neuronexus_kernel.federation.strategies import STRATEGIES

if TYPE_CHECKING:
    from neuronexus_kernel.federation.apps import AppRun, run
    from neuronexus_kernel.federation.evaluation import Evaluation, Evaluator, evaluate
    from neuronexus_kernel.federation.result import RoundReport, TrainingResult
    from neuronexus_kernel.federation.training import train
    from neuronexus_kernel.federation.updates import RoundUpdates

_HOMES = {
    "AppRun": "apps",
    "Evaluation": "evaluation",
    "Evaluator": "evaluation",
    "RoundReport": "result",
    "RoundUpdates": "updates",
    "TrainingResult": "result",
    "evaluate": "evaluation",
    "run": "apps",
    "train": "training",
}

__all__ = [
    "FIELDS",
    "HYPERPARAMETERS",
    "STRATEGIES",
    "TECHNIQUE",
    "AppRun",
    "Evaluation",
    "Evaluator",
    "Recipe",
    "RoundReport",
    "RoundUpdates",
    "TrainingResult",
    "evaluate",
    "run",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
