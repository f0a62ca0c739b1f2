"""Times as the database keeps them: RFC 3339 text in UTC, which sorts as the times do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def stamp(moment: datetime) -> str:
    """Return a time as text with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def later(time: str, by: timedelta) -> str:
    """Return the time that is later than another one by so much, or earlier for less than none."""
    return stamp(datetime.fromisoformat(time) + by)


def older(time: str, than: timedelta) -> bool:
    """Return whether a time lies further back than that."""
    return datetime.now(UTC) - datetime.fromisoformat(time) > than
