"""The fused executor: chunks of clients, each trained by a compiled program.

A chunk is as many clients as stay in a processor's cache together with what a step makes.  Chunks
are dealt to threads; each works with one thread of torch, so what a chunk computes depends on
neither how many threads there are nor on which of them takes it.  Two threads on two chunks also
wait for each other less than two threads on every single product do.

Clients are trained in the very arrays that are handed over in the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort
from neuronexus_kernel.federation.executors.batches import Batches, longest_first
from neuronexus_kernel.federation.executors.fused.compiler import compile_step
from neuronexus_kernel.federation.executors.fused.program import Buffers, Program
from neuronexus_kernel.federation.executors.fused.updates import updates_of
from neuronexus_kernel.federation.executors.modules import torch_dtype
from neuronexus_kernel.federation.executors.threads import torch_threads

_CACHE_LINE = 64

Stacks: TypeAlias = Mapping[str, NDArray[np.floating]]
"""The models of several clients by full name, (clients, \\*shape)."""


class FusedExecutor:
    """Trains the clients of a cohort by programs made from the architecture's graph.

    Parameters
    ----------
    chunk
        Clients trained together: a matter of cache.
    dtype
        ``"float32"`` or ``"float64"``.

    Notes
    -----
    `support.refusal` says what it cannot train.
    """

    name = "fused"

    def __init__(self, *, chunk: int, dtype: str = "float32") -> None:
        self._chunk = chunk
        self._dtype = dtype

    def train(self, cohort: Cohort) -> list[ClientUpdate]:
        """Train the cohort, as many chunks at a time as torch has threads."""
        order = longest_first(cohort)
        clients = [cohort.clients[place] for place in order]
        stacks = _blank(cohort, np.dtype(self._dtype))

        def train(first: int) -> list[float]:
            part = slice(first, first + self._chunk)
            own = {name: stack[part] for name, stack in stacks.items()}
            return _train_chunk(cohort, clients[part], own, torch_dtype(self._dtype))

        threads = torch.get_num_threads()
        with (
            torch_threads(1),
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            totals = [
                total
                for chunk in pool.map(train, range(0, len(clients), self._chunk))
                for total in chunk
            ]
        arrays = {name: np.ascontiguousarray(stack) for name, stack in stacks.items()}
        updates = {
            place: _update(
                cohort, client, {name: each[row] for name, each in arrays.items()}, total
            )
            for row, (place, client, total) in enumerate(zip(order, clients, totals, strict=True))
        }
        return [updates[place] for place in range(len(order))]


@torch.inference_mode()
def _train_chunk(
    cohort: Cohort, clients: Sequence[Client], stacks: Stacks, dtype: torch.dtype
) -> list[float]:
    """Train clients, sorted by falling number of steps, and return the sum of their losses."""
    _fill(cohort, clients, stacks)
    state = {name: torch.from_numpy(stack) for name, stack in stacks.items()}
    batches = Batches(cohort, clients, dtype)
    updates, buffers = updates_of(cohort, clients, dtype), Buffers(dtype)
    programs: dict[int, Program] = {}
    totals = torch.zeros(len(clients), dtype=torch.float64)
    for step, active in enumerate(batches.active):
        batch = batches[step]
        if active not in programs:
            programs[active] = compile_step(
                cohort.recipe,
                {name: tensor[:active] for name, tensor in state.items()},
                batch=batch.weights.shape[1],
                updates=updates.first(active),
                buffers=buffers,
            )
        losses = programs[active].step(batch)
        totals[:active] += losses.mul_(batch.present).sum(1)
    sums: list[float] = totals.tolist()
    return sums


def _blank(cohort: Cohort, dtype: np.dtype[np.floating]) -> Stacks:
    """Return memory for the models of all clients, kernels of images with their channels last."""
    stacks, count = {}, len(cohort.clients)
    for name, shape in cohort.recipe.architecture.parameter_shapes.items():
        if len(shape) == 4:
            made = _aligned((count, shape[0], *shape[2:], shape[1]), dtype)
            stacks[name] = made.transpose(0, 1, 4, 2, 3)
        else:
            stacks[name] = _aligned((count, *shape), dtype)
    return stacks


def _aligned(shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    """Return an array that begins with a cache line, not initialised.

    A product that updates its weights in place is a third slower where every vector crosses two
    lines.  It is NumPy's memory because NumPy asks the system for large pages, which takes a third
    of the time to be touched first.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _CACHE_LINE, np.uint8)
    # Not memory.ctypes: that makes a cycle, which keeps the memory until the collector runs.
    first = -memory.__array_interface__["data"][0] % _CACHE_LINE
    return memory[first : first + size].view(dtype).reshape(shape)


def _fill(cohort: Cohort, clients: Sequence[Client], stacks: Stacks) -> None:
    """Write what the clients start from."""
    for name, stack in stacks.items():
        stack[...] = cohort.weights[name]
    for place, client in enumerate(clients):
        for name, start in cohort.own.get(client.partition_id, {}).items():
            stacks[name][place] = start


def _update(
    cohort: Cohort, client: Client, weights: dict[str, np.ndarray], total: float
) -> ClientUpdate:
    return ClientUpdate(
        client.partition_id,
        weights,
        len(client.dataset),
        total / cohort.seen(client),
        cohort.steps(client),
    )
