"""The work that every side of the comparison does: the same models, rows, batches and rate.

This folder runs in two environments (ours, and one with the peers), so it needs torch and NumPy
only.  A side is a script that is given a work file, trains a few rounds of federated averaging
and prints one line of JSON: the seconds of each round, and of everything before the first.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 10
RATE = 0.05


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm_1 = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm_2 = nn.BatchNorm2d(outputs)
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.around = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = F.relu(self.norm_1(self.first(x)))
        return F.relu(self.norm_2(self.second(y)) + self.around(x))


class ResNet8(nn.Module):
    """A stem, three residual blocks of 16, 32 and 64 channels, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        self.blocks = nn.Sequential(
            ResidualBlock(16, 16, 1), ResidualBlock(16, 32, 2), ResidualBlock(32, 64, 2)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def two_nn() -> nn.Module:
    """Return the 2NN of McMahan et al. 2017."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, 10),
    )


def cnn() -> nn.Module:
    """Return the CNN of McMahan et al. 2017."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3136, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "2nn": (two_nn, (784,)),
    "cnn": (cnn, (1, 28, 28)),
    "resnet8": (ResNet8, (3, 32, 32)),
}


@dataclass(frozen=True)
class Work:
    """Rows of clients that hold equally many.

    Attributes
    ----------
    model
        A name of `MODELS`.
    inputs, labels
        (clients, rows, ...) float32, and (clients, rows) int64.
    """

    model: str
    inputs: np.ndarray
    labels: np.ndarray

    @property
    def samples(self) -> int:
        """Rows of all clients: what one round trains on."""
        return int(self.labels.size)

    def network(self) -> nn.Module:
        """Return the model with weights that are the same on every side."""
        torch.manual_seed(0)
        return MODELS[self.model][0]()

    def save(self, path: Path) -> None:
        """Write the work to a file."""
        np.savez(path, model=self.model, inputs=self.inputs, labels=self.labels)

    @classmethod
    def load(cls, path: str | Path) -> Work:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(str(file["model"]), file["inputs"], file["labels"])


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read a side's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--how", default="")
    return parser.parse_args(arguments)


def report(seconds: Sequence[float], **more: float | str) -> None:
    """Print a side's result: seconds of each round, and from the call to the first one's end."""
    print(json.dumps({"rounds": list(seconds), **more}), flush=True)
    sys.stdout.flush()


def batches(rows: int, seed: int) -> list[Tensor]:
    """Return the rows of each batch of one epoch."""
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randperm(rows, generator=generator).split(BATCH))
