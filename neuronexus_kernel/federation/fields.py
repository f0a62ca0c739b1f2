"""Checks of one value: what a recipe field may be, said in one place and in one voice.

A check takes the field's name and the value given and returns the value in its one normal form
(1 for a real number becomes 1.0, so that equal recipes have equal bytes), or raises a
`RecipeError` that says what is allowed and what was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from neuronexus_kernel.errors import RecipeError

Check: TypeAlias = Callable[[str, object], "float | int | str"]
Value: TypeAlias = float | int | str


def number(
    low: float, high: float, *, low_allowed: bool = True, high_allowed: bool = True
) -> Check:
    """Return a check for a finite real number between two bounds."""
    opening = "at least" if low_allowed else "above"
    closing = "at most" if high_allowed else "below"

    def check(name: str, value: object) -> float:
        valid = _is_real(value)
        if valid:
            real = float(value)  # type: ignore[arg-type]
            valid = (real >= low if low_allowed else real > low) and (
                real <= high if high_allowed else real < high
            )
        if not valid:
            raise RecipeError(
                f"{name} must be a number {opening} {low:g} and {closing} {high:g}, "
                f"not {_shown(value)}."
            )
        return real + 0.0  # -0.0 and 0.0 are the same number and must be the same bytes

    return check


def positive(high: float, *, zero: bool = False) -> Check:
    """Return a check for a number above zero (or at least zero) and at most `high`."""
    return number(0.0, high, low_allowed=zero)


def fraction(*, below: float = 1.0) -> Check:
    """Return a check for a number in ``[0, below)``."""
    return number(0.0, below, high_allowed=False)


def whole(low: int, high: int) -> Check:
    """Return a check for an integer between two bounds, both allowed."""

    def check(name: str, value: object) -> int:
        index = getattr(type(value), "__index__", None)
        if isinstance(value, bool) or index is None or not low <= index(value) <= high:
            raise RecipeError(
                f"{name} must be a whole number from {low} to {high}, not {_shown(value)}."
            )
        return int(index(value))

    return check


def choice(*names: str) -> Check:
    """Return a check for one of some names."""

    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in names:
            *first, last = (repr(each) for each in names)
            allowed = f"{', '.join(first)} or {last}" if first else last
            raise RecipeError(f"{name} must be {allowed}, not {_shown(value)}.")
        return value

    return check


def flag() -> Check:
    """Return a check for True or False."""

    def check(name: str, value: object) -> bool:
        if not isinstance(value, (bool, np.bool_)):
            raise RecipeError(f"{name} must be True or False, not {_shown(value)}.")
        return bool(value)

    return check


@dataclass(frozen=True, slots=True)
class Setting:
    """One parameter of a named technique.

    Attributes
    ----------
    check
        What its value must be.
    default
        Its value when it is left out; None if it must be given.
    optional
        Whether it may be left out without a value of its own being written down.
    """

    check: Check
    default: Value | None = None
    optional: bool = False


def settings_of(
    field: str, owner: str, given: object, known: Mapping[str, Setting]
) -> dict[str, Value]:
    """Check the parameters of a named technique.

    Parameters
    ----------
    field
        The recipe's field that holds them, for messages.
    owner
        The technique, for messages.
    given
        A mapping from names to values.
    known
        Those that there are.

    Returns
    -------
    dict
        The values in their normal form, sorted by name, defaults filled in.

    Raises
    ------
    RecipeError
        If a parameter is unknown, missing or out of range.
    """
    if not isinstance(given, Mapping):
        raise RecipeError(f"{field} must map names to values, not be a {type(given).__name__}.")
    for name in given:
        if name not in known:
            raise RecipeError(
                f"{field}: {owner} has no parameter {_shown(name)}; it has {_listed(known)}."
            )
    checked: dict[str, Value] = {}
    for name, setting in sorted(known.items()):
        if name in given:
            checked[name] = setting.check(f"{field}[{name!r}]", given[name])
        elif setting.default is not None:
            checked[name] = setting.default
        elif not setting.optional:
            raise RecipeError(f"{field}: {owner} needs {name!r}; it has {_listed(known)}.")
    return checked


def _listed(names: Collection[str]) -> str:
    return ", ".join(names) if names else "none"


def _is_real(value: object) -> bool:
    """Tell whether a value is a finite number (of Python or NumPy) and not a bool or a text."""
    if isinstance(value, (bool, str, bytes, complex)) or not hasattr(type(value), "__float__"):
        return False
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
