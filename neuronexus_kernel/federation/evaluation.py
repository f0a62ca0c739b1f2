"""How good weights are on a data set: loss, metric, and how well each example was answered.

What is measured follows from the kind of the data set, not from the recipe, so that recipes with
different losses can be compared.

=================  =============  =========  ====================================================
kind               loss           metric     score of an example
=================  =============  =========  ====================================================
classification     cross-entropy  accuracy   1 if its class has the largest output, else 0
next-token         cross-entropy  accuracy   fraction of its places where the token has
regression         squared error  r2         ``1 - |error|² / variance``, from -1 to 1
=================  =============  =========  ====================================================

The metric is the mean of the scores: valuation compares two models score by score, and bounds
their difference.  The mean of ``1 - |error|² / variance``, with the labels' own variance on this
data set and all of a label's numbers together, is the coefficient of determination (S. Wright,
"Correlation and causation", Journal of Agricultural Research 20, 1921).  A single term has no
lower bound, so one outlier could decide; here a term is at least -1, as bounded as a right or
wrong answer (P. J. Huber, "Robust estimation of a location parameter", Annals of Mathematical
Statistics 35, 1964, on bounding the influence of one observation).  It differs from the textbook's
only if an example is missed by more than the square root of two standard deviations.

Weights may hold NaN or infinities, since a diverged training must be measurable: an output of NaN
is as wrong as can be, and the loss is then NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.datasets.task import METRIC_OF
from neuronexus_kernel.federation.weights import check_data, check_shapes

if TYPE_CHECKING:
    from torch import Tensor

    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.models import Architecture

LOSS_OF: Mapping[str, str] = {
    "classification": "cross_entropy",
    "next-token": "next_token",
    "regression": "mse",
}
"""What a kind of data set is measured by: a name of `executors.losses.LOSSES`."""

_OUTPUTS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a model scored on a data set.

    Attributes
    ----------
    loss
        Mean loss; NaN or infinite for weights that diverged.
    accuracy
        The metric, whichever it is: the mean of the scores.
    scores
        Score of each example: float64, (examples,), from 0 to 1, for r2 from -1.
    examples
        How many there were.
    metric
        What was measured: ``"accuracy"`` or ``"r2"``.
    """

    loss: float
    accuracy: float
    scores: np.ndarray
    examples: int
    metric: str = "accuracy"

    @property
    def correct(self) -> np.ndarray:
        """Which examples were answered without a fault: bool, (examples,)."""
        faultless: np.ndarray = self.scores == 1
        return faultless


class Evaluator:
    """Evaluates many weights of one architecture on one data set.

    Parameters
    ----------
    architecture
        The model.
    dataset
        Labelled examples; it may lack the model's last classes.
    batch
        Most examples computed at once; fewer if an output is large.

    Raises
    ------
    ArchitectureError
        If the architecture does not fit the data set.
    """

    def __init__(self, architecture: Architecture, dataset: Dataset, *, batch: int = 4096) -> None:
        import torch

        from neuronexus_kernel.federation.executors.losses import LOSSES
        from neuronexus_kernel.federation.executors.modules import blank_module

        check_data(architecture, dataset)
        self._dataset = dataset
        self._batch = max(1, min(batch, _OUTPUTS_AT_ONCE // math.prod(architecture.output_shape)))
        self._module = blank_module(architecture, torch.float32).eval()
        self._loss = LOSSES[LOSS_OF[dataset.kind]]
        self._variance = _variance(dataset) if dataset.kind == "regression" else 0.0

    def evaluate(self, weights: Mapping[str, np.ndarray]) -> Evaluation:
        """Return what these weights score."""
        import torch

        self._module.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
        inputs, labels = self._dataset.inputs, self._dataset.labels
        scores = np.empty(len(labels))
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(labels), self._batch):
                rows = slice(start, start + self._batch)
                outputs = self._module(torch.tensor(inputs[rows])).double()
                truth = torch.tensor(labels[rows])
                truth = truth.double() if truth.is_floating_point() else truth
                total += self._loss(outputs, truth).sum().item()
                scores[rows] = self._scores(outputs, truth).numpy()
        metric = METRIC_OF[self._dataset.kind]
        return Evaluation(total / len(labels), float(scores.mean()), scores, len(labels), metric)

    def _scores(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the score of each example: float64 (examples,)."""
        if self._dataset.kind == "regression":
            return _determination(outputs, truth, self._variance)
        right = (outputs.argmax(-1) == truth) & ~outputs.isnan().any(-1)
        return right.double().flatten(1).mean(1) if right.ndim > 1 else right.double()


def _variance(dataset: Dataset) -> float:
    """Return the mean squared distance of labels from their mean, over all of their numbers."""
    labels = dataset.labels.reshape(len(dataset), -1).astype(np.float64)
    return float(np.square(labels - labels.mean(axis=0)).sum(axis=1).mean())


def _determination(outputs: Tensor, truth: Tensor, variance: float) -> Tensor:
    error = (outputs - truth).square().flatten(1).sum(1)
    if variance == 0:  # all labels are equal: there is nothing to explain, but one can be wrong
        return (error == 0).double() * 2 - 1
    return (1 - error / variance).nan_to_num(-1.0).clamp(-1.0, 1.0)


def evaluate(
    architecture: Architecture,
    weights: Mapping[str, np.ndarray],
    dataset: Dataset,
    *,
    batch: int = 4096,
) -> Evaluation:
    """Evaluate weights on a data set.

    Parameters
    ----------
    architecture
        The model.
    weights
        Arrays by full name, running statistics included; values may be NaN or infinite.
    dataset
        Labelled examples.
    batch
        Most examples computed at once: a matter of memory, not of the result's meaning.

    Raises
    ------
    ArchitectureError
        If the architecture does not fit the data set or the weights.
    """
    check_shapes(architecture, weights)
    return Evaluator(architecture, dataset, batch=batch).evaluate(weights)
