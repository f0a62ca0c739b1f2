from collections.abc import Callable

import pytest

from neuronexus_kernel.content import new_id
from neuronexus_kernel.ledger import EMISSION, Balances, Entry, Posting
from neuronexus_kernel.ledger.merkle import Frontier

TIME = "2026-11-22T10:00:00.000001Z"


class Writer:
    """Writes entries that fit a growing log, as the hub does."""

    def __init__(self) -> None:
        self.frontier = Frontier()
        self.balances = Balances()
        self.log: list[bytes] = []

    def add(self, kind: str, amounts: dict[str, int], **changes: object) -> Entry:
        """Append an entry, changed as asked for, without judging whether it is allowed."""
        fields = {
            "index": len(self.log),
            "id": new_id(),
            "time": TIME,
            "kind": kind,
            "postings": [Posting(name, units) for name, units in sorted(amounts.items())],
            "memo": {},
            "previous_root": self.frontier.root(),
        }
        entry = Entry(**{**fields, **changes})
        self.frontier.append(entry.leaf_hash)
        self.log.append(entry.encode())
        return entry

    def mint(self, account: str, units: int, **changes: object) -> Entry:
        return self.add("mint", {account: units, EMISSION: -units}, **changes)

    def transfer(self, giver: str, taker: str, units: int, **changes: object) -> Entry:
        return self.add("transfer", {giver: -units, taker: units}, **changes)


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def make_writer() -> Callable[[], Writer]:
    return Writer
