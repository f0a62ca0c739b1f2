"""From an ordinary PyTorch module to a graph of allowed operators.

torch.fx lists what the module's ``forward`` calls.  Each call is looked up in our tables and
translated; a call that is not there is refused by name.  The trace is then thrown away: nothing
of it is ever run.  At the end the translation is compared with the module on random numbers, so
that a capture is right or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx, nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.context import Traced, Translation
from neuronexus_kernel.models.capture.tables import FUNCTIONS, METHODS, MODULES, hint
from neuronexus_kernel.models.capture.trace import modes_restored, trace
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
    shape = _example_shape(example_input)
    steps, dropping = trace(module, MODULES.keys())
    order = {step: place for place, step in enumerate(steps)}
    translation = Translation(module, shape, dropping=dropping, order=order)
    output = _translate(translation, steps, module)
    captured = kind(shape, tuple(translation.graph.nodes), output, translation.sources)
    _compare(module, captured)
    return captured


def weights_of(architecture: Architecture, module: nn.Module) -> dict[str, np.ndarray]:
    """Return a module's weights under canonical names; see `Architecture.weights_of`."""
    shapes, sources = architecture.parameter_shapes, architecture.sources
    if isinstance(module, Interpreter) and module.architecture == architecture:
        return _read(module, {name: name for name in shapes})
    values = module.named_parameters(remove_duplicate=False)
    there = {path: tuple(value.shape) for path, value in values}
    if sources and all(there.get(sources[name]) == shape for name, shape in shapes.items()):
        return _read(module, sources)
    other = capture(type(architecture), module, np.zeros((1, *architecture.input_shape)))
    if other != architecture:
        raise ArchitectureError(
            f"The module computes another graph than this one: {other!r} against "
            f"{architecture!r}; capture it anew."
        )
    return _read(module, other.sources)


def _read(module: nn.Module, sources: Mapping[str, str]) -> dict[str, np.ndarray]:
    values = dict(module.named_parameters(remove_duplicate=False))
    weights = {}
    for name in sorted(sources):
        value = values[sources[name]].detach().cpu()
        if value.dtype == torch.bfloat16:  # NumPy has no such type
            value = value.float()
        weights[name] = np.array(value.numpy())
    return weights


def _example_shape(example: object) -> Shape:
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
    return shape[1:]


def _translate(g: Translation, steps: Sequence[fx.Node], module: nn.Module) -> str:
    """Translate all steps in order and return the name of the output node."""
    values: dict[fx.Node, object] = {}
    layers = dict(module.named_modules(remove_duplicate=False))
    result: object = None
    for step in steps:
        g.step = step
        try:
            result = values[step] = _value(g, step, values, layers)
        except ArchitectureError as error:
            raise ArchitectureError(f"Step '{step.name}' ({_called(step)}): {error}") from None
        except TypeError as error:
            # A rule has the signature of what it translates: these arguments do not fit it.
            raise ArchitectureError(
                f"Step '{step.name}' ({_called(step)}): its arguments are not supported: it "
                f"{str(error).rpartition('() ')[2]}."
            ) from None
    if not isinstance(result, Traced) or result.name == INPUT:
        raise ArchitectureError(
            "The module must return one tensor that it computed; return the scores alone."
        )
    return result.name


def _value(
    g: Translation,
    step: fx.Node,
    values: Mapping[fx.Node, object],
    layers: Mapping[str, nn.Module],
) -> object:
    """Return what a step gives: a traced tensor, a parameter, or sizes."""
    target = str(step.target)
    if step.op == "placeholder":
        if any(value == Traced(INPUT, g.graph.shapes[INPUT]) for value in values.values()):
            raise ArchitectureError("a network takes one tensor; remove the other arguments.")
        return Traced(INPUT, g.graph.shapes[INPUT])
    if step.op == "get_attr":
        return g.attribute(target)
    args = [_resolved(item, values) for item in step.args]
    kwargs = {key: _resolved(item, values) for key, item in step.kwargs.items()}
    if step.op == "output":
        return args[0]
    if step.op == "call_module":
        return _layer(g, layers[target], args, kwargs)
    rule: Callable[..., object] | None = None
    if step.op == "call_method":
        rule = METHODS.get(target)
    elif callable(step.target):
        rule = FUNCTIONS.get(step.target)
    if rule is None:
        raise ArchitectureError(f"it is not allowed; {hint(_called(step))}.")
    return rule(g, *args, **kwargs)


def _layer(
    g: Translation, layer: nn.Module, args: Sequence[object], kwargs: Mapping[str, object]
) -> object:
    rule = MODULES.get(type(layer))
    if rule is None:
        name = type(layer).__name__
        raise ArchitectureError(f"a layer of type {name} is not allowed; {hint(name)}.")
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        raise ArchitectureError("it carries hooks, which are code; remove them.")
    return rule(g, layer, *args, **kwargs)


def _resolved(item: object, values: Mapping[fx.Node, object]) -> object:
    """Replace the steps that an argument names by their values."""
    if isinstance(item, fx.Node):
        return values[item]
    if isinstance(item, (list, tuple)):
        return tuple(_resolved(each, values) for each in item)
    if isinstance(item, slice):
        return slice(*(_resolved(part, values) for part in (item.start, item.stop, item.step)))
    return item


def _called(step: fx.Node) -> str:
    """Describe what a step calls, as a reader would write it."""
    if step.op == "call_module":
        return f"layer {step.target}"
    if step.op == "call_method":
        return f"Tensor.{step.target}"
    name = getattr(step.target, "__name__", None)
    return name if isinstance(name, str) else str(step.target)


def _compare(module: nn.Module, captured: Architecture) -> None:
    """Check on random examples that module and capture compute the same.

    Three examples, so that a batch size written into the module is noticed.
    """
    built = captured.build(_read(module, captured.sources))
    first = next(module.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    examples = torch.randn(3, *captured.input_shape, generator=generator)
    examples = examples.to(first.device, first.dtype)
    built = built.to(first.device, first.dtype).eval()
    with modes_restored(module), torch.no_grad():
        module.eval()
        try:
            expected = module(examples.clone())
        except Exception as error:
            # The module's own code runs here, so anything may come out of it.
            raise ArchitectureError(
                f"The module itself fails on {tuple(examples.shape)}: "
                f"{type(error).__name__}: {str(error)[:200]}."
            ) from error
        computed = built(examples)
    tolerance = float(torch.finfo(first.dtype).eps) ** 0.5
    same = expected.shape == computed.shape and torch.allclose(
        expected, computed, rtol=tolerance, atol=tolerance, equal_nan=True
    )
    if not same:
        raise ArchitectureError(
            f"The captured graph does not compute what {type(module).__name__} does; look for "
            "changes in place, hooks, or randomness in evaluation, and write it without."
        )
