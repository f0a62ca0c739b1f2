"""The executors against each other, against plain PyTorch, and against the machine.

The work is one local epoch of plain SGD with batches of 10 on numbers of MNIST's shape (what the
pixels are takes no part in the time).  All sides train the same clients from the same weights in
the same process, one after another in turn, and the best of several turns counts.

``loop`` is what one would write in plain PyTorch, with its best number of threads; ``vmap`` is the
textbook's `torch.func` over stacked clients; the bound is the time of the matrix products alone, on
all cores, with nothing else done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from measure import Figure
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from neuronexus_kernel import Dataset, Recipe, models
from neuronexus_kernel.federation.executors.base import Client, Cohort
from neuronexus_kernel.federation.executors.plan import make_executor, make_plan
from neuronexus_kernel.federation.executors.threads import torch_threads

BATCH = 10
RATE = 0.05
WIDTHS = (784, 200, 200, 10)
CORES = torch.get_num_threads()


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, with batch or group normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([norm(outputs), norm(outputs)])
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
            if stride > 1
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(y)) + self.shortcut(x))


def resnet8(norm: Callable[[int], nn.Module]) -> nn.Module:
    """Return ResNet-8 for 3 x 32 x 32: one block each of 16, 32 and 64 channels."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        norm(16),
        nn.ReLU(),
        ResidualBlock(16, 16, 1, norm),
        ResidualBlock(16, 32, 2, norm),
        ResidualBlock(32, 64, 2, norm),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


@dataclass(frozen=True, slots=True)
class Work:
    """What is trained: the same model as a module and captured, and the clients' data.

    Attributes
    ----------
    name
        For the table.
    module
        What the plain loop trains.
    shape
        Of one example.
    clients, rows
        How many clients, and examples of each.
    chunk
        Clients that the fused executor trains together.
    """

    name: str
    module: Callable[[], nn.Module]
    shape: tuple[int, ...]
    clients: int
    rows: int
    chunk: int

    def cohort(self) -> Cohort:
        """Return clients with random examples and one local epoch to train."""
        random = np.random.default_rng(0)
        module = self.module()
        architecture = models.Architecture.capture(module, torch.zeros(1, *self.shape))
        recipe = Recipe(architecture, batch_size=BATCH, local_epochs=1, learning_rate=RATE)
        labels = np.arange(self.rows) % 10
        members = tuple(
            Client(
                place,
                Dataset(random.random((self.rows, *self.shape), np.float32), labels, classes=10),
            )
            for place in range(self.clients)
        )
        return Cohort(recipe, architecture.weights_of(module), members, seed=0, round=1)


def two_nn() -> nn.Module:
    """Return the 2NN of McMahan et al. 2017."""
    return nn.Sequential(
        nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
    )


def cnn() -> nn.Module:
    """Return the CNN of McMahan et al. 2017."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)),
    )


def plain_loop(model: nn.Module, cohort: Cohort) -> list[dict[str, Tensor]]:
    """Train one client after another, as in any tutorial."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    trained = []
    for client in cohort.clients:
        model.load_state_dict(start)
        optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
        inputs = torch.tensor(client.dataset.inputs)
        labels = torch.tensor(client.dataset.labels)
        order = torch.randperm(len(labels))
        for chosen in order.split(BATCH):
            optimiser.zero_grad()
            functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
            optimiser.step()
        trained.append({name: value.clone() for name, value in model.state_dict().items()})
    return trained


def plain_vmap(model: nn.Module, cohort: Cohort) -> dict[str, Tensor]:
    """Train all clients at once with `torch.func`, as its tutorial on ensembles does."""
    count = len(cohort.clients)
    stack = {
        name: value.detach().expand(count, *value.shape).clone()
        for name, value in model.named_parameters()
    }
    inputs = torch.stack([torch.tensor(client.dataset.inputs) for client in cohort.clients])
    labels = torch.stack([torch.tensor(client.dataset.labels) for client in cohort.clients])

    def loss_of(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(model, weights, (x,)), y)

    gradients = vmap(torch.func.grad(loss_of))
    places = torch.arange(count)[:, None]
    orders = torch.stack([torch.randperm(labels.shape[1]) for _ in cohort.clients])
    for chosen in orders.split(BATCH, dim=1):
        found = gradients(stack, inputs[places, chosen], labels[places, chosen])
        with torch.no_grad():
            for name, value in stack.items():
                value.sub_(found[name], alpha=RATE)
    return stack


def products_only(clients: int, steps: int, chunk: int) -> None:
    """Do the matrix products of the 2NN's steps and nothing else, a chunk on each core."""

    def work(count: int) -> None:
        layers = [
            (
                torch.randn(count, outputs, inputs),
                torch.randn(count, BATCH, inputs),
                torch.zeros(count, BATCH, outputs),
                torch.empty(count, BATCH, inputs),
            )
            for inputs, outputs in pairwise(WIDTHS)
        ]
        for _ in range(steps):
            for weight, x, y, _ in layers:
                torch.bmm(x, weight.transpose(1, 2), out=y)
            for place, (weight, x, y, delta) in reversed(list(enumerate(layers))):
                if place:
                    torch.bmm(y, weight, out=delta)
                weight.baddbmm_(y.transpose(1, 2), x, alpha=-1e-30)

    counts = [min(chunk, clients - first) for first in range(0, clients, chunk)]
    with torch_threads(1), torch.inference_mode(), ThreadPoolExecutor(CORES) as pool:
        list(pool.map(torch.inference_mode()(work), counts))


def best(actions: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Return the shortest time of each action; they take turns, so that noise hits all."""
    taken = dict.fromkeys(actions, float("inf"))
    for _ in range(turns):
        for name, action in actions.items():
            started = time.perf_counter()
            result = action()
            taken[name] = min(taken[name], time.perf_counter() - started)
            del result
    return taken


def with_threads(count: int, action: Callable[[], object]) -> Callable[[], object]:
    """Return the action, done with so many threads of torch."""

    def act() -> object:
        with torch_threads(count):
            return action()

    return act


WORK = (
    Work("(a) 2NN, 10 x 600", two_nn, (784,), 10, 600, 5),
    Work("(b) 2NN, 100 x 60", two_nn, (784,), 100, 60, 5),
    Work("(c) CNN, 10 x 600", cnn, (1, 28, 28), 10, 600, 1),
    Work(
        "(e) ResNet-8 with batch norm, 20 x 100",
        partial(resnet8, nn.BatchNorm2d),
        (3, 32, 32),
        20,
        100,
        1,
    ),
    Work(
        "(e) ResNet-8 with group norm, 20 x 100",
        partial(resnet8, partial(nn.GroupNorm, 4)),
        (3, 32, 32),
        20,
        100,
        1,
    ),
)
"""The letters are those of the goals that were set for one machine."""


def sides(work: Work) -> dict[str, Callable[[], object]]:
    """Return what trains the work, by name; what does not apply to convolutions is left out."""
    cohort, module = work.cohort(), work.module()
    plan = make_plan(cohort.recipe, clients=work.clients, executor="fused")
    fused, threads = make_executor(plan), range(1, CORES + 1)
    found: dict[str, Callable[[], object]] = {
        "fused": with_threads(plan.threads, lambda: fused.train(cohort)),
        **{f"loop, {n}": with_threads(n, lambda: plain_loop(module, cohort)) for n in threads},
    }
    if work.module is two_nn:
        steps = work.rows // BATCH
        return found | {
            **{f"vmap, {n}": with_threads(n, lambda: plain_vmap(module, cohort)) for n in threads},
            "products alone": lambda: products_only(work.clients, steps, work.chunk),
        }
    return found


def figures(works: tuple[Work, ...] = WORK, turns: int = 5) -> Iterator[Figure]:
    """Compare the fused executor with all other sides of each work."""
    for work in works:
        examples = work.clients * work.rows
        speeds = {name: examples / taken for name, taken in best(sides(work), turns).items()}
        for peer in ("loop", "vmap", "products alone"):
            others = [speed for name, speed in speeds.items() if name.startswith(peer)]
            if others:
                yield Figure(f"{work.name}: fused", speeds["fused"], max(others), peer, "samples/s")
