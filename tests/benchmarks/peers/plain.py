"""Plain PyTorch: one client after another, or ``torch.func.vmap`` over stacked clients.

Written as one writes it in a notebook, with the usual care: data as tensors once, weights copied
in place, the average accumulated.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F
from work import RATE, Work, batches, options, report


def loop(work: Work, model: nn.Module, state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Train one client after another; return the average."""
    clients, rows = work.labels.shape
    total = {name: torch.zeros_like(value) for name, value in state.items()}
    for client in range(clients):
        model.load_state_dict(state)
        optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
        x, y = torch.from_numpy(work.inputs[client]), torch.from_numpy(work.labels[client])
        for chosen in batches(rows, seed * 100_000 + client):
            optimiser.zero_grad()
            F.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimiser.step()
        for name, value in model.state_dict().items():
            total[name] += value
    return {
        name: value / clients if value.is_floating_point() else value // clients
        for name, value in total.items()
    }


def stacked(work: Work, model: nn.Module, state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Train all clients at once; return the average."""
    clients, rows = work.labels.shape
    model.load_state_dict(state)
    weights, _ = stack_module_state([model] * clients)
    weights = {name: value.detach() for name, value in weights.items()}
    x, y = torch.from_numpy(work.inputs), torch.from_numpy(work.labels)

    def loss(weights: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (inputs,)), labels)

    gradient = vmap(grad(loss))
    order = torch.stack(
        [torch.cat(batches(rows, seed * 100_000 + client)) for client in range(clients)]
    )
    who = torch.arange(clients)[:, None]
    for chosen in order.split(10, dim=1):
        gradients = gradient(weights, x[who, chosen], y[who, chosen])
        for name, value in weights.items():
            value.sub_(gradients[name], alpha=RATE)
    return {name: value.mean(0) for name, value in weights.items()}


def main() -> None:
    """Train a few rounds."""
    chosen = options()
    torch.set_num_threads(chosen.threads)
    work = Work.load(chosen.work)
    model = work.network()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    train = stacked if chosen.how == "vmap" else loop
    seconds = []
    for number in range(chosen.rounds):
        begin = time.perf_counter()
        state = train(work, model, state, number)
        seconds.append(time.perf_counter() - begin)
    report(seconds, first=seconds[0])


if __name__ == "__main__":
    main()
