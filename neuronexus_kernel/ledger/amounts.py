"""Exact money: an amount is an integer number of units, 10^18 of which are one NXS.

Text such as ``"12.5"`` exists only at the edges; no float ever holds an amount.  `split` shares
an amount out without losing a unit, by the method of the largest remainder (Hamilton).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from neuronexus_kernel.errors import InvalidInputError

PLACES = 18
UNITS: int = 10**PLACES
MAX_UNITS: int = 2**127 - 1
"""Largest amount that every database column can hold (a signed 128-bit integer)."""

_DECIMAL = re.compile(r"(-?)([0-9]{1,40})(?:\.([0-9]{1,60}))?")


def parse_nxs(value: str | int | Decimal, *, signed: bool = False) -> int:
    """Return an amount given in NXS as units of 10^-18 NXS.

    Parameters
    ----------
    value
        Decimal text such as ``"12.5"``, a whole number of NXS, or a `Decimal`.  Never a float.
    signed
        Whether the amount may be below zero.

    Raises
    ------
    InvalidInputError
        If the value is no decimal number, has more than 18 places, is below zero without
        `signed`, or is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        kind = type(value).__name__
        raise InvalidInputError(f"An amount is text such as '12.5' or a whole number, not {kind}.")
    text = _plain_text(value)
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"{text[:80]!r} is not an amount; write it like '12.5'.")
    sign, whole, fraction = match[1], match[2], (match[3] or "").rstrip("0")
    if len(fraction) > PLACES:
        raise InvalidInputError(f"{text} has more than {PLACES} decimal places.")
    units = int(whole) * UNITS + int(fraction.ljust(PLACES, "0"))
    if sign and units and not signed:
        raise InvalidInputError(f"{text} is below zero; give an amount of zero or more.")
    if units > MAX_UNITS:
        raise InvalidInputError(f"{text} NXS is more than a ledger can hold.")
    return -units if sign else units


def _plain_text(value: str | int | Decimal) -> str:
    if isinstance(value, str):
        return value
    # Python takes long, or refuses, to write out numbers far beyond any amount.
    if not Decimal(value).is_finite() or Decimal(value).adjusted() > 40:
        raise InvalidInputError("The amount is more than a ledger can hold.")
    return format(Decimal(value), "f")


def format_nxs(units: int) -> str:
    """Return units as exact decimal text in NXS without trailing zeros, such as ``"12.5"``."""
    whole, fraction = divmod(abs(units), UNITS)
    digits = f"{fraction:0{PLACES}d}".rstrip("0")
    text = f"{whole}.{digits}" if digits else str(whole)
    return f"-{text}" if units < 0 else text


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Share `total` out in proportion to `weights`; the parts sum to it exactly.

    Each part is first rounded down; the units left over go one each to the largest remainders,
    of equal ones to the first.

    Parameters
    ----------
    total
        Units to share out, zero or more.
    weights
        Integers of zero or more, at least one above zero.  That all weights are zero is an
        error and not an equal split: nobody should be paid by accident.

    Returns
    -------
    list of int
        One part per weight; a weight of zero gets nothing.

    Raises
    ------
    InvalidInputError
        If the total or a weight is below zero, or no weight is above zero.
    """
    if total < 0 or any(weight < 0 for weight in weights):
        raise InvalidInputError("A split needs a total and weights of zero or more.")
    whole = sum(weights)
    if whole == 0:
        raise InvalidInputError("A split needs at least one weight above zero.")
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: -(total * weights[i] % whole))
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts
