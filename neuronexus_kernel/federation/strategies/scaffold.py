"""SCAFFOLD: control variates take the drift out of local steps.

Server and clients each hold a control variate, an estimate of the gradient: ``c`` of everybody's
loss, ``c_i`` of the client's own.  A client adds ``c - c_i`` to each gradient, so that its steps
go where everybody's gradient goes, and then renews its own by option II of the paper,
``c_i + (x - y) / (K * rate) - c``, the mean of the gradients it used.  (With momentum, K is what
the optimiser accumulates over its steps; see `fednova.normaliser`.)  The server averages the
clients' changes by examples, ``c`` in proportion to how many of all clients took part.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: "SCAFFOLD: Stochastic Controlled Averaging for
Federated Learning", ICML 2020, arXiv:1910.06378.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Unpack

import numpy as np

from neuronexus_kernel.federation._flower import (
    ArrayRecord,
    ConfigRecord,
    Grid,
    Message,
    MetricRecord,
    strategy,
)
from neuronexus_kernel.federation.arrays import from_record, to_record
from neuronexus_kernel.federation.executors.base import ClientUpdate, Cohort, Weights
from neuronexus_kernel.federation.strategies.client import (
    RULE,
    Failures,
    Request,
    State,
    States,
    Train,
    Trained,
)
from neuronexus_kernel.federation.strategies.fednova import normaliser
from neuronexus_kernel.federation.strategies.options import FedAvgOptions
from neuronexus_kernel.federation.strategies.replies import metric, take_record

CONTROLLED = "control"
_CONTROL = "control"


class SCAFFOLD(strategy.FedAvg):
    """Averaging of models that were trained with corrected gradients.

    Parameters
    ----------
    server_learning_rate
        How far the server goes along the clients' mean change.
    clients
        How many clients there are, those of other rounds included; by default as many as the
        grid has.
    statistics
        Full names of the running statistics, which have no gradients: they are averaged.
    **options
        Of Flower's ``FedAvg``.
    """

    def __init__(
        self,
        *,
        server_learning_rate: float = 1.0,
        clients: int | None = None,
        statistics: Collection[str] = (),
        **options: Unpack[FedAvgOptions],
    ) -> None:
        super().__init__(**options)
        self.server_learning_rate = server_learning_rate
        self.clients = clients
        self.statistics = sorted(statistics)
        self.control: dict[str, np.ndarray] = {}
        self.current = ArrayRecord()
        self.available = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the model and the server's control variate."""
        self.current = arrays
        self.control = self.control or {
            name: np.zeros_like(array)
            for name, array in from_record(arrays).items()
            if name not in self.statistics
        }
        self.available = self.clients or len(list(grid.get_node_ids()))
        config[RULE] = CONTROLLED
        control = to_record(self.control)
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            message.content[_CONTROL] = control
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the models, and renew the control variate."""
        valid = [message for message in replies if not message.has_error()]
        changes = [from_record(take_record(message.content, _CONTROL)) for message in valid]
        mean, metrics = super().aggregate_train(server_round, valid)
        if mean is None:
            return None, metrics
        contents = [message.content for message in valid]
        examples = np.array([metric(each, self.weighted_by_key) for each in contents])
        part = sum(metric(each, "clients") for each in contents) / self.available
        for share, change in zip(examples / examples.sum(), changes, strict=True):
            for name, before in self.control.items():
                self.control[name] = before + change[name] * float(share * part)
        return to_record(self._step(from_record(mean))), metrics

    def _step(self, mean: Weights) -> dict[str, np.ndarray]:
        rate, moved = self.server_learning_rate, {}
        for name, before in from_record(self.current).items():
            after = mean[name]
            if rate != 1.0 and name not in self.statistics:
                after = before + rate * (after - before)
            moved[name] = np.asarray(after, dtype=before.dtype)
        return moved


class ControlRule:
    """The client's half: correct the gradients, and renew one's own control variate."""

    extras = frozenset({_CONTROL})

    def train(
        self, request: Request, states: States, train: Train
    ) -> tuple[list[Trained], Failures]:
        """Train once, with corrections."""
        cohort, control = request.cohort, request.extras[_CONTROL]
        own = {
            client.partition_id: _own(states.get(client.partition_id, {}), control)
            for client in cohort.clients
        }
        corrections = {
            place: {name: control[name] - mine[name] for name in control}
            for place, mine in own.items()
        }
        updates, failures = train(replace(cohort, corrections=corrections))
        trained = []
        for update in updates:
            mine = own[update.partition_id]
            after = _renewed(cohort, update, mine, control)
            change = {name: after[name] - mine[name] for name in control}
            trained.append(Trained(update, {_CONTROL: change}, {_CONTROL: after}))
        return trained, failures

    def own(self, request: Request, state: State) -> Weights:
        """Return nothing: the client has no tensors of its own."""
        return {}


def _own(state: State, control: Weights) -> Weights:
    """Return a client's control variate: zeros before its first training."""
    return state.get(_CONTROL) or {name: np.zeros_like(array) for name, array in control.items()}


def _renewed(
    cohort: Cohort, update: ClientUpdate, own: Weights, control: Weights
) -> dict[str, np.ndarray]:
    """Return the client's control variate by option II."""
    recipe = cohort.recipe
    distance = cohort.learning_rate * normaliser(
        update.steps, momentum=recipe.momentum, nesterov=recipe.nesterov
    )
    if distance == 0.0:  # a schedule that has come to rest: nothing was learnt of the gradient
        return dict(own)
    return {
        name: np.asarray(
            own[name] - control[name] + (cohort.weights[name] - update.weights[name]) / distance,
            dtype=update.weights[name].dtype,
        )
        for name in control
    }
