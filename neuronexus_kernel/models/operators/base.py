"""What an operator is: a small value that says all there is to know about one allowed operation.

A graph names operators; it never brings code.  Each `Operator` checks its own arguments, derives
the shape of its output and of its parameters with plain Python integers (so that a hostile graph
is refused before anything is allocated), counts its work, and knows how to run.  Torch is
imported only by `Operator.prepare`, so graphs can be read and checked without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators.arguments import Arguments, Rule, show

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Shape: TypeAlias = tuple[int, ...]
"""Sizes of one example's tensor: the batch dimension is never part of it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor of a node's state, and how it starts: uniform in ``centre ± bound``.

    A `trainable` one is moved by the optimiser; the others are running statistics, which the node
    itself renews in training.  Both travel between clients and server.
    """

    shape: Shape
    bound: float = 0.0
    centre: float = 0.0
    trainable: bool = True


@dataclass(frozen=True, slots=True)
class Moment:
    """What a node may know about the pass it runs in.

    Attributes
    ----------
    training
        Whether the module is in training mode.
    noise_key
        int64 scalar that decides all noise of this pass; None when torch's generator does.
    batch
        How many rows the batch has.
    rows
        (batch,) ones for examples and zeros for filling; None when every row is an example.
        Whatever mixes examples, as batch norm does, must leave the filling out.
    statistics
        Where a node leaves the new values of its running statistics in training, under
        (its position in the graph, the parameter's short name); None in evaluation.
    dtype
        Type of the numbers that a node makes of nothing; None for torch's default.
    device
        Where it makes them; None for torch's default.
    """

    training: bool
    noise_key: Tensor | None
    batch: int
    rows: Tensor | None = None
    statistics: dict[tuple[int, str], Tensor] | None = None
    dtype: torch.dtype | None = None
    device: torch.device | None = None


Run: TypeAlias = "Callable[[Sequence[Tensor], Mapping[str, Tensor | None], Moment], Tensor]"
"""Runs a node: (its inputs, its parameters by short name, the moment) -> its output."""

Count: TypeAlias = Callable[[Sequence[Shape], Shape, Arguments], int]
"""Counts something for one example: (shapes of the inputs, shape of the output, arguments)."""


def _no_parameters(inputs: Sequence[Shape], arguments: Arguments) -> dict[str, Parameter]:
    return {}


def one_per_output(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    """Return the count of operators that work once on each element of their output."""
    return math.prod(output)


def _no_workspace(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    return 0


def _only_its_own(given: Shape, arguments: Arguments) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Operator:
    """One allowed operation.

    Attributes
    ----------
    name
        The name a graph uses.
    shape
        (shapes of the inputs, arguments) -> shape of the output; raises `ArchitectureError`.
    prepare
        (arguments, position of the node in its graph) -> the function that runs the node.
        This is where torch is imported.
    arity
        How many tensors it takes.
    arguments
        The argument names it knows, each with its rule.  Any other name is refused.
    parameters
        (shapes of the inputs, arguments) -> its trainable tensors by short name.
    flops
        (shapes of the inputs, shape of the output, arguments) -> floating-point operations of
        one example's forward pass; a multiplication and an addition count as two.
    activations
        (the same) -> numbers that one example's pass leaves in memory for the gradient, its
        output included.
    workspace
        (the same) -> further numbers that it holds only while it runs.
    reads
        (another shape with as many elements, arguments) -> whether, placed at the graph's
        input, it takes that shape too and means the same by it.
    tokens
        Whether its inputs are whole numbers that name something: ``"no"`` takes numbers to
        compute with, ``"yes"`` takes tokens and gives numbers, ``"keep"`` takes either and gives
        the same, ``"gives"`` makes tokens of nothing.
    vocabulary
        (arguments) -> how many tokens it knows, counted from 0, if it takes them, or may give;
        None if it does neither.
    """

    name: str
    shape: Callable[[Sequence[Shape], Arguments], Shape]
    prepare: Callable[[Arguments, int], Run]
    arity: int = 1
    arguments: Mapping[str, Rule] = field(default_factory=dict)
    parameters: Callable[[Sequence[Shape], Arguments], dict[str, Parameter]] = _no_parameters
    flops: Count = one_per_output
    activations: Count = one_per_output
    workspace: Count = _no_workspace
    reads: Callable[[Shape, Arguments], bool] = _only_its_own
    tokens: Literal["no", "yes", "keep", "gives"] = "no"
    vocabulary: Callable[[Arguments], int] | None = None

    def parse(self, given: Mapping[str, object]) -> Arguments:
        """Check arguments against the schema and fill in defaults.

        Raises
        ------
        ArchitectureError
            If an argument is unknown, missing, of the wrong type or out of range.
        """
        for key in given:
            if key not in self.arguments:
                known = ", ".join(self.arguments) or "none"
                raise ArchitectureError(
                    f"argument {show(key)} is unknown to {self.name}; it knows: {known}."
                )
        values = {}
        for name, rule in self.arguments.items():
            value = given.get(name, rule.default)
            if value is None:
                raise ArchitectureError(f"argument '{name}' of {self.name} is missing.")
            values[name] = rule.parse(name, value)
        return Arguments(tuple(sorted(values.items())))


def same_shape(inputs: Sequence[Shape], arguments: Arguments) -> Shape:
    """Return the shape rule of operators that keep their input's shape."""
    return inputs[0]


def free(inputs: Sequence[Shape], output: Shape, arguments: Arguments) -> int:
    """Return the count of operators that compute nothing."""
    return 0


def check_dimension(dimension: int, shape: Shape) -> None:
    """Check that a dimension, counted from the end, is one of the example's.

    Raises
    ------
    ArchitectureError
        If the shape has fewer.
    """
    rank = len(shape)
    if -dimension > rank:
        raise ArchitectureError(
            f"its dimension {dimension} is out of reach: its input {shape} has {rank} dimensions "
            f"besides the batch; use a value from -{rank} to -1."
        )


def image(shape: Shape) -> tuple[int, int, int]:
    """Return (channels, height, width).

    Raises
    ------
    ArchitectureError
        If the shape has another number of dimensions.
    """
    if len(shape) != 3:
        raise ArchitectureError(
            f"it needs an image (channels, height, width), but its input is {shape}; "
            "put a reshape before it, such as x.reshape(-1, 1, 28, 28)."
        )
    return shape


def series(shape: Shape) -> tuple[int, int]:
    """Return (channels, length).

    Raises
    ------
    ArchitectureError
        If the shape has another number of dimensions.
    """
    if len(shape) != 2:
        raise ArchitectureError(
            f"it needs a series (channels, length), but its input is {shape}; put a reshape "
            "before it."
        )
    return shape
