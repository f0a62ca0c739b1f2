"""The client's side: what nodes do with the messages of a strategy.

A message holds the global weights and says how to train them; a node's answer holds its weights
and its numbers.  All messages that ask for the same are answered by one call of the executor,
whether they are a whole cohort in this process or the single message that a SuperNode gets.  A
strategy that needs more of its clients than training names a rule (`strategies.client`), and what
the rule keeps for the next round stays here, in `CohortApp.states`.

A client that cannot train, or whose training diverged, answers with an error, which costs its own
update and not the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from neuronexus_kernel.federation._flower import (
    Error,
    ErrorCode,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from neuronexus_kernel.federation.arrays import (
    LocalContent,
    LocalMetrics,
    array_records,
    to_record,
)
from neuronexus_kernel.federation.evaluation import Evaluator
from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort, Executor
from neuronexus_kernel.federation.presum import presum
from neuronexus_kernel.federation.reading import MessageReader
from neuronexus_kernel.federation.strategies.client import ClientRule, Failures, Request, Trained
from neuronexus_kernel.federation.strategies.replies import METRICS, answered
from neuronexus_kernel.federation.weights import is_finite

DIVERGED = "Training diverged: the weights are no longer finite. Lower the learning rate."


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one exchange of training messages came to.

    Attributes
    ----------
    cohort
        Who was asked, and what they started from.
    updates
        The updates that were sent back.  Tensors that stay with the client are shown as they
        began.  Of updates that were summed, the weights are left out.
    failures
        Reason by partition id, for those that sent an error.
    """

    cohort: Cohort
    updates: tuple[ClientUpdate, ...]
    failures: Mapping[int, str]


Observer: TypeAlias = Callable[[Outcome], None]


class CohortApp:
    """Answers the messages of the nodes that live in this process.

    Parameters
    ----------
    clients
        Data of each node, by node id.
    executor
        Trains them.
    observe
        Told of each training before its replies leave; it may copy from the arrays.
    presum
        Whether to train a chunk of clients at a time and answer with one weighted reply for the
        chunk, so that memory does not grow with the cohort.  The first client that could train
        answers, with the chunk's sums and means (see `presum.presum`); the others' replies say
        that it did (`strategies.replies.answered`), and `checked.CheckedGrid` takes them out.
        For strategies that only take means weighted by examples.
    chunk
        How many clients are summed.

    Attributes
    ----------
    states
        What each partition keeps between rounds: purpose, then arrays by name.  It may be read
        and replaced between exchanges.
    """

    def __init__(
        self,
        clients: Mapping[int, Client],
        executor: Executor,
        *,
        observe: Observer | None = None,
        presum: bool = False,
        chunk: int = 256,
    ) -> None:
        self.states: dict[int, dict[str, dict[str, np.ndarray]]] = {}
        self._clients = clients
        self._executor = executor
        self._observe = observe
        self._presum = presum
        self._chunk = chunk
        self._reader = MessageReader(clients)
        self._proven = False
        self._troubles: list[Exception] = []

    def __call__(self, messages: list[Message]) -> list[Message]:
        """Answer messages, in any order.

        A client that fails answers with an error.  But if all clients of the exchange fail and
        none has ever succeeded, the data of one client are not at fault, and the first failure is
        raised; a single client among others is not taken for all of them.
        """
        self._troubles.clear()
        replies: list[Message] = []
        for group in _groups(messages):
            replies += self._answer(group)
        alone = len(messages) == 1 and len(self._clients) > 1
        if self._troubles and not self._proven and not alone:
            raise self._troubles[0]
        return replies

    def _answer(self, group: Sequence[Message]) -> list[Message]:
        """Answer messages that differ in their node only."""
        kind = group[0].metadata.message_type
        if kind not in (MessageType.TRAIN, MessageType.EVALUATE):
            return [_failure(each, f"Messages of type {kind!r} are unknown.") for each in group]
        rule, request, names = self._reader.read(group, self.states)
        if kind == MessageType.EVALUATE:
            clients = request.cohort.clients
            return [
                self._evaluate(rule, request, client, message)
                for client, message in zip(clients, group, strict=True)
            ]
        size = self._chunk if self._presum else len(group)
        replies = []
        for start in range(0, len(group), size):
            clients = request.cohort.clients[start : start + size]
            part = replace(request, cohort=replace(request.cohort, clients=clients))
            replies += self._train(rule, part, names, group[start : start + size])
        return replies

    def _train(
        self,
        rule: ClientRule,
        request: Request,
        names: Sequence[str],
        messages: Sequence[Message],
    ) -> list[Message]:
        """Train clients and return their replies; `names` are those of the tensors to send."""
        cohort = request.cohort
        trained, failures = rule.train(request, self.states, self._try)
        done = {}
        for each in trained:
            place = each.update.partition_id
            if all(is_finite(arrays) for arrays in each.extras.values()):
                done[place] = each
                if each.state:
                    kept = {purpose: dict(arrays) for purpose, arrays in each.state.items()}
                    self.states[place] = {**self.states.get(place, {}), **kept}
            else:
                failures[place] = DIVERGED
        self._proven |= bool(done)
        updates = tuple(each.update for each in done.values())
        if self._presum:
            updates = tuple(replace(update, weights={}) for update in updates)
        if self._observe is not None:
            self._observe(Outcome(cohort, updates, failures))
        asked = {
            client.partition_id: message
            for client, message in zip(cohort.clients, messages, strict=True)
        }
        return [
            *(_failure(asked[place], failures[place]) for place in asked if place in failures),
            *self._replies(done, asked, names),
        ]

    def _replies(
        self, done: Mapping[int, Trained], asked: Mapping[int, Message], names: Sequence[str]
    ) -> list[Message]:
        if not self._presum or len(done) < 2:
            return [_reply(each, 1, asked[place], names) for place, each in done.items()]
        first, *others = done
        node = asked[first].metadata.dst_node_id
        return [
            _reply(presum(list(done.values())), len(done), asked[first], names),
            *(answered(asked[place], node) for place in others),
        ]

    def _try(self, cohort: Cohort) -> tuple[list[ClientUpdate], Failures]:
        """Train a cohort; what stops all of it is remembered, and told as each one's failure."""
        try:
            return train_each(self._executor, cohort)
        except Exception as error:
            self._troubles.append(error)
            reason = f"{type(error).__name__}: {error}"
            return [], {client.partition_id: reason for client in cohort.clients}

    def _evaluate(
        self, rule: ClientRule, request: Request, client: Client, message: Message
    ) -> Message:
        own = rule.own(request, self.states.get(client.partition_id, {}))
        try:
            evaluator = Evaluator(request.cohort.recipe.architecture, client.dataset)
            result = evaluator.evaluate({**request.cohort.weights, **own})
        except Exception as error:
            return _failure(message, f"{type(error).__name__}: {error}")
        metrics = MetricRecord(
            {"num-examples": result.examples, "loss": result.loss, "accuracy": result.accuracy}
        )
        return Message(RecordDict({METRICS: metrics}), reply_to=message)


def train_each(executor: Executor, cohort: Cohort) -> tuple[list[ClientUpdate], Failures]:
    """Train a cohort; return the updates, and the reasons of the clients that have none.

    When the cohort fails as a whole, its clients are tried one by one, so that one bad data set
    costs one update.  If none of them succeeds, the first failure is raised: then it is not the
    data of one client that is at fault.
    """
    failures: dict[int, str] = {}
    try:
        updates = executor.train(cohort)
    except Exception as whole:
        updates = []
        for client in cohort.clients:
            try:
                updates += executor.train(replace(cohort, clients=(client,)))
            except Exception as error:
                failures[client.partition_id] = f"{type(error).__name__}: {error}"
        if not updates:
            raise whole
    finite = []
    for update in updates:
        sound = is_finite(update.weights) if update.finite is None else update.finite
        if sound and math.isfinite(update.loss):
            finite.append(update)
        else:
            failures[update.partition_id] = DIVERGED
    return finite, failures


def _groups(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Put together the messages that ask for the same and hold the same objects."""
    groups: dict[tuple[object, ...], list[Message]] = {}
    for message in messages:
        records = message.content.values() if message.has_content() else ()
        key = (message.metadata.message_type, *(id(record) for record in records))
        groups.setdefault(key, []).append(message)
    yield from groups.values()


def _reply(trained: Trained, clients: int, message: Message, names: Sequence[str]) -> Message:
    """Return a training reply: records and tensors are named, and in order, as they came."""
    update = trained.update
    content = LocalContent()
    for name in array_records(message.content):
        arrays = trained.extras.get(name)
        if arrays is None:
            arrays = {tensor: update.weights[tensor] for tensor in names}
        content[name] = to_record(arrays)
    content[METRICS] = LocalMetrics(
        {
            "num-examples": update.num_examples,
            "train_loss": update.loss,
            "steps": update.steps,
            "clients": clients,
        }
    )
    return Message(content, reply_to=message)


def _failure(message: Message, reason: str) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
