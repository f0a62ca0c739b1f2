"""How good weights are on a data set: loss, accuracy, and which examples were right.

Per-example results are what valuation needs for its confidence bounds.  Weights may hold NaN or
infinities, since a diverged training must be measurable: an example whose scores hold NaN counts
as wrong, and the loss is then NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.models import Architecture


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a model scored on a data set.

    Attributes
    ----------
    loss
        Mean cross-entropy; NaN or infinite for weights that diverged.
    accuracy
        Fraction of examples that were right.
    correct
        Which examples were right: bool, (examples,).
    examples
        How many there were.
    """

    loss: float
    accuracy: float
    correct: np.ndarray
    examples: int


class Evaluator:
    """Evaluates many weights of one architecture on one data set.

    Parameters
    ----------
    architecture
        The model.
    dataset
        Labelled examples; it may lack the model's last classes.
    batch
        Examples computed at once.

    Raises
    ------
    ArchitectureError
        If the architecture does not fit the data set.
    """

    def __init__(self, architecture: Architecture, dataset: Dataset, *, batch: int = 4096) -> None:
        import torch

        from neuronexus_kernel.federation.executors.modules import blank_module

        outputs = architecture.output_shape[0] if len(architecture.output_shape) == 1 else 0
        architecture.check_task(dataset.input_shape, max(dataset.classes, outputs))
        self._dataset = dataset
        self._batch = batch
        self._module = blank_module(architecture, torch.float32).eval()

    def evaluate(self, weights: Mapping[str, np.ndarray]) -> Evaluation:
        """Return what these weights score."""
        import torch
        from torch.nn.functional import cross_entropy

        self._module.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
        inputs, labels = self._dataset.inputs, self._dataset.labels
        correct = np.empty(len(labels), dtype=bool)
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(labels), self._batch):
                rows = slice(start, start + self._batch)
                scores = self._module(torch.tensor(inputs[rows]))
                truth = torch.tensor(labels[rows])
                total += cross_entropy(scores.double(), truth, reduction="sum").item()
                right = (scores.argmax(1) == truth) & ~scores.isnan().any(1)
                correct[rows] = right.numpy()
        return Evaluation(total / len(labels), float(correct.mean()), correct, len(labels))


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
        Arrays by parameter name; values may be NaN or infinite.
    dataset
        Labelled examples.
    batch
        Examples computed at once: a matter of memory, not of the result's meaning.

    Raises
    ------
    ArchitectureError
        If the architecture does not fit the data set or the weights.
    """
    from neuronexus_kernel.federation.weights import check_shapes

    check_shapes(architecture, weights)
    return Evaluator(architecture, dataset, batch=batch).evaluate(weights)
