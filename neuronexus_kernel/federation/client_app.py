"""The client's side: what nodes do with the messages of a strategy.

A message holds the global weights and a config: the recipe and the architecture as bytes, the
seed, the number type and the round.  A node's answer holds its weights and its numbers.  All
messages that ask for the same are answered by one call of the executor, whether they are a whole
cohort in this process or the single message that a SuperNode gets.

A message is input from outside: what it holds is decoded strictly.  A client that cannot train,
or whose training diverged, answers with an error, which costs its own update and not the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation._flower import (
    ConfigRecord,
    Error,
    ErrorCode,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from neuronexus_kernel.federation.arrays import from_record, to_record
from neuronexus_kernel.federation.evaluation import Evaluator
from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort, Executor
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.federation.weights import check_shapes, is_finite

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset

_T = TypeVar("_T")

DIVERGED = "Training diverged: the weights are no longer finite. Lower the learning rate."


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one exchange of training messages came to.

    Attributes
    ----------
    cohort
        Who was asked, and what they started from.
    updates
        The updates that were sent back.
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
    """

    def __init__(
        self,
        clients: Mapping[int, Client],
        executor: Executor,
        *,
        observe: Observer | None = None,
    ) -> None:
        self._clients = clients
        self._executor = executor
        self._observe = observe
        self._recipes: dict[tuple[bytes, bytes], Recipe] = {}

    def __call__(self, messages: list[Message]) -> list[Message]:
        """Answer messages, in any order."""
        replies: list[Message] = []
        for group in _groups(messages):
            replies += self._answer(group)
        return replies

    def _answer(self, group: Sequence[Message]) -> list[Message]:
        """Answer messages that differ in their node only."""
        cohort = self._cohort(group)
        kind = group[0].metadata.message_type
        if kind == MessageType.TRAIN:
            return self._train(cohort, group)
        if kind == MessageType.EVALUATE:
            return [
                Message(_evaluated(cohort, client), reply_to=message)
                for client, message in zip(cohort.clients, group, strict=True)
            ]
        return [_failure(message, f"Messages of type {kind!r} are unknown.") for message in group]

    def _train(self, cohort: Cohort, group: Sequence[Message]) -> list[Message]:
        updates, failures = train_each(self._executor, cohort)
        outcome = Outcome(cohort, tuple(updates), failures)
        if self._observe is not None:
            self._observe(outcome)
        trained = {update.partition_id: update for update in updates}
        replies = []
        for client, message in zip(cohort.clients, group, strict=True):
            update = trained.get(client.partition_id)
            if update is None:
                replies.append(_failure(message, failures[client.partition_id]))
            else:
                replies.append(Message(_trained(cohort, update), reply_to=message))
        return replies

    def _cohort(self, group: Sequence[Message]) -> Cohort:
        """Read what the messages of a group ask for."""
        content = group[0].content
        config = _only(content.config_records, "ConfigRecord")
        weights = from_record(_only(content.array_records, "ArrayRecord"))
        recipe = self._recipe(config)
        check_shapes(recipe.architecture, weights)
        return Cohort(
            recipe=recipe,
            weights=weights,
            clients=tuple(self._clients[message.metadata.dst_node_id] for message in group),
            seed=_entry(config, "seed", int),
            round=_entry(config, "server-round", int),
            proximal_mu=_entry(config, "proximal-mu", float) if "proximal-mu" in config else 0.0,
        )

    def _recipe(self, config: ConfigRecord) -> Recipe:
        key = (_entry(config, "architecture", bytes), _entry(config, "recipe", bytes))
        if key not in self._recipes:
            from neuronexus_kernel.models import Architecture

            architecture = Architecture.decode(key[0])
            self._recipes[key] = Recipe.from_dict(dagcbor.decode(key[1]), architecture)
        return self._recipes[key]


def train_each(executor: Executor, cohort: Cohort) -> tuple[list[ClientUpdate], dict[int, str]]:
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
        if is_finite(update.weights):
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


def _trained(cohort: Cohort, update: ClientUpdate) -> RecordDict:
    """Return the content of a training reply; names are in the order they came in."""
    weights = {name: update.weights[name] for name in cohort.weights}
    metrics = MetricRecord({"num-examples": update.num_examples, "train_loss": update.loss})
    return RecordDict({"arrays": to_record(weights), "metrics": metrics})


def _evaluated(cohort: Cohort, client: Client) -> RecordDict:
    dataset: Dataset = client.dataset
    result = Evaluator(cohort.recipe.architecture, dataset).evaluate(cohort.weights)
    return RecordDict(
        {
            "metrics": MetricRecord(
                {
                    "num-examples": result.examples,
                    "loss": result.loss,
                    "accuracy": result.accuracy,
                }
            )
        }
    )


def _failure(message: Message, reason: str) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def _only(records: Mapping[str, _T], kind: str) -> _T:
    if len(records) != 1:
        raise InvalidInputError(f"A message must hold one {kind}, not {len(records)}.")
    return next(iter(records.values()))


def _entry(config: ConfigRecord, name: str, kind: type[_T]) -> _T:
    value = config.get(name)
    if not isinstance(value, kind):
        raise InvalidInputError(
            f"The message's config holds no {kind.__name__} named {name!r}; start the strategy "
            "with server_app.train_config(recipe, ...)."
        )
    return value
