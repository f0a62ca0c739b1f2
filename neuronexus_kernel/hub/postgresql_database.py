"""The records on a PostgreSQL server, which several hubs may share.

Every writing transaction begins by locking the row that counts events, so that writers take turns,
in this process and in others: what a change reads stays so until its commit, and events are
numbered in the order of commits.  Serializable transactions would not run side by side either, as
all of them number events, but would be undone and run again.  Group commit makes up for the turns.

A connection that breaks is made anew.  When it broke during a commit, it is looked up whether the
transaction has happened: each counts itself in a row of its hub's own.  (Its id would not tell, as
a server that crashed may give the same id to another.)

Each process listens for the commits of the others and reads their events from the table.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, StatementError

from neuronexus_kernel.errors import (
    HubUnavailableError,
    InvalidInputError,
    NeuroNexusError,
    StoreError,
)
from neuronexus_kernel.hub import revisions, schema
from neuronexus_kernel.hub.database import Listener, Subscriber, Transaction, portions, read_events
from neuronexus_kernel.hub.records import Event
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

T = TypeVar("T")

DRIVER = "postgresql+psycopg"
PATIENCE = 60.0
"""Seconds for which readers and writers wait for a server that does not answer."""

CHANNEL = "neuronexus"

# A process that is frozen in the middle of a change would hold up all others.
_OPTIONS = "-c idle_in_transaction_session_timeout=60s"

_OPENING_SECONDS = 5.0
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
_CATCH_UP_SECONDS = 5.0
_LINES = 50
"""Of one notification, which has 8,000 bytes at most."""
_MAKING = 0x6E657572
"""Advisory lock of those who make or change the tables."""

_RETRIED = ("08", "57P", "53300", "40001", "40P01")
"""Beginnings of the SQLSTATE codes after which nothing was committed and another try may help."""


class Unanswered(Exception):
    """The server is not there, or has ended the connection; nothing was committed."""


class PostgreSQLDatabase:
    """A `Database` on a PostgreSQL server.

    Parameters
    ----------
    url
        As SQLAlchemy writes it: ``postgresql+psycopg://user:password@host/name``.
    hub
        Name of this hub; no two processes use the same at one time.  By default a new one.
    most_together
        Changes that share a commit at most.
    patience
        Seconds to wait for a server that does not answer.

    Raises
    ------
    HubUnavailableError
        If the server does not answer.
    StoreError
        If the tables are those of another version of this program.
    InvalidInputError
        If the URL is none, or the driver is not installed.
    """

    is_shared = True

    def __init__(
        self,
        url: str,
        *,
        hub: str = "",
        most_together: int = MOST_TOGETHER,
        patience: float = PATIENCE,
    ) -> None:
        self._patience = patience
        self._closing = threading.Event()
        self._engine = make_engine(url)
        self._name = self._engine.url.render_as_string(hide_password=True)
        self._readers = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._audience = Audience()
        self._origin = hub or secrets.token_hex(8)
        self._counter = f"commits {self._origin}"
        self._telling = threading.Lock()
        try:
            self._told = self._prepare()
        except BaseException:
            self._engine.dispose()
            raise
        self._ear = threading.Thread(target=self._listen, name="nx-listener", daemon=True)
        self._ear.start()
        self._writer = Writer(self._commit, self._tell, most=most_together)

    def write(self, change: Callable[[Transaction], T]) -> T:
        """Run a change on the writer thread; see `Database.write`."""
        return self._writer.write(change)

    def read(self, query: Callable[[Transaction], T]) -> T:
        """Run a query in the calling thread; see `Database.read`."""

        def attempt() -> T:
            with self._readers.connect() as connection:
                return query(Transaction(connection))

        try:
            return self._persist(attempt)
        except DataError as error:
            raise InvalidInputError(f"A value is out of range: {error.orig}") from None
        except DBAPIError as error:
            raise StoreError(f"The database {self._name} could not be read: {error.orig}") from None

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Tell of events, on one thread or another; see `Database.subscribe`."""
        return self._audience.subscribe(subscriber)

    def listen(self, topic: str, listener: Listener) -> None:
        """Tell of a topic; see `Database.listen`."""
        self._audience.listen(topic, listener)

    def close(self) -> None:
        """Finish what is queued and let go of the server."""
        if self._closing.is_set():
            return
        self._writer.close()
        self._closing.set()
        self._ear.join()
        self._engine.dispose()

    # -- opening ---------------------------------------------------------------------------

    def _prepare(self) -> int:
        """Make the tables if there are none; return the number of the last event."""

        def attempt() -> int:
            with making(self._engine) as connection:
                if revisions.is_older(revisions.found(connection), self._name):
                    raise StoreError(
                        f"The tables of {self._name} are of an earlier version: stop the hubs that "
                        "use it, make a backup, and run `neuronexus hub migrate`."
                    )
                revisions.make_tables(connection)
                counters = schema.counters
                connection.execute(
                    insert(counters).values(name=self._counter, value=0).on_conflict_do_nothing()
                )
                return self._take_turn(connection)[0]

        try:
            return self._persist(attempt, patience=min(self._patience, _OPENING_SECONDS))
        except DBAPIError as error:
            raise StoreError(
                f"The database {self._name} could not be opened: {error.orig}"
            ) from None

    def _persist(self, attempt: Callable[[], T], patience: float | None = None) -> T:
        """Try until the server answers."""
        until = time.monotonic() + (self._patience if patience is None else patience)
        for turn in range(10**9):
            if self._closing.is_set():
                raise HubUnavailableError("The hub is closed; open it again.")
            try:
                return attempt()
            except Unanswered as error:
                cause: object = error
            except DBAPIError as error:
                if not is_unanswered(error):
                    raise
                cause = error.orig
            pause = _PAUSES[min(turn, len(_PAUSES) - 1)]
            if time.monotonic() + pause > until:
                break
            self._closing.wait(pause)
        raise HubUnavailableError(
            f"The database {self._name} does not answer ({cause}); nothing was changed. See that "
            "it runs and can be reached, then try again."
        )

    # -- writing ---------------------------------------------------------------------------

    def _commit(self, changes: Sequence[Change[Any]]) -> Group:
        try:
            return self._persist(lambda: self._attempt(changes))
        except StatementError as error:
            raise explained_statement(error, self._explain_failed) or error from None

    def _attempt(self, changes: Sequence[Change[Any]]) -> Group:
        with self._engine.connect() as connection:
            last, self._commits = self._take_turn(connection)
            group = perform(changes, connection, last, self._explain)
            if not group.has_written and not group.notices:
                return group
            write_events(connection, group)
            self._count(connection, last + len(group.events))
            for text in self._notices(group):
                connection.execute(sa.select(sa.func.pg_notify(CHANNEL, text)))
            try:
                connection.commit()
            except DBAPIError as error:
                if not is_unanswered(error):
                    raise
                connection.invalidate()
                if not self._has_happened():
                    raise Unanswered(str(error.orig)) from None
        return group

    def _take_turn(self, connection: Connection) -> tuple[int, int]:
        """Wait until no other writes; return how many events and commits of this hub there are."""
        counters = schema.counters.c
        query = sa.select(counters.name, counters.value)
        mine = query.where(counters.name.in_(["events", self._counter])).with_for_update()
        found = {row.name: int(row.value) for row in connection.execute(mine)}
        return found["events"], found[self._counter]

    def _count(self, connection: Connection, events: int) -> None:
        counters = schema.counters
        value = sa.case((counters.c.name == self._counter, self._commits + 1), else_=events)
        connection.execute(
            counters.update()
            .where(counters.c.name.in_(["events", self._counter]))
            .values(value=value)
        )

    def _notices(self, group: Group) -> Iterator[str]:
        by_topic: dict[str, list[str]] = {}
        for topic, text in dict.fromkeys(group.notices):
            by_topic.setdefault(topic, []).append(text)
        for topic, texts in by_topic.items():
            for some in portions(texts, _LINES):
                yield f"{self._origin} {topic} " + "\n".join(some)
        if group.events:
            yield f"{self._origin} events {group.events[-1].seq}"

    def _has_happened(self) -> bool:
        """Look whether a transaction was committed whose commit was not answered."""

        def attempt() -> int:
            with self._engine.connect() as connection:
                # It had the turn, and may still have it: the server need not know that we are gone.
                return self._take_turn(connection)[1]

        try:
            return self._persist(attempt) > self._commits
        except HubUnavailableError:
            raise HubUnavailableError(
                f"The database {self._name} does not answer, and whether the last change was "
                "committed is not known; look for it before you make it again."
            ) from None

    def _explain(self, error: DBAPIError) -> NeuroNexusError | None:
        return None if is_unanswered(error) else self._explain_failed(error)

    def _explain_failed(self, error: DBAPIError) -> NeuroNexusError:
        if isinstance(error, DataError):
            return InvalidInputError(f"A value is out of range: {error.orig}")
        return StoreError(
            f"The database {self._name} could not be written, and nothing was changed: "
            f"{error.orig}."
        )

    # -- telling ---------------------------------------------------------------------------

    def _tell(self, group: Group) -> None:
        for topic, text in group.notices:
            self._audience.notify(topic, text)
        if group.events:
            with self._telling:
                # Where others have committed in between, the listener reads all in its order.
                if group.events[0].seq == self._told + 1:
                    self._hand_out(group.events)

    def _hand_out(self, events: Sequence[Event]) -> None:
        if events:
            self._told = events[-1].seq
            self._audience.tell(events)

    def _catch_up(self) -> None:
        """Tell of all events that were committed and not told yet."""
        with self._telling:
            self._hand_out(self.read(lambda tx: read_events(tx, self._told)))

    def _listen(self) -> None:
        """Hear of the commits of other processes, until the database is closed."""
        turn = 0
        while not self._closing.is_set():
            try:
                with self._engine.execution_options(isolation_level="AUTOCOMMIT").connect() as line:
                    line.exec_driver_sql(f"LISTEN {CHANNEL}")
                    self._audience.alarm()
                    turn = 0
                    try:
                        self._hear(line)
                    finally:
                        line.invalidate()  # nobody else shall get a connection that listens
            except (DBAPIError, NeuroNexusError, OSError):
                self._closing.wait(_PAUSES[min(turn, len(_PAUSES) - 1)])
                turn += 1

    def _hear(self, line: Connection) -> None:
        import psycopg

        raw = line.connection.driver_connection
        assert raw is not None
        while not self._closing.is_set():
            # Also when nothing was heard: a notification is a hint, the table is the truth.
            self._catch_up()
            line.exec_driver_sql("SELECT 1")  # it would say nothing if it were cut
            until = time.monotonic() + _CATCH_UP_SECONDS
            heard = False
            while not heard and time.monotonic() < until and not self._closing.is_set():
                try:
                    notices = list(raw.notifies(timeout=0.25, stop_after=1))
                except psycopg.Error as error:
                    raise OSError(str(error)) from None
                for notice in notices:
                    heard = self._heard(notice.payload) or heard

    def _heard(self, payload: str) -> bool:
        """Take up what a process has said; return whether there are events to be read."""
        origin, topic, text = payload.split(" ", 2)
        if topic == "events":
            return int(text) > self._told
        for line in text.split("\n") if origin != self._origin else ():
            self._audience.notify(topic, line)
        return False


def make_engine(url: str) -> Engine:
    """Return the connections to a PostgreSQL server.

    Raises
    ------
    InvalidInputError
        If the URL is none of PostgreSQL, or the driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername != DRIVER:
        raise InvalidInputError(
            f"NEURONEXUS_DATABASE is {DRIVER}://user:password@host/name, or not set for a DuckDB "
            "file in the hub's folder."
        )
    try:
        return sa.create_engine(
            parsed,
            pool_size=8,
            max_overflow=56,
            isolation_level="READ COMMITTED",
            connect_args={"connect_timeout": 10, "keepalives_idle": 30, "options": _OPTIONS},
        )
    except ModuleNotFoundError:
        raise InvalidInputError(
            "PostgreSQL needs a driver: `pip install 'neuronexus[postgresql]'`."
        ) from None


@contextmanager
def administered(url: str) -> Iterator[Connection]:
    """Give one transaction in which tables may be made, changed and filled.

    Raises
    ------
    HubUnavailableError
        If the server does not answer.
    StoreError
        If something cannot be done; then nothing was.
    """
    engine = make_engine(url)
    name = engine.url.render_as_string(hide_password=True)
    try:
        with making(engine) as connection:
            yield connection
    except DBAPIError as error:
        if is_unanswered(error):
            raise HubUnavailableError(
                f"The database {name} does not answer: {error.orig}"
            ) from None
        raise StoreError(f"The database {name} could not be changed: {error.orig}") from None
    finally:
        engine.dispose()


@contextmanager
def making(engine: Engine) -> Iterator[Connection]:
    """Give a transaction for making or changing the tables; one process has it at a time."""
    with engine.begin() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING)))
        yield connection


def is_unanswered(error: DBAPIError) -> bool:
    """Tell whether an error is one of the connection or the server, and worth another try."""
    import psycopg

    if error.connection_invalidated:
        return True
    if not isinstance(error.orig, psycopg.Error):
        return False
    code = error.orig.sqlstate
    if code is None:
        return isinstance(error.orig, psycopg.OperationalError)
    return code.startswith(_RETRIED)
