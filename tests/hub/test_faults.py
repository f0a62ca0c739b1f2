"""A hub that is killed at a random moment: what it had acknowledged is there, all of it."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa

from neuronexus_kernel.content import CID
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.records import FINAL_STATES
from neuronexus_kernel.ledger import parse_nxs, reward

PROGRAM = Path(__file__).with_name("busy_hub.py")


class Victim:
    """The program that forks hubs under load."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._hear() == ["ready"]

    def _hear(self) -> list:
        line = self._process.stdout.readline()
        assert line, "the program under test ended by itself"
        return json.loads(line)

    def kill(self, home: Path, seed: int) -> list[list]:
        """Start a hub, kill it at a random moment, and return what it had acknowledged.

        Every other one lives until a contribution was acknowledged, however slow this machine is.
        """
        last = "contribution" if seed % 2 else "project"
        print(f"{home} {seed}", file=self._process.stdin, flush=True)
        heard: list[list] = []
        pid = None
        while pid is None or not any(words[0] == last for words in heard):
            words = self._hear()
            assert words[0] != "ended", "the hub ended by itself"
            if words[0] == "pid":
                pid = words[1]
            else:
                heard.append(words)
        time.sleep(random.Random(seed).uniform(0, 1.5))
        os.kill(pid, signal.SIGKILL)
        while (words := self._hear())[0] != "ended":
            heard.append(words)
        assert os.WTERMSIG(words[1]) == signal.SIGKILL
        return heard

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def victim() -> Iterator[Victim]:
    """A program that forks hubs to be killed."""
    victim = Victim()
    yield victim
    victim.close()


def load_program():
    spec = importlib.util.spec_from_file_location("busy_hub", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(bench, heard: list[list]) -> Counter:
    """Check that everything acknowledged is there, and that what is there is whole."""
    hub, content = bench.hub, load_program().content
    accounts = {account.name for account in hub.accounts()}
    projects = {project.name for project in hub.projects()}
    lines = {(line.contribution, line.account): line for line in hub.ledger_lines()}
    events = all_events(hub)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert all(later.previous == earlier.seq for earlier, later in pairwise(events))
    for what, *words in heard:
        if what == "account":
            assert words[0] in accounts
        elif what == "project":
            assert words[0] in projects
        elif what == "content":
            assert hub.get(words[0]) == content(words[1], words[2])
        elif what == "round":
            assert words[1] in {entry.round for entry in hub.run(words[0]).history}
        elif what == "finished":
            assert hub.run(words[0]).version is not None
        elif what == "contribution":
            assert hub.contribution(words[0]).id == words[0]
        elif what == "mint":
            assert parse_nxs(lines[words[0], words[1]].amount) == words[2]
        else:
            assert what == "event"
            assert words[0] <= len(events)
    check_whole(bench)
    return Counter(what for what, *_ in heard)


def all_events(hub) -> list:
    events: list = []
    while page := hub.events(events[-1].seq if events else 0, limit=10_000):
        events += page
    return events


def check_whole(bench) -> None:
    status = bench.hub.verify_ledger()
    assert status.ok, status.problem
    for path in (bench.home / "content" / "blocks").rglob("b*"):
        assert not path.is_file() or CID.parse(path.name).matches(path.read_bytes())
    for root in bench.hub.roots():
        assert len(bench.hub.get(root.cid)) == root.size


def check_payments(bench) -> Counter:
    """Check that each contribution was decided, and each better one paid once, as measured."""
    hub = bench.hub
    paid: Counter[str | None] = Counter()
    for line in hub.ledger_lines():
        if not line.account.startswith("nx:"):
            paid[line.contribution] += parse_nxs(line.amount)
    entries = Counter(line.contribution for line in hub.ledger_lines(account="nx:emission"))
    states: Counter[str] = Counter()
    for record in hub.contributions():
        states[record.state] += 1
        assert record.state in FINAL_STATES - {"failed"}, record.reason
        assert (entries[record.id] == 1) == (record.state == "rewarded")
        if record.state == "rewarded":
            value_nano = round(record.value * 1e9)
            assert paid[record.id] == reward(value_nano, minted=0) == parse_nxs(record.reward)
    return states


def half_measured(bench) -> int:
    query = sa.select(sa.func.count()).where(schema.contributions.c.state == "evaluating")
    return bench.services.database.read(lambda tx: tx.scalar(query))


def kill_and_check(victim, open_bench, home, seeds) -> None:
    total: Counter[str] = Counter()
    interrupted = 0
    for seed in seeds:
        heard = victim.kill(home, seed)
        bench = open_bench(home)
        total += check(bench, heard)
        interrupted += half_measured(bench)
        bench.evaluate()
        states = check_payments(bench)
        check_whole(bench)
        bench.close()
    assert set(total) >= {"account", "content", "round", "contribution", "mint", "event"}
    print(f"\n{len(seeds)} kills: {dict(total)} acknowledged and found; {interrupted} evaluations")
    print(f"interrupted and done again; contributions: {dict(states)}")


def test_what_a_killed_hub_had_acknowledged_is_there(victim, open_bench, tmp_path):
    kill_and_check(victim, open_bench, tmp_path / "home", range(5))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_what_a_killed_hub_had_acknowledged_is_there_fifty_times(victim, open_bench, tmp_path):
    for part in range(5):
        seeds = range(100 + 10 * part, 110 + 10 * part)
        kill_and_check(victim, open_bench, tmp_path / f"home-{part}", seeds)
