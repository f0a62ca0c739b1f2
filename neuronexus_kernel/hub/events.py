"""Reading what happened: pages of events, and a live stream without gaps.

`previous` of a delivered event is the number delivered before it under the same filter, so that
a reader can prove that nothing is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import sqlalchemy as sa

from neuronexus_kernel.errors import HubUnavailableError, InvalidInputError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Database
from neuronexus_kernel.hub.records import Event

PAGE = 1000


class EventLog:
    """The events of one hub.

    Parameters
    ----------
    database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._closed = False
        self._commits = 0
        self._news = threading.Condition()
        self._unsubscribe = database.subscribe(self._hear)

    def page(self, since: int, *, limit: int = PAGE, project: str | None = None) -> list[Event]:
        """Return up to `limit` events numbered above `since`, oldest first.

        `previous` of the first is `since`: what the reader has.
        """
        if since < 0 or not 1 <= limit <= 10 * PAGE:
            raise InvalidInputError(
                f"events takes since >= 0 and 1 <= limit <= {10 * PAGE}; "
                f"got since={since}, limit={limit}."
            )
        events = schema.events
        query = sa.select(events).where(events.c.seq > since).order_by(events.c.seq).limit(limit)
        if project is not None:
            query = query.where(events.c.project == project)
        previous = since
        result = []
        for row in self._database.read(lambda tx: tx.all(query)):
            result.append(
                Event(
                    seq=row.seq,
                    previous=previous,
                    time=row.moment,
                    kind=row.kind,
                    project=row.project,
                    subject=row.subject,
                    data=row.data,
                )
            )
            previous = row.seq
        return result

    def follow(self, since: int, *, project: str | None = None) -> Iterator[Event]:
        """Yield events above `since`, and new ones as they are committed, until closed."""
        while not self._closed:
            seen = self._commits
            try:
                page = self.page(since, project=project)
            except HubUnavailableError:  # closed since the line above
                return
            for event in page:
                since = event.seq
                yield event
            if not page:
                self._wait(seen)

    def close(self) -> None:
        """End every `follow`."""
        self._unsubscribe()
        with self._news:
            self._closed = True
            self._news.notify_all()

    def _hear(self, _: Sequence[Event]) -> None:
        with self._news:
            self._commits += 1
            self._news.notify_all()

    def _wait(self, seen: int) -> None:
        with self._news:
            while self._commits == seen and not self._closed:
                self._news.wait()


def chain(events: Sequence[Event], previous: int, *, project: str | None = None) -> list[Event]:
    """Return the events that pass the filter, each naming the one delivered before it.

    Parameters
    ----------
    previous
        Number of the last event that the reader has.
    """
    chained = []
    for event in events:
        if event.seq > previous and (project is None or event.project == project):
            chained.append(replace(event, previous=previous))
            previous = event.seq
    return chained
