"""Federated averaging of a part of the model: the other tensors stay with each client.

What FedBN and FedPer share.  The kept tensors are in no message, neither to a client nor from
one.  A client starts them from the architecture's own starting values for the run's seed, which
it computes by itself, trains them with the rest, and finds them again at its next round.  In the
server's model they stay as they began: it is a model for evaluation by clients, each with its own
tensors, rather than one to be used alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Unpack

from neuronexus_kernel.federation._flower import (
    ArrayRecord,
    ConfigRecord,
    Grid,
    Message,
    MetricRecord,
    strategy,
)
from neuronexus_kernel.federation.arrays import LocalRecord
from neuronexus_kernel.federation.executors.base import Weights
from neuronexus_kernel.federation.strategies.client import (
    KEPT,
    OWN,
    RULE,
    Failures,
    Request,
    State,
    States,
    Train,
    Trained,
)
from neuronexus_kernel.federation.strategies.options import FedAvgOptions

KEEPING = "keep"


class Keeping(strategy.FedAvg):
    """FedAvg over all tensors but those that clients keep.

    Parameters
    ----------
    kept
        Full names of the tensors that stay with the clients.
    **options
        Of Flower's ``FedAvg``.
    """

    def __init__(self, kept: Collection[str], **options: Unpack[FedAvgOptions]) -> None:
        super().__init__(**options)
        self.kept = sorted(kept)
        self.current = ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the shared tensors for training."""
        self.current = arrays
        shared = self._shared(arrays, config)
        return super().configure_train(server_round, shared, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the shared tensors, and put them among those that never move."""
        shared, metrics = super().aggregate_train(server_round, replies)
        if shared is None:
            return None, metrics
        merged = LocalRecord()
        for name, array in self.current.items():
            merged[name] = shared.get(name, array)
        return merged, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the shared tensors for evaluation with each client's own."""
        shared = self._shared(arrays, config)
        return super().configure_evaluate(server_round, shared, config, grid)

    def _shared(self, arrays: ArrayRecord, config: ConfigRecord) -> ArrayRecord:
        config[RULE] = KEEPING
        config[KEPT] = list(self.kept)
        shared = LocalRecord()
        for name, array in arrays.items():
            if name not in self.kept:
                shared[name] = array
        return shared


class KeepingRule:
    """The client's half: start the kept tensors from one's own, and keep them again."""

    extras: frozenset[str] = frozenset()

    def train(
        self, request: Request, states: States, train: Train
    ) -> tuple[list[Trained], Failures]:
        """Train the whole model; what is told of the kept tensors is how they began."""
        cohort = request.cohort
        own = {
            client.partition_id: self.own(request, states.get(client.partition_id, {}))
            for client in cohort.clients
        }
        updates, failures = train(replace(cohort, own=own))
        trained = []
        for update in updates:
            mine = {name: update.weights[name] for name in sorted(request.kept)}
            unmoved = {name: cohort.weights[name] for name in mine}
            told = replace(update, weights={**update.weights, **unmoved})
            trained.append(Trained(told, state={OWN: mine}))
        return trained, failures

    def own(self, request: Request, state: State) -> Weights:
        """Return the client's own tensors, as they were after its last training."""
        return state.get(OWN, {})
