"""Reading the state of the dashboard from a hub, and taking over later looks at it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import AuthenticationError
from neuronexus_kernel.hub.records import Contribution, LedgerLine, Network, Project, Run, Version
from neuronexus_kernel.ledger.amounts import parse_nxs
from neuronexus_widgets.state import (
    FEED_KEPT,
    RUNS_KEPT,
    ContributionView,
    DashboardState,
    ProjectName,
    RunView,
    TokenEntry,
    Totals,
    VersionPoint,
    with_contribution,
)

if TYPE_CHECKING:
    from neuronexus_kernel.hub.hub import Hub


def load(hub: Hub, project: str | None = None) -> DashboardState:
    """Read a snapshot from the hub.

    Parameters
    ----------
    hub
        The visitor's view of the hub.
    project
        Name or id of the project to show; by default the one that was made last.

    Raises
    ------
    NotFoundError
        If there is no such project.
    HubUnavailableError
        If the hub cannot be reached.
    """
    network = hub.network()
    try:
        account = hub.whoami()
    except AuthenticationError:
        account = None
    me = account.name if account else None
    known = hub.projects()
    chosen = hub.project(project) if project else (known[-1] if known else None)
    lately = hub.events(max(0, network.seq - FEED_KEPT), limit=FEED_KEPT)
    state = DashboardState(
        seq=network.seq,
        me=me,
        projects=tuple(
            ProjectName(id=item.id, name=item.name, metric=item.metric) for item in known
        ),
        feed=tuple(event for event in reversed(lately) if event.seq <= network.seq),
        tokens=_tokens(hub.ledger_lines(account=me) if me else []),
    )
    state = see(state, network)
    return _open(state, hub, chosen) if chosen else state


def _open(state: DashboardState, hub: Hub, project: Project) -> DashboardState:
    return replace(
        state,
        project=project.id,
        name=project.name,
        description=project.description,
        head=project.head.number,
        versions=tuple(_version_point(version) for version in hub.versions(project.id)),
        runs=tuple(_run_view(run) for run in hub.runs(project.id)[-RUNS_KEPT:]),
        contributions=tuple(
            contribution_view(item) for item in reversed(hub.contributions(project=project.id))
        ),
    )


def see(state: DashboardState, network: Network) -> DashboardState:
    """Take over a newer look at the network; an older one tells only who is here now."""
    if network.seq < state.totals.seq or network.seq < state.seq:
        here = {node.name: node for node in network.nodes}
        members = tuple(
            replace(member, online=here[member.name].online) if member.name in here else member
            for member in state.members
        )
        return replace(state, members=members)
    totals = Totals(
        seq=network.seq,
        projects=network.projects,
        runs=network.runs,
        active_runs=network.active_runs,
        versions=network.versions,
        contributions=network.contributions,
        minted=parse_nxs(network.minted),
    )
    ranks = {member.name: rank for rank, member in enumerate(state.members)}
    members = tuple(sorted(network.nodes, key=lambda node: ranks.get(node.name, len(ranks))))
    return replace(state, totals=totals, members=members)


def amend(state: DashboardState, item: Contribution) -> DashboardState:
    """Take over a contribution read from the hub, which may tell more than its events."""
    if item.project != state.project:
        return state
    return with_contribution(state, contribution_view(item))


def _run_view(run: Run) -> RunView:
    return RunView(
        id=run.id,
        author=run.author,
        rounds=run.rounds,
        clients=run.clients,
        clients_per_round=run.clients_per_round,
        participants=run.participants,
        state=run.state,
        history=run.history,
        version=run.version.number if run.version else None,
    )


def contribution_view(item: Contribution) -> ContributionView:
    """Return what the dashboard shows of a contribution."""
    return ContributionView(
        id=item.id,
        kind=item.kind,
        author=item.author,
        note=item.note,
        state=item.state,
        value=item.value,
        reward=item.reward,
        reason=item.reason,
        created=item.created,
        waiting=tuple(share.account for share in item.shares if not share.confirmed),
    )


def _tokens(lines: Iterable[LedgerLine]) -> tuple[TokenEntry, ...]:
    entries: list[TokenEntry] = []
    balance = 0
    for line in lines:
        amount = parse_nxs(line.amount, signed=True)
        balance += amount
        entries.append(
            TokenEntry(
                index=line.index,
                time=line.time,
                amount=amount,
                balance=balance,
                contribution=line.contribution,
            )
        )
    return tuple(entries)


def _version_point(version: Version) -> VersionPoint:
    return VersionPoint(
        number=version.number,
        author=version.author,
        accuracy=version.metrics.get("accuracy"),
        held_out=version.metrics.get("held_out_accuracy"),
    )
