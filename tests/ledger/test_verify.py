import random

import pytest

from neuronexus_kernel.errors import LedgerError
from neuronexus_kernel.ledger import CAP, EMISSION, UNITS, Balances, Entry, verify_log
from neuronexus_kernel.ledger.checkpoint import Checkpoint
from neuronexus_kernel.ledger.merkle import leaf_hash, root


def test_balances_are_the_sums_of_the_postings(writer):
    entries = [
        writer.mint("ada", 5 * UNITS),
        writer.transfer("ada", "grace", 2 * UNITS),
        writer.add("mint", {"ada": 1, "alan": 2, EMISSION: -3}),
    ]
    balances = Balances.fold(entries)
    assert balances.as_dict() == {
        "ada": 3 * UNITS + 1,
        "alan": 2,
        "grace": 2 * UNITS,
        EMISSION: -5 * UNITS - 3,
    }
    assert balances.minted == 5 * UNITS + 3
    assert balances.of("nobody") == 0


def test_a_refused_entry_changes_no_balance(writer):
    balances = Balances.fold([writer.mint("ada", 5)])
    before = balances.as_dict()
    with pytest.raises(LedgerError, match="ada, which holds"):
        balances.apply(writer.add("transfer", {"ada": -6, "alan": 2, "grace": 4}))
    assert balances.as_dict() == before


def test_the_supply_is_never_exceeded(writer):
    balances = Balances.fold([writer.mint("ada", CAP)])
    with pytest.raises(LedgerError, match="21000000"):
        balances.apply(writer.mint("ada", 1))


def test_an_honest_log_verifies(writer):
    writer.mint("ada", 100, memo={"contribution": "c1"})
    writer.mint("grace", 50, memo={"contribution": "c1"})
    writer.mint("ada", 10, memo={"contribution": "c2"})
    writer.transfer("ada", "alan", 30)
    report = verify_log(iter(writer.log))
    assert report.ok
    assert report.problem is None
    assert report.entries == 4
    assert report.root == root(leaf_hash(data) for data in writer.log)
    assert report.balances == {"ada": 80, "alan": 30, "grace": 50, EMISSION: -160}


def test_an_empty_log_verifies():
    report = verify_log([])
    assert (report.ok, report.entries, report.balances) == (True, 0, {})


def wrong_index(writer):
    writer.mint("ada", 1, index=7)


def wrong_root(writer):
    writer.mint("ada", 1, previous_root=b"\0" * 32)


def double_id(writer):
    writer.mint("ada", 1, id=Entry.decode(writer.log[0]).id)


def paid_twice(writer):
    writer.mint("ada", 1, memo={"contribution": "c1"})


def overdraft(writer):
    writer.transfer("ada", "grace", 101)


def beyond_the_supply(writer):
    writer.mint("grace", CAP)


def garbage(writer):
    writer.log.append(b"not an entry")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (wrong_index, "entry 7"),
        (wrong_root, "root"),
        (double_id, "entered before"),
        (paid_twice, "already paid to ada"),
        (overdraft, "holds"),
        (beyond_the_supply, "supply"),
        (garbage, "no ledger entry"),
    ],
)
def test_a_broken_rule_is_found_and_named_with_its_place(writer, spoil, words):
    writer.mint("ada", 100, memo={"contribution": "c1"})
    spoil(writer)
    writer.mint("alan", 1)
    report = verify_log(writer.log)
    assert not report.ok
    assert report.entries == 1
    assert report.balances == {"ada": 100, EMISSION: -100}
    assert "At position 1" in report.problem
    assert words in report.problem


def test_no_flipped_bit_goes_unseen(writer):
    for number in range(12):
        writer.mint("ada", 100 + number)
    signed = Checkpoint("hub/ledger", 12, writer.frontier.root())
    chance = random.Random(0)
    for _ in range(200):
        log = list(writer.log)
        at = chance.randrange(len(log))
        data = bytearray(log[at])
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        log[at] = bytes(data)
        assert not verify_log(log, checkpoints=[signed]).ok


def test_swapped_missing_and_repeated_entries_are_found(writer):
    for units in (1, 2, 3):
        writer.mint("ada", units)
    one, two, three = writer.log
    for log in ([two, one, three], [one, three], [one, two, two, three], [two, three]):
        assert not verify_log(log).ok


def test_a_log_cut_off_behind_a_signed_checkpoint_is_found(writer):
    for units in (1, 2, 3):
        writer.mint("ada", units)
    checkpoint = Checkpoint("hub/ledger", 3, writer.frontier.root())
    assert verify_log(writer.log, checkpoints=[checkpoint]).ok
    report = verify_log(writer.log[:2], checkpoints=[checkpoint])
    assert not report.ok
    assert "covers 3 entries, but there are 2" in report.problem


def test_a_rewritten_history_does_not_pass_a_signed_checkpoint(make_writer):
    honest, forged = make_writer(), make_writer()
    for writer, units in ((honest, 1), (forged, 1000)):
        writer.mint("ada", units)
        writer.mint("grace", 5)
    checkpoint = Checkpoint("hub/ledger", 1, root([leaf_hash(honest.log[0])]))
    assert verify_log(forged.log).ok
    report = verify_log(forged.log, checkpoints=[checkpoint])
    assert not report.ok
    assert "signed checkpoint" in report.problem


def test_a_thousand_entries_verify_in_one_pass_over_a_stream(writer):
    for number in range(1000):
        writer.mint(f"user{number % 7}", 1 + number)
    report = verify_log(data for data in writer.log)
    assert (report.ok, report.entries) == (True, 1000)
