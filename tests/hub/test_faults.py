"""A hub or its database that is killed at a random moment: what was acknowledged is there."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
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

    def kill(self, home: Path, seed: int, database: str = "") -> list[list]:
        """Start a hub, kill it at a random moment, and return what it had acknowledged.

        Every other one lives until a contribution was acknowledged, however slow this machine is.
        """
        self.start(home, seed, database, home)
        self.hear_of("contribution" if seed % 2 else "project")
        time.sleep(random.Random(seed).uniform(0, 1.5))
        return self.end()

    def start(self, home: Path, seed: int, database: str, stores: Path) -> None:
        """Start a hub under load."""
        line = json.dumps([str(home), seed, database, str(stores)])
        print(line, file=self._process.stdin, flush=True)
        self._heard: list[list] = []
        self._pid = 0

    def hear_of(self, what: str, times: int = 1) -> None:
        """Wait until something was acknowledged so many times more."""
        while times or not self._pid:
            words = self._hear()
            assert words[0] != "ended", "the hub ended by itself"
            if words[0] == "pid":
                self._pid = words[1]
            else:
                self._heard.append(words)
                times -= words[0] == what and times > 0

    def end(self) -> list[list]:
        """Kill the hub, and return what it had acknowledged."""
        os.kill(self._pid, signal.SIGKILL)
        while (words := self._hear())[0] != "ended":
            self._heard.append(words)
        assert os.WTERMSIG(words[1]) == signal.SIGKILL
        return self._heard

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    """A program that forks hubs to be killed."""
    victim = Victim()
    yield victim
    victim.close()


@pytest.fixture(scope="module")
def another() -> Iterator[Victim]:
    """A second one."""
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
    for path in (bench.services.content.root / "blocks").rglob("b*"):
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


def kill_and_check(victim, open_bench, home, database, seeds) -> Counter:
    total: Counter[str] = Counter()
    interrupted = 0
    for seed in seeds:
        heard = victim.kill(home, seed, database)
        bench = open_bench(home, database=database)
        total += check(bench, heard)
        interrupted += half_measured(bench)
        bench.evaluate()
        states = check_payments(bench)
        check_whole(bench)
        bench.close()
    assert set(total) >= {"account", "content", "round", "contribution", "mint", "event"}
    report(f"kills of the hub on {'PostgreSQL' if database else 'DuckDB'}", len(seeds), total)
    print(f"{interrupted} evaluations interrupted and done again; contributions: {dict(states)}")
    return total


def report(what: str, faults: int, found: Counter) -> None:
    """Tell of faults after which all that was acknowledged has been found."""
    print(f"\n{what}: {faults} tried, {found.total()} writes acknowledged, {found.total()} found")
    print(dict(found))


@pytest.mark.parametrize("kind", ["duckdb", "postgresql"])
def test_what_a_killed_hub_had_acknowledged_is_there(
    victim, open_bench, new_database, tmp_path, kind
):
    kill_and_check(victim, open_bench, tmp_path / "home", new_database(kind), range(5))


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("kind", "parts"), [("duckdb", 10), ("postgresql", 3)])
def test_what_a_killed_hub_had_acknowledged_is_there_many_times(
    victim, open_bench, new_database, tmp_path, kind, parts
):
    total: Counter[str] = Counter()
    for part in range(parts):
        seeds = range(100 + 10 * part, 110 + 10 * part)
        home = tmp_path / f"home-{part}"
        total += kill_and_check(victim, open_bench, home, new_database(kind), seeds)
    report(f"kills on {kind}", 10 * parts, total)


# -- two hubs on one server -------------------------------------------------------------------


def kill_one_of_two(victim, another, open_bench, url, tmp_path, seeds) -> None:
    """Kill a hub while another on the same database goes on, and then that one."""
    total: Counter[str] = Counter()
    for seed in seeds:
        for number, hub in enumerate((victim, another)):
            hub.start(tmp_path / f"home-{number}", 2 * seed + number, url, tmp_path / "stores")
        for hub in (victim, another):
            hub.hear_of("project")
        time.sleep(random.Random(seed).uniform(0, 1))
        heard = victim.end()
        another.hear_of("mint", 5)  # it goes on without the one that was killed
        heard += another.end()
        bench = open_bench(tmp_path / "home-0", database=url, stores=tmp_path / "stores")
        total += check(bench, heard)
        bench.close()
    report("kills of one hub of two on PostgreSQL", 2 * len(seeds), total)


def test_a_hub_goes_on_when_another_on_its_database_is_killed(
    victim, another, open_bench, new_database, tmp_path
):
    url = new_database("postgresql")
    kill_one_of_two(victim, another, open_bench, url, tmp_path, range(3))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hub_goes_on_when_another_on_its_database_is_killed_many_times(
    victim, another, open_bench, new_database, tmp_path
):
    for part in range(2):
        url, folder = new_database("postgresql"), tmp_path / str(part)
        seeds = range(1000 + 10 * part, 1010 + 10 * part)
        kill_one_of_two(victim, another, open_bench, url, folder, seeds)


# -- the server started anew ------------------------------------------------------------------


class Busy:
    """Threads that write to and read from a hub, whatever happens to its database."""

    def __init__(self, bench) -> None:
        self.acknowledged: list[str] = []
        self.errors: list[Exception] = []
        self.heard: list[int] = []
        self.reads = 0
        self._bench = bench
        self._over = threading.Event()
        bench.hub.subscribe(lambda events: self.heard.extend(event.seq for event in events))
        works = [self._write] * 6 + [self._read] * 2
        self._threads = [threading.Thread(target=work) for work in works]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()

    def _write(self) -> None:
        while not self._over.is_set():
            key = f"key {secrets.token_hex(8)}"
            try:
                self._bench.services.database.write(partial(_add, key))
            except Exception as error:
                self.errors.append(error)
            else:
                self.acknowledged.append(key)

    def _read(self) -> None:
        while not self._over.is_set():
            try:
                self._bench.hub.network()
                self.reads += 1
            except Exception as error:
                self.errors.append(error)


def _add(key: str, tx) -> None:
    # A second time would break the key.
    tx.execute(schema.counters.insert().values(name=key, value=0))
    tx.emit("test", key)


def restart_under_load(cluster, open_bench, tmp_path, times: int) -> None:
    url = cluster.new_database()
    benches = [open_bench(tmp_path / f"home-{number}", database=url) for number in range(2)]
    busy = [Busy(bench) for bench in benches]
    for each in busy:  # All of them listen by now.
        each.start()

    def done() -> list[int]:
        return [len(each.acknowledged) for each in busy] + [each.reads for each in busy]

    def wait_for_progress() -> None:
        before, until = done(), time.monotonic() + 60
        while any(now < then + 20 for then, now in zip(before, done(), strict=True)):
            assert time.monotonic() < until, "readers or writers do not go on"
            time.sleep(0.01)

    wait_for_progress()
    for turn in range(times):
        time.sleep(random.Random(turn).uniform(0, 0.2))
        cluster.stop("immediate" if turn % 2 else "fast")
        cluster.start()
        wait_for_progress()
    for each in busy:
        each.end()
    assert [error for each in busy for error in each.errors] == []
    acknowledged = [key for each in busy for key in each.acknowledged]
    events = all_events(benches[0].hub)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    found = Counter(event.subject for event in events)
    assert found == Counter(acknowledged), "all that was acknowledged, each once, and no more"
    for each in busy:
        until = time.monotonic() + 20
        while len(each.heard) < len(events) and time.monotonic() < until:
            time.sleep(0.01)
        assert each.heard == list(range(1, len(events) + 1))
    report("PostgreSQL started anew under load", times, Counter(write=len(acknowledged)))


@pytest.fixture
def cluster(postgresql) -> Iterator:
    """A server of this test's own."""
    cluster = type(postgresql)()
    yield cluster
    cluster.close()


def test_a_server_that_is_started_anew_costs_nothing(cluster, open_bench, tmp_path):
    restart_under_load(cluster, open_bench, tmp_path, 5)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_server_that_is_started_anew_costs_nothing_many_times(cluster, open_bench, tmp_path):
    restart_under_load(cluster, open_bench, tmp_path, 20)
