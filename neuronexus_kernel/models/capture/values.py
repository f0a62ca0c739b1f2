"""The values of a trace: tensors that a graph computes, parameters, constants, the batch size.

A tensor of the trace is an example's tensor of the graph plus the place where PyTorch has the
batch in it: first as a rule, second in sequences of recurrent layers, nowhere in what does not
depend on the input (positions, a class token).  So `permute` may move the batch about, and no
rule can ever mix examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import torch
from torch import Tensor

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators import Shape

MASKED = -1e30
"""Stands for minus infinity, which no document can carry: softmax makes the same zero of it."""


class Batch(Enum):
    """The size of the batch: a number that a graph never knows."""

    SIZE = "the batch size"


BATCH: Final = Batch.SIZE


def with_batch(shape: Shape, batch: int | None) -> tuple[int | Batch, ...]:
    """Return the sizes PyTorch has, of the shape of one example and the place of the batch."""
    return shape if batch is None else (*shape[:batch], BATCH, *shape[batch:])


@dataclass(frozen=True, slots=True)
class Traced:
    """A tensor of the trace.

    Attributes
    ----------
    name
        The node that makes it.
    shape
        Shape of one example.
    batch
        Where PyTorch has the batch dimension; None where it has none.
    """

    name: str
    shape: Shape
    batch: int | None = 0

    @property
    def full(self) -> tuple[int | Batch, ...]:
        """The sizes PyTorch has."""
        return with_batch(self.shape, self.batch)


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter of the captured module: its path there and its shape, perhaps transposed."""

    path: str
    shape: Shape
    transposed: bool = False

    @property
    def full(self) -> Shape:
        """The sizes PyTorch has."""
        return self.shape[::-1] if self.transposed else self.shape


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A tensor that depends on neither input nor parameters.

    Attributes
    ----------
    value
        Without the batch dimension.
    batch
        Where PyTorch has the batch dimension; None where it has none.
    path
        The buffer of the module that it is, if it is one.
    """

    value: Tensor
    batch: int | None = None
    path: str = ""

    @property
    def full(self) -> tuple[int | Batch, ...]:
        """The sizes PyTorch has."""
        return with_batch(tuple(self.value.shape), self.batch)

    @property
    def number(self) -> float | None:
        """The value of a single element without a batch, or None."""
        if self.batch is not None or self.value.numel() != 1:
            return None
        return finite(float(self.value))


@dataclass(frozen=True, slots=True)
class Stacked:
    """Several tensors, batch first, on top of each other: the last states of recurrent layers."""

    parts: tuple[Traced, ...]

    @property
    def full(self) -> tuple[int | Batch, ...]:
        """The sizes PyTorch has."""
        return (len(self.parts), *self.parts[0].full)


@dataclass(frozen=True, slots=True)
class Refused:
    """What cannot be captured; an error only if the output depends on it."""

    error: ArchitectureError


Tensorlike: TypeAlias = Traced | Weight | Constant | Stacked


def finite(number: float) -> float:
    """Return a number, or `MASKED` for minus infinity.

    Raises
    ------
    ArchitectureError
        If it is infinite above or no number.
    """
    if number == -torch.inf or number <= torch.finfo(torch.float32).min:
        return MASKED
    if number != number or number == torch.inf:
        raise ArchitectureError(f"it uses the constant {number}; only finite numbers and -inf can.")
    return number


def shape_text(full: tuple[int | Batch, ...]) -> str:
    """Return sizes as people write them, such as ``(batch, 3, 32)``."""
    inside = ", ".join("batch" if size is BATCH else str(size) for size in full)
    return f"({inside}{',' if len(full) == 1 else ''})"
