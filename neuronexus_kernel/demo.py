"""The story of three researchers, played on a real hub.

ada, grace and alan hold private, uneven parts of a data set of handwritten digits.  They train
one model together, each proposes something, the hub measures all of it on held-out data, and they
train once more.  What is said here is only who tries what; whether it is worth anything is
measured, every time.
"""

from __future__ import annotations

import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuronexus_kernel.contribution import (
    CodeContribution,
    ComputeContribution,
    DataContribution,
    HyperparameterContribution,
)
from neuronexus_kernel.hub.process import HubProcess, start_hub
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.workbench import Workbench

if TYPE_CHECKING:
    from neuronexus_kernel.contribution import AnyContribution
    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.federation.result import RoundReport
    from neuronexus_kernel.handles import TrainingRun
    from neuronexus_kernel.hub import Hub
    from neuronexus_kernel.project import Project

PEOPLE = ("ada", "grace", "alan")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plot:
    """What differs between the data sets that the story can be played on.

    Attributes
    ----------
    hidden
        Width of the first model's hidden layer, and of the one that is proposed.
    recipe
        Fields of the first recipe.
    better
        A change of them that may be one for the better.
    rounds
        Rounds of the common training.
    examples
        Rows that somebody gives away.
    """

    hidden: tuple[int, int]
    recipe: Mapping[str, Any]
    better: Mapping[str, Any]
    rounds: int
    examples: int


PLOTS = {
    "digits": Plot(
        hidden=(16, 128),
        recipe={"learning_rate": 0.02, "batch_size": 10},
        better={"learning_rate": 0.15},
        rounds=15,
        examples=200,
    ),
    "mnist": Plot(
        hidden=(16, 128),
        recipe={"learning_rate": 0.02, "batch_size": 32, "local_epochs": 1},
        better={"learning_rate": 0.15},
        rounds=8,
        examples=6000,
    ),
}


@dataclass(slots=True)
class Story:
    """The story on one hub.

    Parameters
    ----------
    dataset
        ``"digits"`` or ``"mnist"``.
    connect
        Returns a new visitor's view of the hub.
    say
        Told what happens, a line at a time.
    pause
        Seconds between the acts, and at least this long for a round: time to watch.
    """

    dataset: str
    connect: Callable[[], Hub]
    say: Say
    pause: float = 0.0
    passwords: dict[str, str] = field(default_factory=dict)
    benches: dict[str, Workbench] = field(default_factory=dict)
    private: dict[str, Dataset] = field(default_factory=dict)
    runs: list[TrainingRun] = field(default_factory=list)

    def open(self) -> None:
        """Make the three accounts and the project, and sign everybody out again."""
        from neuronexus_kernel import Recipe, Task, datasets, models
        from neuronexus_kernel.datasets import partition

        for name in PEOPLE:
            self.passwords[name] = secrets.token_urlsafe(12)
            self.benches[name] = Workbench(self.connect()).register(name, self.passwords[name])
        plot = self._plot
        data = datasets.digits() if self.dataset == "digits" else datasets.mnist()
        task = Task(data, metric="accuracy")
        architecture = models.mlp(_size(task.input_shape), (plot.hidden[0],), task.classes)
        self.benches["ada"].create_project(
            self.dataset,
            task=task,
            recipe=Recipe(architecture, **plot.recipe),
            description="Handwritten digits, learnt together.",
        )
        parts = task.private.partition(partition.dirichlet(len(PEOPLE), alpha=1.0, seed=4))
        self.private = dict(zip(PEOPLE, parts, strict=True))
        for bench in self.benches.values():
            bench.logout()

    def play(self) -> None:
        """Train together, let everyone try something, and train together once more."""
        for name, bench in self.benches.items():
            bench.login(name, self.passwords[name])
        self._train_together("Trained by all three")
        self._improve_the_recipe()
        self._give_data()
        self._train_together("Trained once more, with what was learnt")

    def outcome(self, seconds: float) -> dict[str, Any]:
        """Return what became of it, as plain data."""
        bench = self.benches["ada"]
        project = bench.project(self.dataset)
        status = bench.tokens.verify()
        rounds = [entry for run in self.runs for entry in run.record.history if entry.round > 0]
        contributions = bench.hub.contributions(project=project.record.id)
        return {
            "rounds": [
                {"round": number, "accuracy": entry.accuracy}
                for number, entry in enumerate(rounds, start=1)
            ],
            "held_out_accuracy": project.head.metrics.get("held_out_accuracy"),
            "contributions": [
                {
                    "kind": each.kind,
                    "author": each.author,
                    "state": each.state,
                    "value": each.value,
                    "reward": each.reward,
                    "receipt": each.receipt,
                    "reason": each.reason,
                }
                for each in contributions
            ],
            "balances": {each.account: each.balance for each in bench.hub.balances()},
            "ledger": {"ok": status.ok, "entries": status.entries},
            "seconds": round(seconds, 2),
        }

    # -- the acts --------------------------------------------------------------------------

    def _improve_the_recipe(self) -> None:
        from neuronexus_kernel import models

        project = self._project("grace")
        plot = self._plot
        self._submit(
            "grace", HyperparameterContribution(**plot.better, note="Larger steps learn faster")
        )
        self._submit(
            "alan",
            HyperparameterContribution(learning_rate=5.0, note="Much larger steps, much faster?"),
        )
        record = project.record
        wider = models.mlp(_size(record.input_shape), (plot.hidden[1],), record.classes)
        self._submit(
            "alan", CodeContribution(wider, note=f"A hidden layer of {plot.hidden[1]} units")
        )

    def _give_data(self) -> None:
        mine = self.private["grace"]
        chosen = _balanced(mine, self._plot.examples)
        self._submit(
            "grace",
            DataContribution(mine.subset(chosen), note=f"{len(chosen)} digits of my own, checked"),
        )
        import numpy as np

        other = self.private["ada"]
        wrong = other.subset(np.arange(len(other) // 2))
        mixed = wrong.with_labels(np.roll(wrong.labels, 1 + len(wrong) // 2))
        self._submit("ada", DataContribution(mixed, note="Digits from an old archive, unchecked"))

    def _train_together(self, note: str) -> None:
        self.say("ada, grace and alan train together; nobody's data leaves its place.")
        run = self._project("ada").train(
            rounds=self._plot.rounds,
            participants=self.private,
            seed=len(self.runs),
            progress=False,
            on_round=self._slow_down,
        )
        if run.record.state == "interrupted":
            # A training run takes Ctrl-C as its own end; here it is meant for the whole story.
            raise KeyboardInterrupt
        self.runs.append(run)
        handle = self._submit("ada", ComputeContribution(run, note=note))
        if handle.state == "rewarded":
            for name in ("grace", "alan"):
                self.benches[name].contribution(handle.id).confirm()
                self.say(f"   {name} confirms their part.")

    # -- how it is told --------------------------------------------------------------------

    @property
    def _plot(self) -> Plot:
        return PLOTS[self.dataset]

    def _project(self, name: str) -> Project:
        return self.benches[name].project(self.dataset)

    def _submit(self, name: str, contribution: AnyContribution) -> Any:
        time.sleep(self.pause)
        self.say(f"{name} contributes {contribution.kind}: {contribution.note}")
        handle = self._project(name).submit(contribution).wait(progress=False)
        record = handle.record
        value = "" if record.value is None else f", value {record.value:+.4f}"
        self.say(f"   {record.state}{value}, {record.reward} NXS. {record.reason or ''}".rstrip())
        return handle

    def _slow_down(self, report: RoundReport) -> None:
        time.sleep(max(0.0, self.pause - report.seconds))


def once(dataset: str, *, quiet: bool = False) -> dict[str, Any]:
    """Play the story headless, on a hub of its own in a temporary home, and end that hub.

    Parameters
    ----------
    dataset
        ``"digits"`` or ``"mnist"``.
    quiet
        Say nothing on the way.

    Returns
    -------
    dict
        What became of it: rounds, held-out accuracy, contributions, balances, ledger, seconds.
    """
    started = time.monotonic()
    with _hub(port=0) as hub:
        story = Story(dataset, lambda: RemoteHub(hub.address), _silent if quiet else _print)
        story.open()
        story.play()
        return story.outcome(time.monotonic() - started)


def live(dataset: str, *, port: int, patience: float) -> int:
    """Start a hub, play the story on it for whoever watches, and stay until Ctrl-C.

    Parameters
    ----------
    dataset
        ``"digits"`` or ``"mnist"``.
    port
        Where to listen on 127.0.0.1; the next free port is taken when it is in use.
    patience
        Seconds to wait for somebody to sign in before the story begins.
    """
    _print("Starting the hub ...")
    with _hub(port) as hub:
        story = Story(dataset, lambda: RemoteHub(hub.address), _print, pause=1.0)
        try:
            story.open()
            _print(_invitation(hub.address, story.passwords))
            _wait_for_visitor(RemoteHub(hub.address), patience)
            story.play()
            _print("\nThe story is told; the hub stays up. Press Ctrl-C to end it.")
            while hub.alive():
                time.sleep(0.5)
        except KeyboardInterrupt:
            _print("\nEnding the hub ...")
            return 0
    _print("The hub has ended.")
    return 1


@contextmanager
def _hub(port: int) -> Iterator[HubProcess]:
    """Run a hub in a temporary home, and end it however the block is left."""
    with (
        tempfile.TemporaryDirectory(prefix="neuronexus-demo-", ignore_cleanup_errors=True) as home,
        start_hub(Path(home), port=port) as hub,
        _interrupted_by(signal.SIGTERM, signal.SIGHUP),
    ):
        yield hub


@contextmanager
def _interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Let these signals end the block as Ctrl-C does, so that nothing is left running."""
    before = {each: signal.signal(each, signal.default_int_handler) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def summary(outcome: Mapping[str, Any]) -> str:
    """Return what became of the story in words."""
    lines = [f"\nHeld-out accuracy of the head: {outcome['held_out_accuracy']:.4f}"]
    lines += [f"{name:>8}: {balance} NXS" for name, balance in outcome["balances"].items()]
    ledger = outcome["ledger"]
    lines.append(
        f"The ledger {'verifies' if ledger['ok'] else 'does NOT verify'}: "
        f"{ledger['entries']} entries. {outcome['seconds']:.0f} seconds in all."
    )
    return "\n".join(lines)


def _invitation(address: str, passwords: Mapping[str, str]) -> str:
    accounts = "\n".join(f"    {name:<6} {password}" for name, password in passwords.items())
    return (
        f"\n  The hub is up:  {address}\n\n  Sign in as one of them to watch:\n{accounts}\n\n"
        "  The story begins once you have signed in, or in a minute. Ctrl-C ends everything.\n"
    )


def _wait_for_visitor(hub: Hub, patience: float) -> None:
    """Wait until somebody signs in: the story's own people are signed out until it begins."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if any(node.online for node in hub.network().nodes):
            time.sleep(5.0)  # time for their dashboard to be drawn
            return
        time.sleep(0.5)


def _balanced(dataset: Dataset, count: int) -> list[int]:
    """Return up to `count` row numbers, as evenly over the classes as there are rows."""
    by_class = [[i for i, y in enumerate(dataset.labels) if y == c] for c in range(dataset.classes)]
    turns = zip_longest(*by_class)
    return [row for turn in turns for row in turn if row is not None][:count]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _print(line: str) -> None:
    print(line, flush=True)


def _silent(_: str) -> None:
    pass
