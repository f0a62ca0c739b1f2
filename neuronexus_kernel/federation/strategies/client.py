"""The client's half of a strategy: what a node does with a training message.

Most strategies ask for plain training and do all their thinking at the server.  Some need the
client's help: it keeps layers of its own, corrects its gradients, or trains a second model.  Such
a strategy names a rule in its messages' config, and the rule, in the same file as the server's
half, says what the client does.  A rule is a pure function of the message and of what the client
kept since its last one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from neuronexus_kernel.federation.executors.base import ClientUpdate, Cohort, Weights

RULE = "client-rule"
"""Key of a message's config that names the rule; without it training is plain."""

KEPT = "kept"
"""Key of a message's config: full names of the tensors that stay with the client."""

OWN = "own"
"""Purpose, among what a client keeps, of the tensors it starts from instead of the server's."""

State: TypeAlias = Mapping[str, Mapping[str, np.ndarray]]
"""What a client keeps between rounds: arrays by name, by purpose."""

States: TypeAlias = Mapping[int, State]
"""By partition id; clients that kept nothing are absent."""

Failures: TypeAlias = dict[int, str]
"""Reasons by partition id."""

Train: TypeAlias = Callable[[Cohort], tuple[list[ClientUpdate], Failures]]
"""Trains a cohort: the updates of those that could, the reasons of those that could not."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a message asks of some clients.

    Attributes
    ----------
    cohort
        Who trains, how, and from which weights: complete, tensors that stay with the client
        included.
    kept
        Names of the tensors that the message does not hold, because they stay with the client.
    numbers
        Real numbers of the config, by key.
    extras
        Arrays that the message holds besides the weights, by the name of their record.
    """

    cohort: Cohort
    kept: frozenset[str] = frozenset()
    numbers: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, Weights] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of one client's training.

    Attributes
    ----------
    update
        What the client tells the server, and whoever observes the run.
    extras
        More arrays for the server, by the name of their record.
    state
        What the client keeps from now on, by purpose; other purposes stay as they were.
    """

    update: ClientUpdate
    extras: Mapping[str, dict[str, np.ndarray]] = field(default_factory=dict)
    state: State = field(default_factory=dict)


class ClientRule(Protocol):
    """What a client does with a message."""

    @property
    def extras(self) -> frozenset[str]:
        """Names of the array records that a training message holds besides the weights."""
        ...

    def train(
        self, request: Request, states: States, train: Train
    ) -> tuple[list[Trained], Failures]:
        """Train the clients of a request, as often as the rule needs."""
        ...

    def own(self, request: Request, state: State) -> Weights:
        """Return the tensors that a client is evaluated with instead of the server's."""
        ...


class PlainRule:
    """Train from the server's weights and send the result: FedAvg's client, and most others'."""

    extras: frozenset[str] = frozenset()

    def train(
        self, request: Request, states: States, train: Train
    ) -> tuple[list[Trained], Failures]:
        """Train once."""
        updates, failures = train(request.cohort)
        return [Trained(update) for update in updates], failures

    def own(self, request: Request, state: State) -> Weights:
        """Return nothing: the client has no tensors of its own."""
        return {}
