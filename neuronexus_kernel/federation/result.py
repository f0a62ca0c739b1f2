"""What a training run leaves behind: reports of its rounds, the weights, and how it was done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.federation.updates import RoundUpdates

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

COLUMNS = ("round", "loss", "accuracy", "seconds", "clients")


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What happened in one round.

    Attributes
    ----------
    round
        Its number from 1; 0 is the evaluation before training.
    loss, accuracy
        Of the joined model after the round; NaN if this round was not evaluated.
    seconds
        Training and aggregation; evaluation and callbacks are not counted.
    clients
        Names of those whose updates went into the round, in order of their partition ids.
    train_loss
        Mean loss of those clients while they trained, weighted by their examples; NaN in
        round 0 and where nobody trained.
    failures
        Reason by name, for those that were asked but gave no usable update.
    """

    round: int
    loss: float
    accuracy: float
    seconds: float
    clients: tuple[str, ...]
    train_loss: float
    failures: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrainingResult:
    """The outcome of `federation.train`.

    Attributes
    ----------
    recipe
        How it was trained, with the strategy that was used.
    arrays
        The final model: C-ordered arrays by parameter name.
    reports
        One report per round, round 0 first.
    plan
        How it was executed (executor, chunk, threads, versions, ...): plain values.
    seed
        The run's seed.
    updates
        Of each round in which somebody trained, when they were kept; else empty.
    interrupted
        Whether the run was stopped by the user before its last round.
    own
        With a personalised strategy, the tensors that each client keeps for itself, by the
        client's name; else empty.
    metric
        What the reports' `accuracy` measures: ``"accuracy"``, or ``"r2"`` for regression.
    """

    recipe: Recipe
    arrays: dict[str, np.ndarray]
    reports: tuple[RoundReport, ...]
    plan: dict[str, object]
    seed: int
    updates: tuple[RoundUpdates, ...]
    interrupted: bool
    own: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    metric: str = "accuracy"

    @property
    def weights(self) -> dict[str, Tensor]:
        """The final model as tensors by parameter name; they share the memory of `arrays`."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.arrays.items()}

    @property
    def personal(self) -> dict[str, dict[str, np.ndarray]]:
        """Each client's own model, of those that trained; empty without a personalised strategy.

        The arrays that clients share are the same objects as in `arrays`.
        """
        return {name: {**self.arrays, **mine} for name, mine in self.own.items()}

    @property
    def history(self) -> pd.DataFrame:
        """One row per round: round, loss, the metric, seconds, clients (their number)."""
        import pandas as pd

        rows = [
            (each.round, each.loss, each.accuracy, each.seconds, len(each.clients))
            for each in self.reports
        ]
        columns = [self.metric if name == "accuracy" else name for name in COLUMNS]
        return pd.DataFrame(rows, columns=columns)

    @property
    def model(self) -> nn.Module:
        """The trained model as a torch module in evaluation mode: a new one at each call."""
        import torch

        from neuronexus_kernel.federation.executors.modules import blank_module

        module = blank_module(self.recipe.architecture, torch.float32)
        module.load_state_dict({name: torch.tensor(array) for name, array in self.arrays.items()})
        return module.eval()

    @property
    def executor(self) -> str:
        """Name of the executor that trained."""
        return str(self.plan["executor"])

    @property
    def accuracy(self) -> float:
        """The metric at the last evaluation; NaN if there was none."""
        measured = [each.accuracy for each in self.reports if not np.isnan(each.accuracy)]
        return measured[-1] if measured else float("nan")

    def __repr__(self) -> str:
        rounds = len(self.reports) - 1
        state = " (interrupted)" if self.interrupted else ""
        return f"TrainingResult({rounds} rounds{state}, {self.metric} {self.accuracy:.4f})"
