"""Checking that a module does the same in training and in evaluation, but for what may differ.

A trace holds the value of ``self.training``, not the question; so both values are tried.  Only
dropout and batch norm may depend on it, and their rules look at how.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.nn import functional as F

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.trace import Trace

_ADVICE = "only dropout and batch norm may depend on self.training"

# The argument that says whether it is on: its name and its place.
_FOLLOWING = {
    F.dropout: ("training", 2),
    F.dropout1d: ("training", 2),
    F.dropout2d: ("training", 2),
    F.batch_norm: ("training", 5),
    F.scaled_dot_product_attention: ("dropout_p", 4),
}


def check_modes(training: Trace, evaluation: Trace) -> None:
    """Compare the traces of both modes.

    Raises
    ------
    ArchitectureError
        Naming the first step that differs.
    """
    for first, second in zip(training.steps, evaluation.steps, strict=False):
        if _without_setting(first) != _without_setting(second):
            raise ArchitectureError(
                f"Step '{first.name}': the module does something else in training than in "
                f"evaluation; {_ADVICE}."
            )
    if len(training.steps) != len(evaluation.steps):
        raise ArchitectureError(
            f"The module does not take the same steps in training and in evaluation; {_ADVICE}."
        )
    for left, right in zip(training.constants, evaluation.constants, strict=True):
        if left is not right and not _equal(left, right):
            raise ArchitectureError(
                "A constant of the module differs between two calls, or between training and "
                f"evaluation; make it in __init__ and use self.register_buffer; {_ADVICE}."
            )


def _equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.shape == right.shape and bool(torch.equal(left, right))


def _without_setting(step: fx.Node) -> str:
    args, kwargs = list(step.args), dict(step.kwargs)
    if step.op == "call_function" and step.target in _FOLLOWING:
        name, place = _FOLLOWING[step.target]
        kwargs.pop(name, None)
        args[place : place + 1] = []
    return str((step.op, step.target, args, sorted(kwargs.items(), key=str)))
