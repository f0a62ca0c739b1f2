"""Listings in parts: all of them together are the whole, whatever comes in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import new_id
from neuronexus_kernel.hub import records
from neuronexus_kernel.hub.paging import Window, windowed

_metadata = sa.MetaData()
_table = sa.Table("rows", _metadata, sa.Column("moment", sa.Text), sa.Column("id", sa.Integer))


@pytest.fixture(scope="module", params=["duckdb", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    url = "duckdb:///:memory:"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").new_database()
    engine = sa.create_engine(url)
    _metadata.create_all(engine)
    yield engine
    engine.dispose()


def _rows(connection: sa.Connection, window: Window | None, *, falling: bool) -> list[tuple]:
    query = windowed(sa.select(_table), window, _table.c.moment, _table.c.id, newest_first=falling)
    return [tuple(row) for row in connection.execute(query)]


rows_of_a_table = st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=20)


@settings(max_examples=40, deadline=None)
@given(rows=rows_of_a_table, limit=st.integers(1, 5), falling=st.booleans())
def test_all_parts_together_are_the_whole_in_order(
    engine: sa.Engine, rows: set[tuple[str, int]], limit: int, falling: bool
) -> None:
    with engine.connect() as connection:
        if rows:
            connection.execute(_table.insert(), [{"moment": m, "id": i} for m, i in rows])
        whole = _rows(connection, None, falling=falling)
        ordered = sorted(rows, key=lambda row: row[1])
        assert whole == sorted(ordered, key=lambda row: row[0], reverse=falling)
        parts: list[tuple] = []
        while part := _rows(
            connection, Window(limit, parts[-1] if parts else None), falling=falling
        ):
            assert len(part) <= limit
            parts += part
        assert parts == whole
        connection.rollback()


@settings(max_examples=40, deadline=None)
@given(rows=rows_of_a_table, more=rows_of_a_table, limit=st.integers(1, 5))
def test_what_is_added_in_between_neither_repeats_nor_hides_what_was_there(
    engine: sa.Engine, rows: set[tuple[str, int]], more: set[tuple[str, int]], limit: int
) -> None:
    with engine.connect() as connection:
        if rows:
            connection.execute(_table.insert(), [{"moment": m, "id": i} for m, i in rows])
        seen = _rows(connection, Window(limit), falling=False)
        for moment, number in more - rows:
            connection.execute(_table.insert().values(moment=moment, id=number))
        while part := _rows(connection, Window(limit, seen[-1] if seen else None), falling=False):
            seen += part
        assert len(seen) == len(set(seen))
        assert rows <= set(seen) | (more - rows)
        connection.rollback()


NAMES = ["a-b", "a_b", "ab", "a1", "a-", "b", "b_", "1a", "9-9", "zz", "z-z"]


@pytest.mark.parametrize("kind", ["duckdb", "postgresql"])
def test_the_parts_of_a_ledger_are_the_whole_on_either_database(
    open_bench: Callable[..., Any], new_database: Callable[[str], str], kind: str
) -> None:
    bench = open_bench(database=new_database(kind))
    receipt = bench.services.contents.put_node({})
    tokens = bench.services.tokens
    for number in range(3):
        amounts = dict.fromkeys(NAMES, 10**20 + number)
        bench.services.database.write(
            lambda tx, amounts=amounts: tokens.mint(
                tx, amounts, contribution=new_id(), receipt=receipt, project=new_id()
            )
        )
    whole = bench.hub.ledger_lines()
    places = [(line.index, line.account) for line in whole]
    assert places == sorted(places)
    assert len(whole) == 3 * (len(NAMES) + 1)
    parts: list[records.LedgerLine] = []
    while part := bench.hub.ledger_lines(
        window=Window(5, (parts[-1].index, parts[-1].account) if parts else None)
    ):
        parts += part
    assert parts == whole


@pytest.mark.parametrize("kind", ["duckdb", "postgresql"])
def test_the_parts_of_all_roots_are_the_whole_on_either_database(
    open_bench: Callable[..., Any], new_database: Callable[[str], str], kind: str
) -> None:
    bench = open_bench(database=new_database(kind))
    hub = bench.person("ada").hub
    for number in range(12):
        visibility = ("public", "project")[number % 2]
        hub.put(b"%d" % (number // 2), name=f"of {number % 3}", visibility=visibility)
    whole = hub.roots()
    assert len(whole) == 12
    parts: list[records.Root] = []
    while part := hub.roots(
        window=Window(
            5, (parts[-1].created, parts[-1].cid, parts[-1].visibility) if parts else None
        )
    ):
        parts += part
    assert parts == whole
