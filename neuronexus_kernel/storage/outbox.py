"""What is to be brought to a node and could not be yet: one small file for each root.

A root has one task at a time, and a later one takes the place of an earlier: what counts is how the
root shall be in the end.  So carrying a task out twice does no harm, and none is given up before it
was carried out: its file is removed after that, and only if nobody changed it meanwhile.  Tasks
keep their order.  One process carries them out at a time; all may add some.

When the node does not answer, the whole outbox rests, longer each time; a task that fails by itself
rests alone.  A task whose file is damaged still says by the file's name what must not be lost.

Layout: ``<CID>`` holds a task as JSON, ``rest`` says until when the node is left in peace, ``lock``
and ``turn`` are locked (see `locking`), ``new`` is what is being written.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.errors import (
    ContentError,
    NeuroNexusError,
    NotFoundError,
    StoreUnavailable,
)
from neuronexus_kernel.storage.blocks import BlockStore
from neuronexus_kernel.storage.files import create, explained, flush
from neuronexus_kernel.storage.locking import hold, let_go, locked

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 300.0
_LOCK, _TURN, _REST, _NEW = "lock", "turn", "rest", "new"
_OTHERS = frozenset({_LOCK, _TURN, _REST, _NEW})


class Action(StrEnum):
    """How a root shall be on the node."""

    KEEP = "keep"
    """It is there, and pinned."""
    SEND = "send"
    """It is there."""
    DROP = "drop"
    """It is not pinned."""


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do.

    Attributes
    ----------
    root, action
        What, and how it shall be.
    name
        Of the pin.
    queued
        When the root came into the outbox: nanoseconds since 1970.
    token
        Changes with the task.
    tries
        How often it was tried in vain.
    until
        When it may be tried again: seconds since 1970.
    problem
        What went wrong last.
    """

    root: CID
    action: Action
    name: str = ""
    queued: int = 0
    token: str = ""
    tries: int = 0
    until: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of carrying out the tasks.

    Attributes
    ----------
    done
        The roots that are on the node now as they shall be.
    failed
        Those that could not be brought there, with the reasons.
    waiting
        How many tasks are left.
    problem
        Why the node could not be reached; empty if it could.
    """

    done: tuple[CID, ...] = ()
    failed: tuple[tuple[CID, str], ...] = ()
    waiting: int = 0
    problem: str = ""


class Outbox:
    """A folder of tasks, for many threads and processes.

    Parameters
    ----------
    folder
        Where the tasks are; made if there is none.
    sync
        Whether what was written survives a power failure.

    Raises
    ------
    StoreError
        If the folder cannot be used.
    """

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        self._folder = folder
        self._sync = sync
        self._last = 0
        with explained(folder, "cannot be used"):
            folder.mkdir(parents=True, mode=0o700, exist_ok=True)

    def __repr__(self) -> str:
        return f"Outbox({str(self._folder)!r})"

    def __len__(self) -> int:
        return len(self._names())

    def put(self, root: CID, action: Action, *, name: str = "") -> None:
        """Add a task; it takes the place of the one that the root has, if any."""
        file = self._file_of(root)
        with self._locked():
            known = self._read(file)
            if known is None:
                self._last = max(time.time_ns(), self._last + 1)
            queued = known.queued if known else self._last
            self._write(file, Task(root, action, name, queued, secrets.token_hex(8)))

    def waiting(self) -> list[Task]:
        """Return all tasks, the oldest first."""
        found = (self._read(self._folder / name) for name in self._names())
        tasks = [task for task in found if task is not None]
        return sorted(tasks, key=lambda task: (task.queued, str(task.root)))

    def push(self, deliver: Callable[[Task], object], *, due: bool = False) -> Pushed:
        """Carry out the tasks, the oldest first.

        Parameters
        ----------
        deliver
            Carries one out.  If it raises `StoreUnavailable`, the rest waits; if it raises
            `NotFoundError`, the content is gone and so is the task; other errors leave the task
            for later.
        due
            Only what does not rest, and not if another process is at it.  Otherwise all tasks are
            tried now.
        """
        tried: set[str] = set()
        done: dict[CID, None] = {}
        failed: dict[CID, str] = {}
        problem = ""
        while not problem and (tasks := self._to_try(tried, due)):
            with self._turn(wait=not due) as is_mine:
                if not is_mine:
                    break  # Whoever is at it looks once more when it is done.
                for task in tasks:
                    tried.add(task.token)
                    try:
                        self._carry_out(task, deliver, done, failed)
                    except StoreUnavailable as error:
                        problem = str(error)
                        self.rest()
                        break
        return Pushed(tuple(done), tuple(failed.items()), len(self), problem)

    def awake(self) -> None:
        """Say that the node answers: it need not be left in peace any more."""
        with explained(self._folder), suppress(FileNotFoundError):
            os.unlink(self._folder / _REST)

    def rest(self) -> None:
        """Say that the node does not answer: it is left in peace, longer each time."""
        with self._locked():
            tries = self._rest()[0]
            rest = {"tries": tries + 1, "until": time.time() + _pause(tries)}
            self._replace(self._folder / _REST, json.dumps(rest).encode())

    def resting(self) -> float:
        """Return for how many seconds the node is still left in peace."""
        return max(0.0, self._rest()[1] - time.time())

    def due_in(self) -> float | None:
        """Return in how many seconds a task may be tried; None if none waits."""
        now = time.time()
        pauses = [task.until - now if _rests(task.until, now) else 0.0 for task in self.waiting()]
        return max(min(pauses), self.resting()) if pauses else None

    # -- carrying out -----------------------------------------------------------------------

    def _to_try(self, tried: set[str], due: bool) -> list[Task]:
        now = time.time()
        if due and self._rest()[1] > now:
            return []
        return [
            task
            for task in self.waiting()
            if task.token not in tried and not (due and _rests(task.until, now))
        ]

    def _carry_out(
        self,
        task: Task,
        deliver: Callable[[Task], object],
        done: dict[CID, None],
        failed: dict[CID, str],
    ) -> None:
        file = self._file_of(task.root)
        with self._locked():
            current = self._read(file)
        if current is None or current.token != task.token:
            return  # Somebody has done or changed it; then it is found again.
        try:
            deliver(task)
        except StoreUnavailable:
            raise
        except NotFoundError as error:
            failed[task.root] = str(error)
        except NeuroNexusError as error:
            failed[task.root] = str(error)
            self._change(task, self._failed(task, str(error)))
            return
        else:
            self.awake()
            done[task.root] = None
            failed.pop(task.root, None)
        self._change(task, None)

    @staticmethod
    def _failed(task: Task, problem: str) -> Task:
        until = time.time() + _pause(task.tries)
        return replace(task, tries=task.tries + 1, until=until, problem=problem)

    def _change(self, task: Task, new: Task | None) -> None:
        """Put a task in the place of one, or nothing, unless somebody else was faster."""
        file = self._file_of(task.root)
        with self._locked():
            current = self._read(file)
            if current is None or current.token != task.token:
                return
            if new is not None:
                self._write(file, new)
            else:
                os.unlink(file)
                self._flush()

    def _rest(self) -> tuple[int, float]:
        """Return how often the node did not answer, and until when it is left in peace."""
        try:
            fields = json.loads((self._folder / _REST).read_bytes())
            tries, until = int(fields["tries"]), float(fields["until"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0.0
        return tries, until if _rests(until, time.time()) else 0.0

    # -- files ------------------------------------------------------------------------------

    def _names(self) -> set[str]:
        with explained(self._folder, "cannot be read"):
            return set(os.listdir(self._folder)) - _OTHERS

    def _file_of(self, root: CID) -> Path:
        return self._folder / BlockStore.name_of(root)

    def _read(self, file: Path) -> Task | None:
        """Return the task of a file; None if there is none, or it is something else."""
        try:
            root = CID.parse(file.name)
            data = file.read_bytes()
        except (OSError, ContentError):
            return None
        return _decode(root, data) or Task(root, Action.KEEP, token=data.hex()[:64])

    def _write(self, file: Path, task: Task) -> None:
        fields = {
            "root": str(task.root),
            "action": task.action,
            "name": task.name,
            "queued": task.queued,
            "token": task.token,
            "tries": task.tries,
            "until": task.until,
            "problem": task.problem,
        }
        self._replace(file, json.dumps(fields, ensure_ascii=False, indent=1).encode())

    def _replace(self, file: Path, data: bytes) -> None:
        """Have a file appear whole; the lock is held."""
        new = self._folder / _NEW
        with suppress(FileNotFoundError):
            os.unlink(new)  # Of a process that died.
        create(new, data)
        if self._sync:
            flush(new)
        os.rename(new, file)
        self._flush()

    def _flush(self) -> None:
        if self._sync:
            flush(self._folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with explained(self._folder, "could not be written"), locked(self._folder / _LOCK):
            yield

    @contextmanager
    def _turn(self, *, wait: bool) -> Iterator[bool]:
        """Be the one who carries out tasks; gives False if somebody else is."""
        handle = None
        with explained(self._folder, "could not be locked"), suppress(BlockingIOError):
            handle = hold(self._folder / _TURN, wait=wait)
        try:
            yield handle is not None
        finally:
            if handle is not None:
                let_go(handle)


def _pause(tries: int) -> float:
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(tries, 30))


def _rests(until: float, now: float) -> bool:
    # A time further away than the longest pause is from a clock that has been set back since.
    return now < until <= now + _LONGEST_PAUSE


def _decode(root: CID, data: bytes) -> Task | None:
    try:
        fields = json.loads(data)
        task = Task(
            root=CID.parse(fields["root"]),
            action=Action(fields["action"]),
            name=str(fields["name"]),
            queued=int(fields["queued"]),
            token=str(fields["token"]),
            tries=int(fields["tries"]),
            until=float(fields["until"]),
            problem=str(fields["problem"]),
        )
    except (ValueError, KeyError, TypeError, ContentError, RecursionError):
        return None
    return task if BlockStore.name_of(task.root) == BlockStore.name_of(root) else None
