"""Which steps give another view of the tensor they read, and which only ask for its sizes.

A change in place of a view changes the tensor too; so the tracer has to know them.
"""

from __future__ import annotations

from torch import fx, nn

_VIEWS = """
    view view_as reshape reshape_as flatten unflatten squeeze unsqueeze permute transpose t mT T
    movedim moveaxis swapaxes swapdims adjoint getitem __getitem__ select narrow chunk split
    tensor_split unbind expand expand_as contiguous to float type_as diagonal ravel detach squeeze_
    unsqueeze_
"""
_NAMES = frozenset(_VIEWS.split())
_LAYERS = (nn.Identity, nn.Flatten, nn.Unflatten)
_QUESTIONS = frozenset({"size", "dim", "numel", "ndimension", "nelement"})


def only_asks(step: fx.Node) -> bool:
    """Tell whether a step asks for sizes and reads no value."""
    return step.op == "call_method" and step.target in _QUESTIONS


def gives_view(step: fx.Node, module: nn.Module) -> bool:
    """Tell whether what a step gives may share memory with its first argument."""
    if step.op == "call_module":
        return isinstance(module.get_submodule(str(step.target)), _LAYERS)
    name = step.target if isinstance(step.target, str) else getattr(step.target, "__name__", "")
    return name in _NAMES
