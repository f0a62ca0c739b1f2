"""The engine against its peers, each side in a process of its own, one after another in one run.

The work is one local epoch in batches of 10 on MNIST (random pixels where it is not at hand):

    (a) 2NN, 10 clients x 600     (b) 2NN, 100 x 60        (c) CNN, 10 x 600
    (d) 2NN, 1,000 and 10,000 x 6 (e) ResNet-8 on 3x32x32 noise, 20 x 100

All sides take turns, several times, so that a machine that is busy for a while moves all of them.
A side's figure is its best steady round of all turns, the first one of each left out; a peer's is
the best of its settings (threads, processes).  Peers live in an environment of their own
(`make bench` makes it), because their pins would disturb ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from measure import Figure
from work import MODELS, Work

HERE = Path(__file__).parent
PEERS = HERE / "peers"
PEER_PYTHON = Path(os.environ.get("NEURONEXUS_PEERS", HERE.parents[1] / ".venv-bench")) / "bin"
WORKS = {
    "a": ("2NN 10 x 600", "2nn", 10, 600),
    "b": ("2NN 100 x 60", "2nn", 100, 60),
    "c": ("CNN 10 x 600", "cnn", 10, 600),
    "e": ("ResNet-8 20 x 100", "resnet8", 20, 100),
}
ROUNDS = {"a": 8, "b": 8, "c": 3, "e": 3}
TURNS = {"a": 3, "b": 3, "c": 2, "e": 2}


LOOP, VMAP, PFL = "plain loop", "torch.func.vmap", "pfl-research 0.6"
FLOWER, BARE = "Flower run_simulation", "its executor alone"
GOALS: Mapping[str, Mapping[str, float]] = {
    LOOP: {"a": 5.0, "b": 5.0, "c": 1.3, "e": 1.3},
    VMAP: {"a": 3.0, "b": 3.0},
    PFL: {"a": 3.0, "b": 3.0, "c": 1.8},
    FLOWER: {"a": 6.0, "b": 20.0},
    BARE: {"a": 1 / 1.1, "b": 1 / 1.25},
}
"""How many times a peer's samples a second ours should reach, by peer and work."""


@dataclass(frozen=True)
class Side:
    """What one side printed."""

    steady: float
    first: float
    memory: float = 0.0
    executor: str = ""


def figures() -> Iterator[Figure]:
    """Compare on every piece of work, or on those named in $BENCHMARK_WORKS, such as "ab"."""
    wanted = os.environ.get("BENCHMARK_WORKS", "abcde")
    with tempfile.TemporaryDirectory() as folder:
        for letter, (name, model, clients, rows) in WORKS.items():
            if letter not in wanted:
                continue
            work = make_work(model, clients, rows)
            path = Path(folder) / f"{letter}.npz"
            work.save(path)
            yield from _compare(letter, f"({letter}) {name}", path, work.samples)
        if "d" in wanted:
            yield from _growth(Path(folder))


def make_work(model: str, clients: int, rows: int) -> Work:
    """Return MNIST's first rows dealt to clients; noise for other shapes or without MNIST."""
    shape = MODELS[model][1]
    rng = np.random.default_rng(0)
    count = clients * rows
    if model == "resnet8" or "NEURONEXUS_DATA" not in os.environ:
        inputs = rng.standard_normal((count, *shape), dtype=np.float32)
        labels = rng.integers(0, 10, count)
    else:
        from neuronexus_kernel import datasets

        mnist = datasets.mnist()
        inputs, labels = mnist.inputs[:count], mnist.labels[:count]
    return Work(model, inputs.reshape(clients, rows, *shape), labels.reshape(clients, rows))


def _compare(letter: str, name: str, path: Path, samples: int) -> Iterator[Figure]:
    found = in_turn(_sides(letter, path), TURNS[letter])
    ours = found.pop("ours")
    for peer, side in found.items():
        yield Figure(
            f"{name}, {ours.executor}",
            samples / ours.steady,
            samples / side.steady,
            peer,
            "samples/s",
            goal=GOALS[peer][letter],
        )
    if FLOWER in found:
        yield Figure(
            f"{name}, first round",
            1 / ours.first,
            1 / found[FLOWER].first,
            f"{FLOWER}, with start-up",
            "1/s",
            goal=100.0,
        )


def _sides(letter: str, path: Path) -> dict[str, list[Callable[[], Side]]]:
    """Return who does a piece of work, each in all its settings."""
    rounds = ROUNDS[letter]
    sides = {
        "ours": [partial(_ours, path, rounds, "auto")],
        LOOP: [partial(_plain, path, rounds, "loop", threads) for threads in (1, 2)],
        VMAP: [partial(_plain, path, rounds, "vmap", threads) for threads in (1, 2)],
        PFL: [partial(_pfl, path, rounds, *setting) for setting in ((1, 1), (1, 2), (2, 1))],
        FLOWER: [partial(_flower, path, rounds)],
        BARE: [partial(_ours, path, rounds, "bare:fused")],
    }
    return {name: runs for name, runs in sides.items() if letter in GOALS.get(name, letter)}


def in_turn(sides: Mapping[str, list[Callable[[], Side]]], turns: int) -> dict[str, Side]:
    """Run all sides one after another, as often as there are turns; return the best of each."""
    runs: dict[str, list[Side]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, settings in sides.items():
            runs[name] += [run() for run in settings]
    return {name: _best(each) for name, each in runs.items()}


def _growth(folder: Path) -> Iterator[Figure]:
    """Time and memory from 1,000 clients to 10,000, six rows each, pre-summed."""
    sides = {}
    for clients in (1_000, 10_000):
        path = folder / f"d{clients}.npz"
        make_work("2nn", clients, 6).save(path)
        sides[clients] = _best([_ours(path, 3, "presum") for _ in range(2)])
    small, large = sides[1_000], sides[10_000]
    yield Figure(
        "(d) 2NN 10,000 x 6 in seconds",
        large.steady,
        10 * small.steady,
        "ten times 1,000 x 6",
        "s; 1 is linear",
        goal=1.1,
        less=True,
    )
    yield Figure(
        "(d) 2NN 10,000 x 6, memory", large.memory / 1e9, 2.0, "goal", "GB", goal=1.0, less=True
    )


def _ours(path: Path, rounds: int, how: str) -> Side:
    command = [sys.executable, str(HERE / "ours.py"), str(path), "--rounds", str(rounds)]
    return _run([*command, "--how", how])


def _plain(path: Path, rounds: int, how: str, threads: int) -> Side:
    command = [sys.executable, "plain.py", str(path), "--rounds", str(rounds)]
    return _run([*command, "--how", how, "--threads", str(threads)])


def _pfl(path: Path, rounds: int, processes: int, threads: int) -> Side:
    start = [str(PEER_PYTHON / "python")]
    if processes > 1:
        start = [str(PEER_PYTHON / "torchrun"), "--nproc-per-node", str(processes)]
    settings = ["--rounds", str(rounds), "--threads", str(threads)]
    return _run([*start, "apple.py", str(path), *settings])


def _flower(path: Path, rounds: int) -> Side:
    return _run([str(PEER_PYTHON / "python"), "flower.py", str(path), "--rounds", str(rounds)])


def _best(sides: list[Side]) -> Side:
    """Return the side's best figures, whichever run each is from."""
    return Side(
        min(side.steady for side in sides),
        min(side.first for side in sides),
        max(side.memory for side in sides),
        sides[0].executor,
    )


def _run(command: list[str]) -> Side:
    """Run one side and read the line of JSON that it prints.

    Sides may write bytecode, as they may for their users: it is part of the first round otherwise.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            command,
            cwd=PEERS,
            capture_output=True,
            text=True,
            check=False,
            env={**inherited, "FLWR_HOME": home, "FLWR_TELEMETRY_ENABLED": "0"},
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"rounds"')]
    if not lines:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    told = json.loads(lines[-1])
    return Side(
        min(told["rounds"][1:]), told["first"], told.get("memory", 0), told.get("executor", "")
    )
