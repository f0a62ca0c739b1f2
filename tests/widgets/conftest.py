"""A hub whose whole history is a list of events: what it answers follows from them alone.

It makes records from events by plain bookkeeping of its own, so that a snapshot taken in the
middle can be compared with what the dashboard makes of the events.  `ScriptedHub` is given to
tests as the fixture ``scripted``, a class; ``hub`` is one with a short history.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from neuronexus_kernel.errors import HubUnavailableError, NotFoundError
from neuronexus_kernel.hub.records import (
    JSON,
    Account,
    Contribution,
    Event,
    LedgerLine,
    Network,
    NetworkNode,
    Project,
    Round,
    Run,
    Version,
)
from neuronexus_kernel.ledger.amounts import format_nxs, parse_nxs

START = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)


@dataclass
class ScriptedHub:
    """A hub that knows events up to `seq`; `tell` adds one, `follow` waits for more."""

    name: str | None = "ada"
    log: list[Event] = field(default_factory=list)
    away: bool = False
    lag: int = 0
    address: str = "scripted"

    def __post_init__(self) -> None:
        self._news = threading.Condition()
        self._closed = False

    def tell(self, kind: str, subject: str, project: str | None = "p1", /, **data: JSON) -> Event:
        """Add an event; keyword arguments are its data."""
        with self._news:
            seq = len(self.log) + 1
            time = (START + timedelta(seconds=seq)).isoformat()
            event = Event(
                seq=seq,
                previous=seq - 1,
                time=time,
                kind=kind,
                project=project,
                subject=subject,
                data=data,
            )
            self.log.append(event)
            self._news.notify_all()
        return event

    def up_to(self, seq: int) -> ScriptedHub:
        """Return a hub that knows only the first events."""
        return ScriptedHub(name=self.name, log=self.log[:seq])

    # -- the parts of `Hub` that a dashboard calls ----------------------------------------------

    def whoami(self) -> Account | None:
        self._check()
        return Account(name=self.name, role="member", created="") if self.name else None

    def events(
        self, since: int = 0, *, limit: int = 1000, project: str | None = None
    ) -> list[Event]:
        return [event for event in self.log if event.seq > since][:limit]

    def follow(self, since: int = 0, *, project: str | None = None) -> Iterator[Event]:
        while found := self._after(since):
            for event in found:
                since = event.seq
                yield event

    def _after(self, since: int) -> list[Event]:
        """Wait for events above `since`; none once the hub is closed."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self.away or len(self.log) > since, 30)
            self._check()
            return [] if self._closed else self.log[since:]

    def close(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()

    def break_off(self, away: bool) -> None:
        """Go away, or come back."""
        with self._news:
            self.away = away
            self._news.notify_all()

    def network(self) -> Network:
        """The network `lag` events ago: reads of a snapshot are not all of one moment."""
        self._check()
        log = self.log[: len(self.log) - self.lag]
        names = [event.subject for event in log if event.kind == "account.registered"]
        runs = _runs(log)
        kinds = [event.kind for event in log]
        return Network(
            version="0",
            seq=len(log),
            nodes=tuple(_node(name, log, runs) for name in names),
            projects=kinds.count("project.created"),
            runs=len(runs),
            active_runs=sum(run.state == "running" for run in runs.values()),
            versions=kinds.count("version.created"),
            contributions=kinds.count("contribution.submitted"),
            minted=format_nxs(sum(_amounts(log).values())),
        )

    def projects(self) -> list[Project]:
        return [_project(event, self.log) for event in self.log if event.kind == "project.created"]

    def project(self, name: str) -> Project:
        for project in self.projects():
            if name in (project.id, project.name):
                return project
        raise NotFoundError(f"There is no project {name}.")

    def versions(self, project: str) -> list[Version]:
        return _versions(self.log, project)

    def runs(self, project: str) -> list[Run]:
        return list(_runs(_of(self.log, project)).values())

    def contributions(self, *, project: str | None = None) -> list[Contribution]:
        return list(_contributions(_of(self.log, project or "p1")).values())

    def contribution(self, contribution: str) -> Contribution:
        return _contributions(self.log)[contribution]

    def ledger_lines(self, *, account: str | None = None) -> list[LedgerLine]:
        return [
            LedgerLine(
                index=int(str(event.data["index"])),
                time=event.time,
                kind="mint",
                account=name,
                amount=str(amount),
                contribution=str(event.data.get("contribution")),
                leaf="",
            )
            for event in self.log
            if event.kind == "ledger.entry"
            for name, amount in dict(event.data["amounts"]).items()
            if account in (None, name)
        ]

    def _check(self) -> None:
        if self.away:
            raise HubUnavailableError("The hub is away.")


def _of(log: list[Event], project: str) -> list[Event]:
    return [event for event in log if event.project == project]


def _amounts(log: list[Event]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for event in log:
        if event.kind == "ledger.entry":
            for name, amount in dict(event.data["amounts"]).items():
                sums[name] = sums.get(name, 0) + parse_nxs(str(amount))
    return sums


def _node(name: str, log: list[Event], runs: dict[str, Run]) -> NetworkNode:
    mine = [c for c in _contributions(log).values() if c.author == name]
    return NetworkNode(
        name=name,
        role="member",
        online=True,
        training=any(
            run.state == "running" and name in (run.author, *run.participants)
            for run in runs.values()
        ),
        contributions=len(mine),
        rewarded=sum(c.state == "rewarded" for c in mine),
        balance=format_nxs(_amounts(log).get(name, 0)),
    )


def _versions(log: list[Event], project: str) -> list[Version]:
    heads = [event for event in _of(log, project) if event.kind == "head.changed"]
    held_out = {event.data["number"]: event.data["accuracy"] for event in heads}
    head = heads[-1].data["number"] if heads else None
    found = []
    for event in _of(log, project):
        if event.kind != "version.created":
            continue
        number = event.data["number"]
        metrics: dict[str, float] = {}
        if event.data.get("accuracy") is not None:
            metrics["accuracy"] = float(str(event.data["accuracy"]))
        if number in held_out:
            metrics["held_out_accuracy"] = float(str(held_out[number]))
        found.append(
            Version(
                id=event.subject,
                project=project,
                number=int(str(number)),
                weights="w",
                recipe="r",
                parent=None,
                author=str(event.data["author"]),
                run=None,
                metrics=metrics,
                head=number == head,
                created=event.time,
            )
        )
    return found


def _project(event: Event, log: list[Event]) -> Project:
    versions = _versions(log, event.subject)
    head = next((version for version in versions if version.head), None)
    blank = Version(
        id="v",
        project=event.subject,
        number=0,
        weights="w",
        recipe="r",
        parent=None,
        author="",
        run=None,
        metrics={},
        head=True,
        created=event.time,
    )
    return Project(
        id=event.subject,
        name=str(event.data["name"]),
        description="",
        owner=str(event.data["owner"]),
        input_shape=(64,),
        classes=10,
        metric=str(event.data.get("metric", "accuracy")),
        public="c",
        validation="c",
        recipe="r",
        head=head or (versions[0] if versions else blank),
        created=event.time,
    )


def _runs(log: list[Event]) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for event in log:
        data = event.data
        if event.kind == "run.started":
            runs[event.subject] = Run(
                id=event.subject,
                project=str(event.project),
                author=str(data["author"]),
                recipe="r",
                rounds=int(str(data["rounds"])),
                clients=int(str(data["clients"])),
                clients_per_round=int(str(data["clients_per_round"])),
                participants=tuple(str(name) for name in list(data["participants"])),
                seed=0,
                state="running",
                history=(),
                plan={},
                version=None,
                created=event.time,
            )
        elif event.kind == "run.resumed":
            runs[event.subject] = replace(
                runs[event.subject], state="running", rounds=int(str(data["rounds"]))
            )
        elif event.kind == "run.round":
            report = Round(
                round=int(str(data["round"])),
                loss=data["loss"],
                accuracy=data["accuracy"],
                seconds=float(str(data["seconds"])),
                clients=tuple(str(name) for name in list(data["clients"])),
            )
            run = runs[event.subject]
            runs[event.subject] = replace(run, history=(*run.history, report))
        elif event.kind == "run.finished":
            made = [v for v in _versions(log, str(event.project)) if v.number == data["version"]]
            runs[event.subject] = replace(
                runs[event.subject], state=data["state"], version=made[0] if made else None
            )
    return runs


def _contributions(log: list[Event]) -> dict[str, Contribution]:
    found: dict[str, Contribution] = {}
    for event in log:
        room, _, stage = event.kind.partition(".")
        if room != "contribution" or stage == "confirmed":
            continue
        data = event.data
        if stage == "submitted" and event.subject not in found:
            found[event.subject] = Contribution(
                id=event.subject,
                project=str(event.project),
                kind=data["kind"],
                author=str(data["author"]),
                note=str(data["note"]),
                payload="c",
                state="submitted",
                value=None,
                reward="0",
                reason=None,
                receipt=None,
                shares=(),
                created=event.time,
                decided=None,
            )
        old = found[event.subject]
        found[event.subject] = replace(
            old,
            state=stage,
            value=data.get("value", old.value),
            reward=str(data.get("reward") or old.reward),
            reason=data.get("reason") or old.reason,
        )
    return found


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedHub]:
    """The class of scripted hubs."""
    return ScriptedHub


@pytest.fixture
def hub() -> Iterator[ScriptedHub]:
    """A hub with three people, a project, one finished run and one paid contribution."""
    hub = ScriptedHub()
    tell_a_story(hub)
    yield hub
    hub.close()


@pytest.fixture
def quantities_hub() -> Iterator[ScriptedHub]:
    """A hub with the same history, whose project foretells quantities and measures R²."""
    hub = ScriptedHub()
    tell_a_story(hub, metric="r2")
    yield hub
    hub.close()


@pytest.fixture
def empty_hub() -> Iterator[ScriptedHub]:
    """A hub where nothing has happened, looked at by a guest."""
    hub = ScriptedHub(name=None)
    yield hub
    hub.close()


def tell_a_story(hub: ScriptedHub, metric: str = "accuracy") -> None:
    """Play a short story: people, a project, a run, a better head, a reward and a refusal."""
    for name in ("ada", "grace", "alan"):
        hub.tell("account.registered", name, None)
    hub.tell("project.created", "p1", "p1", name="digits", owner="ada", metric=metric)
    hub.tell("version.created", "v0", number=0, author="ada", accuracy=None)
    hub.tell(
        "run.started",
        "r1",
        author="ada",
        rounds=3,
        participants=[],
        clients=6,
        clients_per_round=2,
    )
    for number, accuracy in enumerate((0.5, 0.7, 0.8), start=1):
        hub.tell(
            "run.round",
            "r1",
            round=number,
            loss=1.0 / number,
            accuracy=accuracy,
            seconds=0.25,
            clients=[f"client {number}", "client 0"],
        )
    hub.tell("version.created", "v1", number=1, author="ada", accuracy=0.8)
    hub.tell("run.finished", "r1", state="finished", version=1)
    said = {"kind": "compute", "author": "ada", "note": "first training"}
    tell_contribution(hub, "c1", said, "submitted", "evaluating")
    hub.tell("head.changed", "v1", number=1, accuracy=0.78)
    tell_contribution(hub, "c1", said | {"value": 0.6125}, "accepted")
    hub.tell("ledger.entry", "e0", index=0, contribution="c1", amounts={"ada": "612.5"})
    tell_contribution(hub, "c1", said | {"value": 0.6125, "reward": "612.5"}, "rewarded")
    said = {"kind": "hyperparameters", "author": "grace", "note": "slower"}
    tell_contribution(hub, "c2", said, "submitted", "evaluating")
    refused = {"value": -0.0031, "reason": "It does not improve the model."}
    tell_contribution(hub, "c2", said | refused, "rejected")


def tell_contribution(hub: ScriptedHub, name: str, said: dict[str, JSON], *stages: str) -> None:
    """Tell that a contribution passed stages."""
    data: dict[str, JSON] = {"value": None, "reward": "0", "reason": None, **said}
    for stage in stages:
        hub.tell(f"contribution.{stage}", name, "p1", **data)
