"""Federated training: the vectorised executor against the sequential reference.

The work is MNIST-shaped (random pixels do as well): the 2NN of McMahan et al. 2017, one local
epoch, batches of 10, Flower's FedAvg on the in-process grid on both sides, steady rounds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from measure import Figure

from neuronexus_kernel import Dataset, Recipe, federation, models
from neuronexus_kernel.datasets import partition

ROUNDS = 4


def figures() -> Iterator[Figure]:
    """Train 6,000 examples a round, dealt to 10 and to 100 clients."""
    rng = np.random.default_rng(0)
    data = Dataset(rng.random((6000, 784), dtype=np.float32), np.arange(6000) % 10, classes=10)
    recipe = Recipe(models.mlp(784, (200, 200), 10), local_epochs=1, batch_size=10)
    for clients in (10, 100):
        speed = {
            executor: _speed(recipe, data, clients, executor)
            for executor in ("vectorized", "sequential")
        }
        yield Figure(
            f"2NN, {clients} clients x {6000 // clients}: vectorized",
            speed["vectorized"],
            speed["sequential"],
            "sequential",
            "samples/s",
        )


def _speed(recipe: Recipe, data: Dataset, clients: int, executor: str) -> float:
    """Return examples a second of the fastest steady round."""
    result = federation.train(
        recipe,
        data,
        partition=partition.iid(clients),
        rounds=ROUNDS,
        executor=executor,
        evaluate_every=0,
        progress=False,
    )
    return len(data) / min(report.seconds for report in result.reports[2:])
