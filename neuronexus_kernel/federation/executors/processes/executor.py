"""`ProcessesExecutor`: deals a cohort out to worker processes and gathers their updates."""

from __future__ import annotations

import struct
import weakref
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, cast

import numpy as np

from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort, Weights
from neuronexus_kernel.federation.executors.batches import longest_first
from neuronexus_kernel.federation.executors.plan import Plan
from neuronexus_kernel.federation.executors.processes.memory import SharedMemory, aligned, room
from neuronexus_kernel.federation.executors.processes.pool import Pool

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset

_PARTS = 8
"""A cohort is dealt in at least so many chunks, if it has as many clients."""


class ProcessesExecutor:
    """Trains the clients of a cohort in worker processes; a context manager.

    Workers start with the first training and are kept until `close`, the end of the program, or
    an interrupt.

    Parameters
    ----------
    inner
        What each worker follows.
    workers
        How many there are at most.
    """

    name = "processes"

    def __init__(self, inner: Plan, workers: int) -> None:
        self._inner = inner
        self._memories = [SharedMemory() for _ in range(3)]
        self._data, self._down, self._up = self._memories
        self._pool = Pool(inner, workers, self._memories)
        self._places: dict[int, tuple[Dataset, Node]] = {}
        self._filled = self._used = 0
        self._end = weakref.finalize(self, _end, self._pool, self._memories)

    def __enter__(self) -> ProcessesExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def processes(self) -> tuple[int, ...]:
        """Process ids of the workers that run."""
        return self._pool.processes

    def close(self) -> None:
        """End the workers and give the shared memory back."""
        self._end()

    def train(self, cohort: Cohort) -> list[ClientUpdate]:
        """Train all clients of a cohort; return their updates in the cohort's order."""
        order = longest_first(cohort)
        chunks = list(self._chunks(order))
        slot = self._slot(cohort)
        self._up.reserve(slot * len(order))
        common = self._common(cohort)
        tasks: list[dict[str, Node]] = []
        for chunk in chunks:
            clients = [cohort.clients[place] for place in chunk]
            tasks.append(
                {
                    **common,
                    **self._particular(cohort, clients),
                    "offset": slot * sum(len(each) for each in chunks[: len(tasks)]),
                    "slot": slot,
                }
            )
        sizes = {"data": self._data.size, "down": self._down.size, "up": self._up.size}
        updates: dict[int, ClientUpdate] = {}
        for number, answer in self._pool.answers([{**task, **sizes} for task in tasks]):
            found = cast("list[dict[str, Node]]", answer["updates"])
            for place, entry in zip(chunks[number], found, strict=True):
                updates[place] = self._update(entry)
        return [updates[place] for place in range(len(order))]

    def _chunks(self, order: Sequence[int]) -> Iterator[Sequence[int]]:
        """Yield which clients are trained by one task: never dependent on the workers."""
        size = max(1, min(self._inner.chunk, -(-len(order) // _PARTS)))
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _slot(self, cohort: Cohort) -> int:
        """Return the memory for one client's update, whatever type its numbers have."""
        return sum(aligned(8 * array.size) for array in cohort.weights.values())

    def _common(self, cohort: Cohort) -> dict[str, Node]:
        """Write what all chunks share into the memory; return where it is."""
        mine = [weights for each in (cohort.own, cohort.corrections) for weights in each.values()]
        self._down.reserve(sum(room(dict(weights)) for weights in (cohort.weights, *mine)))
        self._used = 0
        return {
            "recipe": cohort.recipe.encode(),
            "architecture": cohort.recipe.architecture.encode(),
            "weights": self._put(cohort.weights),
            "seed": cohort.seed,
            "round": cohort.round,
            "proximal_mu": float(cohort.proximal_mu),
        }

    def _particular(self, cohort: Cohort, clients: Sequence[Client]) -> dict[str, Node]:
        """Write what some clients have of their own into the memory; return where it is."""
        return {
            "clients": [
                {"partition": client.partition_id, "dataset": self._place_of(client.dataset)}
                for client in clients
            ],
            "own": self._put_each(cohort.own, clients),
            "corrections": self._put_each(cohort.corrections, clients),
        }

    def _put_each(self, each: Mapping[int, Weights], clients: Sequence[Client]) -> Node:
        return {
            str(client.partition_id): self._put(each[client.partition_id])
            for client in clients
            if client.partition_id in each
        }

    def _put(self, weights: Weights) -> Node:
        places: dict[str, Node] = {}
        for name, array in weights.items():
            places[name], self._used = self._down.write(self._used, array)
        return places

    def _place_of(self, dataset: Dataset) -> Node:
        """Return where a data set is in the memory; it is written there when first seen."""
        known = self._places.get(id(dataset))
        if known is None:
            inputs, labels = dataset.inputs, dataset.labels
            end = self._filled + aligned(inputs.nbytes) + aligned(labels.nbytes)
            if end > self._data.size:
                self._data.reserve(max(end, 2 * self._data.size))
            key = self._filled
            first, self._filled = self._data.write(self._filled, inputs)
            second, self._filled = self._data.write(self._filled, labels)
            place: Node = {
                "key": key,
                "inputs": first,
                "labels": second,
                "kind": dataset.kind,
                "classes": dataset.classes or None,
                "vocabulary": dataset.vocabulary or None,
            }
            known = self._places[id(dataset)] = dataset, place
        return known[1]

    def _update(self, entry: dict[str, Node]) -> ClientUpdate:
        arrays = cast("Mapping[str, list[Node]]", entry["arrays"])
        return ClientUpdate(
            partition_id=cast(int, entry["partition"]),
            weights={name: np.array(self._up.array(place)) for name, place in arrays.items()},
            num_examples=cast(int, entry["examples"]),
            loss=struct.unpack("<d", cast(bytes, entry["loss"]))[0],
            steps=cast(int, entry["steps"]),
        )


def _end(pool: Pool, memories: Sequence[SharedMemory]) -> None:
    pool.end()
    for memory in memories:
        memory.close()
