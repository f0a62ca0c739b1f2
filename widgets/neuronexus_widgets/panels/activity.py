"""What happened lately, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from neuronexus_kernel.hub.records import Event
from neuronexus_widgets.panels import empty, frame, text
from neuronexus_widgets.state import DashboardState
from neuronexus_widgets.words import tell, when

LINES = 9
_ONCE = frozenset({"run.round", "contribution.rewarded"})


class Activity:
    """The latest events, newest first; of a run's rounds, and of a reward's parts, the latest."""

    def __init__(self) -> None:
        self.list = text("nx-feed")
        self.widget = frame([self.list], "nx-panel", "nx-activity")

    def update(self, state: DashboardState, now: datetime) -> None:
        """Show the latest events of `state`."""
        told = [
            (event, sentence)
            for event in _thinned(state.feed)
            if (sentence := tell(event, state.metric_of(event.project)))
        ][:LINES]
        title = "<h2>Activity</h2>"
        if not told:
            self.list.value = title + empty("Nothing has happened yet", "It will show here.")
            return
        lines = "".join(
            f'<li data-kind="{event.kind.replace(".", "-")}"><span>{sentence}</span>'
            f"{when(event.time, now)}</li>"
            for event, sentence in told
        )
        self.list.value = f'{title}<ul class="nx-list">{lines}</ul>'


def _thinned(events: Iterable[Event]) -> Iterator[Event]:
    seen: set[tuple[str, str]] = set()
    for event in events:
        if event.kind in _ONCE:
            if (event.kind, event.subject) in seen:
                continue
            seen.add((event.kind, event.subject))
        yield event
