"""Comparing a capture with its module on random examples: a capture is right, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.trace import modes_restored

if TYPE_CHECKING:
    from neuronexus_kernel.models.architecture import Architecture
    from neuronexus_kernel.models.interpreter import Interpreter

_EXAMPLES = 3
"""So many that a batch size written into the module is noticed."""

_NOISY = frozenset({"dropout", "channel_dropout", "attention"})


def compare(module: nn.Module, captured: Architecture, built: Interpreter) -> None:
    """Check that module and capture compute the same.

    In evaluation always; in training, with the new running statistics, if there is batch norm
    and no dropout.

    Parameters
    ----------
    module
        What was captured; its modes and statistics are as before afterwards.
    captured
        The architecture.
    built
        What it builds, with the module's weights.

    Raises
    ------
    ArchitectureError
        If they differ, or the module fails.
    """
    like = tensor_like(module)
    examples = _examples(captured, like)
    built = built.to(like.device, like.dtype)
    with modes_restored(module), torch.no_grad():
        module.eval()
        expected = _called(module, examples)
        _check(module, expected, built.eval()(examples), "in evaluation")
        operators = {node.operator for node in captured.nodes}
        if not captured.statistics or _is_noisy(captured):
            return
        assert "batch_norm" in operators
        with _buffers_restored(module):
            module.train()
            expected = _called(module, examples)
            computed = built.train()(examples)
            _check(module, expected, computed, "in training")
            buffers = dict(module.named_buffers(remove_duplicate=False))
            for name in captured.statistics:
                there = buffers[captured.sources[name]]
                _check(module, there, built.state()[name], f"to '{captured.sources[name]}'")


def tensor_like(module: nn.Module) -> Tensor:
    """Return a tensor of the type and on the device that a module computes with."""
    floating = (value for value in module.parameters() if value.is_floating_point())
    return next(floating, torch.zeros(()))


def first_result(result: object) -> object:
    """Return a module's result; of (result, None), as language models give, the first."""
    if isinstance(result, tuple) and result and all(each is None for each in result[1:]):
        return result[0]
    return result


def _is_noisy(captured: Architecture) -> bool:
    return any(
        node.operator in _NOISY and dict(node.arguments.items).get("p") for node in captured.nodes
    )


def _examples(captured: Architecture, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (_EXAMPLES, *captured.input_shape)
    if captured.input_dtype == "int64":
        known = captured.layout.vocabulary or 1
        return torch.randint(0, known, shape, generator=generator).to(like.device)
    return torch.randn(shape, generator=generator).to(like.device, like.dtype)


def _called(module: nn.Module, examples: Tensor) -> object:
    try:
        return first_result(module(examples.clone()))
    except Exception as error:
        # The module's own code runs here, so anything may come out of it.
        raise ArchitectureError(
            f"The module itself fails on {tuple(examples.shape)}: "
            f"{type(error).__name__}: {str(error)[:200]}."
        ) from error


def _check(module: nn.Module, expected: object, computed: Tensor, where: str) -> None:
    tolerance = float(torch.finfo(computed.dtype).eps) ** 0.5
    same = (
        isinstance(expected, Tensor)
        and expected.shape == computed.shape
        and torch.allclose(
            expected.to(computed.dtype), computed, rtol=tolerance, atol=tolerance, equal_nan=True
        )
    )
    if not same:
        raise ArchitectureError(
            f"The captured graph does not compute what {type(module).__name__} does {where}; look "
            "for changes in place, hooks, or randomness in evaluation, and write it without."
        )


@contextmanager
def _buffers_restored(module: nn.Module) -> Iterator[None]:
    before = [(value, value.clone()) for value in module.buffers()]
    try:
        yield
    finally:
        for value, old in before:
            value.copy_(old)
