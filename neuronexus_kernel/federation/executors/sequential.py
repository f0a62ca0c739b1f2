"""The reference executor: one client after another, as one would write it in plain PyTorch.

It is meant to be read.  Every other executor is tested against it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from neuronexus_kernel.federation.augmentation import augment, row_keys
from neuronexus_kernel.federation.executors.base import Client, ClientUpdate, Cohort, Weights
from neuronexus_kernel.federation.executors.losses import training_loss
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
        model.train()
        model.keyed = True
        return [self._train_client(model, cohort, client) for client in cohort.clients]

    def _train_client(self, model: Interpreter, cohort: Cohort, client: Client) -> ClientUpdate:
        recipe = cohort.recipe
        model.load_state_dict(self._tensors(cohort.start_of(client)))
        parameters = dict(model.named_parameters())
        anchor = self._tensors({name: cohort.weights[name] for name in parameters})
        correction = self._tensors(cohort.corrections.get(client.partition_id, {}))
        optimiser = make_optimiser(recipe, parameters.values(), cohort.learning_rate)
        loss_of = training_loss(recipe)
        keys = torch.from_numpy(cohort.noise_keys(client))
        total = 0.0
        for rows, key in zip(cohort.batches(client), keys, strict=True):
            inputs, labels = self._batch(recipe, client, rows, key)
            model.noise_key.copy_(key)
            optimiser.zero_grad()
            loss = loss_of(model(inputs), labels).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            if cohort.proximal_mu:
                for name, parameter in parameters.items():
                    _add(parameter, cohort.proximal_mu * (parameter.detach() - anchor[name]))
            if recipe.gradient_clip:
                clip_grad_norm_(parameters.values(), recipe.gradient_clip)
            for name, value in correction.items():
                _add(parameters[name], value)
            optimiser.step()
            total += loss.item() * len(rows)
        return ClientUpdate(
            client.partition_id,
            {name: np.array(value.detach().numpy()) for name, value in model.state().items()},
            len(client.dataset),
            total / cohort.seen(client),
            len(keys),
        )

    def _batch(
        self, recipe: Recipe, client: Client, rows: np.ndarray, key: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs, augmented, and labels of one step."""
        inputs = self._numbers(client.dataset.inputs[rows])
        if recipe.augmentation:
            inputs = inputs.view(len(rows), *recipe.architecture.input_shape)
            inputs = augment(inputs, row_keys(key[None], len(rows))[0], recipe.augmentation)
        return inputs, self._numbers(client.dataset.labels[rows])

    def _numbers(self, array: np.ndarray) -> Tensor:
        """Return real numbers in the number type of the training, whole ones as they are."""
        tensor = torch.from_numpy(array)
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def _tensors(self, arrays: Weights) -> dict[str, Tensor]:
        return {name: torch.tensor(array, dtype=self._dtype) for name, array in arrays.items()}


def make_optimiser(
    recipe: Recipe, parameters: Iterable[nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    """Return the optimiser that a recipe names, at a given rate."""
    decay = recipe.weight_decay
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=decay)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=decay)
    return torch.optim.SGD(
        parameters,
        lr=learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=decay,
    )


def _add(parameter: nn.Parameter, more: Tensor) -> None:
    """Add to a parameter's gradient; one that the loss does not reach has the gradient zero."""
    parameter.grad = more.clone() if parameter.grad is None else parameter.grad.add_(more)
