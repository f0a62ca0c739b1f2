"""Rules for what asks for shapes and changes them: size, view, flatten, squeeze and the like.

The batch size stays a symbol.  A shape may begin with it, and nothing else may be made of it, so
that a graph can never mix examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.context import BATCH, Traced, Translation, tensor
from neuronexus_kernel.models.operators import Shape, show


def integer(value: object, what: str) -> int:
    """Return a plain whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if value is BATCH:
        raise ArchitectureError(f"{what} depends on the batch size; examples must not mix.")
    raise ArchitectureError(f"{what} must be a whole number, not {show(value)}.")


def axis(value: object, shape: Shape) -> int:
    """Return a dimension as an index into the shape of one example (the batch is none).

    Parameters
    ----------
    value
        As PyTorch counts: 0 is the batch, -1 the last dimension.
    shape
        Shape of one example.
    """
    rank = len(shape) + 1
    dim = integer(value, "the dimension")
    if not -rank <= dim < rank:
        raise ArchitectureError(f"dimension {dim} does not exist; the tensor has {rank}.")
    if dim % rank == 0:
        raise ArchitectureError(
            "it works along the batch dimension and would mix examples; use another dimension."
        )
    return dim % rank - 1


def shaped(g: Translation, x: Traced, sizes: Shape) -> Traced:
    """Give the examples another shape; to one dimension always by ``flatten``."""
    if not sizes:
        raise ArchitectureError("an example must keep at least one dimension.")
    if len(sizes) == 1 and sizes[0] == math.prod(x.shape):
        return g.add("flatten", x)
    return g.add("reshape", x, sizes=sizes)


def size(g: Translation, x: object, dim: object = None) -> object:
    """``x.size()`` and ``x.size(dim)``: the batch size stays a symbol."""
    full = (BATCH, *tensor(x).shape)
    if dim is None:
        return full
    index = integer(dim, "the dimension")
    if not -len(full) <= index < len(full):
        raise ArchitectureError(f"dimension {index} does not exist; the tensor has {len(full)}.")
    return full[index]


def dim(g: Translation, x: object) -> int:
    """``x.dim()``."""
    return len(tensor(x).shape) + 1


def attribute(g: Translation, x: object, name: object) -> object:
    """``x.shape`` and ``x.ndim``; no other attribute."""
    if name == "shape":
        return size(g, x)
    if name == "ndim":
        return dim(g, x)
    raise ArchitectureError(f"attribute {show(name)} of a tensor cannot be used; only shape can.")


def item(g: Translation, sizes: object, index: object) -> object:
    """``x.shape[0]`` and ``x.shape[1:]``."""
    if not isinstance(sizes, tuple):
        raise ArchitectureError(
            "parts of a tensor cannot be taken; use whole tensors, pooling or a linear layer."
        )
    if isinstance(index, slice):
        parts = (index.start, index.stop, index.step)
        start, stop, step = (None if p is None else integer(p, "the slice") for p in parts)
        if step == 0:
            raise ArchitectureError("a slice's step must not be zero.")
        return sizes[start:stop:step]
    place = integer(index, "the index")
    if not -len(sizes) <= place < len(sizes):
        raise ArchitectureError(f"index {place} does not exist; there are {len(sizes)} sizes.")
    return sizes[place]


def numel(g: Translation, sizes: object) -> int:
    """``x.shape[1:].numel()``."""
    if not isinstance(sizes, tuple):
        raise ArchitectureError("write x.shape[1:].numel() for the elements of one example.")
    return math.prod(integer(each, "the number of elements") for each in sizes)


def arithmetic(
    function: Callable[[int, int], int],
) -> Callable[[Translation, object, object], int]:
    """Return a rule that calculates with sizes, such as ``x.size(1) * x.size(2)``."""

    def rule(g: Translation, left: object, right: object) -> int:
        a, b = integer(left, "the left number"), integer(right, "the right number")
        try:
            return function(a, b)
        except ArithmeticError as error:
            raise ArchitectureError(f"{error}.") from None

    return rule


def view(g: Translation, x: object, *sizes: object) -> Traced:
    """``x.view``, ``x.reshape``: the first size must stand for the batch."""
    x = tensor(x)
    given = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple) else sizes
    if not isinstance(given, tuple) or not given:
        raise ArchitectureError("give the sizes, such as x.reshape(x.shape[0], -1).")
    first, rest = given[0], given[1:]
    plain = [integer(each, "a size") for each in rest]
    if first is not BATCH and first != -1:
        raise ArchitectureError(
            f"its first size is {show(first)}, but must stand for the batch; write x.shape[0] "
            "or -1."
        )
    return shaped(g, x, _inferred(tuple(plain), x.shape, may_infer=first is BATCH))


def reshape(g: Translation, input: object, shape: object) -> Traced:
    """``torch.reshape``."""
    return view(g, input, shape)


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
    x = tensor(input)
    if start_dim == 0:
        raise ArchitectureError("it would flatten the batch too; write x.flatten(1).")
    first, last = axis(start_dim, x.shape), axis(end_dim, x.shape)
    if first > last:
        raise ArchitectureError("start_dim comes after end_dim.")
    merged = math.prod(x.shape[first : last + 1])
    return shaped(g, x, (*x.shape[:first], merged, *x.shape[last + 1 :]))


def unflatten(g: Translation, input: object, dim: object, sizes: object) -> Traced:
    """``x.unflatten``."""
    x = tensor(input)
    place = axis(dim, x.shape)
    parts = sizes if isinstance(sizes, tuple) else (sizes,)
    plain = tuple(integer(each, "a size") for each in parts)
    inside = _inferred(plain, (x.shape[place],))
    return shaped(g, x, (*x.shape[:place], *inside, *x.shape[place + 1 :]))


def squeeze(g: Translation, input: object, dim: object = None) -> Traced:
    """``x.squeeze(dim)``."""
    x = tensor(input)
    if dim is None:
        raise ArchitectureError("it would drop a batch of one too; write x.squeeze(dim).")
    place = axis(dim, x.shape)
    if x.shape[place] != 1:
        return x
    return shaped(g, x, (*x.shape[:place], *x.shape[place + 1 :]))


def unsqueeze(g: Translation, input: object, dim: object) -> Traced:
    """``x.unsqueeze(dim)``."""
    x = tensor(input)
    place = axis(dim, (*x.shape, 1))
    return shaped(g, x, (*x.shape[:place], 1, *x.shape[place:]))


def unchanged(g: Translation, input: object) -> Traced:
    """``x.contiguous()``, ``x.clone()``, ``nn.Identity``."""
    return tensor(input)
