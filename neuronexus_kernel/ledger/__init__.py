"""The ledger: who holds how much NXS, provably.

An append-only log of balanced entries under a Merkle tree (RFC 6962) whose roots the hub signs.
This room is arithmetic and bytes only; the hub stores the bytes.
"""

from neuronexus_kernel.ledger.amounts import UNITS, format_nxs, parse_nxs, split
from neuronexus_kernel.ledger.balances import Balances
from neuronexus_kernel.ledger.emission import CAP, reward
from neuronexus_kernel.ledger.entries import EMISSION, Entry, Posting
from neuronexus_kernel.ledger.verify import LedgerReport, verify_log

__all__ = [
    "CAP",
    "EMISSION",
    "UNITS",
    "Balances",
    "Entry",
    "LedgerReport",
    "Posting",
    "format_nxs",
    "parse_nxs",
    "reward",
    "split",
    "verify_log",
]
