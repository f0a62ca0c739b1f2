"""The engine against its peers, each side in a process of its own, one after another in one run.

The work is one local epoch in batches of 10 on MNIST (random pixels where it is not at hand):

    (a) 2NN, 10 clients x 600     (b) 2NN, 100 x 60        (c) CNN, 10 x 600
    (d) 2NN, 1,000 and 10,000 x 6 (e) ResNet-8 on 3x32x32 noise, 20 x 100

A side's figure is its best steady round, the first one left out; a peer's is the best of its
settings (threads, processes).  Peers live in an environment of their own (`make bench` makes it),
because their pins would disturb ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
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
ROUNDS = {"a": 6, "b": 6, "c": 3, "e": 3}


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
    rounds = ROUNDS[letter]
    ours = _ours(path, rounds, "auto")
    title = f"{name}, {ours.executor}"

    def against(peer: str, side: Side, goal: float) -> Figure:
        return Figure(
            title, samples / ours.steady, samples / side.steady, peer, "samples/s", goal=goal
        )

    goals = {"a": (5.0, 3.0), "b": (5.0, 3.0), "c": (1.3, None), "e": (1.3, None)}[letter]
    loops = [_plain(path, rounds, "loop", threads) for threads in (1, 2)]
    yield against("plain loop", _best(loops), goals[0])
    if goals[1] is not None:
        maps = [_plain(path, rounds, "vmap", threads) for threads in (1, 2)]
        yield against("torch.func.vmap", _best(maps), goals[1])
    if letter in "abc":
        sides = [_pfl(path, rounds, 1, 1), _pfl(path, rounds, 1, 2), _pfl(path, rounds, 2, 1)]
        yield against("pfl-research 0.6", _best(sides), 1.8 if letter == "c" else 3.0)
    if letter in "ab":
        flower = _run([str(PEER_PYTHON / "python"), "flower.py", str(path), "--rounds", "6"])
        yield against("Flower run_simulation", flower, 6.0 if letter == "a" else 20.0)
        yield Figure(
            f"{name}, first round",
            1 / ours.first,
            1 / flower.first,
            "Flower run_simulation, with start-up",
            "1/s",
            goal=100.0,
        )
        bare = _ours(path, rounds, f"bare:{ours.executor}")
        yield against("its executor alone", bare, 1 / 1.1 if letter == "a" else 1 / 1.25)


def _growth(folder: Path) -> Iterator[Figure]:
    """Time and memory from 1,000 clients to 10,000, six rows each, pre-summed."""
    sides = {}
    for clients in (1_000, 10_000):
        path = folder / f"d{clients}.npz"
        make_work("2nn", clients, 6).save(path)
        sides[clients] = _ours(path, 3, "presum")
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
    return _best([_run([*command, "--how", how]) for _ in range(2)])


def _plain(path: Path, rounds: int, how: str, threads: int) -> Side:
    command = [sys.executable, "plain.py", str(path), "--rounds", str(rounds)]
    return _run([*command, "--how", how, "--threads", str(threads)])


def _pfl(path: Path, rounds: int, processes: int, threads: int) -> Side:
    start = [str(PEER_PYTHON / "python")]
    if processes > 1:
        start = [str(PEER_PYTHON / "torchrun"), "--nproc-per-node", str(processes)]
    settings = ["--rounds", str(rounds), "--threads", str(threads)]
    return _run([*start, "apple.py", str(path), *settings])


def _best(sides: list[Side]) -> Side:
    return min(sides, key=lambda side: side.steady)


def _run(command: list[str]) -> Side:
    """Run one side and read the line of JSON that it prints."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            command,
            cwd=PEERS,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "FLWR_HOME": home, "FLWR_TELEMETRY_ENABLED": "0"},
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"rounds"')]
    if not lines:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    told = json.loads(lines[-1])
    return Side(
        min(told["rounds"][1:]), told["first"], told.get("memory", 0), told.get("executor", "")
    )
