"""The records in a DuckDB file, which one process owns.

A failed checkpoint (a full disk) makes DuckDB refuse everything until the file is opened anew;
that is done here, so that a hub goes on by itself once there is space again.  Every commit counts
itself in the table of counters, so that afterwards it is known, and not guessed, whether one that
failed is in the file.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import duckdb_engine
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, ExceptionContext
from sqlalchemy.exc import DataError, DBAPIError, StatementError
from sqlalchemy.pool import QueuePool

from neuronexus_kernel.errors import (
    HubUnavailableError,
    InvalidInputError,
    NeuroNexusError,
    StoreError,
)
from neuronexus_kernel.hub import revisions, schema
from neuronexus_kernel.hub.database import Listener, Subscriber, Transaction
from neuronexus_kernel.hub.writing import (
    MOST_TOGETHER,
    Audience,
    Change,
    Group,
    Writer,
    explained_statement,
    perform,
    write_events,
)
from neuronexus_kernel.storage.files import appearing

T = TypeVar("T")

_REOPENING_PAUSES = (0.0, 0.05, 0.2)
"""Seconds before each attempt to read from a database that has to be opened anew."""


class CachingDialect(duckdb_engine.Dialect):
    """SQLAlchemy's dialect of DuckDB, but with the texts of statements kept.

    To write the text of a statement takes as long as to carry it out.
    """

    supports_statement_cache = True


sa.dialects.registry.register("duckdb.caching", __name__, CachingDialect.__name__)


class DuckDBDatabase:
    """A `Database` in one DuckDB file, owned by this process, which opens it once (`home.Home`).

    Parameters
    ----------
    path
        The file; it is made, with its tables, when it does not exist.  One that an earlier version
        has made is copied and then brought up to date.
    most_together
        Changes that share a commit at most.

    Raises
    ------
    HubUnavailableError
        If another process holds the database.
    StoreError
        If the file cannot be opened, or a newer version of this program made it.
    """

    is_shared = False

    def __init__(self, path: Path, *, most_together: int = MOST_TOGETHER) -> None:
        self._path = path
        self._engine = self._open()
        try:
            self._prepare()
        except BaseException:
            self._engine.dispose()
            raise
        self._closed = False
        self._audience = Audience()
        self._writer = Writer(self._commit, self._tell, most=most_together)

    def write(self, change: Callable[[Transaction], T]) -> T:
        """Run a change on the writer thread; see `Database.write`."""
        if self._closed:
            raise self._closed_error()
        return self._writer.write(change)

    def read(self, query: Callable[[Transaction], T]) -> T:
        """Run a query in the calling thread; see `Database.read`."""
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
        """Tell of events on the writer thread; see `Database.subscribe`."""
        return self._audience.subscribe(subscriber)

    def listen(self, topic: str, listener: Listener) -> None:
        """Tell of a topic on the writer thread; see `Database.listen`."""
        self._audience.listen(topic, listener)

    def close(self) -> None:
        """Finish what is queued and let go of the file."""
        if self._closed:
            return
        self._writer.close()
        self._closed = True
        self._engine.dispose()

    # -- opening ---------------------------------------------------------------------------

    def _open(self) -> Engine:
        # The hub's queries are small: other threads of DuckDB's own would cost more than they do.
        engine = sa.create_engine(
            f"duckdb+caching:///{self._path}",
            poolclass=QueuePool,
            pool_size=8,
            max_overflow=56,
            connect_args={"config": {"threads": 1}},
        )
        sa.event.listen(engine, "handle_error", _disconnect_when_fatal)
        try:
            engine.connect().close()
        except DBAPIError as error:
            engine.dispose()
            raise _opening_error(self._path, error) from None
        return engine

    def _prepare(self) -> None:
        """Make the tables, or bring them up to date, and look where the counters are."""
        try:
            with self._engine.begin() as connection:
                is_old = revisions.is_older(revisions.found(connection), str(self._path))
                if not is_old:
                    revisions.make_tables(connection)
            if is_old:
                self._migrate()
            with self._engine.begin() as connection:
                counters = _counters(connection)
                for name in {"events", "commits"} - counters.keys():
                    connection.execute(schema.counters.insert().values(name=name, value=0))
                self._events = counters.get("events", 0)
                self._commits = counters.get("commits", 0)
        except DBAPIError as error:
            raise _opening_error(self._path, error) from None

    def _migrate(self) -> None:
        from neuronexus_kernel.hub.migrations import migrate

        with self._engine.connect() as connection:
            before = revisions.found(connection)
            connection.rollback()
            connection.exec_driver_sql("CHECKPOINT")
        copy = self._path.with_name(f"{self._path.name}.{before}")
        copy.unlink(missing_ok=True)  # of a migration that failed
        with self._path.open("rb") as file, appearing(copy, private=True) as written:
            shutil.copyfileobj(file, written)
        with self._engine.begin() as connection:
            migrate(connection)

    # -- writing ---------------------------------------------------------------------------

    def _commit(self, changes: Sequence[Change[Any]]) -> Group:
        group: Group | None = None
        try:
            with self._engine.begin() as connection:
                group = perform(changes, connection, self._events, self._explain)
                if not group.has_written:
                    return group
                write_events(connection, group)
                self._count(connection, len(group.events))
        except StatementError as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                self._engine.dispose()
            if group is None or not self._is_committed():
                raise explained_statement(error, self._explain_fatal) or error from None
        self._events += len(group.events)
        self._commits += 1
        return group

    def _count(self, connection: Connection, events: int) -> None:
        counters = schema.counters
        commits = counters.c.name == "commits"
        value = sa.case((commits, self._commits + 1), else_=self._events + events)
        connection.execute(
            counters.update().where(counters.c.name.in_(["events", "commits"])).values(value=value)
        )

    def _is_committed(self) -> bool:
        """Look whether a commit that failed is in the file nevertheless."""
        found: dict[str, int] = self.read(lambda tx: _counters(tx._connection))
        return found["commits"] > self._commits

    def _explain(self, error: DBAPIError) -> NeuroNexusError | None:
        return None if error.connection_invalidated else self._explain_fatal(error)

    def _explain_fatal(self, error: DBAPIError) -> NeuroNexusError:
        if isinstance(error, DataError):
            return InvalidInputError(f"A value is out of range: {error.orig}")
        return StoreError(
            f"The database {self._path} could not be written, and nothing was changed: "
            f"{error.orig}. If the disk is full, free some space and try again."
        )

    def _tell(self, group: Group) -> None:
        for topic, text in group.notices:
            self._audience.notify(topic, text)
        self._audience.tell(group.events)

    def _closed_error(self) -> HubUnavailableError:
        return HubUnavailableError(f"The hub of {self._path.parent} is closed; open it again.")


def _counters(connection: Connection) -> dict[str, int]:
    return {row.name: int(row.value) for row in connection.execute(sa.select(schema.counters))}


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
