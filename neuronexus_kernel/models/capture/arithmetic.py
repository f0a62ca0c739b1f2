"""Rules for arithmetic: sums, products and powers of tensors, parameters, constants and numbers.

A number becomes the factor or offset of a `scale` node.  Two tensors are given as many
dimensions, as PyTorch does, before one node joins them; what has no batch of its own (a
parameter, a constant) is repeated for every example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.context import Rule, Translation
from neuronexus_kernel.models.capture.values import (
    BATCH,
    MASKED,
    Constant,
    Stacked,
    Traced,
    Weight,
    finite,
    shape_text,
)
from neuronexus_kernel.models.operators import Shape, show


def number_of(value: object) -> float | None:
    """Return the number that `value` is (a constant of one element too), or None."""
    if isinstance(value, Constant):
        return value.number
    if isinstance(value, (int, float)):
        return finite(float(value))
    return None


def needed_number(value: object, what: str) -> float:
    """Return the number that `value` is."""
    number = number_of(value)
    if number is None:
        raise ArchitectureError(f"{what} must be a number, not {_kind(value)}.")
    return number


def _kind(value: object) -> str:
    if value is BATCH:
        return "the batch size; examples must not depend on how many there are"
    if isinstance(value, (Traced, Weight, Stacked, Constant)):
        return "a tensor"
    return show(value)


def scaled(g: Translation, x: object, factor: float = 1.0, offset: float = 0.0) -> Traced:
    """Return ``x * factor + offset``."""
    return g.add("scale", x, factor=factor, offset=offset)


# Two tensors


def reshaped(g: Translation, x: Traced, shape: Shape) -> Traced:
    """Give an example another shape; its batch stays where it was."""
    return x if x.shape == shape else replace(g.add("reshape", x, sizes=shape), batch=x.batch)


def aligned(g: Translation, *given: object, centre: float = 0.0) -> list[Traced]:
    """Give tensors equally many dimensions and the batch at one place, as PyTorch joins them.

    Parameters
    ----------
    given
        Tensors of any kind.
    centre
        Where parameters among them start: factors at one, terms a little around zero.

    Raises
    ------
    ArchitectureError
        If a batch would meet another dimension.
    """
    bound = 0.0 if centre else 0.02
    read = [g.tensor(each, centre=centre, bound=bound) for each in given]
    rank = max(len(each.full) for each in read)
    places = {len(each.full) - each.batch for each in read if each.batch is not None}
    if len(places) > 1:
        raise ArchitectureError(
            f"it joins {' and '.join(shape_text(each.full) for each in read)}: the batch of one "
            "meets another dimension of the other; permute one of them, or add dimensions with "
            "unsqueeze."
        )
    batch = rank - places.pop() if places else None
    return [_placed(g, each, rank, batch) for each in read]


def _placed(g: Translation, x: Traced, rank: int, batch: int | None) -> Traced:
    plain = [size if isinstance(size, int) else 1 for size in x.full]
    padded = (*(1,) * (rank - len(plain)), *plain)
    if batch is None:
        return reshaped(g, x, padded)
    if x.batch is None and padded[batch] != 1:
        raise ArchitectureError(
            f"it joins a tensor of shape {shape_text(x.full)}, which has no batch, with one that "
            f"has the batch there: its {padded[batch]} rows would belong to single examples; give "
            "it a first dimension of 1."
        )
    shape = (*padded[:batch], *padded[batch + 1 :])
    if not shape:
        raise ArchitectureError("an example must keep at least one dimension; use keepdim=True.")
    return Traced(reshaped(g, x, shape).name, shape, batch)


def joined(
    g: Translation, operator: str, left: object, right: object, **arguments: object
) -> Traced:
    """Join two tensors element by element."""
    centre = 1.0 if operator in ("multiply", "divide") else 0.0
    first, second = aligned(g, left, right, centre=centre)
    return g.add(operator, first, second, **arguments)


# Rules


def _settled(input: object, other: object) -> None:
    """Refuse arithmetic with the batch size."""
    if input is BATCH or other is BATCH:
        raise ArchitectureError(
            "it calculates with the batch size; examples must not mix: keep the batch as a "
            "dimension of its own, such as x.reshape(x.shape[0], -1)."
        )


def add(g: Translation, input: object, other: object, *, alpha: object = 1) -> Traced:
    """``+``."""
    _settled(input, other)
    factor = needed_number(alpha, "alpha")
    if factor != 1.0:
        other = multiply(g, other, factor)
    left, right = number_of(input), number_of(other)
    if right is not None:
        return scaled(g, input, 1.0, right)
    if left is not None:
        return scaled(g, other, 1.0, left)
    return joined(g, "add", input, other)


def subtract(g: Translation, input: object, other: object, *, alpha: object = 1) -> Traced:
    """``-``."""
    _settled(input, other)
    factor = needed_number(alpha, "alpha")
    if factor != 1.0:
        other = multiply(g, other, factor)
    left, right = number_of(input), number_of(other)
    if right is not None:
        return scaled(g, input, 1.0, -right)
    if left is not None:
        return scaled(g, other, -1.0, left)
    return joined(g, "subtract", input, other)


def multiply(g: Translation, input: object, other: object) -> Traced:
    """``*``."""
    _settled(input, other)
    left, right = number_of(input), number_of(other)
    if right is not None:
        return scaled(g, input, right)
    if left is not None:
        return scaled(g, other, left)
    return joined(g, "multiply", input, other)


def divide(g: Translation, input: object, other: object, *, rounding_mode: object = None) -> Traced:
    """``/``."""
    _settled(input, other)
    if rounding_mode is not None:
        raise ArchitectureError("rounding_mode is not supported: rounding has no gradient.")
    left, right = number_of(input), number_of(other)
    if right == 0:
        raise ArchitectureError("it divides by zero.")
    if right is not None:
        return scaled(g, input, 1.0 / right)
    if left is not None:
        return scaled(g, power(g, other, -1.0), left)
    return joined(g, "divide", input, other)


def negative(g: Translation, input: object) -> Traced:
    """``-x``."""
    return scaled(g, input, -1.0)


def power(g: Translation, input: object, exponent: object) -> Traced:
    """``x ** n``."""
    _settled(input, exponent)
    x, n = g.tensor(input), needed_number(exponent, "the exponent")
    if n == 1.0:
        return x
    return g.add("sqrt", x) if n == 0.5 else g.add("power", x, exponent=n)


def powered(exponent: float) -> Rule:
    """Return the rule of a function that is a power, such as ``torch.square``."""

    def rule(g: Translation, input: object) -> Traced:
        return power(g, input, exponent)

    return rule


def reflected(rule: Callable[[Translation, object, object], Traced]) -> Rule:
    """Return the rule of ``other - x`` and the like, which come with their operands swapped."""

    def swapped(g: Translation, input: object, other: object) -> Traced:
        return rule(g, other, input)

    return swapped


def in_place(rule: Rule) -> Rule:
    """Return the rule of a function that changes its first argument, such as ``x += y``."""

    def changing(g: Translation, *args: object, **kwargs: object) -> object:
        g.in_place = True
        return rule(g, *args, **kwargs)

    return changing


def masked_fill(g: Translation, input: object, mask: object, value: object) -> Traced:
    """``x.masked_fill``; minus infinity becomes `MASKED`."""
    number = needed_number(value, "the value")
    if not isinstance(mask, Constant):
        raise ArchitectureError(
            "its mask is computed from the input; only constant masks can be captured, such as a "
            "buffer or torch.tril(torch.ones(T, T))."
        )
    return joined(g, "masked_fill", input, Constant(mask.value != 0, mask.batch), value=number)


def where(g: Translation, condition: object, input: object, other: object) -> Traced:
    """``torch.where`` with a constant condition."""
    if not isinstance(condition, Constant):
        raise ArchitectureError(
            "its condition is computed from the input; only constant conditions can be captured. "
            "Write F.relu, torch.clamp or a product with a sigmoid."
        )
    if number_of(other) is not None:
        return masked_fill(g, input, Constant(condition.value == 0, condition.batch), other)
    if number_of(input) is not None:
        return masked_fill(g, other, condition, input)
    yes = Constant((condition.value != 0).float(), condition.batch)
    no = Constant((condition.value == 0).float(), condition.batch)
    return add(g, joined(g, "multiply", input, yes), joined(g, "multiply", other, no))


def clamp(g: Translation, input: object, min: object = None, max: object = None) -> Traced:
    """``torch.clamp``."""
    if min is None and max is None:
        return g.tensor(input)
    low = None if min is None else needed_number(min, "min")
    high = None if max is None else needed_number(max, "max")
    if low == 0.0 and high is None:
        return g.add("relu", input)
    bounds = (MASKED if low is None else low, -MASKED if high is None else high)
    return g.add("hardtanh", input, minimum=bounds[0], maximum=bounds[1])
