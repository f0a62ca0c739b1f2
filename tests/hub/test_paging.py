"""Listings in parts: all of them together are the whole, whatever comes in between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.hub.paging import Window, windowed

_metadata = sa.MetaData()
_table = sa.Table("rows", _metadata, sa.Column("moment", sa.Text), sa.Column("id", sa.Integer))


@pytest.fixture(scope="module")
def engine() -> Iterator[sa.Engine]:
    engine = sa.create_engine("duckdb:///:memory:")
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
