"""What the tests of federated training share."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from neuronexus_kernel.datasets import Dataset, digits


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Train on one thread: models this small only lose by waiting for a second one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digit_splits():
    """The digits, split into training (80 %) and validation."""
    return digits().split({"training": 0.8, "validation": 0.2}, seed=0)


@pytest.fixture
def blobs():
    """A function that makes a small data set of Gaussian blobs of a given size and shape."""

    def make(rows, shape=(6,), classes=3, seed=0):
        random = np.random.default_rng(seed)
        labels = np.arange(rows) % classes
        centres = np.random.default_rng(99).normal(size=(classes, *shape))
        inputs = centres[labels] + 0.5 * random.normal(size=(rows, *shape))
        return Dataset(inputs, labels, classes=classes, name=f"blobs {seed}")

    return make


class Tampering:
    """The reference executor, with some partitions' updates changed by a function."""

    name = "tampering"

    def __init__(self, tamper=None):
        from neuronexus_kernel.federation.executors.sequential import SequentialExecutor

        self._inner = SequentialExecutor(dtype="float64")
        self._tamper = tamper or {}

    def train(self, cohort):
        return [
            replace(
                update,
                weights=self._tamper[update.partition_id](cohort.weights, update.weights),
            )
            if update.partition_id in self._tamper
            else update
            for update in self._inner.train(cohort)
        ]


@dataclass
class Played:
    """What `play` returns: everything that happened, for a test to look at."""

    weights: dict = field(default_factory=dict)
    rounds: dict = field(default_factory=dict)
    messages: list = field(default_factory=list)
    replies: list = field(default_factory=list)
    outcomes: list = field(default_factory=list)
    rejected: list = field(default_factory=list)
    app: object = None
    strategy: object = None


@pytest.fixture(scope="session")
def play():
    """A function that runs a recipe in float64 over data sets, and shows what goes by.

    ``tamper`` maps partition ids to functions of (weights sent, weights trained); ``answer``
    wraps the handler of messages.
    """
    from neuronexus_kernel.federation.client_app import CohortApp
    from neuronexus_kernel.federation.executors.base import Client
    from neuronexus_kernel.federation.grid import LocalGrid
    from neuronexus_kernel.federation.server_app import execute, make_strategy

    def run(
        recipe,
        data,
        *,
        rounds=1,
        seed=0,
        first_round=1,
        cohort_size=None,
        tamper=None,
        answer=lambda handle, messages: handle(messages),
        strategy=None,
        weights=None,
        states=None,
        bound=math.inf,
        **options,
    ):
        played = Played()
        clients = {1000 + place: Client(place, share) for place, share in enumerate(data)}
        app = CohortApp(clients, Tampering(tamper), observe=played.outcomes.append, **options)
        app.states = states or {}

        def handle(messages):
            played.messages += messages
            replies = list(answer(app, messages))
            played.replies += [
                copy.deepcopy(each.content) for each in replies if each.has_content()
            ]
            return replies

        def round_end(number, arrays):
            played.rounds[number] = {name: array.copy() for name, array in arrays.items()}

        if weights is None:
            weights = recipe.architecture.initial_weights(seed)
        size = cohort_size or len(data)
        grid = LocalGrid(
            handle, tuple(clients), cohort_size=size, seed=seed, first_round=first_round
        )
        with grid.session():
            strategy = strategy or make_strategy(recipe, cohort_size=size, clients=len(data))
            execute(
                strategy,
                grid,
                recipe,
                {name: array.astype(np.float64) for name, array in weights.items()},
                rounds=rounds,
                seed=seed,
                round_end=round_end,
                first_round=first_round,
                update_bound=bound,
                rejected=lambda node, reason: played.rejected.append((node - 1000, reason)),
            )
        played.weights = played.rounds[max(played.rounds)]
        played.app, played.strategy = app, strategy
        return played

    return run


@pytest.fixture(scope="session")
def distance():
    """A function that returns the L2 distance of two models."""

    def between(first, second):
        assert first.keys() == second.keys()
        return math.sqrt(sum(float(np.square(first[k] - second[k]).sum()) for k in first))

    return between
