"""FedBuff: the server does not wait for the slow.

As many clients as the concurrency are always at work, each from the model that was current when
it was asked.  The server takes replies as they arrive; as soon as its buffer is full it moves by
their mean change, in which a change that is ``s`` versions old weighs ``(1 + s)**-exponent`` of
what it would fresh, and asks new clients.  One such move is a round.  Changes are also weighted
by examples, so that with equal speeds and a buffer for all clients FedBuff is FedAvg.

On a network, time is real: replies are polled for.  A grid that answers at once has no time of its
own.  There it is simulated: each client has a speed, drawn by counter from the run's seed, and
work arrives in the order of its simulated end; equal runs have equal histories.  Work is carried
out when it arrives, so that what is still under way when a run stops has cost nothing.  A client
never trains twice on one version of the model: its chance would be the same, and so its update.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: "Federated Learning with Buffered
Asynchronous Aggregation", AISTATS 2022, arXiv:2106.06639.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import NamedTuple, Unpack

import numpy as np

from neuronexus_kernel.federation import randomness
from neuronexus_kernel.federation._flower import (
    ArrayRecord,
    ConfigRecord,
    Grid,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
    strategy,
)
from neuronexus_kernel.federation.arrays import from_record, to_record
from neuronexus_kernel.federation.strategies.options import FedAvgOptions
from neuronexus_kernel.federation.strategies.replies import array_record, metric

_POLL_SECONDS = 0.1


class Work(NamedTuple):
    """A client at work.

    Attributes
    ----------
    node
        Who.
    version
        Round of the model it was sent: it trains as in this round.
    end
        When its work arrives in simulated time, or is given up in real time.
    message
        Id of the message it got; empty where time is simulated.
    """

    node: int
    version: int
    end: float
    message: str = ""


class FedBuff(strategy.FedAvg):
    """Buffered asynchronous aggregation.

    Parameters
    ----------
    concurrency
        How many clients are at work at once; by default all that the grid offers.
    buffer_size
        Replies that the server waits for before it moves; by default half of the concurrency.
    server_learning_rate
        How far the server goes along the mean change.
    staleness_exponent
        How fast old changes lose weight; 0 never.
    speed_spread
        On a grid without time: standard deviation of the logarithm of the clients' speeds;
        0 makes all equally fast.
    patience
        On a grid with time: seconds after which a client's work is given up.
    **options
        Of Flower's ``FedAvg``.
    """

    def __init__(
        self,
        *,
        concurrency: int | None = None,
        buffer_size: int | None = None,
        server_learning_rate: float = 1.0,
        staleness_exponent: float = 0.5,
        speed_spread: float = 0.5,
        patience: float = 3600.0,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        super().__init__(**options)
        self.concurrency = concurrency
        self.buffer_size = buffer_size
        self.server_learning_rate = server_learning_rate
        self.staleness_exponent = staleness_exponent
        self.speed_spread = speed_spread
        self.patience = patience
        self.clock = 0.0
        self.at_work: list[Work] = []
        self.versions: dict[int, ArrayRecord] = {}
        self.early: list[tuple[int, Message]] = []
        self.buffer: list[tuple[int, Message]] = []
        self.idle: list[int] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Keep the clients at work until the buffer is full; nothing is left to be sent."""
        offered = sorted(grid.get_node_ids())
        limit = self.concurrency or len(offered)
        size = self.buffer_size or max(1, limit // 2)
        seed = _seed(config)
        self.at_work = [Work(*each) for each in self.at_work]  # plain tuples after a checkpoint
        self.versions[server_round] = arrays
        order = randomness.permutation("asked", seed, server_round, count=len(offered))
        self.idle = [offered[place] for place in order]
        self.buffer, self.early = self.early[:size], self.early[size:]
        simulated = getattr(grid, "answers_at_once", False)
        while len(self.buffer) < size:
            wanted = size - len(self.buffer)
            if simulated:
                done = self._simulate(wanted, server_round, limit, seed)
                replies = self._carry_out(done, config, grid)
            else:
                self._send(server_round, limit, config, grid)
                replies = self._wait(grid) if self.at_work else []
            if not replies and not self.at_work:
                break
            good = [(version, reply) for version, reply in replies if not reply.has_error()]
            self.buffer += good[:wanted]
            self.early += good[wanted:]
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Move by the mean of the buffered changes, each weighted by its age and its examples."""
        buffer, self.buffer, self.idle = self.buffer, [], []
        moved, metrics = None, None
        if buffer:
            contents = [reply.content for _, reply in buffer]
            examples = np.array([metric(each, self.weighted_by_key) for each in contents])
            ages = np.array([server_round - version for version, _ in buffer])
            shares = examples / examples.sum() * (1.0 + ages) ** -self.staleness_exponent
            moved = {name: array.copy() for name, array in self._model(server_round).items()}
            for share, (version, reply) in zip(shares, buffer, strict=True):
                start, end = self._model(version), from_record(array_record(reply.content))
                for name, array in moved.items():
                    change = (end[name] - start[name]) * float(self.server_learning_rate * share)
                    moved[name] = np.asarray(array + change, dtype=array.dtype)
            metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        needed = {work.version for work in self.at_work} | {version for version, _ in self.early}
        self.versions = {each: self.versions[each] for each in sorted(needed)}
        return None if moved is None else to_record(moved), metrics

    def _model(self, version: int) -> dict[str, np.ndarray]:
        return from_record(self.versions[version])

    def _next(self, limit: int) -> int | None:
        """Return a client to ask, if there is one that is idle and has not had this version."""
        if len(self.at_work) >= limit:
            return None
        busy = {work.node for work in self.at_work}
        node = next((node for node in self.idle if node not in busy), None)
        if node is not None:
            self.idle.remove(node)
        return node

    # Where time is simulated

    def _simulate(self, wanted: int, server_round: int, limit: int, seed: int) -> list[Work]:
        """Let simulated time pass until so many clients are done; return their work."""
        done: list[Work] = []
        while len(done) < wanted:
            while (node := self._next(limit)) is not None:
                end = self.clock + _duration(node, seed, self.speed_spread)
                self.at_work.append(Work(node, server_round, end))
            if not self.at_work:
                break
            first = min(self.at_work, key=lambda work: work.end)
            self.at_work.remove(first)
            self.clock = first.end
            done.append(first)
        return done

    def _carry_out(
        self, done: list[Work], config: ConfigRecord, grid: Grid
    ) -> list[tuple[int, Message]]:
        contents = {version: self._content(version, config) for _, version, *_ in done}
        ids = grid.push_messages([_message(work.node, contents[work.version]) for work in done])
        versions = {name: work.version for name, work in zip(ids, done, strict=True)}
        return [
            (versions[reply.metadata.reply_to_message_id], reply)
            for reply in grid.pull_messages(list(versions))
        ]

    # Where time is real

    def _send(self, server_round: int, limit: int, config: ConfigRecord, grid: Grid) -> None:
        """Keep as many clients at work as may be."""
        content = self._content(server_round, config)
        end = time.monotonic() + self.patience
        nodes = []
        while (node := self._next(limit)) is not None:
            nodes.append(node)
            self.at_work.append(Work(node, server_round, end))
        if nodes:
            ids = grid.push_messages([_message(node, content) for node in nodes])
            sent = [
                work._replace(message=name)
                for work, name in zip(self.at_work[-len(nodes) :], ids, strict=True)
            ]
            self.at_work[-len(nodes) :] = sent

    def _wait(self, grid: Grid) -> list[tuple[int, Message]]:
        """Return what has arrived, after a while if there is nothing yet."""
        waiting = {work.message: work for work in self.at_work}
        replies = [
            (waiting.pop(reply.metadata.reply_to_message_id).version, reply)
            for reply in grid.pull_messages(list(waiting))
        ]
        now = time.monotonic()
        self.at_work = [work for work in waiting.values() if work.end > now]
        if not replies and self.at_work:
            time.sleep(_POLL_SECONDS)
        return replies

    def _content(self, version: int, config: ConfigRecord) -> RecordDict:
        """Return what a version's messages hold: its model, and a config of its round."""
        own = ConfigRecord({**config, "server-round": version})
        return RecordDict(
            {self.arrayrecord_key: self.versions[version], self.configrecord_key: own}
        )


def _message(node: int, content: RecordDict) -> Message:
    return Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node)


def _duration(node: int, seed: int, spread: float) -> float:
    """Return how long a client works, in simulated time: log-normal, and 1 in the median."""
    low, high = randomness.words("speed", seed, node, count=2) >> np.uint64(11)
    normal = math.sqrt(-2.0 * math.log((int(low) + 1) / 2**53)) * math.cos(
        2.0 * math.pi * int(high) / 2**53
    )
    return math.exp(spread * normal)


def _seed(config: ConfigRecord) -> int:
    seed = config.get("seed", 0)
    return seed if isinstance(seed, int) else 0
