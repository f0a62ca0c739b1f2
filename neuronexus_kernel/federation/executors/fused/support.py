"""What the fused executor can train, and why it cannot train the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuronexus_kernel.federation.executors.fused.losses import LOSS_RULES
from neuronexus_kernel.federation.executors.fused.rules import RULES

if TYPE_CHECKING:
    from neuronexus_kernel.federation.recipe import Recipe


def refusal(recipe: Recipe, *, corrections: bool = False, own: bool = False) -> str | None:
    """Say in a phrase why a recipe cannot be trained here.

    Parameters
    ----------
    recipe
        How to train.
    corrections
        Whether clients' gradients are corrected (SCAFFOLD); that is no hindrance.
    own
        Whether clients start from tensors of their own (FedBN, Ditto); neither is that.

    Returns
    -------
    str or None
        Such as ``"its optimiser is adam"``; None if nothing is in the way.
    """
    architecture = recipe.architecture
    if recipe.optimiser != "sgd":
        return f"its optimiser is {recipe.optimiser}"
    if recipe.momentum:
        return "it has momentum"
    if recipe.gradient_clip:
        return "it clips gradients"
    if recipe.loss not in LOSS_RULES:
        return f"its loss {recipe.loss} has no rule for the backward pass"
    if any(node.shared for node in architecture.nodes):
        return "its layers share parameters"
    for node in architecture.nodes:
        if node.operator not in RULES:
            return f"its operator {node.operator} has no rule for the backward pass"
    if not any(spec.trainable for spec in architecture.parameters.values()):
        return "its model has no parameters to train"
    return None
