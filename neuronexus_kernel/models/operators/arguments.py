"""The arguments a node may carry: plain numbers, flags and words, each checked by a rule.

Whatever arrives from outside is judged here and nowhere else: a bool is no whole number, a
number has bounds, a word is one of a list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from neuronexus_kernel.errors import ArchitectureError

Value: TypeAlias = bool | int | float | str | tuple[int, ...] | tuple[float, ...]

SIZE_LIMIT = 2**31 - 1
WINDOW_LIMIT = 1024
"""Largest side, step or margin of a sliding window."""
RANK_LIMIT = 6
"""Most dimensions that one example of a tensor may have."""
REALS_LIMIT = 65_536
"""Most numbers that one list of numbers may hold."""
FLOAT_LIMIT = float.fromhex("0x1.fffffep+127")
"""Largest finite float32."""


def show(value: object) -> str:
    """Return a short, safe description of a value from outside, for an error message."""
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a value of type {type(value).__name__}"


class Rule(Protocol):
    """What one argument must look like; ``default`` is None when it must be given."""

    @property
    def default(self) -> Value | None:
        """The value taken when the argument is absent."""

    def parse(self, name: str, value: object) -> Value:
        """Return the value in normal form, or raise `ArchitectureError` naming `name`."""


def whole(name: str, value: object, minimum: int, maximum: int) -> int:
    """Return `value` if it is a whole number (no bool) within bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise ArchitectureError(
            f"'{name}' must be a whole number from {minimum} to {maximum}, not {show(value)}."
        )
    return int(value)


def real(name: str, value: object, minimum: float, maximum: float) -> float:
    """Return `value` as a float if it is a finite number (no bool) within bounds."""
    if (
        not isinstance(value, (int, float))
        or isinstance(value, bool)
        or not minimum <= value <= maximum
        or not math.isfinite(value)
    ):
        raise ArchitectureError(
            f"'{name}' must be a number from {minimum} to {maximum}, not {show(value)}."
        )
    return float(value) + 0.0


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `minimum` to `maximum`."""

    minimum: int = 1
    maximum: int = SIZE_LIMIT
    default: int | None = None

    def parse(self, name: str, value: object) -> int:
        """Return the number."""
        return whole(name, value, self.minimum, self.maximum)


@dataclass(frozen=True, slots=True)
class Real:
    """A finite number from `minimum` to `maximum`; whole numbers become floats."""

    minimum: float
    maximum: float
    default: float | None = None

    def parse(self, name: str, value: object) -> float:
        """Return the number as a float; minus zero becomes zero."""
        return real(name, value, self.minimum, self.maximum)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or False."""

    default: bool | None = None

    def parse(self, name: str, value: object) -> bool:
        """Return the flag."""
        if not isinstance(value, bool):
            raise ArchitectureError(f"'{name}' must be true or false, not {show(value)}.")
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One word of a list."""

    words: tuple[str, ...]
    default: str | None = None

    def parse(self, name: str, value: object) -> str:
        """Return the word."""
        if not isinstance(value, str) or value not in self.words:
            raise ArchitectureError(
                f"'{name}' must be one of {', '.join(self.words)}, not {show(value)}."
            )
        return value


@dataclass(frozen=True, slots=True)
class Sizes:
    """A list of whole numbers, at least `least` and at most `most` of them."""

    least: int = 2
    most: int = 2
    minimum: int = 1
    maximum: int = SIZE_LIMIT
    default: tuple[int, ...] | None = None

    def parse(self, name: str, value: object) -> tuple[int, ...]:
        """Return the numbers as a tuple."""
        if not isinstance(value, (list, tuple)) or not self.least <= len(value) <= self.most:
            count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
            raise ArchitectureError(
                f"'{name}' must be a list of {count} whole numbers, not {show(value)}."
            )
        return tuple(whole(name, item, self.minimum, self.maximum) for item in value)


@dataclass(frozen=True, slots=True)
class Reals:
    """A list of one to `most` finite numbers from `minimum` to `maximum`."""

    minimum: float = -FLOAT_LIMIT
    maximum: float = FLOAT_LIMIT
    most: int = REALS_LIMIT
    default: tuple[float, ...] | None = None

    def parse(self, name: str, value: object) -> tuple[float, ...]:
        """Return the numbers as a tuple of floats; minus zero becomes zero."""
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= self.most:
            count = f" ({len(value)})" if isinstance(value, (list, tuple)) else ""
            raise ArchitectureError(
                f"'{name}' must be a list of 1 to {self.most:,} numbers, not {show(value)}{count}."
            )
        return tuple(real(name, item, self.minimum, self.maximum) for item in value)


@dataclass(frozen=True, slots=True)
class Dimensions:
    """A list of different dimensions, counted from the end: -1 is the last one."""

    default: tuple[int, ...] | None = None

    def parse(self, name: str, value: object) -> tuple[int, ...]:
        """Return the dimensions in ascending order, so that one set has one form."""
        found = Sizes(1, RANK_LIMIT, minimum=-RANK_LIMIT, maximum=-1).parse(name, value)
        if len(set(found)) < len(found):
            raise ArchitectureError(f"'{name}' names a dimension twice: {found}.")
        return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class Arguments:
    """The checked arguments of one node, sorted by name, with typed access."""

    items: tuple[tuple[str, Value], ...] = ()

    def _get(self, name: str) -> Value:
        for key, value in self.items:
            if key == name:
                return value
        raise ArchitectureError(f"argument '{name}' is missing.")

    def whole(self, name: str) -> int:
        """Return a whole number."""
        value = self._get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ArchitectureError(f"argument '{name}' is no whole number.")

    def real(self, name: str) -> float:
        """Return a float."""
        value = self._get(name)
        if isinstance(value, float):
            return value
        raise ArchitectureError(f"argument '{name}' is no number.")

    def flag(self, name: str) -> bool:
        """Return True or False."""
        value = self._get(name)
        if isinstance(value, bool):
            return value
        raise ArchitectureError(f"argument '{name}' is neither true nor false.")

    def word(self, name: str) -> str:
        """Return a word."""
        value = self._get(name)
        if isinstance(value, str):
            return value
        raise ArchitectureError(f"argument '{name}' is no word.")

    def sizes(self, name: str) -> tuple[int, ...]:
        """Return a tuple of whole numbers."""
        value = self._get(name)
        if isinstance(value, tuple):
            numbers = tuple(item for item in value if isinstance(item, int))
            if len(numbers) == len(value):
                return numbers
        raise ArchitectureError(f"argument '{name}' is no list of whole numbers.")

    def reals(self, name: str) -> tuple[float, ...]:
        """Return a tuple of floats."""
        value = self._get(name)
        if isinstance(value, tuple):
            numbers = tuple(item for item in value if isinstance(item, float))
            if len(numbers) == len(value):
                return numbers
        raise ArchitectureError(f"argument '{name}' is no list of numbers.")

    def pair(self, name: str) -> tuple[int, int]:
        """Return two whole numbers (height, width)."""
        first, second = self.sizes(name)
        return first, second
