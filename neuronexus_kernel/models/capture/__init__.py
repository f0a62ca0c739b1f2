"""From an ordinary PyTorch module to a graph of allowed operators.

torch.fx calls the module's ``forward``; each call it makes is looked up in our tables and
translated; a call that is not there is refused by name.  The trace is then thrown away: nothing
of it is ever run.  The graph is brought into its one form, and at the end compared with the
module on random numbers, so that a capture is right or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx, nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture import constants
from neuronexus_kernel.models.capture.canonical import Canonical, canonical
from neuronexus_kernel.models.capture.comparison import compare, first_result, tensor_like
from neuronexus_kernel.models.capture.context import Tables, Translation
from neuronexus_kernel.models.capture.hints import hint
from neuronexus_kernel.models.capture.modes import check_modes
from neuronexus_kernel.models.capture.tables import FUNCTIONS, METHODS, MODULES
from neuronexus_kernel.models.capture.trace import modes_restored, trace
from neuronexus_kernel.models.capture.values import Stacked, Traced
from neuronexus_kernel.models.graph import INPUT
from neuronexus_kernel.models.interpreter import Interpreter
from neuronexus_kernel.models.operators import Shape

if TYPE_CHECKING:
    from neuronexus_kernel.models.architecture import Architecture

__all__ = ["capture", "weights_of"]


def capture(kind: type[Architecture], module: nn.Module, example_input: object) -> Architecture:
    """Translate a module into an architecture; see `Architecture.capture`."""
    if not isinstance(module, nn.Module):
        raise ArchitectureError(
            f"Only a torch.nn.Module can be captured, not a {type(module).__name__}."
        )
    if isinstance(module, Interpreter):
        return module.architecture
    shape, tokens = _example(example_input)
    found = _translated(module, shape, tokens=tokens)
    _check_trained(module, found.sources)
    dtype = "int64" if tokens else "float32"
    captured = kind(shape, found.nodes, found.output, found.sources, dtype)
    compare(module, captured, captured.build(_read(module, captured.sources)))
    return captured


def weights_of(architecture: Architecture, module: nn.Module) -> dict[str, np.ndarray]:
    """Return a module's weights under canonical names; see `Architecture.weights_of`."""
    shapes, sources = architecture.parameter_shapes, architecture.sources
    if isinstance(module, Interpreter) and module.architecture == architecture:
        return _read(module, {name: name for name in shapes})
    there = {path: tuple(value.shape) for path, value in _tensors(module).items()}
    if sources and all(there.get(sources[name]) == shape for name, shape in shapes.items()):
        return _read(module, sources)
    example = np.zeros((1, *architecture.input_shape), architecture.input_dtype)
    other = capture(type(architecture), module, example)
    if other != architecture:
        raise ArchitectureError(
            f"The module computes another graph than this one: {other!r} against "
            f"{architecture!r}; capture it anew."
        )
    return _read(module, other.sources)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters and buffers by path, under all their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _read(module: nn.Module, sources: Mapping[str, str]) -> dict[str, np.ndarray]:
    values = _tensors(module)
    weights = {}
    for name in sorted(sources):
        value = values[sources[name]].detach().cpu()
        if value.dtype == torch.bfloat16:  # NumPy has no such type
            value = value.float()
        weights[name] = np.array(value.numpy())
    return weights


def _example(example: object) -> tuple[Shape, bool]:
    """Return the shape of one example, and whether it holds tokens."""
    if not isinstance(example, (Tensor, np.ndarray)):
        raise ArchitectureError(
            "The example input must be a tensor or array with a batch dimension, such as "
            f"torch.zeros(1, 64), not a {type(example).__name__}."
        )
    shape = tuple(int(size) for size in example.shape)
    if len(shape) < 2 or 0 in shape:
        raise ArchitectureError(
            f"The example input has shape {shape}; it needs a batch dimension and at least one "
            "more, such as torch.zeros(1, 64)."
        )
    kind = torch.from_numpy(np.zeros(0, example.dtype)).dtype if _is_array(example) else None
    dtype = example.dtype if isinstance(example, Tensor) else kind
    if dtype is None or dtype.is_complex or dtype == torch.bool:
        raise ArchitectureError(
            f"The example input has dtype {example.dtype}; give numbers (float32) or tokens "
            "(int64)."
        )
    return shape[1:], not dtype.is_floating_point


def _is_array(example: object) -> bool:
    return isinstance(example, np.ndarray) and example.dtype.kind in "iufb"


def _translated(module: nn.Module, shape: Shape, *, tokens: bool) -> Canonical:
    """Trace a module in both modes and return the graph of the training mode."""
    tables, like = Tables(MODULES, FUNCTIONS), tensor_like(module)
    with modes_restored(module):
        module.eval()
        first = Translation(module, shape, tables=tables, tokens=tokens)
        evaluation = trace(module, first, _step, like=like)
        module.train()
        g = Translation(module, shape, tables=tables, tokens=tokens, evaluation=first.settings)
        training = trace(module, g, _step, like=like)
    check_modes(training, evaluation)
    result = first_result(training.result)
    result = g.tensor(result) if isinstance(result, Stacked) else result
    if not isinstance(result, Traced) or result.name == INPUT or result.batch is None:
        raise ArchitectureError(
            "The module must return one tensor that it computed from its input; return the "
            "scores alone."
        )
    if result.batch != 0:
        raise ArchitectureError(
            "The module returns a tensor with the batch at dimension "
            f"{result.batch}; permute it to the front."
        )
    return canonical(g.graph, result.name, g.sources)


def _check_trained(module: nn.Module, sources: Mapping[str, str]) -> None:
    """Refuse parameters that are frozen while others are not: here all of them are trained."""
    frozen = {
        path
        for path, value in module.named_parameters(remove_duplicate=False)
        if not value.requires_grad
    }
    used = {path for path in sources.values() if path in frozen}
    trained = dict(module.named_parameters(remove_duplicate=False)).keys() - frozen
    if used and trained:
        raise ArchitectureError(
            f"The parameter '{min(used)}' has requires_grad=False, but a network's parameters are "
            "all trained; keep what is fixed with self.register_buffer, or call "
            ".requires_grad_(True)."
        )


def _step(g: Translation, step: fx.Node, args: list[object], kwargs: dict[str, object]) -> object:
    """Translate one step; errors name it."""
    try:
        return _value(g, step, args, kwargs)
    except ArchitectureError as error:
        raise ArchitectureError(f"Step '{step.name}' ({_called(step)}): {error}") from None
    except TypeError as error:
        # A rule has the signature of what it translates: these arguments do not fit it.
        raise ArchitectureError(
            f"Step '{step.name}' ({_called(step)}): its arguments are not supported: it "
            f"{str(error).rpartition('() ')[2]}."
        ) from None


def _value(
    g: Translation, step: fx.Node, args: Sequence[object], kwargs: Mapping[str, object]
) -> object:
    """Return what a step gives: tensors of the trace, numbers, or several of them."""
    if step.op == "call_module":
        layer = g.module.get_submodule(str(step.target))
        return g.layer(layer, *args, **kwargs)
    rule: Callable[..., object] | None = None
    folded: Callable[..., object] | None = None
    if step.op == "call_method":
        rule = METHODS.get(str(step.target))
        folded = constants.METHODS.get(str(step.target))
    elif callable(step.target):
        rule = FUNCTIONS.get(step.target)
        folded = step.target if step.target in constants.FUNCTIONS else None
    if folded is not None and constants.foldable(list(args), kwargs):
        return constants.fold(folded, list(args), kwargs)
    if rule is None:
        raise ArchitectureError(f"it is not allowed; {hint(_called(step))}.")
    return rule(g, *args, **kwargs)


def _called(step: fx.Node) -> str:
    """Describe what a step calls, as a reader would write it."""
    if step.op == "call_module":
        return f"layer {step.target}"
    if step.op == "call_method":
        return f"Tensor.{step.target}"
    name = getattr(step.target, "__name__", None)
    return name if isinstance(name, str) else str(step.target)
