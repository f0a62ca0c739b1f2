"""Recurrent layers: lstm and gru, one layer in one direction, as PyTorch defines them.

Sources: Hochreiter, Schmidhuber 1997; Cho et al. 2014 (arXiv 1406.1078), in the form of
``torch.nn.LSTM`` and ``torch.nn.GRU``.  The products with the input are made for all steps at
once; the rest is a plain loop over time, so that it works under ``torch.func``.  Several layers
or two directions are several nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import Arguments, Flag, Rule, Whole
from neuronexus_kernel.models.operators.base import Count, Moment, Operator, Parameter, Run, Shape
from neuronexus_kernel.models.operators.elementwise import EXPONENTIAL

if TYPE_CHECKING:
    from torch import Tensor

STEPS_LIMIT = 4096
"""Longest sequence: each step is a turn of a Python loop, whatever its size."""
STEP_COST = 1024
"""What a step is counted as in memory besides its numbers: a score of small tensors, about 13 kB
for a batch, however small they are."""


def _shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    given = inputs[0]
    if len(given) != 2:
        raise ArchitectureError(
            f"it needs a sequence (steps, features), but its input is {given}; put a reshape or a "
            "permute before it."
        )
    if given[0] > STEPS_LIMIT:
        raise ArchitectureError(
            f"its sequence has {given[0]} steps, more than the {STEPS_LIMIT} allowed."
        )
    return (given[0], arguments.whole("hidden_size"))


def _parameters(
    gates: int,
) -> Callable[[Sequence[Shape], Arguments], dict[str, Parameter]]:
    def parameters(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
        hidden = arguments.whole("hidden_size")
        rows, bound = gates * hidden, 1 / math.sqrt(hidden)
        made = {
            "weight_ih": Parameter((rows, inputs[0][1]), bound),
            "weight_hh": Parameter((rows, hidden), bound),
        }
        if arguments.flag("bias"):
            made["bias_ih"] = made["bias_hh"] = Parameter((rows,), bound)
        return made

    return parameters


def _flops(gates: int) -> Count:
    def flops(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
        features, hidden = inputs[0][1], output[1]
        products = gates * (2 * features + 2 * hidden + 2 * arguments.flag("bias"))
        return math.prod(output) * (products + gates * (2 + EXPONENTIAL) + 6)

    return flops


def _activations(gates: int) -> Count:
    """Return the count of what a gradient needs: products, gates and states of every step."""

    def activations(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
        return output[0] * ((3 * gates + 4) * output[1] + STEP_COST)

    return activations


_Step: TypeAlias = (
    "Callable[[Tensor, Tensor, Tensor | None, tuple[Tensor, ...]], tuple[Tensor, ...]]"
)
"""(product with the input, weight and bias of the state, states) -> new states, output first."""


def _prepare_lstm(arguments: Arguments, position: int) -> Run:
    import torch

    def step(
        given: Tensor, weight: Tensor, bias: Tensor | None, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        hidden, cell = states
        entry, forget, new, out = torch.addmm(given, hidden, weight).chunk(4, -1)
        cell = torch.addcmul(torch.sigmoid(forget) * cell, torch.sigmoid(entry), torch.tanh(new))
        return torch.sigmoid(out) * torch.tanh(cell), cell

    return _prepare(arguments, step, states=2, fold_bias=True)


def _prepare_gru(arguments: Arguments, position: int) -> Run:
    import torch

    def step(
        given: Tensor, weight: Tensor, bias: Tensor | None, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        hidden = states[0]
        recalled = hidden @ weight if bias is None else torch.addmm(bias, hidden, weight)
        reset, update, new = given.chunk(3, -1)
        reset_h, update_h, new_h = recalled.chunk(3, -1)
        update = torch.sigmoid(update + update_h)
        new = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
        return (new + update * (hidden - new),)

    return _prepare(arguments, step, states=1, fold_bias=False)


def _prepare(arguments: Arguments, step: _Step, *, states: int, fold_bias: bool) -> Run:
    """Return the loop over time that lstm and gru share.

    `fold_bias`: the state's bias is added to the products with the input, once for all steps.
    """
    import torch
    from torch.nn.functional import linear

    hidden, reverse = arguments.whole("hidden_size"), arguments.flag("reverse")

    def run(
        inputs: Sequence[Tensor], parameters: Mapping[str, Tensor | None], moment: Moment
    ) -> Tensor:
        x, weight_ih, weight_hh = inputs[0], parameters["weight_ih"], parameters["weight_hh"]
        assert weight_ih is not None
        assert weight_hh is not None
        bias, bias_hh = parameters.get("bias_ih"), parameters.get("bias_hh")
        if fold_bias and bias is not None and bias_hh is not None:
            bias = bias + bias_hh
        products = linear(x, weight_ih, bias).unbind(1)
        weight = weight_hh.t()
        now = (x.new_zeros(x.shape[0], hidden),) * states
        made = []
        for product in reversed(products) if reverse else products:
            now = step(product, weight, bias_hh, now)
            made.append(now[0])
        return torch.stack(made[::-1] if reverse else made, 1)

    return run


_ARGUMENTS: dict[str, Rule] = {
    "hidden_size": Whole(),
    "bias": Flag(default=True),
    "reverse": Flag(default=False),
}

LSTM = Operator(
    name="lstm",
    arguments=_ARGUMENTS,
    shape=_shape,
    parameters=_parameters(4),
    flops=_flops(4),
    activations=_activations(4),
    prepare=_prepare_lstm,
)
GRU = Operator(
    name="gru",
    arguments=_ARGUMENTS,
    shape=_shape,
    parameters=_parameters(3),
    flops=_flops(3),
    activations=_activations(3),
    prepare=_prepare_gru,
)
