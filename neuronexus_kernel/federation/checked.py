"""A grid that lets nothing but fitting updates through to a strategy.

A reply is input from outside.  Before any strategy sees it, its arrays must have the names and
shapes of those that were sent, hold finite real numbers, and lie within a distance of the sent
model if a bound is set; its metrics must be the known ones and finite.  What does not fit is left
out and named, so that one bad node costs its own update and never the run, with any strategy.
Error replies are left out and named in the same way.

Arrays that never left this process (`LocalArray`) were found finite when the client app made them
and are not searched again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation._flower import (
    Array,
    ArrayRecord,
    Error,
    ErrorCode,
    Grid,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
    Run,
)
from neuronexus_kernel.federation.arrays import (
    LocalArray,
    array_records,
    from_record,
    to_record,
)
from neuronexus_kernel.federation.strategies.replies import (
    EVALUATE_METRICS,
    METRICS,
    TRAIN_METRICS,
    answered_by,
)

Rejected: TypeAlias = Callable[[int, str], None]
"""Told the node and the reason of each reply that is left out."""

_HEADER = 4096


class CheckedGrid(Grid):
    """A grid around another one, whose replies can be relied on.

    Parameters
    ----------
    grid
        Any grid whose nodes are answered by `client_app.CohortApp`.
    rejected
        Told of every reply that is left out.
    update_bound
        Largest L2 distance of a reply's model from the one that was sent.
    """

    def __init__(
        self, grid: Grid, *, rejected: Rejected | None = None, update_bound: float = math.inf
    ) -> None:
        self._grid = grid
        self._rejected = rejected
        self._bound = update_bound
        self._sent: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._grid.run

    @property
    def answers_at_once(self) -> bool:
        """Whether replies are there as soon as messages are sent: see `LocalGrid`."""
        return bool(getattr(self._grid, "answers_at_once", False))

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes."""
        return self._grid.get_node_ids()

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new message to a node."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids."""
        sent = list(messages)
        ids = list(self._grid.push_messages(sent))
        self._sent |= dict(zip(ids, sent, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there: those that do not fit as errors."""
        replies = []
        for reply in self._grid.pull_messages(message_ids):
            message = self._sent.pop(reply.metadata.reply_to_message_id)
            replies.append(self._judged(message, reply))
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages; return the replies that fit, sorted by node.

        If none fits, they are returned as errors, for strategies that look for errors.
        """
        sent = {message.metadata.dst_node_id: message for message in messages}
        received = sorted(
            self._grid.send_and_receive(sent.values(), timeout=timeout),
            key=lambda reply: reply.metadata.src_node_id,
        )
        answered = _answered_by_others(received)
        judged = [
            self._judged(sent[reply.metadata.src_node_id], reply)
            for reply in received
            if reply.metadata.src_node_id not in answered
        ]
        return [reply for reply in judged if not reply.has_error()] or judged

    def _judged(self, message: Message, reply: Message) -> Message:
        """Return a reply that fits as it is, another one as an error."""
        node = reply.metadata.src_node_id
        if reply.has_error():
            reason = reply.error.reason or "The node sent an error without a reason."
        else:
            try:
                self._check(message, reply.content)
                return reply
            except Exception as error:  # whatever a strange record does when it is read
                reason = f"The reply is refused: {error}"
        if self._rejected is not None:
            self._rejected(node, reason)
        if reply.has_error():
            return reply
        return Message(Error(ErrorCode.MESSAGE_UNAVAILABLE, reason), reply_to=message)

    def _check(self, message: Message, content: RecordDict) -> None:
        train = message.metadata.message_type.startswith(MessageType.TRAIN)
        sent = array_records(message.content) if train else {}
        odd = sorted(content.keys() ^ {*sent, METRICS})
        if odd:
            raise InvalidInputError(f"its record {odd[0]!r} is missing or unknown.")
        metrics = content[METRICS]
        _check_metrics(metrics, TRAIN_METRICS if train else EVALUATE_METRICS)
        for name, record in sent.items():
            arrays = _checked_arrays(content[name], record)
            if self._bound < math.inf and name == _model_of(sent):
                _check_distance(arrays, from_record(record), self._bound)
            if not all(isinstance(array, LocalArray) for array in content[name].values()):
                content[name] = to_record(arrays)  # decoded once, and what was checked is used


def _model_of(sent: Mapping[str, ArrayRecord]) -> str:
    return next(iter(sent))


def _answered_by_others(replies: Sequence[Message]) -> set[int]:
    """Return the nodes whose update is in the reply of another one, which says so itself."""
    contents = {
        reply.metadata.src_node_id: reply.content for reply in replies if reply.has_content()
    }
    found = set()
    for node, content in contents.items():
        other = answered_by(content)
        if other in contents and node != other and METRICS in contents[other]:
            found.add(node)
    return found


def _check_metrics(metrics: object, known: Sequence[str]) -> None:
    if not isinstance(metrics, MetricRecord):
        raise InvalidInputError(f"{METRICS!r} is no record of metrics.")
    odd = sorted(metrics.keys() ^ set(known))
    if odd:
        raise InvalidInputError(f"its metric {odd[0]!r} is missing or unknown.")
    for name, value in metrics.items():
        if isinstance(value, list) or not math.isfinite(value):
            raise InvalidInputError(f"its metric {name!r} is not a finite number.")
    for name in ("num-examples", "steps", "clients"):
        if name in metrics and not float(metrics[name]) >= 1:  # type: ignore[arg-type]
            raise InvalidInputError(f"its metric {name!r} is below 1.")


def _checked_arrays(record: object, sent: ArrayRecord) -> dict[str, np.ndarray]:
    """Return the arrays of a record that fits the one that was sent."""
    if not isinstance(record, ArrayRecord):
        raise InvalidInputError("a record of arrays is none.")
    odd = sorted(record.keys() ^ sent.keys())
    if odd:
        raise InvalidInputError(f"its array {odd[0]!r} is missing or unknown.")
    return {name: _checked_array(name, record[name], sent[name].shape) for name in sent}


def _checked_array(name: str, array: Array, shape: Sequence[int]) -> np.ndarray:
    if not isinstance(array, LocalArray):  # look at the size before anything is decoded
        limit = 8 * math.prod(shape) + _HEADER
        if len(array.data) > limit:
            raise InvalidInputError(f"its array {name!r} takes {len(array.data)} bytes.")
    values = array.numpy()
    if not values.shape == tuple(array.shape) == tuple(shape):
        raise InvalidInputError(f"its array {name!r} has shape {values.shape}, not {tuple(shape)}.")
    if values.dtype.char not in "fd":
        raise InvalidInputError(f"its array {name!r} holds {values.dtype}, not real numbers.")
    if not isinstance(array, LocalArray) and not np.isfinite(values).all():
        raise InvalidInputError(f"its array {name!r} holds values that are not finite.")
    return values


def _check_distance(
    arrays: Mapping[str, np.ndarray], sent: Mapping[str, np.ndarray], bound: float
) -> None:
    squares = (
        float(np.square(np.subtract(arrays[name], sent[name], dtype=np.float64)).sum())
        for name in sent
    )
    distance = math.sqrt(math.fsum(squares))
    if not distance <= bound:
        raise InvalidInputError(
            f"its model is {distance:.6g} away from the one that was sent, more than {bound:.6g}."
        )
