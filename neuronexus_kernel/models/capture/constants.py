"""Constants: tensors that depend on neither input nor parameters, such as masks and positions.

They are computed while capturing, by functions of the allow-list below and no others, and become
`constant` or `positions` nodes where the network meets them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.context import Translation
from neuronexus_kernel.models.capture.values import BATCH, Batch, Constant, Traced
from neuronexus_kernel.models.operators import show

_ELEMENTS_LIMIT: Final = 2**24
"""Most elements of a constant on the way; what enters the network may hold fewer."""

_DRAWING = """
    rand randn randint randperm normal bernoulli multinomial poisson rand_like randn_like
    randint_like bernoulli_ normal_ uniform_ random_ exponential_ cauchy_ log_normal_ geometric_
"""
RANDOM: Final = frozenset(_DRAWING.split())
"""Names of functions that draw random numbers."""

_BOTH = """
    eq ne lt le gt ge logical_not logical_and logical_or bitwise_not bitwise_and bitwise_or add sub
    mul div floor_divide remainder neg pow exp log sqrt rsqrt abs sin cos tanh sigmoid reciprocal
    square floor ceil round clamp tril triu diag outer cumsum flip roll masked_fill where cat stack
    unsqueeze squeeze reshape flatten permute transpose t matmul sum mean amax all any isinf isnan
    argmax softmax repeat_interleave meshgrid maximum minimum
"""
_METHODS = """
    __getitem__ __rsub__ __rdiv__ __rpow__ __and__ __or__ __invert__ view view_as expand repeat
    expand_as float double long int bool contiguous clone item numel size dim cumprod type_as to
    cpu cuda tolist unbind chunk split detach half true_divide
"""


def _converted(value: Tensor, *args: object, **kwargs: object) -> Tensor:
    """``x.to(...)``: the type changes, the device does not."""
    for each in (*args, *kwargs.values()):
        if isinstance(each, torch.dtype):
            return value.to(each)
        if isinstance(each, Tensor):
            return value.to(each.dtype)
    return value


def _same(value: Tensor, *args: object, **kwargs: object) -> Tensor:
    return value


_OWN: Mapping[str, Callable[..., object]] = {
    "to": _converted,
    "type_as": _converted,
    "cpu": _same,
    "cuda": _same,
}

METHODS: Final[Mapping[str, Callable[..., object]]] = {
    name: _OWN.get(name) or getattr(Tensor, name)
    for name in (*_BOTH.split(), *_METHODS.split())
    if name in _OWN or hasattr(Tensor, name)
}
"""Methods of constants that may be called, with what is called."""

_OPERATORS = (
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv),
    *(operator.pow, operator.neg, operator.mod, operator.matmul, operator.getitem),
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    *(operator.and_, operator.or_, operator.invert),
)
_CALLED = (*_OPERATORS, *(getattr(torch, name) for name in _BOTH.split() if hasattr(torch, name)))

FUNCTIONS: Final[frozenset[Callable[..., object]]] = frozenset(_CALLED)
"""Functions of constants that may be called."""

FOLDED: Final = frozenset({*METHODS, *(each.__name__ for each in FUNCTIONS)})
"""Names of all those."""


def foldable(args: list[object], kwargs: Mapping[str, object]) -> bool:
    """Tell whether there are constants among arguments, and nothing that only training knows."""
    found = list(_parts((*args, *kwargs.values())))
    constants = [each for each in found if isinstance(each, Constant)]
    plain = (int, float, bool, str, type(None), type(...), torch.dtype, torch.device)
    return (
        bool(constants)
        and all(each.batch is None for each in constants)
        and all(isinstance(each, (Constant, *plain)) for each in found)
    )


def _parts(value: object) -> list[object]:
    if isinstance(value, (tuple, list)):
        return [part for each in value for part in _parts(each)]
    if isinstance(value, slice):
        return _parts((value.start, value.stop, value.step))
    return [value]


def fold(
    function: Callable[..., object], args: list[object], kwargs: Mapping[str, object]
) -> object:
    """Call a function of the allow-list on constants."""
    given = {name: _raw(value) for name, value in kwargs.items() if name != "device"}
    try:
        return _constant(function(*(_raw(each) for each in args), **given))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ArchitectureError(f"it fails on these constants: {str(error)[:200]}.") from None


def _raw(value: object) -> object:
    if isinstance(value, Constant):
        return value.value
    if isinstance(value, tuple):
        return tuple(_raw(each) for each in value)
    if isinstance(value, slice):
        return slice(_raw(value.start), _raw(value.stop), _raw(value.step))
    return value


def _constant(value: object) -> object:
    if isinstance(value, Tensor):
        return Constant(value)
    if isinstance(value, (tuple, list)):
        return tuple(_constant(each) for each in value)
    return value


# Making constants


def filled(g: Translation, sizes: object, value: object) -> Constant:
    """Return a constant of one value; the batch may be among its sizes."""
    given = sizes if isinstance(sizes, tuple) else (sizes,)
    if given.count(BATCH) > 1:
        raise ArchitectureError("the batch size is among its sizes twice; examples must not mix.")
    plain = tuple(size for size in given if isinstance(size, int))
    if len(plain) + given.count(BATCH) < len(given):
        raise ArchitectureError(f"its sizes must be whole numbers, not {show(given)}.")
    if math.prod(plain) > _ELEMENTS_LIMIT or not isinstance(value, (int, float)):
        raise ArchitectureError("it is too large, or filled with something else than a number.")
    place = given.index(BATCH) if BATCH in given else None
    return Constant(torch.full(plain, value), place)


def _fill(value: float) -> Callable[..., Constant]:
    def rule(g: Translation, *sizes: object, **ignored: object) -> Constant:
        given = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple) else sizes
        made = filled(g, ignored.get("size", given), float(value))
        kind = ignored.get("dtype")
        if isinstance(kind, torch.dtype):
            return Constant(made.value.to(kind), made.batch)
        return made

    return rule


def full(g: Translation, size: object, fill_value: object, **ignored: object) -> Constant:
    """``torch.full``."""
    number = fill_value.number if isinstance(fill_value, Constant) else fill_value
    return filled(g, size, number)


def _like(value: float) -> Callable[..., Constant]:
    def rule(g: Translation, input: object, **ignored: object) -> Constant:
        return filled(g, getattr(input, "full", ()), float(value))

    return rule


def full_like(g: Translation, input: object, fill_value: object, **ignored: object) -> Constant:
    """``torch.full_like``."""
    return filled(g, getattr(input, "full", ()), fill_value)


def _new(value: float) -> Callable[..., Constant]:
    make = _fill(value)

    def rule(g: Translation, input: object, *sizes: object, **ignored: object) -> Constant:
        return make(g, *sizes, **ignored)

    return rule


def new_full(
    g: Translation, input: object, size: object, fill_value: object, **ignored: object
) -> Constant:
    """``x.new_full``."""
    return filled(g, size, fill_value)


def _made_by(function: Callable[..., Tensor]) -> Callable[..., object]:
    """Return the rule of a function that makes a constant of numbers."""

    def rule(g: Translation, *args: object, **kwargs: object) -> object:
        kept = {key: value for key, value in kwargs.items() if key == "dtype"}
        others = {
            key: value
            for key, value in kwargs.items()
            if key in ("start", "end", "step", "steps", "n", "m", "data", "diagonal")
        }
        if BATCH in _parts((*args, *others.values())):
            raise ArchitectureError("it depends on the batch size; examples must not mix.")
        numbers = [each for each in _parts(args) if isinstance(each, (int, float))]
        if function is not torch.tensor and max((abs(n) for n in numbers), default=0) > 1e6:
            raise ArchitectureError("it is too large for a constant.")
        return fold(function, list(args), {**others, **kept})

    return rule


FACTORIES: Final[Mapping[Callable[..., object], Callable[..., object]]] = {
    torch.zeros: _fill(0),
    torch.ones: _fill(1),
    torch.full: full,
    torch.zeros_like: _like(0),
    torch.ones_like: _like(1),
    torch.full_like: full_like,
    torch.arange: _made_by(torch.arange),
    torch.linspace: _made_by(torch.linspace),
    torch.eye: _made_by(torch.eye),
    torch.tensor: _made_by(torch.tensor),
    torch.as_tensor: _made_by(torch.as_tensor),
}
"""Functions that make constants, with their rules."""

NEW: Final[Mapping[str, Callable[..., object]]] = {
    "new_zeros": _new(0),
    "new_ones": _new(1),
    "new_full": new_full,
}
"""Methods that make constants, with their rules."""


# Constants that are tokens


def tokens(g: Translation, value: object) -> Traced:
    """Return a node of tokens: `value` itself, or positions that are a constant.

    Raises
    ------
    ArchitectureError
        If it is a constant that does not count up evenly.
    """
    if not isinstance(value, Constant):
        return g.tensor(value)
    numbers = [int(each) for each in value.value.flatten().tolist()]
    if value.value.is_floating_point() or not numbers:
        raise ArchitectureError("its indices are no whole numbers.")
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if step < 1 or numbers[0] < 0 or numbers != list(range(numbers[0], numbers[-1] + 1, step)):
        raise ArchitectureError(
            "its indices are a constant that does not count up evenly; write torch.arange(T)."
        )
    name = g.graph.add("positions", count=numbers[-1] + 1)
    places = Traced(name, g.graph.shapes[name], None)
    if len(numbers) <= numbers[-1]:
        places = g.add("slice", places, dim=-1, start=numbers[0], length=len(numbers), step=step)
    sizes = tuple(value.value.shape) or (1,)
    if sizes != places.shape:
        places = g.add("reshape", places, sizes=sizes)
    return Traced(places.name, places.shape, value.batch)


def sizes_of(value: object) -> tuple[int | Batch, ...]:
    """Return the sizes PyTorch has of any tensor of the trace."""
    found = getattr(value, "full", None)
    if not isinstance(found, tuple):
        raise ArchitectureError(f"it needs a tensor, not {show(value)}.")
    return found
