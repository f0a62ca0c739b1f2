"""The ledger in the database: what was written stays as it was, or is found out."""

from __future__ import annotations

import shutil

import duckdb
import pytest

from neuronexus_kernel.content import new_id
from neuronexus_kernel.hub.local import LocalHub


@pytest.fixture(scope="module")
def closed_hub(new_bench, new_home):
    """The folder of a closed hub with five entries in its ledger."""
    bench = new_bench(new_home())
    receipt = bench.services.contents.put_node({})
    for number in range(5):
        bench.services.database.write(
            lambda tx, number=number: bench.services.tokens.mint(
                tx,
                {"ada": 10**24 + number, "grace": 7},
                contribution=new_id(),
                receipt=receipt,
                project=new_id(),
            )
        )
    assert bench.hub.verify_ledger().ok
    bench.close()
    return bench.home


@pytest.fixture
def home(closed_hub, tmp_path):
    """A copy of that folder, to be tampered with."""
    return shutil.copytree(closed_hub, tmp_path / "home")


def tampered(home, *statements):
    """Change the database behind the hub's back, and return what it finds on verifying."""
    with duckdb.connect(home / "hub.duckdb") as connection:
        for statement in statements:
            connection.execute(statement)
    hub = LocalHub.open(home)
    try:
        return hub.verify_ledger()
    finally:
        hub.close()


def change_byte(home, index, offset):
    with duckdb.connect(home / "hub.duckdb") as connection:
        query = 'SELECT data FROM ledger WHERE "index" = ?'
        (data,) = connection.execute(query, [index]).fetchone()
        changed = bytearray(data)
        changed[offset] ^= 1
        connection.execute('UPDATE ledger SET data = ? WHERE "index" = ?', [bytes(changed), index])


def test_nothing_changed_verifies(home):
    status = tampered(home)
    assert (status.ok, status.entries, status.problem) == (True, 5, None)


@pytest.mark.parametrize("index", [0, 2, 4])
@pytest.mark.parametrize("offset", [0, 100])
def test_one_changed_bit_of_an_entry_is_found(home, index, offset):
    change_byte(home, index, offset)
    status = tampered(home)
    assert not status.ok
    # A changed time of an entry is caught by the next one's root, or by its own leaf hash.
    assert any(
        f"{which} {n}" in status.problem
        for which in ("position", "entry")
        for n in (index, index + 1)
    )


def test_a_changed_posting_is_found(home):
    status = tampered(home, """UPDATE postings SET amount = 8 WHERE "index" = 3 AND amount = 7""")
    assert not status.ok
    assert "entry 3" in status.problem


def test_a_posting_moved_to_another_entry_is_found(home):
    """The sums by account agree; the entries do not."""
    status = tampered(
        home,
        """UPDATE postings SET amount = 6 WHERE "index" = 1 AND amount = 7""",
        """UPDATE postings SET amount = 8 WHERE "index" = 2 AND amount = 7""",
    )
    assert not status.ok
    assert "entry 1" in status.problem


@pytest.mark.parametrize("index", [0, 2])
def test_a_deleted_entry_is_found(home, index):
    status = tampered(
        home,
        f'DELETE FROM ledger WHERE "index" = {index}',
        f'DELETE FROM postings WHERE "index" = {index}',
    )
    assert not status.ok
    assert f"position {index}" in status.problem


def test_a_deleted_last_entry_is_found_by_the_postings_that_are_left(home):
    status = tampered(home, 'DELETE FROM ledger WHERE "index" = 4')
    assert not status.ok
    assert "entry 4" in status.problem


def test_an_entry_beside_the_ledger_earns_nothing(home):
    status = tampered(home, "INSERT INTO postings VALUES (9, 'mallory', 1000)")
    assert not status.ok
    assert "entry 9" in status.problem
