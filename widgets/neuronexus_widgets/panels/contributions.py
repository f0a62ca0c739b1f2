"""The history of contributions: who gave what, what it was measured to be worth, and why."""

from __future__ import annotations

from datetime import datetime, timedelta

from neuronexus_widgets.panels import empty, frame, text
from neuronexus_widgets.state import ContributionView, DashboardState
from neuronexus_widgets.theme import icon
from neuronexus_widgets.words import (
    DASH,
    KIND_WORDS,
    STATE_WORDS,
    count,
    escape,
    improvement,
    metric_word,
    nxs_text,
    when,
)

ROWS = 60
_FRESH = timedelta(seconds=2)


class Contributions:
    """The table of contributions, newest first."""

    def __init__(self) -> None:
        self.table = text("nx-table")
        self.widget = frame([self.table], "nx-panel", "nx-contributions")
        self._states: dict[str, str] | None = None
        self._changed: dict[str, datetime] = {}

    def update(self, state: DashboardState, now: datetime) -> None:
        """Show the contributions of `state`."""
        items = state.contributions
        self._note_changes(items, now)
        title = f'<h2>Contributions <small class="nx-right">{_summary(items)}</small></h2>'
        if not items:
            hint = "Submit one from a notebook: <code>project.submit(...)</code>"
            self.table.value = title + empty("No contributions yet", hint)
            return
        rows = "".join(self._row(item, state.metric, now) for item in items[:ROWS])
        more = len(items) - ROWS
        rest = f'<p class="nx-reason">{count(more, "earlier contribution")}</p>' if more > 0 else ""
        self.table.value = (
            f'{title}<div class="nx-scroll" tabindex="0">'
            f"<table>{_head(state.metric)}<tbody>{rows}</tbody></table>{rest}</div>"
        )

    def _note_changes(self, items: tuple[ContributionView, ...], now: datetime) -> None:
        states = {item.id: item.state for item in items}
        if self._states is not None:
            for name, state in states.items():
                if self._states.get(name) != state:
                    self._changed[name] = now
        self._states = states

    def _row(self, item: ContributionView, metric: str, now: datetime) -> str:
        changed = self._changed.get(item.id)
        fresh = ' class="nx-fresh"' if changed and now - changed < _FRESH else ""
        return (
            f'<tr data-id="{escape(item.id)}" data-state="{escape(item.state, 20)}" '
            f'data-kind="{escape(item.kind, 20)}"{fresh}>'
            f'<td><span class="nx-kind">{icon(item.kind)}'
            f"{escape(KIND_WORDS.get(item.kind, item.kind), 20)}</span></td>"
            f'<td class="nx-author">{escape(item.author, 40)}</td>'
            f'<td class="nx-note">{_words(item)}</td>'
            f'<td><span class="nx-pill">'
            f"{escape(STATE_WORDS.get(item.state, item.state), 20)}</span></td>"
            f'<td class="nx-num nx-worth">{_value(item, metric)}</td>'
            f'<td class="nx-num nx-reward">{_reward(item)}</td>'
            f'<td class="nx-num">{when(item.created, now)}</td></tr>'
        )


def _head(metric: str) -> str:
    unit = "percentage points" if metric == "accuracy" else escape(metric_word(metric))
    return (
        "<thead><tr><th>Kind</th><th>Author</th><th>What and why</th><th>State</th>"
        '<th class="nx-num" title="Lower 90 % confidence bound of the improvement on held-out '
        f'data, in {unit}">Value</th><th class="nx-num">Reward</th>'
        '<th class="nx-num">When</th></tr></thead>'
    )


def _summary(items: tuple[ContributionView, ...]) -> str:
    if not items:
        return ""
    paid = sum(item.state == "rewarded" for item in items)
    refused = sum(item.state in ("rejected", "failed") for item in items)
    return f"{paid} rewarded, {refused} refused"


def _words(item: ContributionView) -> str:
    note = escape(item.note, 280) or '<span class="nx-dim">no note</span>'
    lines = []
    if item.reason:
        lines.append(escape(item.reason, 280))
    if item.waiting and item.state in ("accepted", "rewarded"):
        lines.append(f"waits for {escape(', '.join(item.waiting), 120)} to confirm")
    return note + "".join(f'<div class="nx-reason">{line}</div>' for line in lines)


def _value(item: ContributionView, metric: str) -> str:
    colour = "nx-dim" if item.value is None else "nx-green" if item.value > 0 else "nx-red"
    return f'<span class="{colour}">{escape(improvement(item.value, metric))}</span>'


def _reward(item: ContributionView) -> str:
    amount = nxs_text(item.reward)
    if amount == DASH or not set(item.reward or "") & set("123456789"):
        return f'<span class="nx-dim">{DASH}</span>'
    return f'<span class="nx-gold" title="{escape(item.reward)} NXS">{amount} NXS</span>'
