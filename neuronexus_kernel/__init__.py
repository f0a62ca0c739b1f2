"""NeuroNexus: co-develop AI models in notebooks.

``import neuronexus_kernel as nx`` costs next to nothing: each name below is imported from its
room when it is first used, and torch, Flower and pandas only when something needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from neuronexus_kernel import datasets, federation, models, storage
    from neuronexus_kernel.contribution import (
        CodeContribution,
        ComputeContribution,
        DataContribution,
        HyperparameterContribution,
    )
    from neuronexus_kernel.datasets import Dataset, Task, partition
    from neuronexus_kernel.errors import NeuroNexusError
    from neuronexus_kernel.federation.recipe import Recipe
    from neuronexus_kernel.models import Architecture
    from neuronexus_kernel.workbench import Workbench, connect

_HOMES = {
    "Architecture": "models",
    "CodeContribution": "contribution",
    "ComputeContribution": "contribution",
    "DataContribution": "contribution",
    "Dataset": "datasets",
    "HyperparameterContribution": "contribution",
    "NeuroNexusError": "errors",
    "Recipe": "federation",
    "Task": "datasets",
    "Workbench": "workbench",
    "connect": "workbench",
}
_ROOMS = {
    "datasets": "datasets",
    "federation": "federation",
    "models": "models",
    "partition": "datasets.partition",
    "storage": "storage",
}

__all__ = [
    "Architecture",
    "CodeContribution",
    "ComputeContribution",
    "DataContribution",
    "Dataset",
    "HyperparameterContribution",
    "NeuroNexusError",
    "Recipe",
    "Task",
    "Workbench",
    "__version__",
    "connect",
    "datasets",
    "federation",
    "models",
    "partition",
    "storage",
]


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return import_module(f"{__name__}.{_ROOMS[name]}")
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
