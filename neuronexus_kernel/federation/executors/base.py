"""The seam between federated learning and arithmetic: a cohort goes in, updates come out.

An executor knows nothing of servers, strategies or messages.  Whatever chance it needs it takes
from `federation.randomness` by address, so that every executor sees the same batches, changed in
the same way, and the same dropout masks, and results differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from neuronexus_kernel.federation import randomness

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.federation.recipe import Recipe

Weights: TypeAlias = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Client:
    """One holder of data.

    Attributes
    ----------
    partition_id
        Its number, fixed for the run: part of the address of its randomness.
    dataset
        Its examples; at least one.
    """

    partition_id: int
    dataset: Dataset


@dataclass(frozen=True, slots=True)
class Cohort:
    """The clients that train together in one round, and what they start from.

    Attributes
    ----------
    recipe
        How to train.
    weights
        The model that all of them start from: every tensor of its state, by full name.
    clients
        Who trains.
    seed, round
        Where in the random stream this round is.
    proximal_mu
        Weight of FedProx's pull towards `weights`: ``mu/2 * |w - weights|**2`` is added to the
        loss.  Zero for most strategies.
    own
        By partition id: tensors by full name that this client starts from instead of those of
        `weights` (FedBN, FedPer: its own layers; Ditto: its own model).
    corrections
        By partition id: arrays by parameter name that are added to each of the client's gradients
        after clipping (SCAFFOLD's ``c - c_i``).

    Notes
    -----
    One step of a client is, in this order: the gradient of the augmented batch's mean loss; plus
    ``proximal_mu * (w - weights)``; scaled down to the recipe's norm (all trainable tensors
    together) if it clips; plus the client's correction; then the optimiser with its weight decay
    and the round's learning rate.  Running statistics are renewed by the model, not by this.
    """

    recipe: Recipe
    weights: Weights
    clients: tuple[Client, ...]
    seed: int
    round: int
    proximal_mu: float = 0.0
    own: Mapping[int, Weights] = field(default_factory=dict)
    corrections: Mapping[int, Weights] = field(default_factory=dict)

    def start_of(self, client: Client) -> dict[str, np.ndarray]:
        """Return what a client starts from, by full name: not copies."""
        return {**self.weights, **self.own.get(client.partition_id, {})}

    @property
    def learning_rate(self) -> float:
        """The rate of this round."""
        return self.recipe.learning_rate_at(self.round)

    def steps(self, client: Client) -> int:
        """Return how many optimiser steps a client takes in this round."""
        batches = -(-len(client.dataset.labels) // self.recipe.batch_size)
        return self.recipe.local_steps or batches * self.recipe.local_epochs

    def seen(self, client: Client) -> int:
        """Return how many examples a client's steps see, repetitions counted."""
        examples, size = len(client.dataset.labels), self.recipe.batch_size
        passes, left = divmod(self.steps(client), -(-examples // size))
        return passes * examples + left * size

    def batches(self, client: Client) -> Iterator[randomness.Rows]:
        """Yield the rows of each of a client's batches, in order."""
        return randomness.batch_rows(
            len(client.dataset.labels),
            self.recipe.batch_size,
            self.steps(client),
            seed=self.seed,
            round=self.round,
            partition_id=client.partition_id,
        )

    def order_of(self, client: Client, turn: int) -> randomness.Rows:
        """Return the order of a client's rows in one of its passes through them, from 0."""
        return randomness.order_of(
            len(client.dataset.labels),
            turn,
            seed=self.seed,
            round=self.round,
            partition_id=client.partition_id,
        )

    def noise_keys(self, client: Client) -> np.ndarray:
        """Return the key of each of a client's steps, for all its noise: int64 (steps,)."""
        return randomness.noise_keys(
            self.steps(client),
            seed=self.seed,
            round=self.round,
            partition_id=client.partition_id,
        )


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """What one client's training made.

    Attributes
    ----------
    partition_id
        Whose it is.
    weights
        The client's model after training: every tensor of its state, running statistics too, by
        full name.  The arrays belong to the receiver.
    num_examples
        Size of its data: its weight in an average.
    loss
        Mean training loss of all examples over all its steps, each measured before the step.
    steps
        Optimiser steps taken.
    finite
        Whether all weights are finite and so are their squares (`weights.is_finite`), where the
        executor found out while they lay in a cache; None where nobody has looked.
    """

    partition_id: int
    weights: dict[str, np.ndarray]
    num_examples: int
    loss: float
    steps: int
    finite: bool | None = None


class Executor(Protocol):
    """Trains cohorts."""

    @property
    def name(self) -> str:
        """Name by which a run chooses this executor."""
        ...

    def train(self, cohort: Cohort) -> list[ClientUpdate]:
        """Train all clients of a cohort; return their updates in the cohort's order.

        The result depends on the cohort only.  Weights that became NaN or infinite are
        returned as they are; what raises here is a fault of the data or the program.
        """
        ...
