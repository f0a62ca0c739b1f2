"""Balances: what the accounts hold after the entries so far.

A balance is nothing but the sum of an account's postings.  Every account but `EMISSION` stays at
zero or above, and what came out of `EMISSION` never exceeds the supply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from neuronexus_kernel.errors import LedgerError
from neuronexus_kernel.ledger.amounts import format_nxs
from neuronexus_kernel.ledger.emission import CAP
from neuronexus_kernel.ledger.entries import EMISSION, Entry


class Balances:
    """The running sums of a log, entry by entry.

    Parameters
    ----------
    initial
        Balances to go on from, in units by account; they are copied.
    """

    __slots__ = ("_units",)

    def __init__(self, initial: Mapping[str, int] | None = None) -> None:
        self._units = dict(initial or {})

    @classmethod
    def fold(cls, entries: Iterable[Entry]) -> Balances:
        """Return the balances after these entries."""
        balances = cls()
        for entry in entries:
            balances.apply(entry)
        return balances

    @property
    def minted(self) -> int:
        """Units that exist."""
        return -self._units.get(EMISSION, 0)

    def of(self, account: str) -> int:
        """Return the units that `account` holds; zero when it never had any."""
        return self._units.get(account, 0)

    def as_dict(self) -> dict[str, int]:
        """Return all balances in units, by account in alphabetical order."""
        return dict(sorted(self._units.items()))

    def apply(self, entry: Entry) -> None:
        """Add one entry; when it is refused, no balance changes.

        Raises
        ------
        LedgerError
            If an account would fall below zero, or more than the supply would be minted.
        """
        after = {
            posting.account: self.of(posting.account) + posting.amount for posting in entry.postings
        }
        for account, units in after.items():
            if account == EMISSION and -units > CAP:
                raise LedgerError(
                    f"Entry {entry.index} would mint more than the supply of {format_nxs(CAP)} NXS."
                )
            if account != EMISSION and units < 0:
                raise LedgerError(
                    f"Entry {entry.index} takes {format_nxs(self.of(account) - units)} NXS from "
                    f"{account}, which holds {format_nxs(self.of(account))}."
                )
        self._units.update(after)
