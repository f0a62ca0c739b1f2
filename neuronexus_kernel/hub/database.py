"""The hub's database: what every database that keeps a hub's records can do.

The records lie in a DuckDB file (`DuckDBDatabase`) or on a PostgreSQL server that several hubs may
share (`PostgreSQLDatabase`); the services ask for a `Database` and do not know.  They read on
connections of their own and never wait for a writer.  All changes go through `Database.write`: they
happen one after another, whoever makes them, so that what a change reads is still so when it
writes.  What a caller was told is on disk.  Changes that arrive together share a commit
(`writing.py`).

Events get their numbers inside the commit, under a lock on a counter row, so that numbers have no
gaps and say the order of commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult, Row
from sqlalchemy.sql import Executable

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.records import JSON, Event

if TYPE_CHECKING:
    from neuronexus_kernel.settings import Settings

T = TypeVar("T")
Subscriber = Callable[[Sequence[Event]], None]
Listener = Callable[["str | None"], None]

_AT_ONCE = 1000


def now() -> str:
    """Return the time in UTC as RFC 3339 text with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def portions(values: Sequence[T], most: int = _AT_ONCE) -> Iterator[Sequence[T]]:
    """Give values in portions that are not too many for one query."""
    return (values[start : start + most] for start in range(0, len(values), most))


class Transaction:
    """What a change may do: read, write, and say what happened.

    A change may be run again, in another transaction, when the first one was undone: it changes
    nothing but what it does here.

    Parameters
    ----------
    connection
        An open connection inside a transaction.
    last
        Number of the last event before this change.
    """

    def __init__(self, connection: Connection, last: int = 0) -> None:
        self._connection = connection
        self._last = last
        self.time = now()
        self.events: list[Event] = []
        self.after_commit: list[Callable[[], None]] = []
        self.notices: list[tuple[str, str]] = []
        self.has_written = False

    def execute(self, statement: Executable) -> CursorResult[Any]:
        """Run one SQLAlchemy Core statement."""
        self.has_written = self.has_written or not statement.is_select
        return self._connection.execute(statement)

    def all(self, statement: Executable) -> Sequence[Row[Any]]:
        """Return every row of a query."""
        return self.execute(statement).all()

    def first(self, statement: Executable) -> Row[Any] | None:
        """Return the first row of a query, or None."""
        return self.execute(statement).first()

    def scalar(self, statement: Executable) -> Any:
        """Return the first column of the first row of a query, or None."""
        return self.execute(statement).scalar()

    def stream(self, statement: Executable) -> Iterator[Row[Any]]:
        """Give the rows of a query that may be too many for the memory."""
        options = {"stream_results": True, "yield_per": 1000}
        yield from self._connection.execute(statement, execution_options=options)

    def insert(self, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
        """Add many rows to a table."""
        if rows:
            self.has_written = True
            self._connection.execute(table.insert(), rows)

    def emit(self, kind: str, subject: str, project: str | None = None, /, **data: JSON) -> None:
        """Record an event; it is numbered now, and delivered after the commit.

        Raises
        ------
        InvalidInputError
            If `data` is not JSON.
        """
        try:
            schema.json_text(data)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"A value cannot be kept: {error}") from None
        seq = self._last + len(self.events) + 1
        self.events.append(
            Event(
                seq=seq,
                previous=seq - 1,
                time=self.time,
                kind=kind,
                project=project,
                subject=subject,
                data=dict(data),
            )
        )

    def notify(self, topic: str, text: str) -> None:
        """Tell the listeners to a topic, in every hub on this database, after the commit.

        Parameters
        ----------
        text
            One short line.
        """
        self.notices.append((topic, text))


class Database(Protocol):
    """Where a hub keeps its records."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes may write to it at the same time."""
        ...

    def write(self, change: Callable[[Transaction], T]) -> T:
        """Run `change` in a transaction on the writer thread; return once it is on disk.

        A change that raises leaves nothing behind, and its neighbours in a shared commit do not
        notice.

        Raises
        ------
        StoreError
            If the database could not be written (a full disk); nothing of the change remains.
        InvalidInputError
            If a value cannot be kept: an integer beyond the column, NaN in JSON.
        HubUnavailableError
            If the database is closed, or does not answer.
        """
        ...

    def read(self, query: Callable[[Transaction], T]) -> T:
        """Run `query` on a connection of its own, in the calling thread.

        It sees the database at one moment, and neither waits for writers nor holds them up.

        Raises
        ------
        StoreError
            If the database could not be read.
        InvalidInputError
            If a value of the query does not fit its column.
        HubUnavailableError
            If the database is closed, or does not answer.
        """
        ...

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with the events of every commit from now on; return how to stop.

        Every commit means those of other hubs on the same database too; events come in order and
        without gaps.  It is called on a thread of the database: it must be quick and must not
        write.  What it raises is logged, as the commit stands.
        """
        ...

    def listen(self, topic: str, listener: Listener) -> None:
        """Call `listener` with what `Transaction.notify` says of a topic, after the commit.

        It is called with None when something may have been missed; as `subscribe` says besides.
        """
        ...

    def close(self) -> None:
        """Finish what is queued and let go of the database."""
        ...


def open_database(settings: Settings, hub: str) -> Database:
    """Open the database that the settings name, making it when it does not exist.

    Parameters
    ----------
    settings
        Where it is.
    hub
        Name of the hub among those that share it.

    Raises
    ------
    HubUnavailableError
        If another process holds it, or it does not answer.
    StoreError
        If it cannot be opened, or its tables are those of another version of this program.
    InvalidInputError
        If there is no such kind of database, or no driver for it.
    """
    if not settings.database:
        from neuronexus_kernel.hub.duckdb_database import DuckDBDatabase

        return DuckDBDatabase(settings.home / "hub.duckdb")
    from neuronexus_kernel.hub.postgresql_database import PostgreSQLDatabase

    return PostgreSQLDatabase(settings.database, hub=hub)


def event_rows(events: Sequence[Event]) -> list[dict[str, object]]:
    """Return the rows that keep some events."""
    return [
        {
            "seq": event.seq,
            "moment": event.time,
            "kind": event.kind,
            "project": event.project,
            "subject": event.subject,
            "data": event.data,
        }
        for event in events
    ]


def read_events(tx: Transaction, above: int, upto: int | None = None) -> list[Event]:
    """Return the events numbered above `above`, oldest first."""
    events = schema.events
    query = sa.select(events).where(events.c.seq > above).order_by(events.c.seq)
    if upto is not None:
        query = query.where(events.c.seq <= upto)
    return [
        Event(
            seq=row.seq,
            previous=row.seq - 1,
            time=row.moment,
            kind=row.kind,
            project=row.project,
            subject=row.subject,
            data=row.data,
        )
        for row in tx.all(query)
    ]
