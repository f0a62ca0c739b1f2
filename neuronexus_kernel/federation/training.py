"""One training run on this machine, from a recipe and data to weights and a history.

`train` checks what it is given, plans, opens the checkpoint if there is one, and has the job done
(`job`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, cast

import numpy as np

from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.datasets.task import METRIC_OF
from neuronexus_kernel.federation._flower import Strategy
from neuronexus_kernel.federation.checkpoint import Checkpoint, Saved, opened
from neuronexus_kernel.federation.conditions import (
    check_size,
    checked_recipe,
    cohort_size,
    is_personal,
    starting_weights,
    strategy_name,
)
from neuronexus_kernel.federation.executors.plan import Plan, make_plan
from neuronexus_kernel.federation.job import Job, run_job
from neuronexus_kernel.federation.participants import (
    check_dataset,
    described,
    named_clients,
    whole_number,
)
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.federation.recorder import Listener
from neuronexus_kernel.federation.result import RoundReport, TrainingResult
from neuronexus_kernel.federation.resuming import saved_rounds
from neuronexus_kernel.federation.server_app import check_strategy_object

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset, Partition

_MOST_ROUNDS = 1_000_000


def train(
    recipe: Recipe,
    dataset: Dataset | Sequence[Dataset] | Mapping[str, Dataset],
    *,
    partition: Partition | None = None,
    rounds: int = 10,
    clients_per_round: int | None = None,
    strategy: str | Strategy | None = None,
    executor: str = "auto",
    seed: int = 0,
    evaluate_every: int = 1,
    validation: Dataset | None = None,
    initial_weights: Mapping[str, np.ndarray] | None = None,
    dtype: str = "float32",
    progress: bool = True,
    on_round: Callable[[RoundReport], object] | None = None,
    keep_updates: bool = False,
    presum: bool = False,
    plan: Mapping[str, object] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    on_start: Callable[[tuple[RoundReport, ...]], object] | None = None,
) -> TrainingResult:
    """Train a model over clients that keep their data to themselves.

    Parameters
    ----------
    recipe
        How to train.
    dataset
        One data set, which `partition` shares out; or one per client; or one per named
        participant (partition ids follow the sorted names, so their order does not matter).
    partition
        How to share out a single data set; by default evenly at random over 10 clients.
    rounds
        How many rounds, at least 1.
    clients_per_round
        Size of each round's cohort; by default the recipe's `cohort_size`, or all clients.
    strategy
        A name of `strategies.STRATEGIES`, or any Flower strategy object; by default the recipe's.
    executor
        ``"auto"``, ``"measured"`` or a name of `executors.plan.EXECUTORS`.
    seed
        Decides the starting weights, cohorts, batch order and dropout: the same seed with the
        same plan gives bitwise the same weights.  With the recipe's `seed_policy`
        ``"fixed-start"``, the starting weights are those of seed 0.
    evaluate_every
        Evaluate after every so many rounds, and before the first and after the last one;
        0 never evaluates.
    validation
        What loss and metric are measured on.  Without it they are measured on the training
        examples (at most 10,000 of them, drawn once): this shows that training moves, not how
        well the model generalises.  With a personalised strategy (FedBN, FedPer, Ditto) they are
        means over the clients' own models, of at most 100 clients that have trained.
    initial_weights
        Where to begin; by default the architecture's own for this seed.
    dtype
        Number type of the training: ``"float32"`` or ``"float64"``.
    progress
        Show a progress bar.
    on_round
        Called with each round's report, round 0 included, in this thread; what returns True ends
        the run after that round.
    keep_updates
        Keep every participant's update of every round in the result.
    presum
        Let clients' updates be summed in chunks before the strategy sees them, so that the memory
        does not grow with the cohort.  Only for strategies that take a weighted mean
        (`StrategySpec.linear`), and needed above 1,000 clients a round.  The sum is rounded in
        another order.
    plan
        The `plan` of an earlier result, to execute this run in the same way; it takes the place
        of `executor`, `dtype` and `presum`.
    checkpoint
        A folder in which every full round is saved.  A call with the same arguments goes on after
        the last saved round and ends with bitwise the weights and history (but for seconds) of a
        run that was never stopped; `rounds` alone may be larger than before.  `on_round` hears of
        the new rounds only.  A strategy object must be a new one, made as the first was.  A
        `Checkpoint` that is open already stays open.
    on_start
        Called once, when everything is checked and nothing is trained yet, with the reports of
        the rounds that the checkpoint holds: none in a new run.

    Returns
    -------
    TrainingResult
        If the run is interrupted (Ctrl-C, or a notebook's stop button), what was reached at the
        end of the last full round, marked `interrupted`.

    Raises
    ------
    InvalidInputError, RecipeError, DatasetError, ArchitectureError
        If something does not fit, or the checkpoint is of another run (the message says what
        differs); nothing has been trained then.
    ConflictError
        If another run writes to the checkpoint.
    StoreError
        If the checkpoint cannot be read or written.
    EvaluationError
        If the strategy gives up or waits for ever.

    Warns
    -----
    RuntimeWarning
        If a client's training diverged: its update is left out, and its name is in the report.
        If a checkpoint was made with other versions of the libraries.
    """
    rounds = whole_number("rounds", rounds, 1, _MOST_ROUNDS)
    evaluate_every = whole_number("evaluate_every", evaluate_every, 0, _MOST_ROUNDS)
    seed = whole_number("seed", seed, 0, 2**63 - 1)
    clients = named_clients(dataset, partition, seed)
    data = [client.dataset for client in clients.values()]
    if validation is not None:
        check_dataset("validation", validation)
    recipe = checked_recipe(recipe, strategy, data if validation is None else [*data, validation])
    size = cohort_size(clients_per_round, recipe, len(clients))
    if isinstance(strategy, Strategy):
        check_strategy_object(strategy, cohort_size=size)
    with ExitStack() as stack:
        store = stack.enter_context(opened(checkpoint))
        replayed = plan
        if plan is None and store is not None and store.run is not None:
            replayed = cast("Mapping[str, object]", store.run["plan"])
        name = strategy_name(recipe, strategy)
        if replayed is None:
            chosen = make_plan(
                recipe,
                clients=size,
                executor=executor,
                dtype=dtype,
                corrections=name == "SCAFFOLD",
                own=is_personal(name, strategy),
            )
        else:
            chosen = Plan.from_dict(replayed)
            presum = bool(replayed.get("presum", False))
        check_size(size, recipe, strategy, presum=presum, keep_updates=keep_updates)
        job = Job(
            recipe=recipe,
            clients=clients,
            size=size,
            strategy=strategy if isinstance(strategy, Strategy) else None,
            start=starting_weights(recipe, initial_weights, seed, chosen.dtype),
            plan=chosen,
            presum=presum,
            rounds=rounds,
            seed=seed,
            evaluate_every=evaluate_every,
            validation=validation,
            keep_updates=keep_updates,
            metric=METRIC_OF[data[0].kind],
        )
        saved: Saved | None = None
        arguments: dict[str, Node] = {}
        if store is not None:
            arguments = {
                **job.described(),
                **described(dataset, partition, seed),
                "initial_weights": _digest(initial_weights),
                "executor": executor,
                "dtype": dtype,
                "plan": None if plan is None else cast(Node, job.planned()),
            }
            saved = saved_rounds(store, arguments, rounds=rounds, versions=chosen.versions)
        if on_start is not None:
            on_start(() if saved is None else saved.reports)
        if store is not None and store.run is None:
            store.begin({"arguments": arguments, "plan": cast(Node, job.planned())})
        show = stack.enter_context(_progress(job, saved, shown=progress))
        listeners: list[Listener] = [show] if on_round is None else [show, on_round]
        return run_job(job, store, saved, listeners)


def _digest(weights: Mapping[str, np.ndarray] | None) -> str | None:
    """Return a short name for weights, by their content."""
    if weights is None:
        return None
    from neuronexus_kernel.models.weights import serialize

    return sha256(serialize({name: np.asarray(each) for name, each in weights.items()})).hexdigest()


@contextmanager
def _progress(
    job: Job, saved: Saved | None, *, shown: bool
) -> Iterator[Callable[[RoundReport], None]]:
    """Show a progress bar if asked to; yield what it must be told of each round."""
    if not shown:
        # Even a disabled bar takes a semaphore, which a killed child process would leave behind.
        yield lambda report: None
        return
    from tqdm.auto import tqdm

    done = 0 if saved is None else saved.round
    with tqdm(total=job.rounds, initial=done, desc="training", unit="round") as bar:

        def show(report: RoundReport) -> None:
            measured = {"loss": report.loss, job.metric: report.accuracy}
            known = {name: f"{value:.4f}" for name, value in measured.items() if value == value}
            if known:
                bar.set_postfix(known, refresh=False)
            bar.update(1 if report.round else 0)

        yield show
