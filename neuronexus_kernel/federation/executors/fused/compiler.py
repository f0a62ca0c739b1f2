"""From an architecture to a program: rules called forwards, then their derivatives backwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from neuronexus_kernel.federation.executors.fused.losses import LOSS_RULES
from neuronexus_kernel.federation.executors.fused.program import (
    Action,
    Buffers,
    Feed,
    Program,
    Site,
    Slot,
)
from neuronexus_kernel.federation.executors.fused.rules import RULES
from neuronexus_kernel.federation.executors.fused.updates import Updates
from neuronexus_kernel.models.graph import INPUT

if TYPE_CHECKING:
    from neuronexus_kernel.federation.recipe import Recipe


def compile_step(
    recipe: Recipe,
    state: Mapping[str, Tensor],
    *,
    batch: int,
    updates: Updates,
    buffers: Buffers,
) -> Program:
    """Return the training step of a recipe's architecture.

    Parameters
    ----------
    recipe
        Names the architecture and the loss.
    state
        The active clients' models by full name, (clients, \\*shape): the step moves them.
    batch
        Examples of a client in a step, filling included.
    updates
        How they move.
    buffers
        Memory to work in; the programs of a chunk share it, since they run one after another.
    """
    architecture = recipe.architecture
    layout, feed, take = architecture.layout, Feed(), buffers.taker()
    clients = len(next(iter(state.values())))
    readers = Counter(name for node in architecture.nodes for name in node.inputs)
    readers[architecture.output] += 1
    start = Slot(
        (clients, batch, *architecture.input_shape), readers[INPUT], wanted=False, kept=True
    )
    slots = {INPUT: start}
    forward: list[Action] = []
    backward: list[Action] = []
    derivatives = []
    for position, node in enumerate(architecture.nodes):
        inputs = tuple(slots[name] for name in node.inputs)
        names = layout.states.get(node.name, {})
        output = slots[node.name] = Slot(
            (clients, batch, *layout.shapes[node.name]),
            readers[node.name],
            wanted=bool(names) or any(slot.wanted for slot in inputs),
        )
        site = Site(
            node.arguments,
            position,
            clients,
            batch,
            inputs,
            output,
            {short: state[full] for short, full in names.items()},
            names,
            updates,
            feed,
            forward,
            backward,
            take,
        )
        derivatives.append((output, RULES[node.operator](site)))
    last = slots[architecture.output]
    feed.losses = take((clients, batch))
    backward.append(LOSS_RULES[recipe.loss](last, feed, take, recipe.label_smoothing))
    for output, derive in reversed(derivatives):
        if output.wanted:
            derive()
    actions = (*forward, *backward)
    # The actions hold their sites, and these the lists: without a cut the buffers of a chunk would
    # outlive it until the garbage collector comes by.
    forward.clear()
    backward.clear()
    return Program(start, feed, actions)
