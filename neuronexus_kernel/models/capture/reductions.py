"""Rules for what summarises whole dimensions: mean, sum, max, variance, softmax's relatives."""

from __future__ import annotations

import math

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture import sizes
from neuronexus_kernel.models.capture.arithmetic import clamp, divide, power, scaled
from neuronexus_kernel.models.capture.context import Rule, Translation
from neuronexus_kernel.models.capture.values import Refused, Traced


def _axes(x: Traced, dim: object) -> tuple[int, ...]:
    """Return the dimensions of an example that are summarised."""
    if dim is None or dim == ():
        if x.batch is None:
            return tuple(range(len(x.shape)))
        raise ArchitectureError(
            "it goes over the whole batch and would mix examples; say which dimensions, such as "
            "x.mean(1) or x.flatten(1).sum(1, keepdim=True)."
        )
    given = dim if isinstance(dim, tuple) else (dim,)
    return tuple(sorted({sizes.axis(each, x) for each in given}))


def reduced(g: Translation, operator: str, input: object, dim: object, keepdim: object) -> Traced:
    """Summarise dimensions."""
    x = g.tensor(input)
    axes, keep = _axes(x, dim), keepdim is True
    if operator == "mean" and x.batch == 0 and len(x.shape) == 3 and axes == (1, 2):
        # Over height and width it is average pooling: the same network, the same graph.
        pooled = g.add("adaptive_avg_pool2d", x, output_size=(1, 1))
        return pooled if keep else g.add("flatten", pooled)
    if len(axes) == len(x.shape) and not keep:
        raise ArchitectureError("an example must keep at least one dimension; write keepdim=True.")
    dims = tuple(axis - len(x.shape) for axis in axes)
    made = g.add(operator, x, dims=dims, keepdim=keep)
    if x.batch is None or keep:
        return made
    gone = sum(1 for axis in axes if axis < x.batch)
    return Traced(made.name, made.shape, x.batch - gone)


def _rule(operator: str) -> Rule:
    def rule(
        g: Translation,
        input: object,
        dim: object = None,
        keepdim: object = False,
        *,
        dtype: object = None,
        axis: object = None,
    ) -> Traced:
        return reduced(g, operator, input, dim if axis is None else axis, keepdim)

    return rule


mean, total, amax = _rule("mean"), _rule("sum"), _rule("amax")


def largest(
    g: Translation, input: object, dim: object = None, keepdim: object = False
) -> tuple[object, ...]:
    """``x.max(dim)``: the values; which they are cannot be captured."""
    if not isinstance(dim, int):
        raise ArchitectureError("say one dimension: x.max(dim=1) or x.amax(dim=1).")
    return (reduced(g, "amax", input, dim, keepdim), _indices(g))


def smallest(
    g: Translation, input: object, dim: object = None, keepdim: object = False
) -> tuple[object, ...]:
    """``x.min(dim)``."""
    if not isinstance(dim, int):
        raise ArchitectureError("say one dimension: x.min(dim=1) or x.amin(dim=1).")
    return (amin(g, input, dim, keepdim), _indices(g))


def amin(g: Translation, input: object, dim: object = (), keepdim: object = False) -> Traced:
    """``x.amin``: minus the largest of minus x."""
    return scaled(g, reduced(g, "amax", scaled(g, input, -1.0), dim, keepdim), -1.0)


def _indices(g: Translation) -> Refused:
    return Refused(
        ArchitectureError(
            f"Step '{g.step}': where the largest element is (its index) cannot be captured; return "
            "the scores, and take the index in the evaluation."
        )
    )


def variance(
    g: Translation,
    input: object,
    dim: object = None,
    unbiased: object = None,
    keepdim: object = False,
    *,
    correction: object = None,
) -> Traced:
    """``x.var``: the mean squared distance from the mean."""
    x = g.tensor(input)
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    count = math.prod(x.shape[axis] for axis in _axes(x, dim))
    less = correction if isinstance(correction, (int, float)) else 0 if unbiased is False else 1
    if count <= less:
        raise ArchitectureError("it is the variance of a single number.")
    centred = g.add("subtract", x, _flat_mean(g, x, dim))
    squares = reduced(g, "mean", power(g, centred, 2.0), dim, keepdim)
    return squares if less == 0 else scaled(g, squares, count / (count - less))


def _flat_mean(g: Translation, x: Traced, dim: object) -> Traced:
    axes = tuple(axis - len(x.shape) for axis in _axes(x, dim))
    return g.add("mean", x, dims=axes, keepdim=True)


def deviation(g: Translation, *args: object, **kwargs: object) -> Traced:
    """``x.std``."""
    return power(g, variance(g, *args, **kwargs), 0.5)


def norm(
    g: Translation,
    input: object,
    p: object = 2,
    dim: object = None,
    keepdim: object = False,
    dtype: object = None,
) -> Traced:
    """``x.norm(dim=...)``: the length of vectors."""
    if p not in (2, 2.0, None, "fro"):
        raise ArchitectureError("only the Euclidean norm is known: p=2.")
    return power(g, reduced(g, "sum", power(g, input, 2.0), dim, keepdim), 0.5)


def vector_norm(
    g: Translation,
    x: object,
    ord: object = 2,
    dim: object = None,
    keepdim: object = False,
    *,
    dtype: object = None,
) -> Traced:
    """``torch.linalg.norm`` and ``torch.linalg.vector_norm`` of vectors."""
    return norm(g, x, ord, dim, keepdim)


def normalize(
    g: Translation,
    input: object,
    p: object = 2.0,
    dim: object = 1,
    eps: object = 1e-12,
    out: None = None,
) -> Traced:
    """``F.normalize``."""
    return divide(g, input, clamp(g, norm(g, input, p, dim, True), eps))


def log_sum_exp(g: Translation, input: object, dim: object, keepdim: object = False) -> Traced:
    """``torch.logsumexp``, less the largest element first."""
    x = g.tensor(input)
    top = reduced(g, "amax", x, dim, True)
    rest = g.add("log", reduced(g, "sum", g.add("exp", g.add("subtract", x, top)), dim, True))
    made = g.add("add", rest, top)
    return made if keepdim is True else sizes.squeeze(g, made, dim)
