"""LocalGrid: Flower's `Grid`, in this process, so that any stock Flower strategy runs here.

A strategy asks a grid which nodes there are, sends them messages and waits for replies.  Here the
nodes are numbers, and a handler answers all messages of a round at once, which is what lets an
executor train the whole cohort together.  What differs from a SuperLink is order: node ids are
fixed, replies come back sorted, and the global generators that stock strategies draw from are
seeded for each step and given back as they were, so a run is reproducible (on a SuperLink it is
not; Flower issue 3328).
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np

from neuronexus_kernel.errors import EvaluationError, InvalidInputError
from neuronexus_kernel.federation import randomness
from neuronexus_kernel.federation._flower import (
    SUPERLINK_NODE_ID,
    Error,
    ErrorCode,
    Grid,
    Message,
    MessageType,
    RecordDict,
    Run,
    TaskIdentity,
    quiet,
)

Handler: TypeAlias = Callable[[list[Message]], Iterable[Message]]
"""Answers the messages of one exchange, given sorted by node; replies may come in any order."""

FIRST_NODE = 1000
"""Node id of the first partition; Flower keeps small numbers for itself."""

_ONE_RUN_AT_A_TIME = threading.RLock()
_PATIENCE = 12


class LocalGrid(Grid):
    """A grid whose nodes are answered by a function.

    Parameters
    ----------
    handle
        Answers all messages of an exchange.  A message it leaves unanswered gets an error reply;
        what it raises ends the run.
    nodes
        Ids of the nodes, whole numbers above zero.
    cohort_size
        If given, only so many nodes are offered in a round, drawn by our own generator.
        A strategy that takes all nodes it is offered then trains exactly that cohort.
    seed
        Seed of the cohorts and of the strategy's own chance.
    first_round
        Number of the first round: above 1 for a run that goes on.
    reseed
        Whether the global generators are seeded anew for each step of a strategy, which makes a
        round's chance independent of the rounds before it.  Otherwise a session seeds them once.
    run_id
        Number that messages carry.

    Raises
    ------
    InvalidInputError
        If there are no nodes, an id occurs twice, or the cohort is larger than the nodes.
    """

    answers_at_once = True
    """Replies are there as soon as messages are sent: the grid has no time of its own."""

    def __init__(
        self,
        handle: Handler,
        nodes: Sequence[int],
        *,
        cohort_size: int | None = None,
        seed: int = 0,
        first_round: int = 1,
        reseed: bool = True,
        run_id: int = 1,
    ) -> None:
        self._handle = handle
        self._nodes = tuple(sorted(set(nodes)))
        self._known = frozenset(nodes)
        if not nodes or len(self._nodes) != len(nodes):
            raise InvalidInputError("A grid needs at least one node, and each id once.")
        self._size = len(self._nodes) if cohort_size is None else cohort_size
        if not 1 <= self._size <= len(self._nodes):
            raise InvalidInputError(
                f"cohort_size must be from 1 to the {len(self._nodes)} nodes, not {cohort_size}."
            )
        self._seed = seed
        self._reseed = reseed
        self._run = Run.create_empty(run_id)
        self._round = first_round
        self._trained = False
        self._sent = 0
        self._asked = 0
        self._waiting: dict[str, Message] = {}

    @contextmanager
    def session(self, *, log_level: int = logging.WARNING) -> Iterator[LocalGrid]:
        """Make this process ready for a strategy to use the grid.

        Flower keeps the identity of the running task, and stock strategies keep their chance, in
        globals of the process.  Within the session they are this run's; after it they are as
        before.  One session runs at a time: another thread that enters one waits.  Flower's
        log passes messages of `log_level` and above, so its progress log is quiet by default.
        """
        with _ONE_RUN_AT_A_TIME, quiet(log_level):
            identity = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
            chance = random.getstate(), np.random.get_state()
            TaskIdentity.task_id = TaskIdentity.run_id = self._run.run_id
            TaskIdentity.node_id = SUPERLINK_NODE_ID
            if not self._reseed:
                self._seed_globals("session")
            try:
                yield self
            finally:
                TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = identity
                random.setstate(chance[0])
                np.random.set_state(chance[1])

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def cohort(self, round: int) -> tuple[int, ...]:
        """Return the ids of the nodes that are offered in a round, in rising order."""
        chosen = randomness.choose(self._size, len(self._nodes), seed=self._seed, round=round)
        return tuple(self._nodes[place] for place in chosen)

    def get_node_ids(self) -> list[int]:
        """Return the ids of the current round's cohort, in rising order."""
        self._asked += 1
        if self._asked > _PATIENCE:
            raise EvaluationError(
                f"The strategy waits for more nodes than the {self._size} there are in a round: "
                "lower its min_train_nodes, min_evaluate_nodes and min_available_nodes."
            )
        if self._reseed:
            self._seed_globals("sampling")
        return list(self.cohort(self._round))

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message to a node."""
        return Message(
            content,
            dst_node_id=dst_node_id,
            message_type=message_type,
            ttl=ttl,
            group_id=group_id,
        )

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take messages in; return their ids, by which the replies are pulled."""
        ids = []
        self._asked = 0
        for message in messages:
            self._sent += 1
            name = f"{self._run.run_id}-{self._sent}"
            message.metadata.__dict__["_message_id"] = name
            self._waiting[name] = message
            self._trained |= message.metadata.message_type.startswith(MessageType.TRAIN)
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Have the messages of these ids answered; return the replies sorted by node."""
        asked = [self._waiting.pop(name) for name in message_ids if name in self._waiting]
        asked.sort(key=_place)
        known = [message for message in asked if message.metadata.dst_node_id in self._known]
        replies = {
            reply.metadata.reply_to_message_id: reply
            for reply in (self._handle(known) if known else ())
        }
        answers = []
        for message in asked:
            name = message.metadata.message_id
            reply = replies.get(name) or self._no_reply(message)
            reply.metadata.__dict__["_message_id"] = f"{name}-reply"
            answers.append(reply)
        return answers

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and return the replies, sorted by node.

        `timeout` has no meaning here: a reply that is not there when the handler returns will
        never come.
        """
        sent = list(messages)
        replies = self.pull_messages(self.push_messages(sent))
        self._follow(sent)
        if self._reseed:
            self._seed_globals("aggregation")
        return replies

    def _follow(self, sent: Sequence[Message]) -> None:
        """Keep count of the rounds: in each, clients are asked to train, and then no more."""
        training = any(
            message.metadata.message_type.startswith(MessageType.TRAIN) for message in sent
        )
        if self._trained and not training:
            self._trained = False
            self._round += 1

    def _seed_globals(self, purpose: str) -> None:
        """Seed the generators that stock strategies draw from."""
        word = int(randomness.words(purpose, self._seed, self._round, count=1)[0])
        random.seed(word)
        np.random.seed(word % 2**32)

    def _no_reply(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node not in self._known:
            return Message(
                Error(ErrorCode.NODE_UNAVAILABLE, f"There is no node {node}."), reply_to=message
            )
        return Message(
            Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, f"Node {node} did not reply."),
            reply_to=message,
        )


def _place(message: Message) -> tuple[int, int]:
    """Return a sort key: by node, then in the order of sending."""
    return message.metadata.dst_node_id, int(message.metadata.message_id.rpartition("-")[2])
