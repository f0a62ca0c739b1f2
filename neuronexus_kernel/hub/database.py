"""The hub's database: many readers, one writer, and events that are part of the commit.

All changes go through `Database.write`, which runs them one after another on one thread, each in
a transaction of its own: what a caller was told is on disk.  Events emitted in a transaction get
their numbers inside it, from a counter row that it locks, so that numbers have no gaps and say
the order of commits.  Subscribers hear of events after the commit, on the writer thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult, Engine, Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql import Executable

from neuronexus_kernel.errors import HubUnavailableError, NeuroNexusError, StoreError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.records import JSON, Event

T = TypeVar("T")
Subscriber = Callable[[Sequence[Event]], None]


def now() -> str:
    """Return the time in UTC as RFC 3339 text with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


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
        If another process holds the database.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = self._open()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="nx-writer")
        self._subscribers: list[Subscriber] = []
        self._lock = threading.Lock()

    def write(self, change: Callable[[Transaction], T]) -> T:
        """Run `change` in a transaction on the writer thread; return once it is on disk.

        Raises
        ------
        StoreError
            If the database could not be written (a full disk); nothing of the change remains.
        """
        return self._writer.submit(self._commit, change).result()

    def read(self, query: Callable[[Transaction], T]) -> T:
        """Run `query` on a connection of its own, in the calling thread."""
        try:
            with self._engine.connect() as connection:
                return query(Transaction(connection))
        except DBAPIError as error:
            raise StoreError(f"The database {self._path} could not be read: {error.orig}") from None

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with the events of every commit from now on; return how to stop."""
        with self._lock:
            self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            with self._lock:
                if subscriber in self._subscribers:
                    self._subscribers.remove(subscriber)

        return unsubscribe

    def close(self) -> None:
        """Finish what is queued and let go of the file."""
        self._writer.shutdown()
        self._engine.dispose()

    def _open(self) -> Engine:
        # PostgreSQL comes with its own engine here; the tables are the same.
        engine = sa.create_engine(f"duckdb:///{self._path}", poolclass=QueuePool, pool_size=8)
        try:
            with engine.begin() as connection:
                schema.metadata.create_all(connection)
                counters = schema.counters
                start = {"schema": schema.SCHEMA_VERSION, "events": 0}
                known = set(connection.scalars(sa.select(counters.c.name)))
                for name in start.keys() - known:
                    connection.execute(counters.insert().values(name=name, value=start[name]))
        except DBAPIError as error:
            engine.dispose()
            raise _opening_error(self._path, error) from None
        return engine

    def _commit(self, change: Callable[[Transaction], T]) -> T:
        try:
            with self._engine.begin() as connection:
                transaction = Transaction(connection)
                result = change(transaction)
        except NeuroNexusError:
            raise
        except DBAPIError as error:
            # After a failed write DuckDB refuses everything until the file is opened anew.
            self._engine.dispose()
            raise StoreError(
                f"The database {self._path} could not be written, and nothing was changed: "
                f"{error.orig}. If the disk is full, free some space and try again."
            ) from None
        for action in transaction.after_commit:
            action()
        if transaction.events:
            with self._lock:
                subscribers = list(self._subscribers)
            for subscriber in subscribers:
                subscriber(transaction.events)
        return result


def _opening_error(path: Path, error: DBAPIError) -> NeuroNexusError:
    text = str(error.orig)
    if "lock" in text:
        return HubUnavailableError(
            f"The database {path} is open in another process ({_holder(text)}): a hub is running "
            "there. Connect to it with `nx.connect()`, which finds its address in hub.json "
            "beside the database, or end that process first."
        )
    return StoreError(f"The database {path} could not be opened: {text}")


def _holder(text: str) -> str:
    start = text.find("PID ")
    return text[start : text.find(")", start)] if start >= 0 else "its PID is not known"
