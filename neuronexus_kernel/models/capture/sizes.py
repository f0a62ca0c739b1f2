"""Rules for what asks for shapes and changes them: size, view, flatten, squeeze and the like.

The batch size stays a symbol.  A shape may contain it where the batch stays in its place, and
nothing else may be made of it, so that a graph can never mix examples.
"""

from __future__ import annotations

import math

import torch

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.constants import sizes_of
from neuronexus_kernel.models.capture.context import Translation
from neuronexus_kernel.models.capture.values import (
    BATCH,
    Batch,
    Constant,
    Stacked,
    Traced,
    Weight,
    shape_text,
)
from neuronexus_kernel.models.operators import Shape, show


def integer(value: object, what: str) -> int:
    """Return a plain whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if value is BATCH:
        raise ArchitectureError(f"{what} depends on the batch size; examples must not mix.")
    raise ArchitectureError(f"{what} must be a whole number, not {show(value)}.")


def place(value: object, count: int, what: str = "dimension") -> int:
    """Return a dimension or index, perhaps counted from the end, counted from 0."""
    found = integer(value, f"the {what}")
    if not -count <= found < count:
        raise ArchitectureError(f"{what} {found} does not exist; the tensor has {count}.")
    return found % count


def inner(axis: int, x: Traced) -> int:
    """Return a dimension of PyTorch's tensor (not the batch) as one of an example."""
    return axis if x.batch is None or axis < x.batch else axis - 1


def axis(value: object, x: Traced) -> int:
    """Return a dimension as an index into the shape of one example (the batch is none).

    Parameters
    ----------
    value
        As PyTorch counts, the batch included; -1 is the last dimension.
    x
        The tensor.
    """
    found = place(value, len(x.full))
    if found == x.batch:
        raise ArchitectureError(
            f"it works along the batch dimension of a tensor {shape_text(x.full)} and would mix "
            "examples; use another dimension."
        )
    return inner(found, x)


def shaped(g: Translation, x: Traced, full: tuple[int | Batch, ...]) -> Traced:
    """Give a tensor the sizes `full`; an example of one dimension always by ``flatten``."""
    sizes = tuple(size for size in full if isinstance(size, int))
    batch = full.index(BATCH) if BATCH in full else None
    if not sizes:
        raise ArchitectureError("an example must keep at least one dimension.")
    if len(sizes) == 1 and sizes[0] == math.prod(x.shape):
        made = g.add("flatten", x)
    else:
        made = g.add("reshape", x, sizes=sizes)
    return Traced(made.name, made.shape, batch)


def size(g: Translation, x: object, dim: object = None) -> object:
    """``x.size()``, ``x.shape`` and ``x.size(dim)``: the batch size stays a symbol."""
    full = sizes_of(x)
    return full if dim is None else full[place(dim, len(full))]


def dim(g: Translation, x: object) -> int:
    """``x.dim()``."""
    return len(sizes_of(x))


def attribute(g: Translation, x: object, name: object) -> object:
    """Refuse attributes of tensors but ``shape`` and the few that symbols have themselves."""
    raise ArchitectureError(
        f"attribute {show(name)} of a tensor cannot be used; only shape, ndim, dtype, device, T "
        "and mT can."
    )


def item(g: Translation, values: tuple[object, ...], index: object) -> object:
    """Return a part of several results."""
    if isinstance(index, slice):
        parts = (index.start, index.stop, index.step)
        start, stop, step = (None if p is None else integer(p, "the slice") for p in parts)
        return values[start:stop:step]
    return values[place(index, len(values), "index")]


def numel(g: Translation, x: object) -> int:
    """``x.numel()`` of what has no batch."""
    return math.prod(integer(each, "the number of elements") for each in sizes_of(x))


def view(g: Translation, x: object, *sizes: object) -> Traced:
    """``x.view``, ``x.reshape``: the batch must stay as it is."""
    given = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple) else sizes
    if not isinstance(given, tuple) or not given:
        raise ArchitectureError("give the sizes, such as x.reshape(x.shape[0], -1).")
    x = g.tensor(x)
    if x.batch is None:
        if BATCH in given:
            raise ArchitectureError("it has no batch; write x.expand(batch, -1) for that.")
        return shaped(g, x, _inferred(_plain(given), x.shape))
    if BATCH not in given and given[0] == -1 and x.batch == 0:
        # Without the batch size, -1 can only stand for it.
        return shaped(g, x, (BATCH, *_inferred(_plain(given[1:]), x.shape, may_infer=False)))
    if given.count(BATCH) != 1:
        raise ArchitectureError(
            f"its first size is {show(given[0])}, but must stand for the batch; write x.shape[0] "
            "or -1."
        )
    at = given.index(BATCH)
    before, after = x.shape[: x.batch], x.shape[x.batch :]
    left = _inferred(_plain(given[:at]), before) if at or before else ()
    right = _inferred(_plain(given[at + 1 :]), after) if given[at + 1 :] or after else ()
    return shaped(g, x, (*left, BATCH, *right))


def view_as(g: Translation, x: object, other: object) -> Traced:
    """``x.view_as``."""
    return view(g, x, *sizes_of(other))


def reshape(g: Translation, input: object, shape: object) -> Traced:
    """``torch.reshape``."""
    return view(g, input, shape)


def _plain(sizes: tuple[object, ...]) -> Shape:
    return tuple(integer(each, "a size") for each in sizes)


def _inferred(sizes: Shape, shape: Shape, *, may_infer: bool = True) -> Shape:
    """Replace one -1 by what is left over of the elements."""
    elements, known = math.prod(shape), math.prod(each for each in sizes if each != -1)
    blanks = sizes.count(-1)
    fits = known > 0 and (elements == known if not blanks else elements % known == 0)
    if min(sizes, default=1) < -1 or not fits or blanks > 1 or (blanks and not may_infer):
        raise ArchitectureError(
            f"it cannot make {sizes} of examples of shape {shape}; their {elements} elements "
            "must stay together, one example per row."
        )
    return tuple(elements // known if each == -1 else each for each in sizes)


def flatten(g: Translation, input: object, start_dim: object = 0, end_dim: object = -1) -> Traced:
    """``torch.flatten`` and ``x.flatten``."""
    x = g.tensor(input)
    first, last = place(start_dim, len(x.full)), place(end_dim, len(x.full))
    if first > last:
        raise ArchitectureError("start_dim comes after end_dim.")
    if BATCH in x.full[first : last + 1] and first < last:
        raise ArchitectureError("it would flatten the batch too; write x.flatten(1).")
    merged = x.full[first : last + 1]
    middle = (math.prod(each for each in merged if isinstance(each, int)),)
    return shaped(
        g, x, (*x.full[:first], *(middle if first < last else merged), *x.full[last + 1 :])
    )


def unflatten(g: Translation, input: object, dim: object, sizes: object) -> Traced:
    """``x.unflatten``."""
    x = g.tensor(input)
    at = place(dim, len(x.full))
    own = x.shape[axis(dim, x)]
    parts = sizes if isinstance(sizes, tuple) else (sizes,)
    inside = _inferred(_plain(parts), (own,))
    return shaped(g, x, (*x.full[:at], *inside, *x.full[at + 1 :]))


def squeeze(g: Translation, input: object, dim: object = None) -> Traced:
    """``x.squeeze(dim)``."""
    if isinstance(input, Stacked) and len(input.parts) == 1 and dim == 0:
        return input.parts[0]
    x = g.tensor(input)
    if dim is None and x.batch is not None:
        raise ArchitectureError("it would drop a batch of one too; write x.squeeze(dim).")
    given = tuple(range(len(x.full))) if dim is None else dim if isinstance(dim, tuple) else (dim,)
    gone = {place(each, len(x.full)) for each in given}
    for each in gone if dim is not None else ():
        axis(each, x)
    kept = tuple(s for at, s in enumerate(x.full) if at not in gone or s != 1)
    return x if kept == x.full else shaped(g, x, kept)


def unsqueeze(g: Translation, input: object, dim: object) -> Traced:
    """``x.unsqueeze(dim)``."""
    x = g.tensor(input)
    at = place(dim, len(x.full) + 1)
    return shaped(g, x, (*x.full[:at], 1, *x.full[at:]))


def converted(g: Translation, input: object, *args: object, **kwargs: object) -> object:
    """``x.to(...)``: the device and float32 or float64 are not part of a network."""
    for each in (*args, *kwargs.values()):
        if isinstance(each, torch.dtype) and each not in (torch.float32, torch.float64):
            raise ArchitectureError(
                f"it makes {each} of numbers; the network runs in the precision it is given, and "
                "tokens come as the input."
            )
    return unchanged(g, input)


def unchanged(g: Translation, input: object, *ignored: object, **kwargs: object) -> object:
    """``x.contiguous()``, ``x.clone()``, ``x.to(device)``, ``nn.Identity``."""
    return input if isinstance(input, (Weight, Constant, Stacked)) else g.tensor(input)
