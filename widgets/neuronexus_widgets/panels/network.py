"""The network in figures: its members, what each contributed and holds, and the sums."""

from __future__ import annotations

from datetime import datetime

from neuronexus_kernel.hub.records import NetworkNode
from neuronexus_kernel.ledger.amounts import parse_nxs
from neuronexus_widgets.panels import empty, frame, text
from neuronexus_widgets.state import DashboardState
from neuronexus_widgets.words import count, escape, nxs

ROWS = 12
_HEAD = (
    '<thead><tr><th>Member</th><th class="nx-num">Contributions</th>'
    '<th class="nx-num">Rewarded</th><th class="nx-num">Balance</th></tr></thead>'
)


class NetworkStatistics:
    """Sums of the hub and a table of members, those here first."""

    def __init__(self) -> None:
        self.table = text("nx-table")
        self.widget = frame([self.table], "nx-panel", "nx-members")

    def update(self, state: DashboardState, now: datetime) -> None:
        """Show the network of `state`."""
        self.table.value = "<h2>Network statistics</h2>" + _sums(state) + _members(state)


def _sums(state: DashboardState) -> str:
    t = state.totals
    facts = (
        (count(t.projects, "project"), ""),
        (count(t.runs, "run"), f" ({t.active_runs} active)" if t.active_runs else ""),
        (count(t.versions, "version"), ""),
        (count(t.contributions, "contribution"), ""),
        (f"{nxs(t.minted)} NXS", " minted"),
    )
    return (
        '<div class="nx-facts">'
        + "".join(f"<span><b>{escape(figure)}</b>{escape(more)}</span>" for figure, more in facts)
        + "</div>"
    )


def _members(state: DashboardState) -> str:
    if not state.members:
        return empty("Nobody is here yet", "Register to be the first.")
    ranked = sorted(state.members, key=_rank)
    rows = "".join(_row(member, state.me) for member in ranked[:ROWS])
    more = len(ranked) - ROWS
    rest = f'<p class="nx-reason">and {count(more, "more member")}</p>' if more > 0 else ""
    return f"<table>{_HEAD}<tbody>{rows}</tbody></table>{rest}"


def _rank(member: NetworkNode) -> tuple[bool, int, str]:
    return (not member.online, -parse_nxs(member.balance, signed=True), member.name)


def _row(member: NetworkNode, me: str | None) -> str:
    tags = ["you"] if member.name == me else []
    if member.role == "operator":
        tags.append("operator")
    marks = "".join(f'<span class="nx-tag">{word}</span>' for word in tags)
    here = "training" if member.training else "online" if member.online else "away"
    return (
        f'<tr data-name="{escape(member.name, 40)}" data-online="{str(member.online).lower()}" '
        f'data-training="{str(member.training).lower()}">'
        f'<td class="nx-now"><span class="nx-dot" title="{here}"></span>'
        f"{escape(member.name, 40)}{marks}</td>"
        f'<td class="nx-num">{member.contributions:,}</td>'
        f'<td class="nx-num">{member.rewarded:,}</td>'
        f'<td class="nx-num">{nxs(parse_nxs(member.balance, signed=True))} NXS</td></tr>'
    )
