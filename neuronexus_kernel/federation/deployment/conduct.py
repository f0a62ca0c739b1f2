"""The ServerApp's work: from an order in a folder to a trained model in the same folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neuronexus_kernel.federation._flower import Grid, Message, MessageType
from neuronexus_kernel.federation.arrays import from_record
from neuronexus_kernel.federation.client_app import Outcome
from neuronexus_kernel.federation.deployment.order import Order, write_round
from neuronexus_kernel.federation.deployment.remote import RemoteNodes, round_of
from neuronexus_kernel.federation.executors.base import ClientUpdate, Cohort
from neuronexus_kernel.federation.grid import FIRST_NODE, LocalGrid
from neuronexus_kernel.federation.measuring import measure_of
from neuronexus_kernel.federation.recorder import Measure, Recorder, RoundRecord
from neuronexus_kernel.federation.server_app import execute, make_strategy
from neuronexus_kernel.federation.strategies.replies import METRICS


def conduct(folder: Path, grid: Grid) -> None:
    """Run the order in a folder over the nodes of a SuperLink.

    Parameters
    ----------
    folder
        Holds the order; reports, weights and updates are written there.
    grid
        Flower's grid, as a ServerApp is given it.
    """
    order = Order.read(folder)
    seats = {FIRST_NODE + seat.partition: seat for seat in order.seats}
    recorder = Recorder(
        {seat.partition: seat.name for seat in order.seats},
        _measure(order),
        order.rounds,
        1,
        [],
        keep_updates=order.keep_updates,
        save=lambda record: _save(folder, record),
    )
    nodes = RemoteNodes(grid, seats, patience=order.patience)
    watch = _Watch(order)
    local = LocalGrid(
        lambda messages: watch.exchange(messages, nodes(messages)),
        tuple(seats),
        cohort_size=order.cohort,
        seed=order.seed,
        run_id=grid.run.run_id,
    )

    def round_end(round: int, weights: dict[str, np.ndarray]) -> dict[str, float] | None:
        for outcome in watch.outcomes():
            recorder.trained(outcome)
        return recorder.round_end(round, weights)

    with local.session():
        strategy = make_strategy(order.recipe, cohort_size=order.cohort, clients=len(seats))
        recorder.start_clock()
        execute(
            strategy,
            local,
            order.recipe,
            order.weights,
            rounds=order.rounds,
            seed=order.seed,
            round_end=round_end,
            update_bound=order.update_bound,
            rejected=watch.rejected,
        )


@dataclass(frozen=True, slots=True)
class _Exchange:
    """Training messages and what came back."""

    messages: list[Message]
    replies: list[Message]


class _Watch:
    """Sees what nodes sent in a round, and which of it was found wanting."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._exchanges: list[_Exchange] = []
        self._refused: dict[int, str] = {}

    def exchange(self, messages: list[Message], replies: list[Message]) -> list[Message]:
        """Take note of an exchange; return its replies."""
        if messages[0].metadata.message_type.startswith(MessageType.TRAIN):
            self._exchanges.append(_Exchange(messages, replies))
        return replies

    def rejected(self, node: int, reason: str) -> None:
        """Take note that a node's reply was not used."""
        self._refused[node] = reason

    def outcomes(self) -> list[Outcome]:
        """Return what this round's trainings came to, in the words of a run in one process."""
        found = [self._outcome(exchange) for exchange in self._exchanges]
        self._exchanges, self._refused = [], {}
        return found

    def _outcome(self, exchange: _Exchange) -> Outcome:
        replies = {reply.metadata.src_node_id: reply for reply in exchange.replies}
        message = exchange.messages[0]
        start = {**self._order.weights, **_model(message)}
        updates: list[ClientUpdate] = []
        failures: dict[int, str] = {}
        for node in sorted(replies):
            partition = node - FIRST_NODE
            if node in self._refused or replies[node].has_error():
                failures[partition] = self._refused.get(node) or str(replies[node].error.reason)
            else:
                updates.append(_update(partition, replies[node], start))
        cohort = Cohort(
            recipe=self._order.recipe,
            weights=start,
            clients=(),  # their data are elsewhere
            seed=self._order.seed,
            round=round_of(message),
        )
        return Outcome(cohort, tuple(updates), failures)


def _update(partition: int, reply: Message, start: Mapping[str, np.ndarray]) -> ClientUpdate:
    """Return what a node sent; tensors that stay with it are shown as they began."""
    metrics = reply.content.metric_records[METRICS]
    return ClientUpdate(
        partition_id=partition,
        weights={**start, **_model(reply)},
        num_examples=int(float(str(metrics["num-examples"]))),
        loss=float(str(metrics["train_loss"])),
        steps=int(float(str(metrics["steps"]))),
    )


def _model(message: Message) -> Mapping[str, np.ndarray]:
    """Return the weights of a message: its first record of arrays."""
    return from_record(next(iter(message.content.array_records.values())))


def _measure(order: Order) -> Measure | None:
    if order.validation is None:
        return None
    return measure_of(
        order.recipe.architecture,
        order.validation,
        states=None,  # what labs keep stays with them
        clients=len(order.seats),
        seed=order.seed,
    )


def _save(folder: Path, record: RoundRecord) -> None:
    updates = None if record.updates is None else record.updates.encode()
    write_round(folder, record.report, record.weights, updates)
