"""Each executor against the machine: which part of its arithmetic and of its memory it uses.

The work is that of `bench_federation`, without a grid and a strategy.  All executors train the same
clients from the same weights in one process, in turn, and the best of several turns counts; beside
them, in the same turns, the machine does

* large products of matrices on all cores: its peak;
* the products of the work's steps and nothing else, shared by the cores or a chunk on each,
  whichever is faster: what these thin shapes leave of the peak (only for the 2NN, whose products
  are plain);
* copies of an array larger than any cache.

A sample counts three times its forward operations: forward, the input's delta, the gradient.  The
first layer computes no delta of its input, so a fraction is too high by up to a third of that
layer's part.  A client's step reads all its weights for the forward products and for the deltas,
and reads and writes them in the update: this traffic, beside the copies', tells that a chunk stays
in a cache where the fraction is large.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from itertools import pairwise

import torch
from bench_federation import WORKS, make_work
from measure import Figure
from ours import prepared
from work import BATCH, Work

from neuronexus_kernel.federation.executors.base import Client, Cohort
from neuronexus_kernel.federation.executors.plan import make_executor, make_plan
from neuronexus_kernel.federation.executors.threads import torch_threads
from neuronexus_kernel.models import Architecture

EXECUTORS = ("fused", "processes", "vectorized", "sequential")
WIDTHS = (784, 200, 200, 10)
CORES = torch.get_num_threads()
GOAL = 0.6
"""Of the bound that the products of the 2NN's shapes set, for (a)."""


def figures() -> Iterator[Figure]:
    """Compare all executors with the machine on every piece of work."""
    wanted = os.environ.get("BENCHMARK_WORKS", "abcde")
    for letter, (name, model, clients, rows) in WORKS.items():
        if letter not in wanted:
            continue
        work = make_work(model, clients, rows)
        yield from _compare(letter, f"({letter}) {name}", work, turns=3 if model == "2nn" else 1)


def _compare(letter: str, name: str, work: Work, turns: int) -> Iterator[Figure]:
    recipe, data = prepared(work)
    cohort = Cohort(
        recipe,
        recipe.architecture.initial_weights(0),
        tuple(Client(place, each) for place, each in enumerate(data)),
        seed=0,
        round=1,
    )
    sides: dict[str, Callable[[], object]] = {"peak": large_products, "copy": large_copy}
    if work.model == "2nn":
        steps = len(data[0]) // BATCH
        sides["thin, shared"] = ThinProducts(len(data) // 10, 10, steps).shared
        sides["thin, dealt"] = ThinProducts(len(data) // 5, 5, steps).dealt
    with ExitStack() as stack:
        for executor in EXECUTORS:
            sides[executor] = stack.enter_context(_Side(cohort, executor)).train
        seconds = best_in_turn(sides, turns)
    peak, copied = PRODUCT_FLOPS / seconds["peak"], 2 * COPY_BYTES / seconds["copy"]
    flops = 3 * _flops(recipe.architecture)
    traffic = 4 * 4 * recipe.architecture.parameter_count / BATCH
    for executor in EXECUTORS:
        speed = work.samples / seconds[executor]
        title = f"{name}, {executor}"
        yield Figure(title, speed * flops / 1e9, peak / 1e9, "large products", "GFLOP/s")
        thin = [taken for side, taken in seconds.items() if side.startswith("thin")]
        if thin:
            goal = GOAL if (letter, executor) == ("a", "fused") else None
            bound = work.samples / min(thin)
            yield Figure(title, speed, bound, "the products alone", "samples/s", goal=goal)
        yield Figure(title, speed * traffic / 1e9, copied / 1e9, "copies in memory", "GB/s")


class _Side(AbstractContextManager["_Side"]):
    """An executor with its plan; workers, if it has any, end with the block."""

    def __init__(self, cohort: Cohort, name: str) -> None:
        plan = make_plan(cohort.recipe, clients=len(cohort.clients), executor=name)
        self._cohort, self._threads = cohort, plan.threads
        self._executor = make_executor(plan)

    def __exit__(self, *error: object) -> None:
        if isinstance(self._executor, AbstractContextManager):
            self._executor.__exit__(None, None, None)

    def train(self) -> None:
        """Train one round."""
        with torch_threads(self._threads):
            self._executor.train(self._cohort)


SIZE = 1024
PRODUCT_FLOPS = 2 * SIZE**3 * 10
COPY_BYTES = 256 * 2**20


@torch.inference_mode()
def large_products() -> None:
    """Multiply large matrices on all cores."""
    a, out = torch.ones(SIZE, SIZE), torch.empty(SIZE, SIZE)
    for _ in range(10):
        torch.mm(a, a, out=out)


_SOURCE, _TARGET = torch.ones(COPY_BYTES // 4), torch.ones(COPY_BYTES // 4)


def large_copy() -> None:
    """Copy more than any cache holds, on all cores."""
    _TARGET.copy_(_SOURCE)


class ThinProducts:
    """The matrix products of the 2NN's steps and nothing else.

    Parameters
    ----------
    chunks
        How many chunks of clients there are.
    size
        Clients in each.
    steps
        Steps of each.
    """

    def __init__(self, chunks: int, size: int, steps: int) -> None:
        self._chunks, self._steps = chunks, steps
        self._layers = [_layers(size) for _ in range(CORES)]

    def shared(self) -> None:
        """Do them one after another, each shared by all cores."""
        for _ in range(self._chunks):
            self._work(0)

    def dealt(self) -> None:
        """Do a chunk on each core at a time."""
        with torch_threads(1), ThreadPoolExecutor(CORES) as pool:
            list(pool.map(self._work, (number % CORES for number in range(self._chunks))))

    @torch.inference_mode()
    def _work(self, place: int) -> None:
        layers = self._layers[place]
        for _ in range(self._steps):
            for weight, x, y, _ in layers:
                torch.bmm(x, weight.transpose(1, 2), out=y)
            for number, (weight, x, y, delta) in reversed(list(enumerate(layers))):
                if number:
                    torch.bmm(y, weight, out=delta)
                weight.baddbmm_(y.transpose(1, 2), x, alpha=-1e-30)


def _layers(clients: int) -> list[tuple[torch.Tensor, ...]]:
    """Return weights, inputs, outputs and deltas of the 2NN's layers."""
    return [
        (
            torch.randn(clients, outputs, inputs),
            torch.randn(clients, BATCH, inputs),
            torch.zeros(clients, BATCH, outputs),
            torch.empty(clients, BATCH, inputs),
        )
        for inputs, outputs in pairwise(WIDTHS)
    ]


def best_in_turn(actions: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Return the shortest time of each action after a first one; they take turns."""
    taken = dict.fromkeys(actions, float("inf"))
    for turn in range(turns + 1):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if turn:
                taken[name] = min(taken[name], time.perf_counter() - started)
    return taken


def _flops(architecture: Architecture) -> int:
    return int(architecture.summary()["FLOPs"].sum())
