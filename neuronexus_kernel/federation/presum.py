"""The updates of many clients as one: their sum, taken as they come.

A strategy that only takes means weighted by examples need not see ten thousand models.  Sums are
kept in float64, so that the order and number of the clients hardly matter to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from neuronexus_kernel.federation.executors.base import Weights
from neuronexus_kernel.federation.strategies.client import Trained


def presum(trained: Sequence[Trained]) -> Trained:
    """Return one update that stands for several in any mean weighted by examples.

    Parameters
    ----------
    trained
        At least one, all with arrays of the same names and shapes.

    Returns
    -------
    Trained
        Its arrays are the weighted means, in the number type of the first; examples and steps are
        sums, the loss is the weighted mean.  It bears the first one's partition id.
    """
    examples = [each.update.num_examples for each in trained]
    total = sum(examples)
    first = trained[0]
    losses = (each.update.loss * count for each, count in zip(trained, examples, strict=True))
    update = replace(
        first.update,
        weights=_mean((each.update.weights for each in trained), examples),
        num_examples=total,
        loss=sum(losses) / total,
        steps=sum(each.update.steps for each in trained),
    )
    extras = {
        name: _mean((each.extras[name] for each in trained), examples) for name in first.extras
    }
    return Trained(update, extras)


def _mean(all_arrays: Iterable[Weights], examples: Sequence[int]) -> dict[str, np.ndarray]:
    total = float(sum(examples))
    sums: dict[str, np.ndarray] = {}
    kinds: Mapping[str, np.dtype[np.generic]] = {}
    for arrays, count in zip(all_arrays, examples, strict=True):
        if not sums:
            kinds = {name: array.dtype for name, array in arrays.items()}
            sums = {name: np.zeros(array.shape) for name, array in arrays.items()}
        for name, array in arrays.items():
            sums[name] += np.multiply(array, count / total, dtype=np.float64)
    return {name: array.astype(kinds[name]) for name, array in sums.items()}
