"""Our side of the comparison: one training run in a process of its own.

    python ours.py WORK --rounds 4 --how auto        # the engine, executor by name
    python ours.py WORK --how bare:fused             # the executor alone: no grid, no strategy
    python ours.py WORK --how presum                 # FedAvg, pre-summed in chunks

Prints one line of JSON: seconds of each round, and the process's largest memory in bytes.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "peers"))

import torch
from work import BATCH, MODELS, RATE, Work, options, report

from neuronexus_kernel import Dataset, Recipe, models
from neuronexus_kernel.federation.executors.base import Client, Cohort
from neuronexus_kernel.federation.executors.plan import make_executor, make_plan
from neuronexus_kernel.federation.executors.threads import torch_threads
from neuronexus_kernel.federation.training import train


def main() -> None:
    """Train a few rounds."""
    chosen = options()
    recipe, data = prepared(Work.load(chosen.work))
    how = chosen.how or "auto"
    begin, ends = time.perf_counter(), []
    if how.startswith("bare:"):
        seconds, executor = _bare(recipe, data, how.removeprefix("bare:"), chosen.rounds)
    else:
        result = train(
            recipe,
            data,
            rounds=chosen.rounds,
            executor="auto" if how == "presum" else how,
            presum=how == "presum",
            evaluate_every=0,
            progress=False,
            on_round=lambda report: ends.append(time.perf_counter()),
        )
        seconds, executor = [each.seconds for each in result.reports[1:]], result.executor
    report(
        seconds,
        first=(ends[1] - begin) if ends else seconds[0],
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        executor=executor,
    )


def prepared(work: Work) -> tuple[Recipe, list[Dataset]]:
    """Return the work as our recipe, and a data set for each client."""
    network, shape = MODELS[work.model]
    architecture = models.Architecture.capture(network(), torch.zeros(1, *shape))
    recipe = Recipe(architecture, learning_rate=RATE, batch_size=BATCH, local_epochs=1)
    return recipe, [
        Dataset(rows, labels, classes=10)
        for rows, labels in zip(work.inputs, work.labels, strict=True)
    ]


def _bare(recipe: Recipe, data: list[Dataset], name: str, rounds: int) -> tuple[list[float], str]:
    """Call an executor round by round, averaging as plainly as can be."""
    plan = make_plan(recipe, clients=len(data), executor=name)
    executor = make_executor(plan)
    clients = tuple(Client(place, each) for place, each in enumerate(data))
    weights = recipe.architecture.initial_weights(0)
    seconds = []
    with torch_threads(plan.threads):
        for number in range(1, rounds + 1):
            begin = time.perf_counter()
            updates = executor.train(Cohort(recipe, weights, clients, seed=0, round=number))
            seconds.append(time.perf_counter() - begin)
            weights = {
                name: sum(each.weights[name] for each in updates) / len(updates) for name in weights
            }
    return seconds, plan.executor


if __name__ == "__main__":
    main()
