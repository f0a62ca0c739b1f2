"""The reference executor: one client after another, as one would write it in plain PyTorch.

It is meant to be read.  Every other executor is tested against it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort
from neuronexus_kernel.federation.executors.losses import LOSSES
from neuronexus_kernel.federation.executors.modules import blank_module, torch_dtype
from neuronexus_kernel.federation.recipe import Recipe

if TYPE_CHECKING:
    from neuronexus_kernel.models.interpreter import Interpreter


class SequentialExecutor:
    """Trains one client after another.

    Parameters
    ----------
    dtype
        ``"float32"`` or ``"float64"``.
    """

    name = "sequential"

    def __init__(self, *, dtype: str = "float32") -> None:
        self._dtype = torch_dtype(dtype)

    def train(self, cohort: Cohort) -> list[ClientUpdate]:
        """Train each client of the cohort in turn."""
        model = blank_module(cohort.recipe.architecture, self._dtype)
        start = {
            name: torch.tensor(array, dtype=self._dtype) for name, array in cohort.weights.items()
        }
        return [self._train_client(model, start, cohort, client) for client in cohort.clients]

    def _train_client(
        self, model: Interpreter, start: dict[str, Tensor], cohort: Cohort, client: Client
    ) -> ClientUpdate:
        model.load_state_dict(start)
        model.train()
        model.keyed = True
        loss_of = LOSSES[cohort.recipe.loss]
        optimiser = make_optimiser(cohort.recipe, model.parameters())
        keys = torch.from_numpy(cohort.noise_keys(client))
        inputs, labels = client.dataset.inputs, client.dataset.labels
        total = 0.0
        for rows, key in zip(cohort.batches(client), keys, strict=True):
            model.noise_key.copy_(key)
            optimiser.zero_grad()
            outputs = model(torch.from_numpy(inputs[rows]).to(self._dtype))
            loss = loss_of(outputs, torch.from_numpy(labels[rows])).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            if cohort.proximal_mu:
                _pull(model, start, cohort.proximal_mu)
            optimiser.step()
            total += loss.item() * len(rows)
        return ClientUpdate(
            client.partition_id,
            {name: np.array(value.detach().numpy()) for name, value in model.named_parameters()},
            len(labels),
            total / (len(labels) * cohort.recipe.local_epochs),
            len(keys),
        )


def make_optimiser(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimiser that a recipe names."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, momentum=recipe.momentum, weight_decay=decay)


def _pull(model: nn.Module, start: dict[str, Tensor], mu: float) -> None:
    """Add the gradient of FedProx's term, ``mu * (w - start)``."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start[name], alpha=mu)
