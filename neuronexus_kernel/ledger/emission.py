"""Emission: how much new NXS a measured improvement earns.

The rule is linear and small enough to check by hand: 10,000 NXS for a whole unit of the metric,
so 100 NXS for one percentage point of accuracy, until the supply of 21,000,000 NXS is used up.
A value is the lower confidence bound of the improvement, an integer of 10^-9; there is no float
between the measurement and the money.
"""

from __future__ import annotations

from neuronexus_kernel.errors import LedgerError
from neuronexus_kernel.ledger.amounts import UNITS

CAP: int = 21_000_000 * UNITS
"""All units that will ever be minted."""

RATE: int = 10_000 * UNITS
"""Units for an improvement of one whole unit of the metric."""

NANO: int = 10**9


def reward(value_nano: int, *, minted: int) -> int:
    """Return the units that an improvement earns.

    Parameters
    ----------
    value_nano
        Lower confidence bound of the measured improvement, in 10^-9 of the metric.
    minted
        Units minted before this reward.

    Returns
    -------
    int
        Units, zero for a value of zero or below, never more than the supply has left.

    Raises
    ------
    LedgerError
        If `value_nano` is no integer or `minted` is outside of the supply.
    """
    if isinstance(value_nano, bool) or not isinstance(value_nano, int):
        kind = type(value_nano).__name__
        raise LedgerError(f"A value is an integer of 10^-9, not {kind}; round it first.")
    if not 0 <= minted <= CAP:
        raise LedgerError(f"{minted} units minted is outside of the supply of {CAP}.")
    return min(max(value_nano, 0) * RATE // NANO, CAP - minted)
