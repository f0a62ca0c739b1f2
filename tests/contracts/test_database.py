"""What every database of a hub promises, whichever it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.errors import ConflictError, HubUnavailableError, InvalidInputError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.duckdb_database import DuckDBDatabase
from neuronexus_kernel.hub.postgresql_database import PostgreSQLDatabase
from neuronexus_kernel.hub.records import Event

Open = Callable[..., Database]


@pytest.fixture(scope="module", params=["duckdb", "postgresql"])
def open_database(
    request: pytest.FixtureRequest, new_home: Callable[[], Path]
) -> Iterator[Callable[[], Open]]:
    """Return a function that gives a new place for a database, as a function that opens it."""
    opened: list[Database] = []

    def place() -> Open:
        if request.param == "duckdb":
            path = new_home() / "hub.duckdb"
            opening: Open = lambda **options: DuckDBDatabase(path, **options)  # noqa: E731
        else:
            url = request.getfixturevalue("postgresql").new_database()
            opening = lambda **options: PostgreSQLDatabase(url, **options)  # noqa: E731

        def open_it(**options: int) -> Database:
            opened.append(opening(**options))
            return opened[-1]

        return open_it

    yield place
    for database in opened:
        database.close()


@pytest.fixture(scope="module")
def database(open_database: Callable[[], Open]) -> Database:
    """A database that tests share; each makes rows of its own."""
    return open_database()()


def add(key: str, value: int = 0) -> Callable[[Transaction], int]:
    """Return a change that adds a counter and tells of it."""

    def change(tx: Transaction) -> int:
        tx.execute(schema.counters.insert().values(name=key, value=value))
        tx.emit("test.added", key)
        return value

    return change


def names(database: Database) -> set[str]:
    rows = database.read(lambda tx: tx.all(sa.select(schema.counters.c.name)))
    return {row.name for row in rows}


def last(database: Database) -> int:
    counters = schema.counters.c
    return int(
        database.read(
            lambda tx: tx.scalar(sa.select(counters.value).where(counters.name == "events"))
        )
    )


def kept(database: Database, above: int = 0) -> list[tuple[int, str]]:
    events = schema.events.c
    query = sa.select(events.seq, events.subject).where(events.seq > above).order_by(events.seq)
    return [tuple(row) for row in database.read(lambda tx: tx.all(query))]


class Gate:
    """Holds the writer up, so that what is written meanwhile shares the next commit."""

    def __init__(self, database: Database) -> None:
        self._open, reached = threading.Event(), threading.Event()

        def change(_: Transaction) -> None:
            reached.set()
            self._open.wait(20)

        self._thread = threading.Thread(target=database.write, args=(change,))
        self._thread.start()
        reached.wait(20)

    def open(self) -> None:
        self._open.set()
        self._thread.join()


def together(database: Database, changes: list[Callable[[Transaction], object]]) -> list[object]:
    """Have changes share a commit, in this order; return what each caller got."""
    gate = Gate(database)

    def call(change: Callable[[Transaction], object]) -> object:
        try:
            return database.write(change)
        except Exception as error:
            return error

    with ThreadPoolExecutor(max(1, len(changes))) as pool:
        calls = []
        for change in changes:
            calls.append(pool.submit(call, change))
            time.sleep(0.005)  # so that they queue in this order
        gate.open()
        return [each.result(20) for each in calls]


def test_what_was_written_is_there_when_it_is_opened_again(open_database):
    open_it = open_database()
    database = open_it()
    assert database.write(add("kept", 7)) == 7
    database.close()
    again = open_it()
    assert "kept" in names(again)
    assert kept(again) == [(1, "kept")]
    again.write(add("more"))
    assert kept(again) == [(1, "kept"), (2, "more")]


def test_a_closed_database_says_so(open_database):
    database = open_database()()
    database.close()
    database.close()
    for call in (lambda: database.write(add("x")), lambda: names(database)):
        with pytest.raises(HubUnavailableError, match="closed"):
            call()


@pytest.mark.parametrize("units", [0, 1, -1, 10**38 - 1, -(10**38) + 1, 2**63, 10**18 + 1])
def test_amounts_are_exact(database, units):
    index = abs(hash(str(units))) % 2**62
    row = {"index": index, "account": "ada", "amount": units}
    database.write(lambda tx: tx.execute(schema.postings.insert().values(**row)))
    query = sa.select(schema.postings.c.amount).where(schema.postings.c.index == index)
    found = database.read(lambda tx: tx.scalar(query))
    assert (found, type(found)) == (units, int)
    total = sa.select(sa.func.sum(schema.postings.c.amount, type_=schema.Amount()))
    assert type(database.read(lambda tx: tx.scalar(total))) is int


def test_names_have_the_order_of_their_bytes(database):
    given = ["b-1", "B", "a_z", "a-z", "ab", "é", "Z", "_"]
    for name in given:
        database.write(add(f"order {name}"))
    query = sa.select(schema.counters.c.name).order_by(schema.counters.c.name)
    found = [row.name for row in database.read(lambda tx: tx.all(query))]
    assert [name[6:] for name in found if name.startswith("order ")] == sorted(given)


def test_changes_that_share_a_commit_each_see_those_before(database):
    seen: list[set[str]] = []

    def change(number: int) -> Callable[[Transaction], None]:
        def do(tx: Transaction) -> None:
            rows = tx.all(sa.select(schema.counters.c.name))
            seen.append({row.name for row in rows if row.name.startswith("shared")})
            add(f"shared {number}")(tx)

        return do

    together(database, [change(number) for number in range(4)])
    assert [len(names) for names in seen[-4:]] == [0, 1, 2, 3]


def test_a_change_that_fails_does_not_spoil_its_neighbours(database):
    before = last(database)

    def fails_after_writing(tx: Transaction) -> None:
        add("spoiled")(tx)
        raise ConflictError("after all")

    def breaks_the_key(tx: Transaction) -> None:
        add("neighbour 0")(tx)

    def out_of_range(tx: Transaction) -> None:
        add("too large", 2**70)(tx)

    def no_json(tx: Transaction) -> None:
        tx.emit("test", "no json", None, value=float("nan"))

    def fails_before_writing(tx: Transaction) -> None:
        tx.emit("test.lost", "lost")
        raise LookupError("at once")

    changes = [
        add("neighbour 0", 10),
        fails_after_writing,
        add("neighbour 1", 11),
        fails_before_writing,
        no_json,
        out_of_range,
        add("neighbour 2", 12),
        breaks_the_key,
        add("neighbour 3", 13),
    ]
    got = together(database, changes)
    assert [type(each) for each in got[1::2]] == [
        ConflictError,
        LookupError,
        InvalidInputError,
        type(got[7]),
    ]
    assert isinstance(got[4], InvalidInputError)
    assert isinstance(got[7], Exception)
    assert [got[index] for index in (0, 2, 6, 8)] == [10, 11, 12, 13]
    there = names(database)
    assert {f"neighbour {number}" for number in range(4)} <= there
    assert not {"spoiled", "too large"} & there
    assert [subject for _, subject in kept(database, before)] == [
        f"neighbour {number}" for number in range(4)
    ]
    assert [seq for seq, _ in kept(database, before)] == list(range(before + 1, before + 5))


def test_an_error_that_a_spoiled_neighbour_caused_is_not_told(database):
    """What a change saw of another that is undone did not happen; it is run again without it."""

    def spoils(tx: Transaction) -> None:
        add("ghost")(tx)
        tx.execute(schema.counters.insert().values(name="ghost", value=1))

    def once(tx: Transaction) -> str:
        if tx.first(sa.select(schema.counters).where(schema.counters.c.name == "ghost")):
            raise ConflictError("the name is taken")
        add("ghost", 5)(tx)
        return "mine"

    got = together(database, [spoils, once])
    assert isinstance(got[0], Exception)
    assert got[1] == "mine"


@settings(max_examples=15, deadline=None)
@given(plan=st.lists(st.sampled_from(["add", "fail early", "fail late", "break"]), max_size=8))
def test_any_mix_of_changes_is_as_if_each_had_been_alone(database, plan):
    stem = f"mix {last(database)} {time.monotonic_ns()}"
    before = last(database)

    def change(number: int, what: str) -> Callable[[Transaction], int]:
        def do(tx: Transaction) -> int:
            if what == "fail early":
                tx.emit("test", "lost")
                raise ConflictError("early")
            add(f"{stem} {number}", number)(tx)
            if what == "fail late":
                raise ConflictError("late")
            if what == "break":
                tx.execute(schema.counters.insert().values(name=f"{stem} {number}", value=0))
            return number

        return do

    got = together(database, [change(number, what) for number, what in enumerate(plan)])
    good = [number for number, what in enumerate(plan) if what == "add"]
    assert [each for each in got if not isinstance(each, Exception)] == good
    assert {name for name in names(database) if name.startswith(stem)} == {
        f"{stem} {number}" for number in good
    }
    events = kept(database, before)
    assert sorted(subject for _, subject in events) == sorted(f"{stem} {n}" for n in good)
    assert [seq for seq, _ in events] == list(range(before + 1, before + 1 + len(good)))


def test_subscribers_hear_of_each_commit_in_order_and_after_it(database):
    heard: list[Event] = []
    missing: list[int] = []

    def hear(events: list[Event]) -> None:
        there = dict(kept(database, events[0].seq - 1))
        missing.extend(event.seq for event in events if event.seq not in there)
        heard.extend(events)

    before = last(database)
    stop = database.subscribe(hear)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: database.write(add(f"heard {n}")), range(64)))
    until = time.monotonic() + 20
    while len(heard) < 64 and time.monotonic() < until:
        time.sleep(0.01)
    stop()
    database.write(add("not heard"))
    assert [event.seq for event in heard] == list(range(before + 1, before + 65))
    assert [event.previous for event in heard] == list(range(before, before + 64))
    assert missing == []


def test_a_change_that_fails_notifies_nobody(database):
    told: list[str | None] = []
    database.listen("topic", told.append)

    def fails(tx: Transaction) -> None:
        tx.notify("topic", "lost")
        raise ConflictError("no")

    together(database, [lambda tx: tx.notify("topic", "a b"), fails])
    assert [text for text in told if text is not None] == ["a b"]


def test_readers_do_not_wait_for_a_writer_nor_see_half_a_change(database):
    inside, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        add("half a change")(tx)
        inside.set()
        go_on.wait(20)

    writer = threading.Thread(target=database.write, args=(slow,))
    writer.start()
    assert inside.wait(20)
    assert "half a change" not in names(database), "read while the change is going on"
    go_on.set()
    writer.join()
    assert "half a change" in names(database)


def test_a_reader_sees_one_moment_and_holds_up_no_writer(database):
    def query(tx: Transaction) -> tuple[int, int]:
        count = sa.select(sa.func.count()).select_from(schema.counters)
        first = int(tx.scalar(count))
        writer = threading.Thread(target=database.write, args=(add("in between"),))
        writer.start()
        writer.join(20)
        assert not writer.is_alive()
        return first, int(tx.scalar(count))

    first, second = database.read(query)
    assert first == second
    assert "in between" in names(database)
