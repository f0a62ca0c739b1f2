"""A training step as a fixed list of actions, compiled from an architecture's graph.

Automatic differentiation records what a program did and plays it backwards.  A model that is a
graph of known operators needs no recording: each operator's derivative is known beforehand (its
*rule*), so the backward pass is derived once and then only repeated.  What follows from that:

* all buffers are made once and used again at every step;
* what nobody needs, such as the gradient of the input, is never computed;
* a weight's gradient is never stored: the product that forms it adds to the weight at once
  (`updates`).  Hence the one law of order: what a layer hands down to its input is computed before
  its own weights change.

Every tensor holds a whole chunk of clients, which is its first dimension; the second is the
batch.  A rule writes its forward actions when it is called and returns a function that writes its
backward actions; those functions are called from the last node to the first.  A `Slot` carries a
node's value forward and the derivative of the loss by it, its *delta*, back.  Each delta belongs to
one slot alone, so that it may be changed in place or handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from neuronexus_kernel.federation.executors.fused.updates import Updates
from neuronexus_kernel.models.operators import Arguments, Shape

if TYPE_CHECKING:
    from neuronexus_kernel.federation.executors.batches import Batch

Action: TypeAlias = Callable[[], object]
"""A part of a step, with all that it works on bound to it."""

Derive: TypeAlias = Callable[[], None]
"""Writes the backward actions of a node, once all its readers have written theirs."""


@dataclass(slots=True, eq=False)
class Slot:
    """What a node makes.

    Attributes
    ----------
    shape
        (clients, batch, \\*shape of one example).
    readers
        How many inputs of later nodes, or the loss, read it.
    wanted
        Whether anything that is trained depends on its delta.
    image
        Whether it is (clients, batch, channels, height, width) with the channels last in memory,
        the layout on which convolution and pooling are fastest.
    kept
        Whether its maker needs the value again in the backward pass, so that no reader may
        change it in place.
    reached
        Whether a reader has written its part of the delta already (while deriving).
    value, delta
        The tensors of the present step.
    """

    shape: Shape
    readers: int
    wanted: bool
    image: bool = False
    kept: bool = False
    reached: bool = False
    value: Tensor = field(init=False)
    delta: Tensor = field(init=False)

    @property
    def free(self) -> bool:
        """Whether its only reader may change the value in place."""
        return self.readers == 1 and not self.kept


class Feed:
    """What changes from step to step and is none of the graph's business."""

    batch: Batch
    losses: Tensor


class Buffers:
    """Memory of the programs of one chunk: the n-th request of each gets the same piece.

    A program for fewer active clients asks for the same things in the same order, only smaller.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._pieces: list[Tensor] = []

    def taker(self) -> Callable[[Shape], Tensor]:
        """Return a function that hands out the pieces one after another, as shapes."""
        place = 0

        def take(shape: Shape) -> Tensor:
            nonlocal place
            count = torch.Size(shape).numel()
            if place == len(self._pieces):
                self._pieces.append(torch.empty(count, dtype=self.dtype))
            piece = self._pieces[place]
            place += 1
            return piece[:count].view(shape)

        return take


@dataclass(frozen=True, slots=True)
class Site:
    """Where a rule works: one node of the graph, and the means to write its actions.

    Attributes
    ----------
    arguments
        The node's.
    position
        The node's place in its graph: part of the address of its noise.
    clients, batch
        Sizes of the first two dimensions of every tensor.
    inputs, output
        What it reads and what it makes.
    state, names
        Its tensors, (clients, \\*shape), and their full names, by short name.
    updates
        How trained tensors move.
    feed
        Holds the present batch.
    forward, backward
        Actions of the program so far; a rule appends its own.
    take
        Hands out a buffer of a shape, not initialised.
    """

    arguments: Arguments
    position: int
    clients: int
    batch: int
    inputs: tuple[Slot, ...]
    output: Slot
    state: Mapping[str, Tensor]
    names: Mapping[str, str]
    updates: Updates
    feed: Feed
    forward: list[Action]
    backward: list[Action]
    take: Callable[[Shape], Tensor]

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the training."""
        return self.updates.dtype

    def buffer(self, shape: Shape, *, image: bool = False) -> Tensor:
        """Return memory, not initialised, for a value of this shape, as an image if asked."""
        if not image:
            return self.take(shape)
        clients, batch, channels, height, width = shape
        return self.take((clients, batch, height, width, channels)).permute(0, 1, 4, 2, 3)

    def write(self, slot: Slot, action: Callable[[Tensor], object], *, image: bool = False) -> None:
        """Let `action` write a part of a slot's delta into a buffer; parts are added."""
        buffer = self.buffer(slot.shape, image=image)

        def written() -> Tensor:
            action(buffer)
            return buffer

        self.give(slot, written)

    def join(self, shape: Shape, *, image: bool = False) -> Callable[[Sequence[Tensor]], Tensor]:
        """Return what makes one tensor of the clients' own: a view if there is one client."""
        buffer = self.buffer(shape, image=image)

        def joined(each: Sequence[Tensor]) -> Tensor:
            if len(each) == 1:
                return each[0].unsqueeze(0)
            for place, tensor in enumerate(each):
                buffer[place].copy_(tensor)
            return buffer

        return joined

    def give(self, slot: Slot, action: Callable[[], Tensor]) -> None:
        """Let `action` return a part of a slot's delta: a tensor that nobody else holds."""
        if slot.reached:
            self.backward.append(lambda: slot.delta.add_(action()))
            return

        def assign() -> None:
            slot.delta = action()

        slot.reached = True
        self.backward.append(assign)

    def descend(self, short: str, gradient: Callable[[], Tensor]) -> None:
        """Move a trained tensor against the gradient (clients, \\*shape) that is returned."""
        move = self.updates.by_gradient(self.names[short], self.state[short])
        self.backward.append(lambda: move(gradient()))

    def descend_product(
        self, short: str, factors: Callable[[], tuple[Tensor, Tensor]], weight: Tensor | None = None
    ) -> None:
        """Move a trained tensor against the gradient that is the product of two factors.

        Parameters
        ----------
        short
            Which tensor.
        factors
            Returns them: (clients, rows, n) and (clients, n, columns).
        weight
            The tensor, seen as (clients, rows, columns); itself when absent.
        """
        seen = self.state[short] if weight is None else weight
        move = self.updates.by_product(self.names[short], self.state[short], seen)
        self.backward.append(lambda: move(*factors()))

    def descend_bias(self, short: str, rows: Callable[[], Tensor]) -> None:
        """Move a bias against the sum of rows (clients, n, size): a product with ones."""
        seen = self.state[short].unsqueeze(1)
        move = self.updates.by_product(self.names[short], self.state[short], seen)
        count = 0
        ones = seen

        def act() -> None:
            nonlocal count, ones
            taken = rows()
            if taken.shape[1] != count:
                count = taken.shape[1]
                ones = seen.new_ones(self.clients, 1, count)
            move(ones, taken)

        self.backward.append(act)


Rule: TypeAlias = Callable[[Site], Derive]
"""Knows one operator: writes its forward actions and returns what writes the backward ones."""


@dataclass(frozen=True, slots=True)
class Program:
    """One training step of a chunk's active clients, with batches of one size.

    Attributes
    ----------
    start
        Slot of the graph's input.
    feed
        Takes the batch.
    actions
        The step.
    """

    start: Slot
    feed: Feed
    actions: tuple[Action, ...]

    def step(self, batch: Batch) -> Tensor:
        """Move the clients' models; return each example's loss, (clients, batch), a buffer."""
        self.feed.batch = batch
        self.start.value = batch.inputs
        for action in self.actions:
            action()
        return self.feed.losses
