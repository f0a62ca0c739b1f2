"""The next state after an event: a pure function, total over whatever an event may hold."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.hub.records import JSON, Event, NetworkNode, Round
from neuronexus_kernel.ledger.amounts import format_nxs, parse_nxs
from neuronexus_widgets.state import (
    FEED_KEPT,
    RUNS_KEPT,
    ContributionView,
    DashboardState,
    ProjectName,
    RunView,
    TokenEntry,
    VersionPoint,
    with_contribution,
)

_RANK = {"submitted": 0, "evaluating": 1, "accepted": 2, "rejected": 3, "failed": 3, "rewarded": 3}


def apply(state: DashboardState, event: Event) -> DashboardState:
    """Return the state after an event; an event of a kind unknown here changes only the feed."""
    if event.seq <= state.seq:
        return state
    state = replace(state, seq=event.seq, feed=(event, *state.feed)[:FEED_KEPT])
    if event.seq > state.totals.seq:
        state = _count(state, event)
    if event.kind == "project.created":
        state = _project_created(state, event)
    if event.kind == "ledger.entry":
        state = _ledger_entry(state, event)
    if not _concerns(state, event):
        return state
    if event.kind.startswith("run."):
        return _run_event(state, event)
    if event.kind.startswith("contribution."):
        return _contribution_event(state, event)
    if event.kind == "version.created":
        return _version_created(state, event)
    if event.kind == "head.changed":
        return _head_changed(state, event)
    return state


def _concerns(state: DashboardState, event: Event) -> bool:
    return bool(state.project) and event.project in (state.project, state.name)


def _count(state: DashboardState, event: Event) -> DashboardState:
    """Carry hub-wide counts and the members' figures forward by one event.

    How many contributions of a member were rewarded is left to the next look at the network: one
    contribution may be paid several times.
    """
    t, data = replace(state.totals, seq=event.seq), event.data
    members = state.members
    match event.kind:
        case "account.registered":
            members = _with_member(members, event.subject)
        case "project.created":
            t = replace(t, projects=t.projects + 1)
        case "run.started":
            t = replace(t, runs=t.runs + 1, active_runs=t.active_runs + 1)
            members = _with_trainers(members, data)
        case "run.resumed":
            again = _text(data, "was") != "running"
            t = replace(t, active_runs=t.active_runs + again)
            members = _with_trainers(members, data)
        case "run.finished":
            t = replace(t, active_runs=max(0, t.active_runs - 1))
            names = _trainers(state, event.subject)
            members = tuple(replace(m, training=False) if m.name in names else m for m in members)
        case "version.created":
            t = replace(t, versions=t.versions + 1)
        case "contribution.submitted":
            t = replace(t, contributions=t.contributions + 1)
            author = _text(data, "author")
            members = tuple(
                replace(m, contributions=m.contributions + 1) if m.name == author else m
                for m in members
            )
        case "ledger.entry":
            t = replace(t, minted=t.minted + _minted(data))
            members = _paid(members, _amounts(data))
        case _:
            pass
    return replace(state, totals=t, members=members)


def _with_trainers(
    members: tuple[NetworkNode, ...], data: Mapping[str, JSON]
) -> tuple[NetworkNode, ...]:
    """Mark those who train from now on."""
    names = {_text(data, "author"), *_names(data, "participants")}
    return tuple(replace(m, training=True, online=True) if m.name in names else m for m in members)


def _trainers(state: DashboardState, run: str) -> set[str]:
    """Who stops training when `run` ends: its people, unless another of their runs goes on."""
    people = {view.id: {view.author, *view.participants} for view in state.runs}
    busy = {view.id for view in state.runs if view.state == "running" and view.id != run}
    if run not in people:  # a run of another project: the next look at the network will tell
        return set()
    return people[run] - set().union(*(people[other] for other in busy))


def _with_member(members: tuple[NetworkNode, ...], name: str) -> tuple[NetworkNode, ...]:
    if any(member.name == name for member in members):
        return members
    newcomer = NetworkNode(
        name=name,
        role="member",
        online=True,
        training=False,
        contributions=0,
        rewarded=0,
        balance="0",
    )
    return (*members, newcomer)


def _paid(members: tuple[NetworkNode, ...], amounts: dict[str, int]) -> tuple[NetworkNode, ...]:
    return tuple(
        replace(m, balance=format_nxs(parse_nxs(m.balance, signed=True) + amounts[m.name]))
        if m.name in amounts
        else m
        for m in members
    )


def _project_created(state: DashboardState, event: Event) -> DashboardState:
    if any(known.id == event.project for known in state.projects):
        return state
    made = ProjectName(
        id=event.project or event.subject,
        name=_text(event.data, "name"),
        metric=_text(event.data, "metric") or "accuracy",
    )
    state = replace(state, projects=(*state.projects, made))
    if state.project:
        return state
    return replace(state, project=made.id, name=made.name)


def _ledger_entry(state: DashboardState, event: Event) -> DashboardState:
    amount = _amounts(event.data).get(state.me or "")
    index = _integer(event.data, "index")
    if amount is None or index is None or (state.tokens and index <= state.tokens[-1].index):
        return state
    entry = TokenEntry(
        index=index,
        time=event.time,
        amount=amount,
        balance=state.balance + amount,
        contribution=_text(event.data, "contribution") or None,
    )
    return replace(state, tokens=(*state.tokens, entry))


def _run_event(state: DashboardState, event: Event) -> DashboardState:
    data, known = event.data, {run.id: run for run in state.runs}
    run = known.get(event.subject)
    if event.kind == "run.started" and run is None:
        run = RunView(
            id=event.subject,
            author=_text(data, "author"),
            rounds=_integer(data, "rounds") or 0,
            clients=_integer(data, "clients") or 0,
            clients_per_round=_integer(data, "clients_per_round") or 0,
            participants=_names(data, "participants"),
            state="running",
            history=(),
            version=None,
        )
    elif run is None:
        return state
    elif event.kind == "run.resumed":
        run = replace(run, state="running", rounds=_integer(data, "rounds") or run.rounds)
    elif event.kind == "run.round":
        run = replace(run, history=_with_round(run.history, data))
    elif event.kind == "run.finished":
        version = _integer(data, "version")
        run = replace(
            run,
            state=_text(data, "state") or "finished",
            version=run.version if version is None else version,
        )
    known[event.subject] = run
    return replace(state, runs=tuple(known.values())[-RUNS_KEPT:])


def _with_round(history: tuple[Round, ...], data: Mapping[str, JSON]) -> tuple[Round, ...]:
    report = Round(
        round=_integer(data, "round") or 0,
        loss=_number(data, "loss"),
        accuracy=_number(data, "accuracy"),
        seconds=_number(data, "seconds") or 0.0,
        clients=_names(data, "clients"),
    )
    rounds = {item.round: item for item in history} | {report.round: report}
    return tuple(rounds[number] for number in sorted(rounds))


def _contribution_event(state: DashboardState, event: Event) -> DashboardState:
    stage, data = event.kind.partition(".")[2], event.data
    view = next((item for item in state.contributions if item.id == event.subject), None)
    if view is None:
        if stage not in _RANK:
            return state
        view = ContributionView(
            id=event.subject,
            kind=_text(data, "kind"),
            author=_text(data, "author"),
            note=_text(data, "note"),
            state=stage,
            value=None,
            reward=None,
            reason=None,
            created=event.time,
        )
    if stage == "confirmed":
        account = _text(data, "account")
        waiting = tuple(name for name in view.waiting if name != account)
        return with_contribution(state, replace(view, waiting=waiting))
    if stage not in _RANK or _RANK[stage] < _RANK[view.state]:
        return state
    value = _number(data, "value")
    view = replace(
        view,
        state=stage,
        value=view.value if value is None else value,
        reward=_text(data, "reward") or view.reward,
        reason=_text(data, "reason") or view.reason,
    )
    return with_contribution(state, view)


def _version_created(state: DashboardState, event: Event) -> DashboardState:
    number = _integer(event.data, "number")
    if number is None or any(version.number == number for version in state.versions):
        return state
    point = VersionPoint(
        number=number,
        author=_text(event.data, "author"),
        accuracy=_number(event.data, "accuracy"),
    )
    versions = sorted((*state.versions, point), key=lambda version: version.number)
    return replace(state, versions=tuple(versions))


def _head_changed(state: DashboardState, event: Event) -> DashboardState:
    number, held_out = _integer(event.data, "number"), _number(event.data, "accuracy")
    versions = tuple(
        replace(item, held_out=held_out) if item.number == number else item
        for item in state.versions
    )
    return replace(state, head=number, versions=versions)


# -- reading event data -------------------------------------------------------------------------


def _text(data: Mapping[str, JSON], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _number(data: Mapping[str, JSON], key: str) -> float | None:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _integer(data: Mapping[str, JSON], key: str) -> int | None:
    value = data.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _names(data: Mapping[str, JSON], key: str) -> tuple[str, ...]:
    value = data.get(key)
    if not isinstance(value, list | tuple):
        return ()
    return tuple(item for item in value if isinstance(item, str))


def _amounts(data: Mapping[str, JSON]) -> dict[str, int]:
    """Return what an entry adds to each account, in units of 10^-18 NXS."""
    value = data.get("amounts")
    if not isinstance(value, dict):
        return {}
    amounts = {}
    for account, amount in value.items():
        with contextlib.suppress(InvalidInputError):
            amounts[account] = parse_nxs(amount, signed=True) if isinstance(amount, str) else 0
    return amounts


def _minted(data: Mapping[str, JSON]) -> int:
    """Return how many units an entry created: what people got and nobody gave."""
    people = (units for account, units in _amounts(data).items() if not account.startswith("nx:"))
    return max(0, sum(people))
