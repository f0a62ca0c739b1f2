"""Nodes elsewhere, answering as if they were here.

`LocalGrid` asks a function to answer the messages of a round.  Here that function sends them over
Flower's own grid to the nodes of a SuperLink and waits.  So cohorts, order of replies, chance and
the strategies are those of a run in one process, by construction, and a run on many machines
gives the same weights.

A node that is gone, late or sends something unusable loses its update of this round: the strategy
gets an error that names it, and the run goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from neuronexus_kernel.federation._flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    ErrorCode,
    Grid,
    Message,
    RecordDict,
    TaskIdentity,
)
from neuronexus_kernel.federation.deployment.node import COUNTED, DTYPE, PARTITION, RUN
from neuronexus_kernel.federation.deployment.order import Seat

POLL_SECONDS = 0.1
_LOOK_SECONDS = 2.0


class RemoteNodes:
    """Answers messages by asking the nodes of a SuperLink.

    Parameters
    ----------
    grid
        Flower's grid, as a ServerApp is given it.
    seats
        Which node on the SuperLink is behind each local node id.
    patience
        Seconds to wait for the replies of a round.
    run, dtype
        Name of the run, and number type to train in.
    counted
        Returns the last round in which a lab's update went into the model, 0 if none did: a
        client that keeps something goes on from what it kept then.
    """

    def __init__(
        self,
        grid: Grid,
        seats: Mapping[int, Seat],
        *,
        patience: float,
        run: str,
        dtype: str,
        counted: Callable[[str], int],
    ) -> None:
        self._grid = grid
        self._seats = seats
        self._patience = patience
        self._run = {RUN: run, DTYPE: dtype}
        self._counted = counted
        self._identity = (TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id)

    def __call__(self, messages: list[Message]) -> list[Message]:
        """Send the messages, and return the replies that came in time, good or bad."""
        return [self._local(message, reply) for message, reply in self._exchange(messages)]

    def _exchange(self, messages: list[Message]) -> Iterator[tuple[Message, Message]]:
        waiting: dict[str, Message] = {}
        began = time.time()
        with self._speaking_as_server():
            outgoing = self._addressed(messages)
            names = list(self._grid.push_messages(outgoing))
        for name, message in zip(names, messages, strict=True):
            if name:
                waiting[name] = message
            else:
                yield message, self._lost(message, "could not be reached")
        until = began + self._patience
        looked = began
        while waiting:
            with self._speaking_as_server():
                replies = list(self._grid.pull_messages(list(waiting)))
            for reply in replies:
                message = waiting.pop(reply.metadata.reply_to_message_id)
                yield message, reply
            now = time.time()
            if now > until:
                for message in waiting.values():
                    why = f"did not answer within {self._patience:g} seconds"
                    yield message, self._lost(message, why)
                return
            if now - looked > _LOOK_SECONDS:
                looked = now
                for name in self._restarted(waiting, began):
                    message = waiting.pop(name)
                    yield message, self._lost(message, "was started anew and lost its message")
            if not replies:
                time.sleep(POLL_SECONDS)

    def _local(self, message: Message, reply: Message) -> Message:
        """Turn a node's reply into that of a local node; an error names whose it is."""
        if reply.has_error():
            name = self._seats[message.metadata.dst_node_id].name
            error = Error(reply.error.code, f"{name}: {reply.error.reason}")
            return Message(error, reply_to=message)
        return Message(reply.content, reply_to=message)

    def _addressed(self, messages: list[Message]) -> list[Message]:
        """Return the messages as they go out: plain records, and what each node must know."""
        plain: dict[int, ArrayRecord] = {}
        outgoing = []
        for message in messages:
            seat = self._seats[message.metadata.dst_node_id]
            told = ConfigRecord({PARTITION: seat.partition, COUNTED: self._counted(seat.name)})
            content = RecordDict()
            for key, record in message.content.items():
                if isinstance(record, ArrayRecord):
                    content[key] = plain.setdefault(id(record), _plain(record))
                elif isinstance(record, ConfigRecord):
                    content[key] = ConfigRecord({**record, **self._run, **told})
                else:
                    content[key] = record
            outgoing.append(
                Message(
                    content,
                    dst_node_id=seat.node,
                    message_type=message.metadata.message_type,
                    group_id=str(round_of(message)),
                )
            )
        return outgoing

    def _lost(self, message: Message, why: str) -> Message:
        return Message(
            Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, f"The node {why}."), reply_to=message
        )

    def _restarted(self, waiting: Mapping[str, Message], since: float) -> list[str]:
        """Return the messages whose nodes have signed in after the messages were sent."""
        look = getattr(self._grid, "get_nodes", None)
        if look is None:
            return []
        signed_in = {node.node_id: node.last_activated_at for node in look()}
        return [
            name
            for name, message in waiting.items()
            if _time(signed_in.get(self._seats[message.metadata.dst_node_id].node)) > since
        ]

    @contextmanager
    def _speaking_as_server(self) -> Iterator[None]:
        """Be the task that Flower started: a local grid's session gives out numbers of its own."""
        before = (TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = self._identity
        try:
            yield
        finally:
            TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = before


def round_of(message: Message) -> int:
    """Return the round that a message of a strategy belongs to; 0 if it does not say."""
    for config in message.content.config_records.values():
        number = config.get("server-round")
        if isinstance(number, int):
            return number
    return 0


def _plain(record: ArrayRecord) -> ArrayRecord:
    """Return a record of Flower's own arrays, which know how to travel."""
    plain = ArrayRecord()
    for name, array in record.items():
        plain[name] = Array(
            dtype=array.dtype, shape=array.shape, stype=array.stype, data=array.data
        )
    return plain


def _time(text: str | None) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
