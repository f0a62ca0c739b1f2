"""The fused executor: chunks of clients, each trained by a compiled program.

A chunk is as many clients as stay in a processor's cache together with what a step makes.  Where
products are large and few, torch's threads share each of them; where a step is many calls for one
client, as with convolutions, chunks are dealt to workers (threads of Python) instead.  What a chunk
computes does not depend on how many workers there are nor on which of them takes it.

Clients are trained in the very arrays that are handed over in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort
from neuronexus_kernel.federation.executors.batches import Batches, longest_first
from neuronexus_kernel.federation.executors.fused.compiler import compile_step
from neuronexus_kernel.federation.executors.fused.memory import Memory, Stacks
from neuronexus_kernel.federation.executors.fused.program import Buffers, Program
from neuronexus_kernel.federation.executors.fused.updates import updates_of
from neuronexus_kernel.federation.executors.modules import finite_rows, torch_dtype

Told: TypeAlias = tuple[float, bool]
"""Of a client: the sum of its examples' losses, and whether its weights are finite."""


class FusedExecutor:
    """Trains the clients of a cohort by programs made from the architecture's graph.

    Parameters
    ----------
    chunk
        Clients trained together: a matter of cache.
    workers
        Chunks trained at the same time, each with as many threads as torch has in the thread that
        calls `train`.
    dtype
        ``"float32"`` or ``"float64"``.

    Notes
    -----
    `support.refusal` says what it cannot train.
    """

    name = "fused"

    def __init__(self, *, chunk: int, workers: int = 1, dtype: str = "float32") -> None:
        self._chunk = chunk
        self._workers = workers
        self._dtype = dtype
        self._memory = Memory()

    def train(self, cohort: Cohort) -> list[ClientUpdate]:
        """Train the cohort, as many chunks at a time as there are workers."""
        order = longest_first(cohort)
        clients = [cohort.clients[place] for place in order]
        stacks = self._memory.stacks(
            cohort.recipe.architecture.parameter_shapes, len(clients), np.dtype(self._dtype)
        )

        def train(first: int) -> list[Told]:
            part = slice(first, first + self._chunk)
            own = {name: stack[part] for name, stack in stacks.items()}
            return _train_chunk(cohort, clients[part], own, torch_dtype(self._dtype))

        told = [each for chunk in self._dealt(train, len(clients)) for each in chunk]
        arrays = {name: np.ascontiguousarray(stack) for name, stack in stacks.items()}
        updates = {
            place: _update(cohort, client, {name: each[row] for name, each in arrays.items()}, of)
            for row, (place, client, of) in enumerate(zip(order, clients, told, strict=True))
        }
        return [updates[place] for place in range(len(order))]

    def _dealt(self, train: Callable[[int], list[Told]], count: int) -> Iterator[list[Told]]:
        """Yield what `train` returns for the first place of each chunk, in their order."""
        firsts = range(0, count, self._chunk)
        if self._workers == 1 or len(firsts) == 1:
            yield from map(train, firsts)
            return
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(
            self._workers, initializer=torch.set_num_threads, initargs=(threads,)
        ) as pool:
            yield from pool.map(train, firsts)


@torch.inference_mode()
def _train_chunk(
    cohort: Cohort, clients: Sequence[Client], stacks: Stacks, dtype: torch.dtype
) -> list[Told]:
    """Train clients, sorted by falling number of steps; return what is to be told of each."""
    state = {name: torch.from_numpy(stack) for name, stack in stacks.items()}
    _fill(cohort, clients, state)
    batches = Batches(cohort, clients, dtype)
    updates, buffers = updates_of(cohort, clients, dtype), Buffers(dtype)
    programs: dict[int, Program] = {}
    totals = torch.zeros(len(clients), batches.size, dtype=torch.float64)
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
        totals[:active].add_(losses if batch.full else losses.mul_(batch.present))
    return list(zip(totals.sum(1).tolist(), finite_rows(state), strict=True))


def _fill(cohort: Cohort, clients: Sequence[Client], state: Mapping[str, Tensor]) -> None:
    """Write what the clients start from."""
    for name, stack in state.items():
        stack.copy_(torch.tensor(cohort.weights[name]))
    for place, client in enumerate(clients):
        for name, start in cohort.own.get(client.partition_id, {}).items():
            state[name][place].copy_(torch.tensor(start))


def _update(
    cohort: Cohort, client: Client, weights: dict[str, np.ndarray], told: Told
) -> ClientUpdate:
    total, finite = told
    return ClientUpdate(
        client.partition_id,
        weights,
        len(client.dataset),
        total / cohort.seen(client),
        cohort.steps(client),
        finite,
    )
