"""Tracing a module with torch.fx, in training and in evaluation mode.

Source: Reed et al., "torch.fx: practical program capture and transformation", MLSys 2022.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from torch import fx, nn
from torch.fx.proxy import TraceError

from neuronexus_kernel.errors import ArchitectureError


@contextmanager
def modes_restored(module: nn.Module) -> Iterator[None]:
    """Put every submodule back into training or evaluation mode at the end."""
    modes = [(each, each.training) for each in module.modules()]
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training


def trace(
    module: nn.Module, leaves: Collection[type[nn.Module]]
) -> tuple[list[fx.Node], dict[str, object]]:
    """Return the steps of a module that its output depends on.

    Parameters
    ----------
    module
        Its own code runs, with placeholders instead of tensors.
    leaves
        Layers that are not looked into, besides those of PyTorch.

    Returns
    -------
    tuple
        The steps in training mode, and for each ``F.dropout`` its ``training`` argument in
        evaluation mode.

    Raises
    ------
    ArchitectureError
        If the module cannot be traced, or does other things in evaluation than in training.
    """
    with modes_restored(module):
        module.train()
        training = _trace(module, leaves)
        module.eval()
        evaluation = _trace(module, leaves)
    return _steps_of_use(training), _dropping_in_evaluation(training, evaluation)


class _Tracer(fx.Tracer):
    """torch.fx's tracer, saying in our words what cannot be traced."""

    def __init__(self, leaves: Collection[type[nn.Module]]) -> None:
        super().__init__()
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Stop at PyTorch's own layers; look into everybody else's."""
        return type(m) in self._leaves or super().is_leaf_module(m, module_qualified_name)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Refuse a decision that depends on a tensor."""
        _refuse(obj, "an 'if', 'while' or 'assert' depends on its value")

    def iter(self, obj: fx.Proxy) -> Iterator[object]:
        """Refuse a loop over a tensor."""
        _refuse(obj, "a loop, or Python's own arithmetic, goes through its elements")


def _refuse(obj: fx.Proxy, reason: str) -> NoReturn:
    raise ArchitectureError(
        f"Step '{obj.node.name}': {reason}. A captured network does the same for every input; "
        "let it depend on numbers given to __init__ instead."
    )


def _trace(module: nn.Module, leaves: Collection[type[nn.Module]]) -> list[fx.Node]:
    try:
        return list(_Tracer(leaves).trace(module).nodes)
    except ArchitectureError:
        raise
    except Exception as error:
        # The module's own code runs here, so anything may come out of it.
        advice = "write plain layers and functions"
        if isinstance(error, RuntimeError) and "'len'" in str(error):
            advice = "write x.shape[0] for the batch size"
        elif isinstance(error, TraceError):
            advice = "let nothing depend on the values of tensors"
        raise ArchitectureError(
            f"The forward of {type(module).__name__} cannot be traced "
            f"({type(error).__name__}: {str(error)[:200]}); {advice}."
        ) from error


def _steps_of_use(steps: Sequence[fx.Node]) -> list[fx.Node]:
    """Leave out steps that the output does not depend on; the input itself stays."""
    needed = {steps[-1]}
    kept = []
    for step in reversed(steps):
        if step in needed or step.op == "placeholder":
            needed.update(step.all_input_nodes)
            kept.append(step)
    return kept[::-1]


def _dropping_in_evaluation(
    training: Sequence[fx.Node], evaluation: Sequence[fx.Node]
) -> dict[str, object]:
    """Check that both modes do the same but for dropout, and return what dropout does.

    A trace holds the value of ``self.training``, not the question; so both values are tried.
    """
    dropping: dict[str, object] = {}
    for first, second in zip(training, evaluation, strict=False):
        left, right = dict(first.kwargs), dict(second.kwargs)
        if first.target is nn.functional.dropout:
            left.pop("training", None)
            dropping[first.name] = right.pop("training", True)
        same = (first.op, first.target, first.args, left)
        if str(same) != str((second.op, second.target, second.args, right)):
            raise ArchitectureError(
                f"Step '{first.name}': the module does something else in training than in "
                "evaluation; only dropout may depend on self.training."
            )
    if len(training) != len(evaluation):
        raise ArchitectureError(
            "The module does not take the same steps in training and in evaluation; only "
            "dropout may depend on self.training."
        )
    return dropping
