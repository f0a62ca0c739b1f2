"""Reading long listings part by part.

A page is asked for by the place where the last one ended, not by how many records come before it:
whatever is added meanwhile, nobody is told twice or left out, and the thousandth page costs the
database what the first does.  The place is the value of the columns by which the listing is
sorted; together they are different for every record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa

Place: TypeAlias = "tuple[str | int, ...]"


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a listing.

    Attributes
    ----------
    limit
        The most records.
    after
        Where the part before it ended; None for the first part.
    """

    limit: int
    after: Place | None = None


def windowed(
    query: sa.Select[Any],
    window: Window | None,
    *columns: sa.ColumnElement[Any],
    newest_first: bool = False,
) -> sa.Select[Any]:
    """Sort a query by some columns, and take a part of it.

    Parameters
    ----------
    window
        The part; None for the whole.
    columns
        Together they differ in every row; `Window.after` holds one value for each.
    newest_first
        Whether the first of them falls; the others rise.
    """
    order = [column.desc() if newest_first and not at else column for at, column in _each(columns)]
    query = query.order_by(None).order_by(*order)
    if window is None:
        return query
    if window.after is not None:
        beyond = [
            column < value if newest_first and not at else column > value
            for (at, column), value in zip(_each(columns), window.after, strict=True)
        ]
        same = [column == value for column, value in zip(columns, window.after, strict=True)]
        # Spelt out, as databases differ in comparing rows of columns.
        query = query.where(
            sa.or_(*(sa.and_(*same[:at], further) for at, further in enumerate(beyond)))
        )
    return query.limit(window.limit)


def _each(columns: tuple[sa.ColumnElement[Any], ...]) -> list[tuple[int, sa.ColumnElement[Any]]]:
    return list(enumerate(columns))
