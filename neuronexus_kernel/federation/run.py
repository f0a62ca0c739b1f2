"""One training run on this machine, from a recipe and data to weights and a history.

This is where the parts meet: data become clients, the plan chooses an executor, `LocalGrid` joins
them to a Flower strategy, and each round is evaluated and reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.errors import DatasetError, InvalidInputError, RecipeError
from neuronexus_kernel.federation import randomness
from neuronexus_kernel.federation._flower import Strategy
from neuronexus_kernel.federation.client_app import CohortApp
from neuronexus_kernel.federation.evaluation import Evaluator
from neuronexus_kernel.federation.executors.base import Client
from neuronexus_kernel.federation.executors.plan import make_executor, make_plan
from neuronexus_kernel.federation.executors.threads import torch_threads
from neuronexus_kernel.federation.fields import whole
from neuronexus_kernel.federation.grid import LocalGrid
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.federation.recorder import Recorder
from neuronexus_kernel.federation.result import RoundReport, TrainingResult
from neuronexus_kernel.federation.server_app import (
    check_strategy_object,
    execute,
    make_strategy,
)
from neuronexus_kernel.federation.weights import check_shapes, check_task

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset, Partition

FIRST_NODE = 1000
"""Node id of partition 0; Flower keeps small numbers for itself."""

_DEFAULT_CLIENTS = 10
_MOST_ROUNDS = 1_000_000
_TRAINING_SAMPLE = 10_000


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
    on_round: Callable[[RoundReport], None] | None = None,
    keep_updates: bool = False,
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
        Size of each round's cohort; by default all clients.
    strategy
        A name of `strategies.STRATEGIES`, or any Flower strategy object; by default the recipe's.
    executor
        ``"auto"``, ``"sequential"`` or ``"vectorized"``.
    seed
        Decides the starting weights, cohorts, batch order and dropout: the same seed with the
        same plan gives bitwise the same weights.
    evaluate_every
        Evaluate after every so many rounds, and before the first and after the last one;
        0 never evaluates.
    validation
        What loss and accuracy are measured on.  Without it they are measured on the training
        examples (at most 10,000 of them, drawn once): this shows that training moves, not how
        well the model generalises.
    initial_weights
        Where to begin; by default the architecture's own for this seed.
    dtype
        Number type of the training: ``"float32"`` or ``"float64"``.
    progress
        Show a progress bar.
    on_round
        Called with each round's report, round 0 included, in this thread.
    keep_updates
        Keep every participant's update of every round in the result.

    Returns
    -------
    TrainingResult
        If the run is interrupted (Ctrl-C, or a notebook's stop button), what was reached at the
        end of the last full round, marked `interrupted`.

    Raises
    ------
    InvalidInputError, RecipeError, DatasetError, ArchitectureError
        If something does not fit; nothing has been trained then.
    EvaluationError
        If the strategy gives up or waits for ever.

    Warns
    -----
    RuntimeWarning
        If a client's training diverged: its update is left out, and its name is in the report.
    """
    rounds = _whole("rounds", rounds, 1, _MOST_ROUNDS)
    evaluate_every = _whole("evaluate_every", evaluate_every, 0, _MOST_ROUNDS)
    seed = _whole("seed", seed, 0, 2**63 - 1)
    clients = _clients(dataset, partition, seed)
    size = len(clients)
    if clients_per_round is not None:
        size = _whole("clients_per_round", clients_per_round, 1, len(clients))
    data = [client.dataset for client in clients.values()]
    _check_validation(validation)
    recipe = _recipe(recipe, strategy, data if validation is None else [*data, validation])
    if isinstance(strategy, Strategy):
        check_strategy_object(strategy, cohort_size=size)
    plan = make_plan(
        recipe.architecture,
        clients=size,
        batch_size=recipe.batch_size,
        executor=executor,
        dtype=dtype,
    )
    start = _starting_weights(recipe, initial_weights, seed, dtype)
    evaluator = None
    if evaluate_every:
        evaluator = Evaluator(recipe.architecture, validation or _sample(data, seed))
    names = {client.partition_id: name for name, client in clients.items()}
    nodes = {FIRST_NODE + client.partition_id: client for client in clients.values()}
    with _progress(rounds, shown=progress) as show:
        listeners = [show] if on_round is None else [show, on_round]
        recorder = Recorder(
            names, evaluator, rounds, evaluate_every, listeners, keep_updates=keep_updates
        )
        app = CohortApp(nodes, make_executor(plan), observe=recorder.trained)
        grid = LocalGrid(app, tuple(nodes), cohort_size=size, seed=seed)
        interrupted = False
        try:
            with grid.session(), torch_threads(plan.threads):
                engine = (
                    strategy
                    if isinstance(strategy, Strategy)
                    else make_strategy(recipe, cohort_size=size)
                )
                recorder.start_clock()
                execute(
                    engine,
                    grid,
                    recipe,
                    start,
                    rounds=rounds,
                    seed=seed,
                    round_end=recorder.round_end,
                )
        except KeyboardInterrupt:
            if not recorder.reports:
                raise
            interrupted = True
    return TrainingResult(
        recipe=recipe,
        weights={name: np.array(array, order="C") for name, array in recorder.weights.items()},
        reports=tuple(recorder.reports),
        plan={**plan.to_dict(), "strategy": type(engine).__name__},
        seed=seed,
        updates=tuple(recorder.updates),
        interrupted=interrupted,
    )


def _whole(name: str, value: object, low: int, high: int) -> int:
    try:
        return int(whole(low, high)(name, value))
    except RecipeError as error:
        raise InvalidInputError(str(error)) from None


def _clients(dataset: object, partition: Partition | None, seed: int) -> dict[str, Client]:
    """Return the clients by name, in order of their partition ids."""
    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.datasets.partition import iid

    if isinstance(dataset, Dataset):
        shares = dataset.partition(partition or iid(_DEFAULT_CLIENTS, seed=seed))
        named = {f"client-{place}": share for place, share in enumerate(shares)}
    elif partition is not None:
        raise InvalidInputError(
            "partition shares out a single data set, but several were given: leave it out."
        )
    elif isinstance(dataset, Mapping):
        named = {str(name): dataset[name] for name in sorted(dataset, key=str)}
    elif isinstance(dataset, Sequence):
        named = {f"client-{place}": share for place, share in enumerate(dataset)}
    else:
        kind = type(dataset).__name__
        raise DatasetError(f"dataset must be a Dataset, several, or a mapping, not a {kind}.")
    if not named:
        raise DatasetError("There is nobody to train with: give at least one data set.")
    for name, share in named.items():
        if not isinstance(share, Dataset):
            raise DatasetError(f"{name} must be a Dataset, not a {type(share).__name__}.")
    return {name: Client(place, share) for place, (name, share) in enumerate(named.items())}


def _check_validation(validation: object) -> None:
    from neuronexus_kernel.datasets import Dataset

    if validation is not None and not isinstance(validation, Dataset):
        raise DatasetError(f"validation must be a Dataset, not a {type(validation).__name__}.")


def _recipe(recipe: Recipe, strategy: object, data: Sequence[Dataset]) -> Recipe:
    """Return the recipe with the strategy that was asked for, checked against the data."""
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"recipe must be a Recipe, not a {type(recipe).__name__}.")
    if isinstance(strategy, str):
        recipe = recipe.with_changes(strategy=strategy)
    elif strategy is not None and not isinstance(strategy, Strategy):
        raise InvalidInputError(
            f"strategy must be a name or a Flower Strategy object, not {strategy!r}."
        )
    check_task(recipe.architecture, data)
    return recipe


def _starting_weights(
    recipe: Recipe, given: Mapping[str, np.ndarray] | None, seed: int, dtype: str
) -> dict[str, np.ndarray]:
    if given is None:
        given = recipe.architecture.initial_weights(seed)
    check_shapes(recipe.architecture, given)
    return {name: np.array(given[name], dtype=dtype) for name in recipe.architecture.parameters}


def _sample(data: Sequence[Dataset], seed: int) -> Dataset:
    """Return at most `_TRAINING_SAMPLE` rows of all clients' data together."""
    from neuronexus_kernel.datasets import Dataset

    ends = np.cumsum([len(share) for share in data])
    order = randomness.permutation("training sample", seed, count=int(ends[-1]))
    chosen = np.sort(order[:_TRAINING_SAMPLE])
    parts = [
        (share, chosen[(chosen >= end - len(share)) & (chosen < end)] - (end - len(share)))
        for share, end in zip(data, ends, strict=True)
    ]
    return Dataset(
        np.concatenate([share.inputs[rows] for share, rows in parts]),
        np.concatenate([share.labels[rows] for share, rows in parts]),
        classes=max(share.classes for share in data),
        name="training examples",
    )


@contextmanager
def _progress(rounds: int, *, shown: bool) -> Iterator[Callable[[RoundReport], None]]:
    """Show a progress bar if asked to; yield what it must be told of each round."""
    if not shown:
        # Even a disabled bar takes a semaphore, which a killed child process would leave behind.
        yield lambda report: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=rounds, desc="training", unit="round") as bar:

        def show(report: RoundReport) -> None:
            measured = {"loss": report.loss, "accuracy": report.accuracy}
            known = {name: f"{value:.4f}" for name, value in measured.items() if value == value}
            if known:
                bar.set_postfix(known, refresh=False)
            bar.update(1 if report.round else 0)

        yield show
