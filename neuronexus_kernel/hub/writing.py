"""Group commit: changes that arrive while another commit is being written share the next one.

A commit waits for the disk; what several callers wait for at the same time needs to be waited for
only once.  One thread takes all changes that are queued, runs them one after another in one
transaction, and tells their callers after the commit.

A change that raises before it has written anything is left out.  One that has written cannot be
undone by itself, as DuckDB has no savepoints: the whole transaction is rolled back, those before it
are committed without it, it runs in a transaction of its own, and the rest goes on.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, StatementError

from neuronexus_kernel.errors import HubUnavailableError, InvalidInputError, NeuroNexusError
from neuronexus_kernel.hub.database import Listener, Subscriber, Transaction, event_rows
from neuronexus_kernel.hub.records import Event

T = TypeVar("T")
Change = Callable[[Transaction], T]
Explain = Callable[[DBAPIError], "NeuroNexusError | None"]

MOST_TOGETHER = 256
"""Changes that share a commit at most."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Group:
    """What some changes have done in one transaction.

    Attributes
    ----------
    results
        What each change has returned, or the error that it raised before it had written.
    events, notices, after_commit
        What to tell, and to do, after the commit.
    has_written
        Whether there is anything to commit.
    """

    results: list[tuple[Any, Exception | None]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    notices: list[tuple[str, str]] = field(default_factory=list)
    after_commit: list[Callable[[], None]] = field(default_factory=list)
    has_written: bool = False


class SpoiledGroup(Exception):
    """A change failed after it had written, so that the whole transaction must be undone.

    Parameters
    ----------
    index
        Which of the changes it was.
    error
        What to tell its caller.
    """

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(index)
        self.index = index
        self.error = error


def perform(
    changes: Sequence[Change[Any]], connection: Connection, last: int, explain: Explain
) -> Group:
    """Run changes one after another in an open transaction.

    Parameters
    ----------
    last
        Number of the last event that was committed.
    explain
        Returns what to tell of an error of the database; None if it is the database that failed
        and not the statement, so that the error is raised as it is.

    Raises
    ------
    SpoiledGroup
        If one fails that cannot be left out.
    """
    group = Group()
    for index, change in enumerate(changes):
        tx = Transaction(connection, last + len(group.events))
        try:
            result = change(tx)
        except StatementError as error:  # the transaction takes nothing more
            explained = explained_statement(error, explain)
            if explained is None:
                raise
            raise SpoiledGroup(index, explained) from None
        except Exception as error:
            if tx.has_written:
                raise SpoiledGroup(index, error) from None
            group.results.append((None, error))
            continue
        group.results.append((result, None))
        group.events += tx.events
        group.notices += tx.notices
        group.after_commit += tx.after_commit
        group.has_written = group.has_written or tx.has_written or bool(tx.events)
    return group


def explained_statement(error: StatementError, explain: Explain) -> NeuroNexusError | None:
    """Return what to tell of an error that a statement has raised; see `perform`."""
    if isinstance(error, DBAPIError):
        return explain(error)
    return InvalidInputError(f"A value cannot be kept: {error.orig}")


@dataclass(slots=True)
class _Job(Generic[T]):
    change: Change[T]
    future: Future[T] = field(default_factory=Future)


class Writer:
    """The one thread on which all changes of this process happen.

    Parameters
    ----------
    commit
        Runs changes (by `perform`) in one transaction and returns once it is on disk.  It raises
        `SpoiledGroup` or a `NeuroNexusError`, and then nothing has changed.
    told
        Called with each group after its commit, before its callers go on.
    most
        Changes that share a commit at most; 1 for a commit for each.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Change[Any]]], Group],
        told: Callable[[Group], None],
        *,
        most: int = MOST_TOGETHER,
    ) -> None:
        self._commit = commit
        self._told = told
        self._most = most
        self._queue: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="nx-writer", daemon=True)
        self._thread.start()

    def write(self, change: Change[T]) -> T:
        """Run a change, and return what it returned once it is on disk.

        Raises
        ------
        HubUnavailableError
            If the writer was closed.
        """
        job = _Job(change)
        with self._lock:
            if self._is_closed:
                raise HubUnavailableError("The hub is closed; open it again.")
            self._queue.put(job)
        return job.future.result()

    def close(self) -> None:
        """Finish what is queued, and end."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            jobs = [first]
            is_last = False
            while len(jobs) < self._most and not is_last:
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    is_last = True
                else:
                    jobs.append(job)
            self._serve(jobs)
            if is_last:
                return

    def _serve(self, jobs: list[_Job[Any]]) -> None:
        """Commit jobs together, as far as none of them stands in the way."""
        while jobs:
            try:
                group = self._commit([job.change for job in jobs])
            except SpoiledGroup as spoiled:
                before, job = jobs[: spoiled.index], jobs[spoiled.index]
                jobs = jobs[spoiled.index + 1 :]
                if before or jobs:
                    self._serve(before)
                    self._serve([job])
                else:
                    job.future.set_exception(spoiled.error)
            except HubUnavailableError as error:
                _refuse(jobs, error)
                return
            except Exception as error:
                if len(jobs) == 1:
                    _refuse(jobs, error)
                    return
                # Perhaps it is the size of one of them.
                for job in jobs:
                    self._serve([job])
                return
            else:
                self._answer(jobs, group)
                return

    def _answer(self, jobs: Sequence[_Job[Any]], group: Group) -> None:
        try:
            for action in group.after_commit:
                action()
            self._told(group)
        except Exception:  # what is committed has happened, and its callers must hear of it
            _log.exception("Something failed after a commit.")
        for job, (result, error) in zip(jobs, group.results, strict=True):
            if error is not None:
                job.future.set_exception(error)
            else:
                job.future.set_result(result)


def _refuse(jobs: Sequence[_Job[Any]], error: Exception) -> None:
    for job in jobs:
        job.future.set_exception(error)


def write_events(connection: Connection, group: Group) -> None:
    """Write the events of a group, as part of its transaction."""
    from neuronexus_kernel.hub import schema

    if group.events:
        connection.execute(schema.events.insert(), event_rows(group.events))


class Audience:
    """Who is told of commits: subscribers to events, and listeners to topics."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: list[Subscriber] = []
        self._listeners: dict[str, list[Listener]] = {}

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Take up a subscriber; return how to end it."""
        with self._lock:
            self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with self._lock:
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)

        return unsubscribe

    def listen(self, topic: str, listener: Listener) -> None:
        """Take up a listener."""
        with self._lock:
            self._listeners.setdefault(topic, []).append(listener)

    def tell(self, events: Sequence[Event]) -> None:
        """Tell every subscriber of events."""
        with self._lock:
            subscribers = list(self._subscribers) if events else []
        for subscriber in subscribers:
            try:
                subscriber(events)
            except Exception:  # what is committed has happened, whoever fails to hear of it
                _log.exception("A subscriber to events failed.")

    def notify(self, topic: str, text: str | None) -> None:
        """Tell the listeners to a topic."""
        with self._lock:
            listeners = list(self._listeners.get(topic, ()))
        for listener in listeners:
            try:
                listener(text)
            except Exception:
                _log.exception("A listener to %s failed.", topic)

    def alarm(self) -> None:
        """Tell every listener that something may have been missed."""
        with self._lock:
            topics = list(self._listeners)
        for topic in topics:
            self.notify(topic, None)
