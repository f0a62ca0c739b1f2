"""The recorder listens to a run and writes down what happened, round by round."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from neuronexus_kernel.federation.client_app import DIVERGED, Outcome
from neuronexus_kernel.federation.result import RoundReport
from neuronexus_kernel.federation.updates import RoundUpdates

NAN = float("nan")

Weights: TypeAlias = dict[str, np.ndarray]

Measure: TypeAlias = Callable[[Weights], tuple[float, float]]
"""Returns loss and metric of a model."""


Listener: TypeAlias = Callable[[RoundReport], object]


class Enough(Exception):
    """Raised after a round when a listener wants no more of them."""


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """What there is to save of a round.

    Attributes
    ----------
    report
        What happened.
    weights
        The model after it.
    asked
        Partition ids of the clients that were asked to train, sorted.
    updates
        What each brought, if updates are kept and there were any.
    """

    report: RoundReport
    weights: Weights
    asked: tuple[int, ...]
    updates: RoundUpdates | None


@dataclass(frozen=True, slots=True)
class _Trained:
    """The numbers of an update; the arrays themselves are not held on to."""

    partition_id: int
    num_examples: int
    loss: float


class Recorder:
    """Keeps the reports, the last full round's weights and, if wanted, all updates.

    Parameters
    ----------
    names
        Name of each client, by partition id.
    measure
        Measures the weights; None if they are never measured.
    rounds
        Number of the last round, which is evaluated in any case.
    evaluate_every
        Evaluate round 0 and every so many rounds.
    listeners
        Told of each report; one that returns True ends the run.
    keep_updates
        Whether to keep every participant's update.
    save
        Given each round before the listeners hear of it.

    Attributes
    ----------
    reports, updates
        One per full round.
    weights
        Of the last full round.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        measure: Measure | None,
        rounds: int,
        evaluate_every: int,
        listeners: Sequence[Listener],
        *,
        keep_updates: bool,
        save: Callable[[RoundRecord], None] | None = None,
    ) -> None:
        self.reports: list[RoundReport] = []
        self.updates: list[RoundUpdates] = []
        self.weights: Weights = {}
        self._names = names
        self._measure = measure
        self._rounds = rounds
        self._every = evaluate_every
        self._listeners = listeners
        self._keep = keep_updates
        self._save = save
        self._warned = False
        self._forget()
        self.start_clock()

    def go_on(
        self, reports: Sequence[RoundReport], updates: Sequence[RoundUpdates], weights: Weights
    ) -> None:
        """Begin with the rounds of an earlier run; its listeners heard of them then."""
        self.reports, self.updates, self.weights = list(reports), list(updates), weights

    def start_clock(self) -> None:
        """Begin to count the seconds of the next round."""
        self._since = time.perf_counter()

    def trained(self, outcome: Outcome) -> None:
        """Take note of a training, before its updates are joined."""
        self._asked.update(client.partition_id for client in outcome.cohort.clients)
        self._trained += [
            _Trained(update.partition_id, update.num_examples, update.loss)
            for update in outcome.updates
        ]
        self._failures.update(outcome.failures)
        self._warn(outcome)
        if self._keep:  # now: the strategy may overwrite the arrays that it is given
            self._start.update(outcome.cohort.weights)
            for update in outcome.updates:
                self._deltas[self._names[update.partition_id]] = {
                    name: array - outcome.cohort.weights[name]
                    for name, array in update.weights.items()
                }

    def rejected(self, partition_id: int, reason: str) -> None:
        """Take note that an update did not reach the strategy."""
        self._failures.setdefault(partition_id, reason)

    def round_end(self, round: int, weights: Weights) -> dict[str, float] | None:
        """Evaluate, save and report a round; return what was measured.

        Raises
        ------
        Enough
            If a listener wants no more rounds.
        """
        if self.reports and round <= self.reports[-1].round:
            return None  # a run that goes on: this one was reported when it was trained
        seconds = time.perf_counter() - self._since if round else 0.0
        loss = accuracy = NAN
        measured = self._measure is not None and (round % self._every == 0 or round == self._rounds)
        if self._measure is not None and measured:
            loss, accuracy = self._measure(weights)
        report = self._report(round, loss, accuracy, seconds)
        updates = self._round_updates() if round and self._deltas else None
        if self._save is not None:
            self._save(RoundRecord(report, weights, tuple(sorted(self._asked)), updates))
        if updates is not None:
            self.updates.append(updates)
        self.weights = weights
        self.reports.append(report)
        self._forget()
        answers = [listener(report) for listener in self._listeners]
        if any(isinstance(answer, bool | np.bool_) and answer for answer in answers):
            raise Enough
        self.start_clock()
        return {"loss": loss, "accuracy": accuracy} if measured else None

    def _forget(self) -> None:
        """Begin a new round's notes."""
        self._asked: set[int] = set()
        self._trained: list[_Trained] = []
        self._failures: dict[int, str] = {}
        self._deltas: dict[str, Weights] = {}
        self._start: Weights = {}

    def _warn(self, outcome: Outcome) -> None:
        diverged = [
            self._names[partition]
            for partition, reason in outcome.failures.items()
            if reason == DIVERGED
        ]
        if diverged and not self._warned:
            self._warned = True
            warnings.warn(
                f"Round {outcome.cohort.round}: training diverged at {', '.join(diverged[:5])}; "
                "such updates are left out. Lower the learning rate.",
                RuntimeWarning,
                stacklevel=3,
            )

    def _report(self, round: int, loss: float, accuracy: float, seconds: float) -> RoundReport:
        trained = sorted(
            (each for each in self._trained if each.partition_id not in self._failures),
            key=lambda each: each.partition_id,
        )
        examples = sum(each.num_examples for each in trained)
        total = math.fsum(each.loss * each.num_examples for each in trained)
        return RoundReport(
            round=round,
            loss=loss,
            accuracy=accuracy,
            seconds=seconds,
            clients=tuple(self._names[each.partition_id] for each in trained),
            train_loss=total / examples if examples else NAN,
            failures={
                self._names[partition]: reason
                for partition, reason in sorted(self._failures.items())
            },
        )

    def _round_updates(self) -> RoundUpdates:
        examples = {self._names[each.partition_id]: each.num_examples for each in self._trained}
        return RoundUpdates(self._start, self._deltas, examples)
