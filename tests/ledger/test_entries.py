import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import CID, dagcbor, new_id
from neuronexus_kernel.errors import LedgerError
from neuronexus_kernel.ledger import EMISSION, Entry, Posting
from neuronexus_kernel.ledger.merkle import EMPTY_ROOT, leaf_hash

CAP = 21_000_000 * 10**18


def entry(**changes):
    fields = {
        "index": 0,
        "id": "01938b2a-7c00-7000-8000-000000000001",
        "time": "2026-11-22T10:00:00Z",
        "kind": "mint",
        "postings": [Posting("ada", 5), Posting(EMISSION, -5)],
        "memo": {"contribution": "x", "receipt": CID.of(b"receipt"), "value_nano": 7},
        "previous_root": EMPTY_ROOT,
    }
    return Entry(**{**fields, **changes})


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True)


@settings(max_examples=60)
@given(st.dictionaries(names, st.integers(1, CAP), min_size=1, max_size=6))
def test_an_entry_reads_back_from_its_bytes_unchanged(amounts):
    amounts[EMISSION] = -sum(amounts.values())
    written = entry(postings=[Posting(a, u) for a, u in sorted(amounts.items())], id=new_id())
    read = Entry.decode(written.encode())
    assert read == written
    assert read.encode() == written.encode()
    assert read.leaf_hash == leaf_hash(written.encode())


def test_the_bytes_of_an_entry_never_change_between_versions():
    assert (
        entry().leaf_hash.hex()
        == "1b406542b0494bcc031e3f04c6cd416494cb92a6133c93eaeb11f9089679407e"
    )


def test_amounts_travel_as_decimal_text_so_that_no_reader_rounds_them():
    node = dagcbor.decode(entry().encode())
    assert node["postings"] == [
        {"account": "ada", "amount": "5"},
        {"account": "nx:emission", "amount": "-5"},
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"index": -1},
        {"index": True},
        {"index": "0"},
        {"id": "01938b2a"},
        {"id": None},
        {"time": "2026-11-22T10:00:00"},
        {"time": "2026-11-22T10:00:00+00:00"},
        {"time": "2026-02-30T10:00:00Z"},
        {"time": "2026-11-22 10:00:00Z"},
        {"time": 5},
        {"kind": "burn"},
        {"previous_root": b"short"},
        {"previous_root": "text"},
        {"memo": {"why": 0.5}},
        {"memo": {"why": True}},
        {"memo": {"why": ["a"]}},
        {"postings": []},
        {"postings": [Posting("ada", 5)]},
        {"postings": [Posting("ada", 5), Posting(EMISSION, -4)]},
        {"postings": [Posting(EMISSION, -5), Posting("ada", 5)]},
        {"postings": [Posting("ada", 2), Posting("ada", 3), Posting(EMISSION, -5)]},
        {"postings": [Posting("ada", 5), Posting("bob", -5)]},
        {"postings": [Posting("ada", -5), Posting(EMISSION, 5)]},
        {"postings": [Posting("ada", 5), Posting("bob", -1), Posting(EMISSION, -4)]},
        {"kind": "transfer"},
    ],
)
def test_an_entry_that_breaks_a_rule_cannot_be_made(changes):
    with pytest.raises(LedgerError):
        entry(**changes)


@pytest.mark.parametrize(
    ("account", "amount"),
    [
        ("ada", 0),
        ("ada", 1.0),
        ("ada", True),
        ("ada", 2**127),
        ("", 1),
        ("Ada", 1),
        ("a da", 1),
        ("other:emission", 1),
        ("a" * 65, 1),
        ("ada\n", 1),
        (None, 1),
    ],
)
def test_a_posting_needs_an_account_and_a_whole_amount(account, amount):
    with pytest.raises(LedgerError):
        Posting(account, amount)


def test_an_entry_cannot_be_changed_after_it_was_made():
    made = entry()
    with pytest.raises(AttributeError):
        made.index = 1
    with pytest.raises(TypeError):
        made.memo["more"] = "x"


def altered(**changes):
    return {**dagcbor.decode(entry().encode()), **changes}


@pytest.mark.parametrize(
    "node",
    [
        altered(extra=1),
        altered(format="neuronexus/entry@2"),
        altered(postings={}),
        altered(memo=[]),
        altered(postings=[{"account": "ada", "amount": 5}]),
        altered(postings=[{"account": "ada", "amount": "+5"}, {"account": "b", "amount": "-5"}]),
        altered(postings=[{"account": "ada", "amount": "05"}, {"account": "b", "amount": "-5"}]),
        altered(postings=[{"account": "ada", "amount": "5", "more": 1}]),
        altered(postings=["ada"]),
        altered(memo={"why": None}),
        {key: value for key, value in altered().items() if key != "time"},
        [],
        None,
    ],
)
def test_a_document_that_is_no_entry_is_refused(node):
    with pytest.raises(LedgerError):
        Entry.decode(dagcbor.encode(node))


@settings(max_examples=100)
@given(st.integers(0, 400), st.integers(1, 255))
def test_no_changed_byte_reads_as_the_same_entry(at, change):
    data = bytearray(entry().encode())
    data[at % len(data)] ^= change
    try:
        read = Entry.decode(bytes(data))
    except LedgerError:
        return
    assert read != entry()
    assert read.encode() == bytes(data)


def test_cut_off_and_lengthened_bytes_are_refused():
    data = entry().encode()
    for bad in (data[:-1], data + b"\0", b"", data[1:]):
        with pytest.raises(LedgerError):
            Entry.decode(bad)
