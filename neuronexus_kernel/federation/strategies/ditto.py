"""Ditto: a personal model beside the global one, pulled towards it.

The global model is FedAvg's.  Beside it each client trains a model of its own, which starts from
the first global weights it sees, on ``loss + personal_mu / 2 * |own - global|**2``: a large
`personal_mu` keeps it at the global model, 0 is training alone.  Personal models never leave
their clients.  Both trainings of a round see the same batches.

Li, Hu, Beirami, Smith: "Ditto: Fair and Robust Federated Learning Through Personalization",
ICML 2021, arXiv:2012.04221.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Unpack

from neuronexus_kernel.federation._flower import (
    ArrayRecord,
    ConfigRecord,
    Grid,
    Message,
    strategy,
)
from neuronexus_kernel.federation.executors.base import Weights
from neuronexus_kernel.federation.strategies.client import (
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

PERSONAL = "personal"
_MU = "personal-mu"


class Ditto(strategy.FedAvg):
    """FedAvg, with a personal model beside it at each client.

    Parameters
    ----------
    personal_mu
        How strongly personal models are pulled to the global one (the paper's lambda); the
        clients' learning rate times this should stay below 1.
    **options
        Of Flower's ``FedAvg``.
    """

    def __init__(self, *, personal_mu: float = 0.1, **options: Unpack[FedAvgOptions]) -> None:
        super().__init__(**options)
        self.personal_mu = personal_mu

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the global model, and how strongly to pull."""
        config[RULE] = PERSONAL
        config[_MU] = self.personal_mu
        return super().configure_train(server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Have each client evaluate its personal model."""
        config[RULE] = PERSONAL
        return super().configure_evaluate(server_round, arrays, config, grid)


class PersonalRule:
    """The client's half: train the global model to send, and one's own to keep."""

    extras: frozenset[str] = frozenset()

    def train(
        self, request: Request, states: States, train: Train
    ) -> tuple[list[Trained], Failures]:
        """Train both; a client whose personal model fails has failed."""
        cohort = request.cohort
        updates, failures = train(cohort)
        sent = {update.partition_id: update for update in updates}
        own = {place: self.own(request, states.get(place, {})) for place in sent}
        clients = tuple(client for client in cohort.clients if client.partition_id in sent)
        if not clients:
            return [], failures
        mu = request.numbers.get(_MU, 0.0)
        personal, lost = train(replace(cohort, clients=clients, own=own, proximal_mu=mu))
        failures |= {place: f"Its personal model: {reason}" for place, reason in lost.items()}
        trained = [Trained(sent[each.partition_id], state={OWN: each.weights}) for each in personal]
        return trained, failures

    def own(self, request: Request, state: State) -> Weights:
        """Return the personal model; before the first training, nothing but the global one."""
        return state.get(OWN, {})
