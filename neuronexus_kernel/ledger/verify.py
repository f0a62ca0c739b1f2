"""Verification: read a whole log as a stranger would, trusting nothing.

One pass over the stored bytes, in order, recomputes everything that the log claims: encoding,
positions, the root before every entry, balances, and that nothing was entered or paid twice.
Memory grows with the number of ids and accounts only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from neuronexus_kernel.errors import LedgerError
from neuronexus_kernel.ledger import merkle
from neuronexus_kernel.ledger.balances import Balances
from neuronexus_kernel.ledger.checkpoint import Checkpoint
from neuronexus_kernel.ledger.entries import Entry


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What a verification found.

    Attributes
    ----------
    ok
        Whether every rule holds for every entry and every checkpoint.
    entries
        Number of entries that verified, before the first problem.
    root
        Root of the Merkle tree over those entries, 32 bytes.
    balances
        Units by account after those entries.
    problem
        The first problem, or None.
    """

    ok: bool
    entries: int
    root: bytes
    balances: Mapping[str, int]
    problem: str | None


@dataclass(slots=True)
class _Reader:
    frontier: merkle.Frontier = field(default_factory=merkle.Frontier)
    balances: Balances = field(default_factory=Balances)
    ids: set[str] = field(default_factory=set)
    paid: set[tuple[object, str]] = field(default_factory=set)

    def read(self, data: bytes) -> None:
        entry = Entry.decode(data)
        self._check_place(entry)
        payments = _payments(entry)
        for contribution, account in payments & self.paid:
            raise LedgerError(f"contribution {contribution} was already paid to {account}.")
        self.balances.apply(entry)
        self.paid |= payments
        self.ids.add(entry.id)
        self.frontier.append(merkle.leaf_hash(data))

    def _check_place(self, entry: Entry) -> None:
        if entry.index != self.frontier.size:
            raise LedgerError(f"it says that it is entry {entry.index}.")
        if entry.previous_root != self.frontier.root():
            raise LedgerError("the root it names is not that of the entries before it.")
        if entry.id in self.ids:
            raise LedgerError(f"the id {entry.id} was entered before.")


def verify_log(encoded: Iterable[bytes], *, checkpoints: Iterable[Checkpoint] = ()) -> LedgerReport:
    """Verify a log from its first entry.

    Parameters
    ----------
    encoded
        The stored bytes of the entries, in order; may be a stream.
    checkpoints
        Checkpoints seen earlier, whose signatures the caller has verified: the log must have
        passed through each of them.

    Returns
    -------
    LedgerReport
        ``ok`` is False and ``problem`` says what and where when a rule is broken; verification
        stops there.
    """
    expected: dict[int, list[bytes]] = {}
    for checkpoint in checkpoints:
        expected.setdefault(checkpoint.size, []).append(checkpoint.root)
    reader = _Reader()
    problem = _checkpoint_problem(reader.frontier, expected)
    for data in encoded if problem is None else ():
        try:
            reader.read(data)
        except LedgerError as error:
            problem = f"At position {reader.frontier.size}: {error}"
            break
        problem = _checkpoint_problem(reader.frontier, expected)
        if problem:
            break
    size = reader.frontier.size
    if problem is None and expected and max(expected) > size:
        problem = f"A signed checkpoint covers {max(expected)} entries, but there are {size}."
    return LedgerReport(
        ok=problem is None,
        entries=size,
        root=reader.frontier.root(),
        balances=reader.balances.as_dict(),
        problem=problem,
    )


def _payments(entry: Entry) -> set[tuple[object, str]]:
    if entry.kind != "mint" or "contribution" not in entry.memo:
        return set()
    contribution = entry.memo["contribution"]
    return {(contribution, posting.account) for posting in entry.postings if posting.amount > 0}


def _checkpoint_problem(
    frontier: merkle.Frontier, expected: Mapping[int, list[bytes]]
) -> str | None:
    if any(root != frontier.root() for root in expected.get(frontier.size, ())):
        return f"The log differs from the signed checkpoint of its first {frontier.size} entries."
    return None
