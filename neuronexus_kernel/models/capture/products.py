"""Rules for products of matrices: ``@``, ``torch.bmm`` and products with parameters."""

from __future__ import annotations

import math

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.arithmetic import aligned, reshaped
from neuronexus_kernel.models.capture.context import Translation
from neuronexus_kernel.models.capture.values import BATCH, Traced, Weight, shape_text


def matmul(g: Translation, input: object, other: object) -> Traced:
    """``@``, ``torch.matmul``, ``torch.bmm``, ``torch.mm``."""
    if isinstance(other, Weight) and other.transposed and not isinstance(input, Weight):
        # x @ W.t() is a linear layer: so is an output tied to an embedding by hand.
        weight = Weight(other.path, other.shape)
        rows = weight.shape[0]
        return g.add_layer("linear", input, {"weight": weight}, out_features=rows, bias=False)
    left, right = _operand(g, input, -1), _operand(g, other, -2)
    if left.batch is not None and right.batch is None and len(right.shape) <= 2:
        return _by_matrix(g, left, right)
    row, column = len(left.full) == 1, len(right.full) == 1
    left = reshaped(g, left, (1, *left.shape)) if row else left
    right = reshaped(g, right, (*right.shape, 1)) if column else right
    if BATCH in (*left.full[-2:], *right.full[-2:]):
        raise ArchitectureError(
            f"it multiplies {shape_text(left.full)} by {shape_text(right.full)}, over the batch; "
            "examples must not mix."
        )
    made = g.add("matmul", *aligned(g, left, right))
    shape = made.shape[:-1] if column else made.shape
    if row:
        shape = (*made.shape[:-2], *made.shape[-1:][column:])
    return _kept(g, made, shape)


def _operand(g: Translation, value: object, inner: int) -> Traced:
    """Return a tensor; a parameter starts as the weight of a linear layer does."""
    full = getattr(value, "full", ())
    size = full[inner if len(full) > 1 else -1] if full else 1
    fan_in = size if isinstance(size, int) else 1
    return g.tensor(value, bound=1.0 / math.sqrt(fan_in))


def _by_matrix(g: Translation, left: Traced, right: Traced) -> Traced:
    """Multiply every example by one matrix or vector."""
    if left.full[-1] is BATCH:
        raise ArchitectureError("it multiplies over the batch; examples must not mix.")
    vector = len(right.shape) == 1
    matrix = (*right.shape, 1) if vector else right.shape
    rows = left if len(left.shape) > 1 else reshaped(g, left, (1, *left.shape))
    stack = (1,) * (len(rows.shape) - 2)
    made = g.add("matmul", rows, reshaped(g, right, (*stack, *matrix)))
    shape = (*left.shape[:-1], *(() if vector else right.shape[-1:]))
    return _kept(g, Traced(made.name, made.shape, left.batch), shape)


def _kept(g: Translation, made: Traced, shape: tuple[int, ...]) -> Traced:
    if not shape:
        raise ArchitectureError(
            "an example must keep at least one dimension; give the vector a second one, such as "
            "w.unsqueeze(1)."
        )
    return reshaped(g, made, shape)


def fused_sum(
    g: Translation,
    input: object,
    batch1: object,
    batch2: object,
    *,
    beta: object = 1,
    alpha: object = 1,
) -> Traced:
    """``torch.addmm`` and ``torch.baddbmm``: a product plus a tensor."""
    from neuronexus_kernel.models.capture.arithmetic import add, multiply

    product = multiply(g, matmul(g, batch1, batch2), alpha)
    return add(g, multiply(g, input, beta), product)
