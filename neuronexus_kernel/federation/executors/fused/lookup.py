"""Rules of what reads nothing but its own tensors: embedding, parameters, positions, constants."""

from __future__ import annotations

import torch
from torch.nn import functional

from neuronexus_kernel.federation.executors.fused.program import Derive, Site


def embedding(site: Site) -> Derive:
    """Embedding: only the rows that were read move, each by the sum of its deltas."""
    x, y, table = site.inputs[0], site.output, site.state["weight"]
    count, width = table.shape[1:]
    offsets = (torch.arange(site.clients) * count).view(-1, *(1,) * (len(x.shape) - 1))
    rows = torch.empty(0, dtype=torch.int64)

    def forward() -> None:
        nonlocal rows
        rows = x.value + offsets
        y.value = functional.embedding(rows, table.flatten(0, 1))

    site.forward.append(forward)

    def derive() -> None:
        move = site.updates.by_rows(site.names["weight"], table)
        site.backward.append(lambda: move(rows.flatten(), y.delta.reshape(-1, width)))

    return derive


def parameter(site: Site) -> Derive:
    """A tensor of its own, given to every example: its gradient is the sum over them."""
    y, tensor = site.output, site.state["value"]
    y.kept = True
    y.value = tensor.unsqueeze(1).expand(y.shape)
    return lambda: site.descend("value", lambda: y.delta.sum(1))


def constant(site: Site) -> Derive:
    """Numbers that nobody trains."""
    y, arguments = site.output, site.arguments
    values = torch.tensor(arguments.reals("values"), dtype=torch.float64)
    y.kept = True
    y.value = values.to(site.dtype).view(arguments.sizes("sizes")).expand(y.shape)
    return lambda: None


def positions(site: Site) -> Derive:
    """The tokens 0, 1, 2, ..."""
    y = site.output
    y.kept = True
    y.value = torch.arange(y.shape[2]).expand(y.shape)
    return lambda: None
