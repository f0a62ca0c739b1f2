"""Rounds to a target accuracy on MNIST, beside those of the paper that named federated averaging.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-efficient learning of deep networks
from decentralized data", AISTATS 2017 (arXiv 1602.05629), tables 1 and 2: 100 clients of 600 rows,
10 of them a round, batches of 10.  As there, each row is run for several learning rates on a
multiplicative grid; a curve is made monotone by its best value so far, and the round at which it
crosses the target is interpolated.

    python tests/benchmarks/mcmahan.py [--rows 2nn-iid cnn-iid 2nn-shards] [--folder FOLDER]

It takes long, so it goes on where it was stopped: finished curves lie in FOLDER, and an unfinished
one has a checkpoint there.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from neuronexus_kernel import Recipe, datasets, federation, models
from neuronexus_kernel.models import Architecture

GRID = tuple(10 ** (exponent / 6) for exponent in (-8, -7, -6, -5, -4))
"""0.046 to 0.215, six steps a decade: around the rates that the paper found best."""


@dataclass(frozen=True)
class Row:
    """One row of the paper's tables."""

    name: str
    architecture: Architecture
    partition: datasets.Partition
    local_epochs: int
    target: float
    paper: int
    patience: int


ROWS = {
    "2nn-iid": Row(
        "2NN, E=1, B=10, C=0.1, IID",
        models.mlp(784, (200, 200), 10),
        datasets.partition.iid(100, seed=0),
        1,
        0.97,
        87,
        300,
    ),
    "cnn-iid": Row(
        "CNN, E=5, B=10, C=0.1, IID",
        models.cnn(),
        datasets.partition.iid(100, seed=0),
        5,
        0.99,
        20,
        80,
    ),
    "2nn-shards": Row(
        "2NN, E=1, B=10, C=0.1, 2 shards each",
        models.mlp(784, (200, 200), 10),
        datasets.partition.shards(100, shards_per_client=2, seed=0),
        1,
        0.97,
        664,
        1500,
    ),
}


def main() -> None:
    """Run the rows that were asked for; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--rates", nargs="+", type=float, default=list(GRID))
    parser.add_argument("--folder", type=Path, default=Path("mcmahan"))
    options = parser.parse_args()
    table = []
    for key in options.rows:
        row = ROWS[key]
        found = {rate: _rounds(key, row, rate, options.folder) for rate in options.rates}
        best = min(found, key=lambda rate: found[rate])
        table.append((row.name, f"{row.target:.0%}", row.paper, round(found[best], 1), best))
        print(
            pd.DataFrame(
                table, columns=["row", "target", "rounds, paper", "rounds, here", "rate"]
            ).to_string(index=False),
            flush=True,
        )


def _rounds(key: str, row: Row, rate: float, folder: Path) -> float:
    """Return after how many rounds the target is crossed; infinity if not within patience."""
    done = folder / f"{key}-{rate:.4f}.json"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        result = federation.train(
            Recipe(
                row.architecture, learning_rate=rate, batch_size=10, local_epochs=row.local_epochs
            ),
            datasets.mnist("train"),
            partition=row.partition,
            rounds=row.patience,
            clients_per_round=10,
            validation=datasets.mnist("test"),
            checkpoint=folder / f"{key}-{rate:.4f}",
            on_round=lambda report: report.accuracy >= row.target,
        )
        if result.interrupted:
            raise KeyboardInterrupt
        done.write_text(json.dumps(result.history.accuracy.tolist()))
    crossed = crossing(json.loads(done.read_text()), row.target)
    print(f"{row.name}, learning rate {rate:.3f}: {crossed:.1f} rounds", flush=True)
    return crossed


def crossing(curve: Sequence[float], target: float) -> float:
    """Return where the best value so far crosses the target, interpolated between rounds."""
    best = -math.inf
    for number, value in enumerate(curve):
        if value >= target:
            return number - (value - target) / (value - best) if number else 0.0
        best = max(best, value)
    return math.inf


if __name__ == "__main__":
    main()
