"""The hub's database: many readers, one writer, and events that are part of the commit.

All changes go through `Database.write`, which runs them one after another on one thread, each in
a transaction of its own: what a caller was told is on disk.  Events emitted in a transaction get
their numbers inside it, from a counter row that it locks, so that numbers have no gaps and say
the order of commits.  Subscribers hear of events after the commit, on the writer thread.

A failed checkpoint (a full disk) makes DuckDB refuse everything until the file is opened anew;
that is done here, so that a hub goes on by itself once there is space again.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult, Engine, ExceptionContext, Row
from sqlalchemy.exc import DataError, DBAPIError, StatementError
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql import Executable

from neuronexus_kernel.errors import (
    HubUnavailableError,
    InvalidInputError,
    NeuroNexusError,
    StoreError,
)
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.records import JSON, Event

T = TypeVar("T")
Subscriber = Callable[[Sequence[Event]], None]

_AT_ONCE = 1000
_REOPENING_PAUSES = (0.0, 0.05, 0.2)
"""Seconds before each attempt to read from a database that has to be opened anew."""


def now() -> str:
    """Return the time in UTC as RFC 3339 text with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def portions(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Give values in portions that are not too many for one query."""
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))


class Transaction:
    """What a change may do: read, write, and say what happened.

    Parameters
    ----------
    connection
        An open connection inside a transaction.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.time = now()
        self.events: list[Event] = []
        self.after_commit: list[Callable[[], None]] = []

    def execute(self, statement: Executable) -> CursorResult[Any]:
        """Run one SQLAlchemy Core statement."""
        return self._connection.execute(statement)

    def all(self, statement: Executable) -> Sequence[Row[Any]]:
        """Return every row of a query."""
        return self._connection.execute(statement).all()

    def first(self, statement: Executable) -> Row[Any] | None:
        """Return the first row of a query, or None."""
        return self._connection.execute(statement).first()

    def scalar(self, statement: Executable) -> Any:
        """Return the first column of the first row of a query, or None."""
        return self._connection.execute(statement).scalar()

    def insert(self, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
        """Add many rows to a table."""
        if rows:
            self._connection.execute(table.insert(), rows)

    def emit(self, kind: str, subject: str, project: str | None = None, /, **data: JSON) -> None:
        """Record an event; it is numbered now and delivered after the commit."""
        counters = schema.counters
        seq = self.scalar(
            counters.update()
            .where(counters.c.name == "events")
            .values(value=counters.c.value + 1)
            .returning(counters.c.value)
        )
        event = Event(
            seq=int(seq),
            previous=int(seq) - 1,
            time=self.time,
            kind=kind,
            project=project,
            subject=subject,
            data=dict(data),
        )
        self.execute(
            schema.events.insert().values(
                seq=event.seq,
                moment=event.time,
                kind=kind,
                project=project,
                subject=subject,
                data=event.data,
            )
        )
        self.events.append(event)


class Database:
    """One DuckDB file, owned by this process.

    Parameters
    ----------
    path
        The file; it is made, with its tables, when it does not exist.

    Raises
    ------
    HubUnavailableError
        If another process holds the database, or this one has opened it already.
    StoreError
        If the file cannot be opened, or a newer version of this program made it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = self._open()
        self._lock_file = self._claim()
        self._closed = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="nx-writer")
        self._subscribers: list[Subscriber] = []
        self._lock = threading.Lock()

    def write(self, change: Callable[[Transaction], T]) -> T:
        """Run `change` in a transaction on the writer thread; return once it is on disk.

        Raises
        ------
        StoreError
            If the database could not be written (a full disk); nothing of the change remains.
        InvalidInputError
            If a value cannot be kept: an integer beyond the column, NaN in JSON.
        HubUnavailableError
            If the database is closed.
        """
        try:
            written = self._writer.submit(self._commit, change)
        except RuntimeError:
            raise self._closed_error() from None
        return written.result()

    def read(self, query: Callable[[Transaction], T]) -> T:
        """Run `query` on a connection of its own, in the calling thread.

        Raises
        ------
        StoreError
            If the database could not be read.
        InvalidInputError
            If a value of the query does not fit its column.
        HubUnavailableError
            If the database is closed.
        """
        last: DBAPIError | None = None
        for pause in _REOPENING_PAUSES:
            if self._closed:
                raise self._closed_error()
            time.sleep(pause)
            try:
                with self._engine.connect() as connection:
                    return query(Transaction(connection))
            except DataError as error:
                raise InvalidInputError(f"A value is out of range: {error.orig}") from None
            except DBAPIError as error:
                last = error
                if not error.connection_invalidated:
                    break
                # Other readers may still hold the dead database open for a moment.
                self._engine.dispose()
        raise StoreError(
            f"The database {self._path} could not be read: {last.orig if last else None}"
        ) from None

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with the events of every commit from now on; return how to stop.

        It is called on the writer thread: it must be quick and must not write.  What it raises is
        logged, as the commit stands.
        """
        with self._lock:
            self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with self._lock:
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)

        return unsubscribe

    def close(self) -> None:
        """Finish what is queued and let go of the file."""
        if self._closed:
            return
        self._writer.shutdown()
        self._closed = True
        self._engine.dispose()
        os.close(self._lock_file)

    def _open(self) -> Engine:
        # PostgreSQL comes with its own engine here; the tables are the same.
        engine = sa.create_engine(f"duckdb:///{self._path}", poolclass=QueuePool, pool_size=8)
        sa.event.listen(engine, "handle_error", _disconnect_when_fatal)
        try:
            with engine.begin() as connection:
                schema.metadata.create_all(connection)
                counters = schema.counters
                start = {"schema": schema.SCHEMA_VERSION, "events": 0, "hub": secrets.randbits(48)}
                known = {row.name: row.value for row in connection.execute(sa.select(counters))}
                for name in start.keys() - known.keys():
                    connection.execute(counters.insert().values(name=name, value=start[name]))
                self._check_version(int(known.get("schema", schema.SCHEMA_VERSION)))
        except DBAPIError as error:
            engine.dispose()
            raise _opening_error(self._path, error) from None
        except StoreError:
            engine.dispose()
            raise
        return engine

    def _check_version(self, version: int) -> None:
        if version != schema.SCHEMA_VERSION:
            raise StoreError(
                f"The database {self._path} has schema version {version}, but this program knows "
                f"version {schema.SCHEMA_VERSION}; use the version of NeuroNexus that wrote it."
            )

    def _claim(self) -> int:
        """Lock a file beside the database: DuckDB keeps out other processes only."""
        handle = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            self._engine.dispose()
            raise HubUnavailableError(
                f"The database {self._path} is open already, in this process "
                f"(PID {os.getpid()}): use that hub, for example by its `visitor()`, or close "
                "it first."
            ) from None
        return handle

    def _commit(self, change: Callable[[Transaction], T]) -> T:
        try:
            with self._engine.begin() as connection:
                transaction = Transaction(connection)
                result = change(transaction)
        except DataError as error:
            raise InvalidInputError(f"A value is out of range: {error.orig}") from None
        except DBAPIError as error:
            if error.connection_invalidated:
                self._engine.dispose()
            raise StoreError(
                f"The database {self._path} could not be written, and nothing was changed: "
                f"{error.orig}. If the disk is full, free some space and try again."
            ) from None
        except StatementError as error:
            raise InvalidInputError(f"A value cannot be kept: {error.orig}") from None
        self._tell(transaction)
        return result

    def _tell(self, transaction: Transaction) -> None:
        for action in transaction.after_commit:
            action()
        if not transaction.events:
            return
        with self._lock:
            subscribers = list(self._subscribers)
        for subscriber in subscribers:
            try:
                subscriber(transaction.events)
            except Exception:  # what is committed has happened, whoever fails to hear of it
                logging.getLogger(__name__).exception("A subscriber to events failed.")

    def _closed_error(self) -> HubUnavailableError:
        return HubUnavailableError(f"The hub of {self._path.parent} is closed; open it again.")


def _disconnect_when_fatal(context: ExceptionContext) -> None:
    """Have connections to a dead database thrown away instead of rolled back."""
    if isinstance(context.original_exception, duckdb.FatalException):
        context.is_disconnect = True


def _opening_error(path: Path, error: DBAPIError) -> NeuroNexusError:
    text = str(error.orig)
    if "Could not set lock" in text:
        return HubUnavailableError(
            f"The database {path} is open in another process ({_holder(text)}): a hub is running "
            "there. Connect to it with `nx.connect()`, which finds its address in hub.json "
            "beside the database, or end that process first."
        )
    return StoreError(f"The database {path} could not be opened: {text}")


def _holder(text: str) -> str:
    start = text.find("PID ")
    return text[start : text.find(")", start)] if start >= 0 else "its PID is not known"
