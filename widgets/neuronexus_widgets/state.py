"""What the dashboard shows, as one immutable value.

`DashboardState` knows no widget and no hub.  ``snapshot.py`` reads one from a hub, ``reducer.py``
turns a state and an event into the next.  The one idea: every step is safe to repeat.  A snapshot
is many reads, so it may already hold what the first events after it tell again; contributions
therefore only move forward, rounds are keyed by number, ledger entries by index, and hub-wide
counts follow `Totals.seq`, the number of the last event that they hold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from neuronexus_kernel.hub.records import Event, NetworkNode, Round

RUNS_KEPT = 12
FEED_KEPT = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectName:
    """A project as the menu knows it, and what it measures."""

    id: str
    name: str
    metric: str = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPoint:
    """A model version as a point of the curve.

    Attributes
    ----------
    accuracy
        The project's metric on the public validation split, if it was measured.
    held_out
        The same on the held-out split, rounded; measured when the version became the head.
    """

    number: int
    author: str
    accuracy: float | None
    held_out: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A training run as far as it has come."""

    id: str
    author: str
    rounds: int
    clients: int
    clients_per_round: int
    participants: tuple[str, ...]
    state: str
    history: tuple[Round, ...]
    version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContributionView:
    """A contribution in words and figures; `waiting` are accounts that have yet to confirm."""

    id: str
    kind: str
    author: str
    note: str
    state: str
    value: float | None
    reward: str | None
    reason: str | None
    created: str
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEntry:
    """One posting to the visitor's account, in units of 10^-18 NXS, and the balance after it."""

    index: int
    time: str
    amount: int
    balance: int
    contribution: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Hub-wide counts, up to and including event `seq`; `minted` is in units of 10^-18 NXS."""

    seq: int = 0
    projects: int = 0
    runs: int = 0
    active_runs: int = 0
    versions: int = 0
    contributions: int = 0
    minted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardState:
    """Everything that the panels draw.

    Attributes
    ----------
    seq
        Number of the last event applied.
    me
        Name of the visitor, or None for a guest.
    projects
        All projects, oldest first.
    project, name
        Id and name of the project shown; empty while the hub has none.
    head
        Number of the head version.
    runs
        The latest runs of the project, oldest first.
    contributions
        Contributions to the project, newest first.
    tokens
        Postings to the visitor's account, oldest first.
    members
        Members of the network in the order they joined it.
    feed
        The latest events, newest first.
    """

    seq: int = 0
    me: str | None = None
    projects: tuple[ProjectName, ...] = ()
    project: str = ""
    name: str = ""
    description: str = ""
    head: int | None = None
    versions: tuple[VersionPoint, ...] = ()
    runs: tuple[RunView, ...] = ()
    contributions: tuple[ContributionView, ...] = ()
    tokens: tuple[TokenEntry, ...] = ()
    members: tuple[NetworkNode, ...] = ()
    totals: Totals = Totals()
    feed: tuple[Event, ...] = ()

    @property
    def metric(self) -> str:
        """What the project shown measures."""
        return self.metric_of(self.project)

    def metric_of(self, project: str | None) -> str:
        """Return what a project measures, by its id; accuracy if it is not known."""
        known = {item.id: item.metric for item in self.projects}
        return known.get(project or "", "accuracy")

    @property
    def run(self) -> RunView | None:
        """The latest run of the project, or None."""
        return self.runs[-1] if self.runs else None

    @property
    def head_version(self) -> VersionPoint | None:
        """The head version, or None while there is none."""
        return next((item for item in self.versions if item.number == self.head), None)

    @property
    def balance(self) -> int:
        """The visitor's NXS, in units of 10^-18."""
        return self.tokens[-1].balance if self.tokens else 0

    @property
    def online(self) -> int:
        """How many members are here now."""
        return sum(member.online for member in self.members)


def with_contribution(state: DashboardState, view: ContributionView) -> DashboardState:
    """Return the state with a contribution replaced, or added as the newest."""
    if any(item.id == view.id for item in state.contributions):
        items = tuple(view if item.id == view.id else item for item in state.contributions)
    else:
        items = (view, *state.contributions)
    return replace(state, contributions=items)
