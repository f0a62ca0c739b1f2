"""The interpreter: a PyTorch module that walks a checked graph.

It looks operators up in our own table and parameters in its own dictionaries; no name from a
graph is ever turned into code or an attribute.  It is an ordinary module, so optimisers,
``torch.func.functional_call`` and ``torch.func.vmap`` work on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import weights as weight_files
from neuronexus_kernel.models.graph import INPUT, Node
from neuronexus_kernel.models.operators import OPERATORS, Moment, Run

if TYPE_CHECKING:
    from neuronexus_kernel.models.architecture import Architecture


class Layer(nn.Module):
    """Holds the parameters of one node; the `Interpreter` runs it.

    Parameters
    ----------
    values
        Tensors by short name, such as ``weight`` and ``bias``.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(value))


@dataclass(frozen=True, slots=True)
class _Step:
    """A node ready to run: slots instead of names, and the slots nobody reads afterwards."""

    run: Run
    name: str
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
            self.add_module(node, Layer(values))
        self._steps = _steps(architecture.nodes)
        self._accepted = architecture.input_shape

    def forward(self, x: Tensor) -> Tensor:
        """Compute the graph.

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
        self._check(x)
        moment = Moment(self.training, self.noise_key if self.keyed else None)
        values: list[Tensor | None] = [x]
        for step in self._steps:
            layer = self._modules.get(step.name)
            parameters = {} if layer is None else layer._parameters
            inputs = [value for slot in step.inputs if (value := values[slot]) is not None]
            values.append(step.run(inputs, parameters, moment))
            for slot in step.release:
                values[slot] = None
        result = values[-1]
        assert result is not None
        return result

    def _check(self, x: Tensor) -> None:
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


def _steps(nodes: Sequence[Node]) -> tuple[_Step, ...]:
    slots = {INPUT: 0, **{node.name: index + 1 for index, node in enumerate(nodes)}}
    last = {slots[name]: node.name for node in nodes for name in node.inputs}
    return tuple(
        _Step(
            run=OPERATORS[node.operator].prepare(node.arguments, position),
            name=node.name,
            inputs=tuple(slots[name] for name in node.inputs),
            release=tuple(slot for slot, name in last.items() if name == node.name),
        )
        for position, node in enumerate(nodes)
    )
