"""Rules that repeat a tensor or put a margin around it: expand, repeat, pad."""

from __future__ import annotations

from dataclasses import replace

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture import sizes
from neuronexus_kernel.models.capture.arithmetic import aligned, number_of, reshaped
from neuronexus_kernel.models.capture.arranging import cut
from neuronexus_kernel.models.capture.constants import filled, sizes_of
from neuronexus_kernel.models.capture.context import Translation
from neuronexus_kernel.models.capture.values import BATCH, Constant, Traced
from neuronexus_kernel.models.operators import show

_COPIES_LIMIT = 64


def expand(g: Translation, input: object, *given: object) -> object:
    """``x.expand``: what has no batch gets one; dimensions of 1 are repeated."""
    wanted = given[0] if len(given) == 1 and isinstance(given[0], tuple) else given
    full = sizes_of(input)
    full = (*(1,) * (len(wanted) - len(full)), *full)
    if len(wanted) < len(full):
        raise ArchitectureError("it gives fewer sizes than the tensor has dimensions.")
    if BATCH in wanted and BATCH not in full:
        return _with_batch(g, input, full, wanted)
    x = g.tensor(input)
    times = []
    for size, target in zip(full, wanted, strict=True):
        if target in (-1, size):
            times.append(1)
        elif size == 1 and isinstance(target, int):
            times.append(target)
        else:
            raise ArchitectureError(
                f"it cannot make {show(target)} of a dimension of {show(size)}."
            )
    return _repeated(g, x, times)


def _with_batch(
    g: Translation, input: object, full: tuple[object, ...], wanted: tuple[object, ...]
) -> object:
    """Give a tensor without a batch one, where it has a dimension of 1."""
    place = wanted.index(BATCH)
    if full[place] != 1:
        raise ArchitectureError(
            f"it puts the batch where there are {show(full[place])} elements; a dimension of 1 is "
            "needed there."
        )
    rest = tuple(each for at, each in enumerate(full) if at != place)
    others = tuple(each for at, each in enumerate(wanted) if at != place)
    plain = tuple(each for each in rest if isinstance(each, int))
    if isinstance(input, Constant):
        made: Traced | Constant = Constant(input.value.reshape(plain), place)
    else:
        made = Traced(reshaped(g, g.tensor(input), plain).name, plain, place)
    if all(target in (-1, size) for size, target in zip(rest, others, strict=True)):
        return made
    filled_out = (*others[:place], -1, *others[place:])
    return expand(g, made, *filled_out)


def expand_as(g: Translation, input: object, other: object) -> object:
    """``x.expand_as``."""
    return expand(g, input, *sizes_of(other))


def repeat(g: Translation, input: object, *given: object) -> object:
    """``x.repeat``."""
    times = given[0] if len(given) == 1 and isinstance(given[0], tuple) else given
    full = sizes_of(input)
    full = (*(1,) * (len(times) - len(full)), *full)
    if BATCH in times:
        wanted = tuple(BATCH if each is BATCH else -1 for each in times)
        others = tuple(1 if each is BATCH else each for each in times)
        expanded = expand(g, input, *wanted)
        return expanded if set(others) == {1} else repeat(g, expanded, *others)
    counts = [sizes.integer(each, "a count") for each in times]
    x = g.tensor(input)
    if len(full) > len(x.full):
        plain = tuple(size for size in full if isinstance(size, int))
        batch = None if x.batch is None else x.batch + len(full) - len(x.full)
        x = Traced(reshaped(g, x, plain).name, plain, batch)
    return _repeated(g, x, counts)


def _repeated(g: Translation, x: Traced, times: list[int]) -> Traced:
    missing = len(times) - len(x.full)
    if missing:
        plain = (*(1,) * missing, *x.shape)
        batch = None if x.batch is None else x.batch + missing
        x = Traced(reshaped(g, x, plain).name, plain, batch)
    for place, count in enumerate(times):
        if count == 1:
            continue
        axis = sizes.axis(place, x)
        if count < 1 or (x.shape[axis] > 1 and count > _COPIES_LIMIT):
            raise ArchitectureError(f"{count} copies are too many; at most {_COPIES_LIMIT} are.")
        x = _copies(g, x, axis, count)
    return x


def _copies(g: Translation, x: Traced, axis: int, count: int) -> Traced:
    if x.shape[axis] == 1:  # adding zeros repeats without a copy of the graph's nodes
        shape = tuple(count if at == axis else 1 for at in range(len(x.shape)))
        return g.add("add", x, replace(g.tensor(filled(g, shape, 0.0)), batch=x.batch))
    made = x
    for _ in range(count - 1):
        made = g.add("concatenate", made, x, dim=axis - len(x.shape))
    return made


# Margins


def pad(
    g: Translation, input: object, pad: object, mode: object = "constant", value: object = None
) -> Traced:
    """``F.pad`` with a constant."""
    if mode != "constant" or not isinstance(pad, tuple) or len(pad) % 2:
        raise ArchitectureError(f"mode={show(mode)} is not supported; pad with zeros.")
    filling = 0.0 if value is None else number_of(value)
    if filling is None:
        raise ArchitectureError("it pads with something else than a number.")
    x = g.tensor(input)
    for pair, (left, right) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        before, after = sizes.integer(left, "a margin"), sizes.integer(right, "a margin")
        if (before, after) == (0, 0):
            continue
        x = _margins(g, x, sizes.axis(-1 - pair, x), before, after, filling)
    return x


def _margins(g: Translation, x: Traced, axis: int, before: int, after: int, value: float) -> Traced:
    size = x.shape[axis]
    start, stop = max(0, -before), size - max(0, -after)
    if stop <= start:
        raise ArchitectureError("its negative margins leave nothing.")
    made = cut(g, x, axis, start, stop - start)

    def margin(width: int) -> Traced:
        shape = tuple(width if at == axis else own for at, own in enumerate(x.shape))
        return replace(g.tensor(filled(g, shape, value)), batch=x.batch)

    dim = axis - len(x.shape)
    if before > 0:
        made = g.add("concatenate", margin(before), made, dim=dim)
    if after > 0:
        made = g.add("concatenate", made, margin(after), dim=dim)
    return made


def zero_pad_layer(g: Translation, layer: object, input: object) -> Traced:
    """``nn.ZeroPad2d`` and its like, ``nn.ConstantPad2d``."""
    padding, value = getattr(layer, "padding", ()), getattr(layer, "value", 0.0)
    return pad(g, input, tuple(padding), "constant", value)


def broadcast(g: Translation, *tensors: object) -> object:
    """``torch.broadcast_tensors``: equally many dimensions are enough."""
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], tuple) else tensors
    return tuple(aligned(g, *given)) if isinstance(given, tuple) else given
