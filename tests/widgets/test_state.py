"""The state of the dashboard: snapshots, events, and that the two agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuronexus_widgets.reducer import apply
from neuronexus_widgets.snapshot import load, see
from neuronexus_widgets.state import DashboardState

from neuronexus_kernel.errors import NotFoundError
from neuronexus_kernel.hub.records import JSON, Event
from neuronexus_kernel.ledger.amounts import UNITS

PEOPLE = ("ada", "grace", "alan")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "register",
                "run",
                "round",
                "finish",
                "interrupt",
                "resume",
                "submit",
                "decide",
                "head",
            )
        ),
        st.integers(0, 5),
        st.sampled_from(PEOPLE),
    ),
    max_size=40,
)


class Teller:
    """Turns a list of steps into a history that a hub could have."""

    def __init__(self, hub) -> None:
        self.hub = hub
        self.runs: list[str] = []
        self.interrupted: list[str] = []
        self.people: dict[str, dict[str, JSON]] = {}
        self.open: dict[str, dict[str, JSON]] = {}
        self.rounds = self.contributions = self.entries = self.versions = 0
        for name in PEOPLE:
            hub.tell("account.registered", name, None)
        hub.tell("project.created", "p1", "p1", name="digits", owner="ada")
        hub.tell("version.created", "v0", number=0, author="ada", accuracy=None)

    def tell(self, what: str, number: int, who: str) -> None:
        getattr(self, what)(number, who)

    def register(self, number: int, who: str) -> None:
        name = f"{who}-{len(self.hub.log)}"
        self.hub.tell("account.registered", name, None)

    def run(self, number: int, who: str) -> None:
        name = f"r{len(self.hub.log)}"
        self.runs.append(name)
        self.people[name] = {"author": who, "participants": list(PEOPLE[: number % 3])}
        self.hub.tell(
            "run.started",
            name,
            **self.people[name],
            rounds=5,
            clients=6,
            clients_per_round=2,
        )

    def round(self, number: int, who: str) -> None:
        if self.runs:
            self.rounds += 1
            self.hub.tell(
                "run.round",
                self.runs[number % len(self.runs)],
                round=self.rounds,
                loss=0.5,
                accuracy=number / 10,
                seconds=0.1,
                clients=[f"client {number}"],
            )

    def finish(self, number: int, who: str) -> None:
        if self.runs:
            self.versions += 1
            name = self.runs.pop(number % len(self.runs))
            made = f"v{self.versions}"
            self.hub.tell(
                "version.created", made, number=self.versions, author=who, accuracy=number / 10
            )
            self.hub.tell("run.finished", name, state="finished", version=self.versions)

    def interrupt(self, number: int, who: str) -> None:
        if self.runs:
            name = self.runs.pop(number % len(self.runs))
            self.interrupted.append(name)
            self.hub.tell("run.finished", name, state="interrupted", version=None)

    def resume(self, number: int, who: str) -> None:
        killed = bool(number % 2 and self.runs)
        names = self.runs if killed else self.interrupted
        if names:
            name = names.pop()
            self.runs.append(name)
            self.hub.tell(
                "run.resumed",
                name,
                **self.people[name],
                rounds=6,
                was="running" if killed else "interrupted",
            )

    def submit(self, number: int, who: str) -> None:
        self.contributions += 1
        name = f"c{self.contributions}"
        said: dict[str, JSON] = {"kind": "data", "author": who, "note": f"try {number}"}
        self.open[name] = said
        for stage in ("submitted", "evaluating"):
            self.hub.tell(f"contribution.{stage}", name, "p1", **said)

    def decide(self, number: int, who: str) -> None:
        if not self.open:
            return
        name, said = self.open.popitem()
        if number % 2:
            said = {**said, "value": -0.01, "reason": "no improvement"}
            self.hub.tell("contribution.rejected", name, "p1", **said)
            return
        said = {**said, "value": 0.01 * number}
        self.hub.tell("contribution.accepted", name, "p1", **said)
        amount = f"{number + 1}.5"
        self.hub.tell(
            "ledger.entry",
            f"e{self.entries}",
            index=self.entries,
            contribution=name,
            amounts={str(said["author"]): amount},
        )
        self.entries += 1
        self.hub.tell("contribution.rewarded", name, "p1", **said, reward=amount)

    def head(self, number: int, who: str) -> None:
        if self.versions:
            chosen = 1 + number % self.versions
            self.hub.tell("head.changed", f"v{chosen}", number=chosen, accuracy=0.5 + number / 20)


def comparable(state: DashboardState) -> DashboardState:
    """Leave out what only a snapshot tells, and what it tells in other words than events do."""
    contributions = tuple(replace(c, reward=c.reward or "0") for c in state.contributions)
    members = tuple(replace(member, rewarded=0) for member in state.members)
    return replace(state, contributions=contributions, members=members)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, data=st.data())
def test_a_snapshot_and_later_events_give_what_a_later_snapshot_gives(scripted, steps, data):
    whole = scripted()
    teller = Teller(whole)
    for step in steps:
        teller.tell(*step)
    cut = data.draw(st.integers(5, len(whole.log)), label="events before the snapshot")

    state = load(whole.up_to(cut))
    for event in whole.log[cut:]:
        state = apply(state, event)

    assert comparable(state) == comparable(load(whole))


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, lag=st.integers(0, 12))
def test_a_snapshot_whose_reads_are_of_different_moments_is_made_whole_by_events(
    scripted, steps, lag
):
    whole = scripted()
    teller = Teller(whole)
    for step in steps:
        teller.tell(*step)
    lag = min(lag, len(whole.log) - 5)
    torn = scripted(log=list(whole.log), lag=lag)  # the network was read first, before the rest

    state = load(torn)
    for event in whole.log[len(whole.log) - lag :]:
        state = apply(state, event)

    assert comparable(state) == comparable(load(whole))


def test_applying_an_event_twice_has_one_effect(hub):
    state = load(hub)
    assert apply(state, hub.log[-1]) == state


def test_a_snapshot_tells_head_balance_runs_and_contributions(hub):
    state = load(hub)
    assert (state.name, state.me, state.head) == ("digits", "ada", 1)
    assert state.head_version is not None
    assert state.head_version.held_out == 0.78
    assert state.balance == 612_500 * UNITS // 1000
    assert state.run is not None
    assert [report.round for report in state.run.history] == [1, 2, 3]
    assert [item.state for item in state.contributions] == ["rejected", "rewarded"]
    assert state.totals.contributions == 2


def test_an_empty_hub_gives_an_empty_state(empty_hub):
    state = load(empty_hub)
    assert (state.project, state.run, state.head, state.balance) == ("", None, None, 0)


def test_an_unknown_project_is_an_error(hub):
    with pytest.raises(NotFoundError, match="nowhere"):
        load(hub, "nowhere")


def test_events_of_another_project_change_only_the_sums(hub):
    before = load(hub)
    hub.tell("project.created", "p2", "p2", name="faces", owner="alan", metric="r2")
    hub.tell("version.created", "w1", "p2", number=7, author="alan", accuracy=0.3)
    after = before
    for event in hub.log[before.seq :]:
        after = apply(after, event)
    assert after.totals.versions == before.totals.versions + 1
    assert (after.versions, after.head, after.name) == (before.versions, before.head, "digits")
    assert [project.name for project in after.projects] == ["digits", "faces"]
    assert (after.metric, after.metric_of("p2")) == ("accuracy", "r2")


def test_a_member_trains_until_the_last_of_their_runs_ends(hub):
    state = load(hub)
    for name in ("r2", "r3"):
        started = hub.tell(
            "run.started",
            name,
            author="grace",
            rounds=1,
            participants=["alan"],
            clients=1,
            clients_per_round=1,
        )
        state = apply(state, started)
    state = apply(state, hub.tell("run.finished", "r2", state="finished", version=None))
    assert {m.name for m in state.members if m.training} == {"grace", "alan"}
    state = apply(state, hub.tell("run.finished", "r3", state="interrupted", version=None))
    assert not any(member.training for member in state.members)


def test_a_run_that_goes_on_is_active_again_with_its_new_number_of_rounds(hub):
    told = {"author": "grace", "participants": ["alan"]}
    hub.tell("run.started", "r2", **told, rounds=1, clients=1, clients_per_round=1)
    hub.tell("run.finished", "r2", state="interrupted", version=None)
    state = load(hub)
    state = apply(state, hub.tell("run.resumed", "r2", **told, rounds=4, was="interrupted"))
    assert (state.run.state, state.run.rounds, state.totals.active_runs) == ("running", 4, 1)
    assert {m.name for m in state.members if m.training} == {"grace", "alan"}
    state = apply(state, hub.tell("run.resumed", "r2", **told, rounds=6, was="running"))
    assert (state.run.rounds, state.totals.active_runs, state.totals.runs) == (6, 1, 2)


def test_a_late_event_does_not_take_a_decided_contribution_back(hub):
    state = load(hub)
    again = hub.tell("contribution.evaluating", "c1", kind="compute", author="ada", note="")
    assert apply(state, again).contributions[1].state == "rewarded"


def test_an_older_look_at_the_network_only_tells_who_is_here(hub):
    old = hub.network()
    state = load(hub)
    state = apply(state, hub.tell("account.registered", "emmy", None))
    away = replace(old, nodes=tuple(replace(node, online=False) for node in old.nodes), minted="0")
    seen = see(state, away)
    assert seen.totals == state.totals
    assert [m.name for m in seen.members if m.online] == ["emmy"]


def test_members_keep_their_place_when_the_network_is_read_again(hub):
    state = load(hub)
    network = hub.network()
    shuffled = replace(network, nodes=tuple(reversed(network.nodes)))
    assert [m.name for m in see(state, shuffled).members] == [m.name for m in state.members]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"round": "x", "accuracy": True, "clients": "ada", "loss": None},
        {"amounts": ["ada"], "index": None},
        {"number": "7", "accuracy": {}},
        {"name": 7, "metric": ["r2"]},
    ],
)
@pytest.mark.parametrize(
    "kind",
    [
        "project.created",
        "run.round",
        "run.started",
        "run.resumed",
        "ledger.entry",
        "head.changed",
        "contribution.rewarded",
    ],
)
def test_malformed_event_data_never_breaks_the_dashboard(hub, kind, data):
    event = Event(seq=999, previous=998, time="?", kind=kind, project="p1", subject="r1", data=data)
    assert apply(load(hub), event).seq == 999


def test_an_unknown_kind_of_event_shows_only_in_the_feed(hub):
    state = load(hub)
    after = apply(state, hub.tell("weather.changed", "x", "p1", sky="blue"))
    assert after.feed[0].kind == "weather.changed"
    assert replace(after, feed=state.feed, seq=state.seq, totals=state.totals) == state
