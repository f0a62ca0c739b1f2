"""The visitor's own tokens: how the balance grew, and the latest entries of the ledger."""

from __future__ import annotations

from datetime import datetime

from neuronexus_kernel.ledger.amounts import UNITS
from neuronexus_widgets.panels import empty, frame, text
from neuronexus_widgets.plots import BalanceChart
from neuronexus_widgets.state import DashboardState, TokenEntry
from neuronexus_widgets.theme import icon
from neuronexus_widgets.words import KIND_WORDS, escape, moment, nxs, when

_LATEST = 6


class Tokens:
    """Balance over the visitor's ledger entries, and the entries themselves."""

    def __init__(self) -> None:
        self.title = text("nx-tokens-title")
        self.chart = BalanceChart()
        self._chart = frame([], "nx-chart")
        self.entries = text("nx-entries")
        self.widget = frame([self.title, self._chart, self.entries], "nx-panel", "nx-tokens")

    def update(self, state: DashboardState, now: datetime) -> None:
        """Show the tokens of the visitor."""
        total = f'<small class="nx-right">{nxs(state.balance)} NXS</small>'
        self.title.value = f"<h2>My tokens {total if state.tokens else ''}</h2>"
        if not state.tokens:
            self._chart.children = ()
            self.entries.value = _nothing(state)
            return
        self._chart.children = (self.chart.widget,)
        times = [moment(entry.time) or now for entry in state.tokens]
        self.chart.update(times, [entry.balance / UNITS for entry in state.tokens], now)
        latest = reversed(state.tokens[-_LATEST:])
        lines = "".join(_line(entry, state, now) for entry in latest)
        self.entries.value = f'<ul class="nx-list">{lines}</ul>'


def _nothing(state: DashboardState) -> str:
    if state.me is None:
        return empty("You look as a guest", "Sign in to earn NXS for what you contribute.")
    return empty("No NXS yet", "They are paid for measured improvement of the model.")


def _line(entry: TokenEntry, state: DashboardState, now: datetime) -> str:
    source = next((c for c in state.contributions if c.id == entry.contribution), None)
    kind = KIND_WORDS.get(source.kind, source.kind) if source else ""
    what = f"{icon(source.kind)} {escape(kind, 20)}" if source else f"entry {entry.index}"
    sign, colour = ("+", "nx-gold") if entry.amount > 0 else ("", "nx-red")
    return (
        f'<li data-index="{entry.index}"><span>{what}</span>'
        f'<b class="{colour}">{sign}{nxs(entry.amount)} NXS</b>{when(entry.time, now)}</li>'
    )
