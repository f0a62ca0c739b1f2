"""A worker process: trains the chunks it is given, one after another, until its trainer is gone.

A thread reads the channel.  At the end of the stream it ends the process at once, whatever is
being computed: a worker cannot outlive the process that started it, however that one ended.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import cast

import numpy as np

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort
from neuronexus_kernel.federation.executors.plan import Plan, make_executor
from neuronexus_kernel.federation.executors.processes.channel import Channel
from neuronexus_kernel.federation.executors.processes.memory import SharedMemory
from neuronexus_kernel.federation.recipe import Recipe


def main(channel: int, data: int, down: int, up: int) -> None:
    """Work until the channel ends.

    Parameters
    ----------
    channel, data, down, up
        Descriptors: of the socket to the trainer, of the memory with the clients' data, with the
        weights that they start from, and for what comes out.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the trainer, which ends its workers
    line = Channel(socket.socket(fileno=channel))
    tasks: queue.SimpleQueue[dict[str, Node]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(line, tasks), daemon=True).start()
    worker = _Worker(tasks.get(), SharedMemory(data), SharedMemory(down), SharedMemory(up))
    while True:
        task = tasks.get()
        try:
            answer = worker.train(task)
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)[:2000]}
        line.send(answer)


def _listen(line: Channel, tasks: queue.SimpleQueue[dict[str, Node]]) -> None:
    try:
        while True:
            tasks.put(line.receive())
    except BaseException:
        os._exit(0)


class _Worker:
    """An executor, and the memory it reads from and writes to."""

    def __init__(
        self, setting: dict[str, Node], data: SharedMemory, down: SharedMemory, up: SharedMemory
    ) -> None:
        import torch

        plan = Plan.from_dict(setting["plan"])
        processors = cast("list[int]", setting["processors"])
        if processors and hasattr(os, "sched_setaffinity"):
            with suppress(OSError):  # a processor may have been taken away
                os.sched_setaffinity(0, processors)
        torch.set_num_threads(plan.threads)
        self._executor = make_executor(plan)
        self._data, self._down, self._up = data, down, up
        self._datasets: dict[int, Dataset] = {}
        self._recipe: tuple[bytes, Recipe] | None = None

    def train(self, task: dict[str, Node]) -> dict[str, Node]:
        """Train a chunk; return where its updates are."""
        for memory, name in ((self._data, "data"), (self._down, "down"), (self._up, "up")):
            memory.follow(cast(int, task[name]))
        cohort = Cohort(
            recipe=self._recipe_of(task),
            weights=self._weights(task["weights"]),
            clients=tuple(
                Client(cast(int, each["partition"]), self._dataset(each["dataset"]))
                for each in cast("list[dict[str, Node]]", task["clients"])
            ),
            seed=cast(int, task["seed"]),
            round=cast(int, task["round"]),
            proximal_mu=cast(float, task["proximal_mu"]),
            own=self._by_client(task["own"]),
            corrections=self._by_client(task["corrections"]),
        )
        updates = self._executor.train(cohort)
        offset, slot = cast(int, task["offset"]), cast(int, task["slot"])
        return {
            "updates": [
                self._put(update, offset + place * slot) for place, update in enumerate(updates)
            ]
        }

    def _put(self, update: ClientUpdate, offset: int) -> Node:
        arrays: dict[str, Node] = {}
        for name, array in update.weights.items():
            place, offset = self._up.write(offset, array)
            arrays[name] = place
        return {
            "partition": update.partition_id,
            "examples": update.num_examples,
            "loss": struct.pack("<d", update.loss),  # which may be NaN
            "steps": update.steps,
            "arrays": arrays,
        }

    def _recipe_of(self, task: dict[str, Node]) -> Recipe:
        """Return the recipe, read again only when it has changed."""
        from neuronexus_kernel.models import Architecture

        key = cast(bytes, task["architecture"]) + cast(bytes, task["recipe"])
        if self._recipe is None or self._recipe[0] != key:
            architecture = Architecture.decode(cast(bytes, task["architecture"]))
            node = dagcbor.decode(cast(bytes, task["recipe"]))
            self._recipe = key, Recipe.from_dict(node, architecture)
        return self._recipe[1]

    def _dataset(self, node: Node) -> Dataset:
        """Return a client's data: views of the shared memory, made once."""
        place = cast("dict[str, Node]", node)
        key = cast(int, place["key"])
        if key not in self._datasets:
            arrays = [self._data.array(cast("list[Node]", place[n])) for n in ("inputs", "labels")]
            for array in arrays:
                array.flags.writeable = False
            self._datasets[key] = Dataset(
                *arrays,
                kind=cast(str, place["kind"]),
                classes=cast("int | None", place["classes"]),
                vocabulary=cast("int | None", place["vocabulary"]),
            )
        return self._datasets[key]

    def _weights(self, node: Node) -> dict[str, np.ndarray]:
        places = cast("Mapping[str, list[Node]]", node)
        return {name: self._down.array(place) for name, place in places.items()}

    def _by_client(self, node: Node) -> dict[int, dict[str, np.ndarray]]:
        entries = cast("Mapping[str, Node]", node)
        return {int(partition): self._weights(places) for partition, places in entries.items()}
