"""A checked training run, and the machinery that carries it out on this machine.

Here the parts meet: the plan's executor, `LocalGrid`, a Flower strategy, the app that answers its
messages, and the recorder that measures, saves and reports each round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.federation import snapshot
from neuronexus_kernel.federation._flower import Strategy
from neuronexus_kernel.federation.checkpoint import Checkpoint, Saved
from neuronexus_kernel.federation.client_app import CohortApp
from neuronexus_kernel.federation.conditions import is_personal, strategy_name
from neuronexus_kernel.federation.executors.base import Client, Executor
from neuronexus_kernel.federation.executors.plan import Plan, make_executor
from neuronexus_kernel.federation.executors.threads import torch_threads
from neuronexus_kernel.federation.grid import FIRST_NODE, LocalGrid
from neuronexus_kernel.federation.measuring import measure_of, own_tensors
from neuronexus_kernel.federation.participants import training_sample
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.federation.recorder import Enough, Listener, Measure, Recorder, RoundRecord
from neuronexus_kernel.federation.result import TrainingResult
from neuronexus_kernel.federation.server_app import execute, make_strategy
from neuronexus_kernel.federation.strategies.client import States

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What the arguments of `train` came to, checked."""

    recipe: Recipe
    clients: Mapping[str, Client]
    size: int
    strategy: Strategy | None
    start: dict[str, np.ndarray]
    plan: Plan
    presum: bool
    rounds: int
    seed: int
    evaluate_every: int
    validation: Dataset | None
    keep_updates: bool
    metric: str

    @property
    def personal(self) -> bool:
        """Whether clients keep tensors of their own."""
        return is_personal(strategy_name(self.recipe, self.strategy), self.strategy)

    def described(self) -> dict[str, Node]:
        """Return what a checkpoint compares: all that decides weights and history."""
        given = None if self.strategy is None else snapshot.described(self.strategy)
        return {
            "recipe": self.recipe.to_dict(),
            "clients_per_round": self.size,
            "strategy": cast(Node, given),
            "seed": self.seed,
            "evaluate_every": self.evaluate_every,
            "validation": None if self.validation is None else str(self.validation.cid),
            "keep_updates": self.keep_updates,
            "presum": self.presum,
        }

    def measure(self, states: Callable[[], States] | None) -> Measure | None:
        """Return what measures a round; None if nothing is measured."""
        if not self.evaluate_every:
            return None
        data = self.validation
        if data is None:
            shares = [client.dataset for client in self.clients.values()]
            data = training_sample(shares, self.seed)
        return measure_of(
            self.recipe.architecture,
            data,
            states=states,
            clients=len(self.clients),
            seed=self.seed,
        )

    def planned(self, engine: Strategy | None = None) -> dict[str, object]:
        """Return how the run is executed, to be recorded and replayed."""
        plan = {**self.plan.to_dict(), "presum": self.presum}
        return plan if engine is None else {**plan, "strategy": type(engine).__name__}


def run_job(
    job: Job, store: Checkpoint | None, saved: Saved | None, listeners: Sequence[Listener]
) -> TrainingResult:
    """Train the rounds that are not trained yet; return the result of all.

    Parameters
    ----------
    job
        What to do.
    store
        Where each round is saved, if anywhere.
    saved
        Where an earlier run stopped; None for a new one.
    listeners
        Told of each round; one that returns True ends the run.
    """
    with ExitStack() as stack:
        run = _Run(job, stack.enter_context(_executor(job.plan)), store, saved, listeners)
        stack.enter_context(run.grid.session())
        stack.enter_context(torch_threads(job.plan.threads))
        return run.train()


class _Run:
    """A job under way: the grid, the app that answers it, and the recorder that listens."""

    def __init__(
        self,
        job: Job,
        executor: Executor,
        store: Checkpoint | None,
        saved: Saved | None,
        listeners: Sequence[Listener],
    ) -> None:
        nodes = {FIRST_NODE + client.partition_id: client for client in job.clients.values()}
        self._job = job
        self._store = store
        self._saved = saved
        self._first = 1 if saved is None else saved.round + 1
        self._names = {client.partition_id: name for name, client in job.clients.items()}
        self._recorder = Recorder(
            self._names,
            job.measure(self._states if job.personal else None),
            job.rounds,
            job.evaluate_every,
            listeners,
            keep_updates=job.keep_updates,
            save=self._save,
        )
        self._app = CohortApp(nodes, executor, observe=self._recorder.trained, presum=job.presum)
        self.grid = LocalGrid(
            self._app, tuple(nodes), cohort_size=job.size, seed=job.seed, first_round=self._first
        )

    def train(self) -> TrainingResult:
        """Train, within the grid's session."""
        job, saved = self._job, self._saved
        self._engine = job.strategy or make_strategy(
            job.recipe, cohort_size=job.size, clients=len(job.clients)
        )
        if saved is not None:
            self._recorder.go_on(saved.reports, saved.updates, saved.weights)
            self._app.states = saved.states
            saved.restore(self._engine)
        interrupted = False
        try:
            if self._first <= job.rounds:
                self._execute(job.start if saved is None else saved.weights)
        except Enough:
            pass
        except KeyboardInterrupt:
            if not self._recorder.reports:
                raise
            interrupted = True
        return self._result(interrupted)

    def _execute(self, start: Mapping[str, np.ndarray]) -> None:
        recorder = self._recorder
        recorder.start_clock()
        execute(
            self._engine,
            self.grid,
            self._job.recipe,
            start,
            rounds=self._job.rounds,
            seed=self._job.seed,
            round_end=recorder.round_end,
            first_round=self._first,
            rejected=lambda node, reason: recorder.rejected(node - FIRST_NODE, reason),
        )

    def _states(self) -> States:
        return self._app.states

    def _save(self, record: RoundRecord) -> None:
        if self._store is not None:
            self._store.save(
                record.report,
                record.weights,
                self._engine,
                states=self._app.states,
                asked=record.asked,
                updates=record.updates,
            )

    def _result(self, interrupted: bool) -> TrainingResult:
        job, recorder = self._job, self._recorder
        return TrainingResult(
            recipe=job.recipe,
            arrays={name: np.array(array, order="C") for name, array in recorder.weights.items()},
            reports=tuple(recorder.reports),
            plan=job.planned(self._engine),
            seed=job.seed,
            updates=tuple(recorder.updates),
            interrupted=interrupted,
            metric=job.metric,
            own=own_tensors(self._app.states, self._names) if job.personal else {},
        )


@contextmanager
def _executor(plan: Plan) -> Iterator[Executor]:
    """Yield the executor that a plan names, and end its workers if it has any."""
    executor = make_executor(plan)
    with executor if isinstance(executor, AbstractContextManager) else nullcontext():
        yield executor
