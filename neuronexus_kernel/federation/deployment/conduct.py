"""The ServerApp's work: from an order in a folder to a trained model in the same folder.

Each round is saved in the order's checkpoint before anybody is told of it.  Where the checkpoint
holds rounds, the run goes on after the last of them, and ends as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import EvaluationError, InvalidInputError
from neuronexus_kernel.federation._flower import Error, ErrorCode, Grid, Message, MessageType
from neuronexus_kernel.federation.arrays import from_record
from neuronexus_kernel.federation.checkpoint import Checkpoint, Saved
from neuronexus_kernel.federation.client_app import Outcome
from neuronexus_kernel.federation.deployment.memory import FORGOTTEN
from neuronexus_kernel.federation.deployment.order import (
    Assignment,
    Seat,
    checkpoint,
    read_seats,
    write_round,
    write_updates,
)
from neuronexus_kernel.federation.deployment.pledges import Pledges
from neuronexus_kernel.federation.deployment.remote import RemoteNodes, round_of
from neuronexus_kernel.federation.executors.base import ClientUpdate, Cohort
from neuronexus_kernel.federation.executors.plan import library_versions
from neuronexus_kernel.federation.grid import FIRST_NODE, LocalGrid
from neuronexus_kernel.federation.measuring import measure_of
from neuronexus_kernel.federation.recorder import Measure, Recorder, RoundRecord
from neuronexus_kernel.federation.resuming import saved_rounds
from neuronexus_kernel.federation.server_app import execute, make_strategy
from neuronexus_kernel.federation.strategies.replies import METRICS


def conduct(folder: Path, grid: Grid) -> None:
    """Run the order in a folder over the nodes of a SuperLink, from where it stands.

    Parameters
    ----------
    folder
        Holds the order; the checkpoint, reports and updates are written there.
    grid
        Flower's grid, as a ServerApp is given it.

    Raises
    ------
    EvaluationError
        If there is no order, the strategy gives up, or the run cannot go on because a node has
        lost what the strategy had it keep.
    """
    order, seats = Assignment.read(folder), read_seats(folder)
    with checkpoint(folder) as store:
        _Run(folder, order, seats, grid, store).train()


class _Run:
    """An order under way: the nodes, who watches what they send, and what is written down."""

    def __init__(
        self,
        folder: Path,
        order: Assignment,
        seats: tuple[Seat, ...],
        grid: Grid,
        store: Checkpoint,
    ) -> None:
        self._folder = folder
        self._order = order
        self._seats = seats
        self._store = store
        self._size = order.cohort or len(seats)
        self._saved = _saved(store, order, seats)
        self._first = 1 if self._saved is None else self._saved.round + 1
        self._places = {FIRST_NODE + seat.partition: seat for seat in seats}
        self._watch = _Watch(order, self._places, Pledges(folder))
        self._recorder = Recorder(
            {seat.partition: seat.name for seat in seats},
            _measure(order, len(seats)),
            order.rounds,
            1,
            [],
            keep_updates=order.keep_updates,
            save=self._save,
        )
        self._nodes = RemoteNodes(
            grid,
            self._places,
            patience=order.patience,
            run=order.id,
            dtype=str(next(iter(order.weights.values())).dtype),
            counted=self._counted,
        )
        self._grid = LocalGrid(
            self._exchange,
            tuple(self._places),
            cohort_size=self._size,
            seed=order.seed,
            first_round=self._first,
            run_id=grid.run.run_id,
        )

    def train(self) -> None:
        """Train the rounds that are not saved yet."""
        order, saved = self._order, self._saved
        with self._grid.session():
            self._strategy = make_strategy(
                order.recipe, cohort_size=self._size, clients=len(self._seats)
            )
            if saved is not None:
                self._recorder.go_on(saved.reports, (), saved.weights)
                saved.restore(self._strategy)
            if self._first > order.rounds:
                return
            self._recorder.start_clock()
            execute(
                self._strategy,
                self._grid,
                order.recipe,
                order.weights if saved is None else saved.weights,
                rounds=order.rounds,
                seed=order.seed,
                round_end=self._round_end,
                first_round=self._first,
                update_bound=order.update_bound,
                rejected=self._watch.rejected,
            )

    def _exchange(self, messages: list[Message]) -> list[Message]:
        replies = self._nodes(messages)
        self._check_remembered(replies)
        return self._watch.exchange(messages, replies)

    def _check_remembered(self, replies: list[Message]) -> None:
        """Check that no node has lost, since the run stopped, what it kept before."""
        forgotten = [
            str(reply.error.reason)
            for reply in replies
            if reply.has_error()
            and reply.error.code == FORGOTTEN
            and self._counted(self._places[reply.metadata.src_node_id].name) < self._first
        ]
        if forgotten:
            raise EvaluationError(
                "The run cannot go on as it would have without the interruption. "
                f"{' '.join(forgotten)} Otherwise serve the project anew."
            )

    def _round_end(self, round: int, weights: dict[str, np.ndarray]) -> dict[str, float] | None:
        for outcome in self._watch.outcomes():
            self._recorder.trained(outcome)
        return self._recorder.round_end(round, weights)

    def _save(self, record: RoundRecord) -> None:
        """Save a round, then tell of it; its updates come first, for nothing else holds them."""
        if record.updates is not None:
            write_updates(self._folder, record.report.round, record.updates.encode())
        self._store.save(
            record.report, record.weights, self._strategy, states={}, asked=(), updates=None
        )
        write_round(self._folder, record.report)

    def _counted(self, name: str) -> int:
        reports = reversed(self._recorder.reports)
        return next((report.round for report in reports if name in report.clients), 0)


def _saved(store: Checkpoint, order: Assignment, seats: tuple[Seat, ...]) -> Saved | None:
    """Begin a checkpoint, or return what it holds of the same run."""
    arguments: dict[str, Node] = {"participants": [seat.name for seat in seats]}
    if store.run is None:
        store.begin({"arguments": arguments, "versions": cast(Node, library_versions())})
    versions = cast("Mapping[str, str]", cast("dict[str, Node]", store.run)["versions"])
    return saved_rounds(store, arguments, rounds=order.rounds, versions=versions)


@dataclass(frozen=True, slots=True)
class _Exchange:
    """Training messages and what came back."""

    messages: list[Message]
    replies: list[Message]


class _Watch:
    """Sees what nodes sent in a round, and which of it was found wanting.

    Parameters
    ----------
    order, places, pledges
        What is trained, by whom at which node, and what they said before.
    """

    def __init__(self, order: Assignment, places: Mapping[int, Seat], pledges: Pledges) -> None:
        self._order = order
        self._places = places
        self._pledges = pledges
        self._exchanges: list[_Exchange] = []
        self._refused: dict[int, str] = {}

    def exchange(self, messages: list[Message], replies: list[Message]) -> list[Message]:
        """Take note of an exchange; return its replies, those that break a pledge as errors."""
        if messages[0].metadata.message_type.startswith(MessageType.TRAIN):
            asked = {message.metadata.dst_node_id: message for message in messages}
            replies = [self._judged(asked[reply.metadata.src_node_id], reply) for reply in replies]
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

    def _judged(self, message: Message, reply: Message) -> Message:
        if reply.has_error():
            return reply
        try:
            self._pledges.check(self._places[message.metadata.dst_node_id].name, reply)
        except InvalidInputError as error:
            reason = f"The reply is refused: {error}"
            return Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, reason), reply_to=message)
        return reply

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


def _measure(order: Assignment, nodes: int) -> Measure | None:
    if order.validation is None:
        return None
    return measure_of(
        order.recipe.architecture,
        order.validation,
        states=None,  # what labs keep stays with them
        clients=nodes,
        seed=order.seed,
    )
