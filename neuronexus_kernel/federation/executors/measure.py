"""Measuring: which of some plans trains a recipe fastest on this machine.

Each plan's executor trains a small cohort of made-up clients whose data have the recipe's shapes.
What is compared is the time of one client's step, the best of a few, since whatever else the
machine does can only slow a step down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.federation.executors.base import Client, Cohort
from neuronexus_kernel.federation.executors.plan import Plan, make_executor
from neuronexus_kernel.federation.executors.threads import torch_threads
from neuronexus_kernel.federation.recipe import Recipe

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset

_STEPS = 4
_CLIENTS = 32
_REPEATS = 3


def fastest(recipe: Recipe, clients: int, plans: Sequence[Plan]) -> Plan:
    """Return the plan whose steps took the least time, with the times of all.

    Parameters
    ----------
    recipe
        How to train; its first round is measured.
    clients
        Size of a round's cohort; at most 32 are trained.
    plans
        What to choose from; equal times go to the earlier one.
    """
    cohort = made_up_cohort(recipe, min(clients, _CLIENTS))
    measured = [(_seconds(plan, cohort), place) for place, plan in enumerate(plans)]
    seconds, place = min(measured)
    timings = {_label(plans[at]): time for time, at in measured}
    best = plans[place]
    reason = f"measured: {1e6 * seconds:.0f} microseconds for a client's step"
    return replace(best, reason=reason, timings=timings)


def made_up_cohort(recipe: Recipe, clients: int) -> Cohort:
    """Return clients with `_STEPS` batches of made-up data each, of the recipe's shapes."""
    short = recipe.with_changes(local_epochs=1, local_steps=0)
    data = _dataset(recipe, _STEPS * recipe.batch_size)
    return Cohort(
        short,
        recipe.architecture.initial_weights(0),
        tuple(Client(place, data) for place in range(clients)),
        seed=0,
        round=1,
    )


def _label(plan: Plan) -> str:
    return plan.executor if plan.inner is None else f"{plan.executor} of {plan.inner.executor}"


def _seconds(plan: Plan, cohort: Cohort) -> float:
    """Return the time of one client's step under a plan."""
    executor = make_executor(plan)
    with ExitStack() as stack:
        if isinstance(executor, AbstractContextManager):
            stack.enter_context(executor)
        stack.enter_context(torch_threads(plan.threads))
        executor.train(cohort)  # the first time pays for what is made once
        best = min(_timed(executor.train, cohort) for _ in range(_REPEATS))
    return best / (_STEPS * len(cohort.clients))


def _timed(train: Callable[[Cohort], object], cohort: Cohort) -> float:
    start = time.perf_counter()
    train(cohort)
    return time.perf_counter() - start


def _dataset(recipe: Recipe, examples: int) -> Dataset:
    """Return data that the recipe's model and loss can take."""
    from neuronexus_kernel.datasets import Dataset

    architecture = recipe.architecture
    shape, outputs = architecture.input_shape, architecture.output_shape
    random = np.random.default_rng(0)
    tokens = architecture.input_dtype == "int64"
    inputs = (
        np.zeros((examples, *shape), dtype=np.int64)
        if tokens
        else random.standard_normal((examples, *shape), dtype=np.float32)
    )
    if recipe.loss == "next_token":
        labels = np.zeros((examples, *shape), dtype=np.int64)
        return Dataset(inputs, labels, kind="next-token", vocabulary=outputs[-1])
    vocabulary = 1 if tokens else None
    if recipe.loss == "cross_entropy":
        labels = np.zeros(examples, dtype=np.int64)
        return Dataset(inputs, labels, classes=outputs[0], vocabulary=vocabulary)
    targets = random.random((examples, *outputs), dtype=np.float32)
    return Dataset(inputs, targets, kind="regression", vocabulary=vocabulary)
