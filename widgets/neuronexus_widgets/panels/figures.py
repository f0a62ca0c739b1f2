"""The row of figures: how good the model is, what the visitor holds, how alive the network is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from neuronexus_widgets.panels import frame, text
from neuronexus_widgets.state import DashboardState
from neuronexus_widgets.words import (
    DASH,
    ago,
    count,
    escape,
    measured,
    metric_word,
    nxs,
)

_GLOW = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: what it is called, its value and unit, and a line about it."""

    label: str
    value: str
    unit: str
    hint: str


class Tile:
    """One figure on the page, which glows for a moment when its value changes.

    Parameters
    ----------
    name
        Ends the CSS class ``nx-figure-…``.
    look
        A further CSS class of the tile.
    """

    def __init__(self, name: str, look: str = "") -> None:
        self.widget = text(f"nx-figure-{name}")
        self._look = look
        self._value: str | None = None
        self._changed: datetime | None = None

    def show(self, figure: Figure, now: datetime) -> None:
        """Show a figure."""
        if self._value is not None and self._value != figure.value:
            self._changed = now
        self._value = figure.value
        glow = self._changed is not None and now - self._changed < _GLOW
        unit = f"<small>{escape(figure.unit)}</small>" if figure.unit else ""
        self.widget.value = (
            f'<div class="nx-tile {self._look}"><div class="nx-label">{escape(figure.label)}</div>'
            f'<div class="nx-value{" nx-changed" if glow else ""}">'
            f'<span class="nx-number">{escape(figure.value)}</span>{unit}</div>'
            f'<div class="nx-hint" title="{escape(figure.hint)}">{escape(figure.hint)}</div></div>'
        )


class Figures:
    """The six figures at the top of the dashboard."""

    def __init__(self) -> None:
        self.tiles = {
            "accuracy": Tile("accuracy", "nx-lead"),
            "version": Tile("version"),
            "balance": Tile("balance", "nx-purse"),
            "members": Tile("members"),
            "contributions": Tile("contributions"),
            "minted": Tile("minted"),
        }
        self.tiles["balance"].widget.add_class("nx-balance")
        self.widget = frame([tile.widget for tile in self.tiles.values()], "nx-figures")

    def update(self, state: DashboardState, now: datetime) -> None:
        """Show the figures of `state`."""
        for name, figure in figures(state, now).items():
            self.tiles[name].show(figure, now)


def figures(state: DashboardState, now: datetime) -> dict[str, Figure]:
    """Return the figures by name."""
    return {
        "accuracy": _held_out(state),
        "version": _version(state),
        "balance": _balance(state, now),
        "members": _members(state),
        "contributions": _contributions(state),
        "minted": Figure("Minted", nxs(state.totals.minted, 0), "NXS", "paid for measured value"),
    }


def _held_out(state: DashboardState) -> Figure:
    label = f"Held-out {metric_word(state.metric)}"
    head = state.head_version
    if head is None:
        return Figure(label, DASH, "", "no model yet")
    if head.held_out is None:
        return Figure(label, DASH, "", "not measured yet")
    first = next(item for item in state.versions if item.held_out is not None)
    gained = head.held_out - (first.held_out or 0.0)
    since = f"{_gain(gained, state.metric)} since v{first.number}"
    hint = since if gained > 0 else "of the head model"
    return Figure(label, measured(head.held_out, state.metric), "", hint)


def _gain(gained: float, metric: str) -> str:
    return f"+{100 * gained:.1f} points" if metric == "accuracy" else f"+{gained:.3f}"


def _version(state: DashboardState) -> Figure:
    if state.head is None:
        return Figure("Head version", DASH, "", "no model yet")
    head = state.head_version
    author = f"by {head.author}" if head and head.author else "of the model"
    others = count(len(state.versions), "version")
    return Figure("Head version", f"v{state.head}", "", f"{author}, {others} in all")


def _balance(state: DashboardState, now: datetime) -> Figure:
    if state.me is None:
        return Figure("My balance", DASH, "NXS", "sign in to earn")
    if not state.tokens:
        return Figure("My balance", "0.00", "NXS", "improve the model to earn")
    last = state.tokens[-1]
    sign = "+" if last.amount > 0 else ""
    hint = f"{sign}{nxs(last.amount)} {ago(last.time, now)}"
    return Figure("My balance", nxs(state.balance), "NXS", hint)


def _members(state: DashboardState) -> Figure:
    training = sum(member.training for member in state.members)
    hint = f"{training} training now" if training else "nobody is training"
    return Figure("Members online", str(state.online), f"of {len(state.members):,}", hint)


def _contributions(state: DashboardState) -> Figure:
    paid = sum(item.state == "rewarded" for item in state.contributions)
    open_ = sum(item.state in ("submitted", "evaluating") for item in state.contributions)
    hint = f"{paid} rewarded" + (f", {open_} being measured" if open_ else "")
    return Figure("Contributions", f"{len(state.contributions):,}", "", hint)
