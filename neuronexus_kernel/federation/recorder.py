"""The recorder listens to a run and writes down what happened, round by round."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from neuronexus_kernel.federation.client_app import DIVERGED, Outcome
from neuronexus_kernel.federation.evaluation import Evaluator
from neuronexus_kernel.federation.result import RoundReport
from neuronexus_kernel.federation.updates import RoundUpdates

NAN = float("nan")


class Recorder:
    """Keeps the reports, the last full round's weights and, if wanted, all updates.

    Parameters
    ----------
    names
        Name of each client, by partition id.
    evaluator
        Measures the weights; None if they are never measured.
    rounds
        Number of the last round, which is evaluated in any case.
    evaluate_every
        Evaluate round 0 and every so many rounds.
    listeners
        Told of each report.
    keep_updates
        Whether to keep every participant's update.

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
        evaluator: Evaluator | None,
        rounds: int,
        evaluate_every: int,
        listeners: Sequence[Callable[[RoundReport], None]],
        *,
        keep_updates: bool,
    ) -> None:
        self.reports: list[RoundReport] = []
        self.updates: list[RoundUpdates] = []
        self.weights: dict[str, np.ndarray] = {}
        self._names = names
        self._evaluator = evaluator
        self._rounds = rounds
        self._every = evaluate_every
        self._listeners = listeners
        self._keep = keep_updates
        self._outcomes: list[Outcome] = []
        self._deltas: dict[str, dict[str, np.ndarray]] = {}
        self._warned = False
        self.start_clock()

    def start_clock(self) -> None:
        """Begin to count the seconds of the next round."""
        self._since = time.perf_counter()

    def trained(self, outcome: Outcome) -> None:
        """Take note of a training, before its updates are joined."""
        self._outcomes.append(outcome)
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
                stacklevel=2,
            )
        if self._keep:  # now: the strategy may overwrite the arrays that it is given
            for update in outcome.updates:
                self._deltas[self._names[update.partition_id]] = {
                    name: array - outcome.cohort.weights[name]
                    for name, array in update.weights.items()
                }

    def round_end(self, round: int, weights: dict[str, np.ndarray]) -> dict[str, float] | None:
        """Evaluate and report a round; return what was measured."""
        seconds = time.perf_counter() - self._since if round else 0.0
        measured: dict[str, float] | None = None
        if self._evaluator is not None and (round % self._every == 0 or round == self._rounds):
            evaluation = self._evaluator.evaluate(weights)
            measured = {"loss": evaluation.loss, "accuracy": evaluation.accuracy}
        report = self._report(round, measured or {}, seconds)
        if round and self._keep and self._deltas:
            self.updates.append(self._round_updates())
        self.weights = weights
        self.reports.append(report)
        self._outcomes, self._deltas = [], {}
        for listener in self._listeners:
            listener(report)
        self.start_clock()
        return measured

    def _report(self, round: int, measured: Mapping[str, float], seconds: float) -> RoundReport:
        updates = sorted(
            (update for outcome in self._outcomes for update in outcome.updates),
            key=lambda update: update.partition_id,
        )
        examples = sum(update.num_examples for update in updates)
        loss = math.fsum(update.loss * update.num_examples for update in updates)
        failures = {
            self._names[partition]: reason
            for outcome in self._outcomes
            for partition, reason in sorted(outcome.failures.items())
        }
        return RoundReport(
            round=round,
            loss=measured.get("loss", NAN),
            accuracy=measured.get("accuracy", NAN),
            seconds=seconds,
            clients=tuple(self._names[update.partition_id] for update in updates),
            train_loss=loss / examples if examples else NAN,
            failures=failures,
        )

    def _round_updates(self) -> RoundUpdates:
        examples = {
            self._names[update.partition_id]: update.num_examples
            for outcome in self._outcomes
            for update in outcome.updates
        }
        return RoundUpdates(dict(self._outcomes[0].cohort.weights), self._deltas, examples)
