"""The worker processes of one executor: started, fed, restarted and ended here."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import EvaluationError
from neuronexus_kernel.federation.executors.plan import Plan
from neuronexus_kernel.federation.executors.processes.channel import Channel
from neuronexus_kernel.federation.executors.processes.memory import SharedMemory

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from neuronexus_kernel.federation.executors.processes.worker import main; "
    "main(*map(int, sys.argv[2:]))"
)
_GOODBYE_SECONDS = 5.0


class WorkerError(Exception):
    """What a chunk's training raised in its worker.

    Parameters
    ----------
    kind, message
        Name of the error's class, and its text.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    channel: Channel
    task: int = -1


class Pool:
    """Keeps up to so many workers, which start when there is work.

    Parameters
    ----------
    plan
        What each follows.
    workers
        How many there may be.
    memories
        What they share: data, weights down, updates up.
    """

    def __init__(self, plan: Plan, workers: int, memories: Sequence[SharedMemory]) -> None:
        self._plan = plan
        self._count = workers
        self._memories = memories
        self._workers: dict[int, _Worker] = {}

    @property
    def processes(self) -> tuple[int, ...]:
        """Ids of the processes that there are."""
        return tuple(worker.process.pid for worker in self._workers.values())

    def answers(self, tasks: Sequence[dict[str, Node]]) -> Iterator[tuple[int, dict[str, Node]]]:
        """Have tasks done; yield the place of each and its answer, as they come.

        A task whose worker ends is done once more, by a new one.

        Raises
        ------
        WorkerError
            What a task raised, after all others are done.
        EvaluationError
            If a task has ended two workers.
        """
        waiting = deque(range(len(tasks)))
        failed: dict[int, WorkerError] = {}
        crashed: set[int] = set()
        try:
            while waiting or self._busy():
                self._deal(tasks, waiting)
                for number in self._ready():
                    worker = self._workers[number]
                    task, worker.task = worker.task, -1
                    try:
                        answer = worker.channel.receive()
                    except EOFError:
                        self._note_crash(number, task, crashed)
                        waiting.appendleft(task)
                        continue
                    if "error" in answer:
                        failed[task] = WorkerError(str(answer["error"]), str(answer["message"]))
                    else:
                        yield task, answer
        except BaseException:  # Ctrl-C too: what is being computed is of no use to anyone
            self.end()
            raise
        if failed:
            raise failed[min(failed)]

    def end(self) -> None:
        """End all workers, now; the next task starts new ones."""
        workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            worker.channel.close()
            worker.process.kill()
        for worker in workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(_GOODBYE_SECONDS)

    def _busy(self) -> bool:
        return any(worker.task >= 0 for worker in self._workers.values())

    def _deal(self, tasks: Sequence[dict[str, Node]], waiting: deque[int]) -> None:
        """Give a task to every worker that has none, starting workers as needed."""
        for number in range(self._count):
            if not waiting:
                return
            if number not in self._workers:
                self._workers[number] = self._start(number)
            worker = self._workers[number]
            if worker.task < 0:
                worker.task = waiting.popleft()
                with suppress(OSError):  # it has ended: reading from it will tell
                    worker.channel.send(tasks[worker.task])

    def _ready(self) -> list[int]:
        """Wait until some busy workers have answered or ended; return them in order."""
        with selectors.DefaultSelector() as selector:
            for number, worker in self._workers.items():
                if worker.task >= 0:
                    selector.register(worker.channel, selectors.EVENT_READ, number)
            return sorted(key.data for key, _ in selector.select())

    def _note_crash(self, number: int, task: int, crashed: set[int]) -> None:
        worker = self._workers.pop(number)
        worker.channel.close()
        worker.process.kill()
        code = worker.process.wait()
        if task in crashed:
            raise EvaluationError(
                f"A worker process ended twice at the same clients (exit code {code}); it may have "
                "run out of memory. Use fewer workers, or executor='sequential'."
            )
        crashed.add(task)

    def _start(self, number: int) -> _Worker:
        ours, theirs = socket.socketpair()
        descriptors = [theirs.fileno(), *(memory.descriptor for memory in self._memories)]
        threads = str(self._plan.threads)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                start_new_session=True,  # Ctrl-C is for us, who end our workers
            )
        channel = Channel(ours)
        processors = cast(Node, self._processors(number))
        with suppress(OSError):
            channel.send({"plan": cast(Node, self._plan.to_dict()), "processors": processors})
        return _Worker(process, channel)

    def _processors(self, number: int) -> list[int]:
        """Return the processors of a worker; none where there are too few for all of them."""
        if not hasattr(os, "sched_getaffinity"):
            return []
        ours = sorted(os.sched_getaffinity(0))
        threads = self._plan.threads
        mine = ours[number * threads : (number + 1) * threads]
        return mine if self._count * threads <= len(ours) else []
