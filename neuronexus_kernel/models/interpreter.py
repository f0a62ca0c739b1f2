"""The interpreter: a PyTorch module that walks a checked graph.

It looks operators up in our own table and parameters in its own dictionaries; no name from a
graph is ever turned into code or an attribute.  It is an ordinary module, so optimisers,
``torch.func.functional_call`` and ``torch.func.vmap`` work on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import weights as weight_files
from neuronexus_kernel.models.graph import INPUT
from neuronexus_kernel.models.operators import OPERATORS, Moment, Parameter, Run

if TYPE_CHECKING:
    from neuronexus_kernel.models.architecture import Architecture


class Layer(nn.Module):
    """Holds the tensors of one node; the `Interpreter` runs it.

    Parameters
    ----------
    values
        Tensors by short name, such as ``weight`` and ``running_mean``.
    specs
        What each of them is.
    """

    def __init__(self, values: Mapping[str, Tensor], specs: Mapping[str, Parameter]) -> None:
        super().__init__()
        for name, value in values.items():
            if specs[name].trainable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)


@dataclass(frozen=True, slots=True)
class _Step:
    """A node ready to run: slots instead of names, and the slots nobody reads afterwards."""

    run: Run
    states: tuple[tuple[str, str], ...]
    inputs: tuple[int, ...]
    release: tuple[int, ...]


class Interpreter(nn.Module):
    """Computes an architecture.

    Parameters
    ----------
    architecture
        A checked graph.
    weights
        Arrays by parameter name, of exactly the architecture's names and shapes.

    Attributes
    ----------
    keyed
        False: dropout draws from torch's generator.  True: dropout masks in training are a hash
        of `noise_key`, the node, and each element's place in its own example and batch.
    noise_key
        int64 scalar buffer, not part of the state dict.
    """

    noise_key: Tensor

    def __init__(self, architecture: Architecture, weights: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        weight_files.check(weights, architecture.parameter_shapes)
        self.architecture = architecture
        self.keyed = False
        self.register_buffer("noise_key", torch.zeros((), dtype=torch.int64), persistent=False)
        for node, specs in architecture.layout.parameters.items():
            values = {name: torch.tensor(weights[f"{node}.{name}"]) for name in specs}
            self.add_module(node, Layer(values, specs))
        self._homes = {
            f"{node}.{short}": (node, short)
            for node, specs in architecture.layout.parameters.items()
            for short in specs
        }
        self._steps = _steps(architecture)
        self._positions = {
            (place, short): full
            for place, node in enumerate(architecture.nodes)
            for short, full in architecture.layout.states.get(node.name, {}).items()
        }
        self._accepted = architecture.input_shape
        self._takes_tokens = architecture.input_dtype == "int64"

    def forward(self, x: Tensor) -> Tensor:
        """Compute the graph; in training, renew its running statistics.

        Parameters
        ----------
        x
            Batch of examples, (batch, \\*shape) with a shape that the architecture accepts.

        Returns
        -------
        Tensor
            (batch, \\*output_shape).

        Raises
        ------
        ArchitectureError
            If the examples have another shape.
        """
        key = self.noise_key if self.keyed else None
        result, statistics = self.compute(self.state(), x, training=self.training, noise_key=key)
        with torch.no_grad():
            for name, value in statistics.items():
                self._tensor(name).copy_(value)
        return result

    def state(self) -> dict[str, Tensor]:
        """Return the module's own tensors, trainable or not, by full name: not copies."""
        return {name: self._tensor(name) for name in self._homes}

    def compute(
        self,
        state: Mapping[str, Tensor],
        x: Tensor,
        *,
        training: bool,
        noise_key: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the graph as a pure function, for ``torch.func`` and for other executors.

        Parameters
        ----------
        state
            Tensors by full name; nothing is written to them.
        x
            Batch of examples, (batch, \\*shape).
        training
            Whether dropout drops and statistics are those of the batch.
        noise_key
            int64 scalar that decides all noise; None when torch's generator does.
        rows
            (batch,) ones for examples and zeros for filling; None when every row counts.

        Returns
        -------
        tuple
            The result (batch, \\*output_shape), and the new running statistics by full name
            (empty in evaluation).

        Raises
        ------
        ArchitectureError
            If the examples have another shape.
        """
        self._check(x)
        statistics: dict[tuple[int, str], Tensor] = {}
        first = next(iter(state.values()), x)
        moment = Moment(
            training=training,
            noise_key=noise_key,
            batch=x.shape[0],
            rows=rows,
            statistics=statistics if training else None,
            dtype=first.dtype if first.is_floating_point() else None,
            device=x.device,
        )
        values: list[Tensor | None] = [x]
        for step in self._steps:
            tensors = {short: state[full] for short, full in step.states}
            inputs = [value for slot in step.inputs if (value := values[slot]) is not None]
            values.append(step.run(inputs, tensors, moment))
            for slot in step.release:
                values[slot] = None
        result = values[-1]
        assert result is not None
        return result, {self._positions[at]: value for at, value in statistics.items()}

    def _tensor(self, name: str) -> Tensor:
        node, short = self._homes[name]
        layer = self._modules[node]
        assert layer is not None
        value: Tensor | None = layer._parameters.get(short)
        if value is None:
            value = layer._buffers[short]
        assert value is not None
        return value

    def _check(self, x: Tensor) -> None:
        if x.is_floating_point() == self._takes_tokens:
            wanted = "tokens (int64)" if self._takes_tokens else "numbers (float32 or float64)"
            raise ArchitectureError(f"The model takes {wanted}, but was given {x.dtype}.")
        shape = tuple(x.shape[1:])
        if shape == self._accepted:
            return
        if x.dim() == 0 or not self.architecture.accepts(shape):
            raise ArchitectureError(
                f"The model takes (batch, {str(self.architecture.input_shape)[1:]}, "
                f"but was given {tuple(x.shape)}."
            )
        self._accepted = shape

    def extra_repr(self) -> str:
        """Describe the graph for ``print``."""
        return repr(self.architecture)


def _steps(architecture: Architecture) -> tuple[_Step, ...]:
    nodes, states = architecture.nodes, architecture.layout.states
    slots = {INPUT: 0, **{node.name: index + 1 for index, node in enumerate(nodes)}}
    last = {slots[name]: place for place, node in enumerate(nodes) for name in node.inputs}
    released: list[list[int]] = [[] for _ in nodes]
    for slot, place in last.items():
        released[place].append(slot)
    return tuple(
        _Step(
            run=OPERATORS[node.operator].prepare(node.arguments, position),
            states=tuple(states.get(node.name, {}).items()),
            inputs=tuple(slots[name] for name in node.inputs),
            release=tuple(released[position]),
        )
        for position, node in enumerate(nodes)
    )
