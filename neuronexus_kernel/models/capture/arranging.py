"""Rules that reorder, cut out or put together: permute, indexing, split, cat and the like."""

from __future__ import annotations

from dataclasses import replace

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture import sizes
from neuronexus_kernel.models.capture.constants import sizes_of
from neuronexus_kernel.models.capture.context import Translation
from neuronexus_kernel.models.capture.values import BATCH, Batch, Constant, Stacked, Traced, Weight

# Order


def permute(g: Translation, input: object, *dims: object) -> object:
    """``x.permute``: the batch may move."""
    given = dims[0] if len(dims) == 1 and isinstance(dims[0], tuple) else dims
    x, rank = input, len(sizes_of(input))
    order = [sizes.place(each, rank) for each in given] if isinstance(given, tuple) else []
    if sorted(order) != list(range(rank)):
        raise ArchitectureError(f"it must name each of the {rank} dimensions once.")
    if isinstance(x, Weight) and rank == 2:
        return replace(x, transposed=x.transposed != (order == [1, 0]))
    return _permuted(g, g.tensor(x), order)


def _permuted(g: Translation, x: Traced, order: list[int]) -> Traced:
    batch = None if x.batch is None else order.index(x.batch)
    inside = [sizes.inner(axis, x) for axis in order if axis != x.batch]
    if inside == list(range(len(inside))):
        return replace(x, batch=batch)
    made = g.add("permute", x, order=tuple(inside))
    return replace(made, batch=batch)


def transpose(g: Translation, input: object, dim0: object, dim1: object) -> object:
    """``x.transpose``."""
    rank = len(sizes_of(input))
    order = list(range(rank))
    first, second = sizes.place(dim0, rank), sizes.place(dim1, rank)
    order[first], order[second] = order[second], order[first]
    return permute(g, input, tuple(order))


def matrix_transpose(g: Translation, input: object) -> object:
    """``x.t()`` and ``x.T`` of a matrix."""
    full = sizes_of(input)
    if len(full) != 2:
        raise ArchitectureError("t() and T are for matrices; write x.transpose(-2, -1).")
    return permute(g, input, (1, 0))


def movedim(g: Translation, input: object, source: object, destination: object) -> object:
    """``x.movedim``."""
    rank = len(sizes_of(input))
    sources = source if isinstance(source, tuple) else (source,)
    targets = destination if isinstance(destination, tuple) else (destination,)
    moved = {
        sizes.place(target, rank): sizes.place(origin, rank)
        for origin, target in zip(sources, targets, strict=True)
    }
    rest = iter(axis for axis in range(rank) if axis not in moved.values())
    return permute(g, input, tuple(moved[at] if at in moved else next(rest) for at in range(rank)))


# Parts


def cut(g: Translation, x: Traced, axis: int, start: int, length: int, step: int = 1) -> Traced:
    """Take elements of one dimension of an example."""
    if (start, length, step) == (0, x.shape[axis], 1):
        return x
    step = 1 if length == 1 else step
    return g.add("slice", x, dim=axis - len(x.shape), start=start, length=length, step=step)


def select(g: Translation, input: object, dim: object, index: object) -> Traced:
    """``x.select`` and ``x[..., i]``."""
    if isinstance(input, Stacked) and dim == 0:
        return input.parts[sizes.place(index, len(input.parts), "index")]
    x = g.tensor(input)
    axis = sizes.axis(dim, x)
    found = sizes.place(index, x.shape[axis], "index")
    made = g.add("select", x, dim=axis - len(x.shape), index=found)
    place = sizes.integer(dim, "the dimension") % len(x.full)
    batch = x.batch if x.batch is None or place > x.batch else x.batch - 1
    return replace(made, batch=batch)


def narrow(g: Translation, input: object, dim: object, start: object, length: object) -> Traced:
    """``x.narrow``."""
    x = g.tensor(input)
    axis = sizes.axis(dim, x)
    first, count = sizes.integer(start, "start"), sizes.integer(length, "length")
    return cut(g, x, axis, first % x.shape[axis] if first < 0 else first, count)


def index(g: Translation, input: object, given: object) -> object:
    """``x[...]``: whole numbers, slices, None and ``...``; the batch is taken whole."""
    items = given if isinstance(given, tuple) else (given,)
    if isinstance(input, tuple):
        return sizes.item(g, input, given)
    if isinstance(input, Stacked) and isinstance(items[0], int):
        part = select(g, input, 0, items[0])
        return index(g, part, items[1:]) if len(items) > 1 else part
    rank = len(sizes_of(input))
    used = sum(1 for each in items if each is not None and each is not Ellipsis)
    if used > rank:
        raise ArchitectureError(f"it has {used} indices for a tensor of {rank} dimensions.")
    if Ellipsis not in items:
        items = (*items, Ellipsis)
    at = items.index(Ellipsis)
    items = (*items[:at], *(slice(None),) * (rank - used), *items[at + 1 :])
    if isinstance(input, Weight) and not _cuts(items, input.full):
        return input
    x = g.tensor(input)
    place = 0
    for each in items:
        if each is None:
            x = sizes.unsqueeze(g, x, place)
        elif isinstance(each, slice):
            x = _sliced(g, x, place, each)
        elif isinstance(each, int) and not isinstance(each, bool):
            x = select(g, x, place, each)
            continue
        else:
            x = _sliced(g, x, place, _even(each))
        place += 1
    return x


def _cuts(items: tuple[object, ...], full: tuple[int, ...]) -> bool:
    """Tell whether indices take less than everything."""
    return len(items) != len(full) or any(
        not isinstance(each, slice)
        or any(isinstance(part, Batch) for part in (each.start, each.stop, each.step))
        or range(size)[each] != range(size)
        for each, size in zip(items, full, strict=False)
    )


def _even(value: object) -> slice:
    """Return the slice that a list of indices is, such as ``x[:, [-1]]``."""
    if isinstance(value, Constant) and value.batch is None and value.value.dim() == 1:
        value = tuple(int(each) for each in value.value.tolist())
    if not isinstance(value, tuple) or not all(isinstance(each, int) for each in value):
        raise ArchitectureError(
            "an index depends on the input, or is no whole number or slice; a captured network "
            "takes the same parts of every input."
        )
    step = value[1] - value[0] if len(value) > 1 else 1
    if not value or step < 1 or list(value) != list(range(value[0], value[-1] + 1, step)):
        raise ArchitectureError(
            f"the indices {value} do not go up evenly; take slices and put them together with "
            "torch.cat."
        )
    return slice(value[0], (value[-1] + 1) or None, step)


def _sliced(g: Translation, x: Traced, place: int, part: slice) -> Traced:
    ends = (part.start, part.stop, part.step)
    if ends == (None, None, None) or (x.batch == place and _whole(part)):
        return x
    start, stop, step = (None if p is None else sizes.integer(p, "the slice") for p in ends)
    axis = sizes.axis(place, x)
    if step is not None and step < 1:
        raise ArchitectureError("a slice's step must be at least 1.")
    taken = range(x.shape[axis])[start:stop:step]
    if not taken:
        raise ArchitectureError(f"its slice of dimension {place} is empty.")
    return cut(g, x, axis, taken.start, len(taken), taken.step)


def _whole(part: slice) -> bool:
    """Tell whether a slice of the batch takes all of it."""
    return part.start in (None, 0) and part.stop in (None, BATCH) and part.step in (None, 1)


def split(g: Translation, input: object, split_size_or_sections: object, dim: object = 0) -> object:
    """``x.split`` and ``torch.split``."""
    x = g.tensor(input)
    axis = sizes.axis(dim, x)
    given, size = split_size_or_sections, x.shape[axis]
    if isinstance(given, tuple):
        lengths = [sizes.integer(each, "a section") for each in given]
    else:
        each = sizes.integer(given, "the size of a part")
        if each < 1:
            raise ArchitectureError("the size of a part must be at least 1.")
        lengths = [min(each, size - at) for at in range(0, size, each)]
    if sum(lengths) != size or min(lengths) < 1:
        raise ArchitectureError(f"its parts {tuple(lengths)} do not make up the {size} elements.")
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    pairs = zip(starts, lengths, strict=True)
    return tuple(cut(g, x, axis, start, length) for start, length in pairs)


def chunk(g: Translation, input: object, chunks: object, dim: object = 0) -> object:
    """``x.chunk`` and ``torch.chunk``."""
    x = g.tensor(input)
    count = sizes.integer(chunks, "the number of parts")
    size = x.shape[sizes.axis(dim, x)]
    if count < 1:
        raise ArchitectureError("the number of parts must be at least 1.")
    return split(g, x, -(-size // count), dim)


def unbind(g: Translation, input: object, dim: object = 0) -> object:
    """``x.unbind``."""
    full = sizes_of(input)
    count = full[sizes.place(dim, len(full))]
    return tuple(select(g, input, dim, at) for at in range(sizes.integer(count, "its length")))


# Together


def cat(g: Translation, tensors: object, dim: object = 0, *, axis: object = None) -> Traced:
    """``torch.cat``."""
    parts = tensors if isinstance(tensors, tuple) else ()
    if not parts:
        raise ArchitectureError("it needs a list of tensors.")
    read = _same_batch(g, parts)
    place = sizes.axis(dim if axis is None else axis, read[0])
    made = read[0]
    for part in read[1:]:
        made = g.add("concatenate", made, part, dim=place - len(part.shape))
    return made


def _same_batch(g: Translation, parts: tuple[object, ...]) -> list[Traced]:
    read = [g.tensor(part) for part in parts]
    if len({len(each.full) for each in read}) > 1:
        raise ArchitectureError("its tensors have different numbers of dimensions.")
    if len({each.batch for each in read}) > 1:
        raise ArchitectureError(
            "some of its tensors have a batch and some have none; write "
            "parameter.expand(x.shape[0], -1, -1) first."
        )
    return read


def stack(g: Translation, tensors: object, dim: object = 0) -> Traced:
    """``torch.stack``."""
    parts = tensors if isinstance(tensors, tuple) else ()
    rows = tuple(sizes.unsqueeze(g, part, dim) for part in parts)
    place = sizes.place(dim, len(sizes_of(parts[0])) + 1) if parts else 0
    return cat(g, rows, place)
