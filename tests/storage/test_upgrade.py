"""Stores of earlier versions, which had no pins: nothing in them is ever lost."""

import random
import shutil
import subprocess
import sys

import pytest

from neuronexus_kernel.content import CID
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import LocalStore, upgrade

BIG = random.Random(0).randbytes((3 << 20) + 17)
QUICK = StorageSettings(fsync="never")


def roots_of(store):
    return {pin.cid for pin in store.pins()}


@pytest.fixture
def old(tmp_path):
    """The folder of a store as earlier versions made it, and what was added to it."""
    store = LocalStore(tmp_path / "store", QUICK)
    weights = store.add(BIG)
    architecture = store.put_node({"layers": [1, 2]})
    recipe = store.put_node({"architecture": architecture, "weights": weights})
    receipt = store.put_node({"sealed": CID.of(b"in the other store")})
    added = {weights, architecture, recipe, receipt, store.add(b"small"), store.add(b"")}
    for name in ("pins", "locks", "reading"):
        shutil.rmtree(store.root / name, ignore_errors=True)
    return store.root, added


def test_everything_that_was_added_is_pinned_when_the_store_is_opened(old):
    root, added = old
    store = LocalStore(root)
    assert roots_of(store) == added
    assert {pin.name for pin in store.pins()} == {upgrade.NAME}
    assert all(pin.recursive for pin in store.pins())


def test_nothing_is_lost_when_somebody_collects(old):
    root, _ = old
    before = sorted(root.glob("blocks/*/*"))
    assert LocalStore(root).collect().removed == 0
    assert sorted(root.glob("blocks/*/*")) == before
    assert LocalStore(root).verify().ok


def test_each_root_is_kept_for_itself(old):
    root, added = old
    store = LocalStore(root)
    for cid in added:
        if store.get(cid) != BIG:
            store.unpin(cid)
    store.collect()
    assert [cid for cid in added if store.has(cid)] == list(roots_of(store))
    assert store.get(*roots_of(store)) == BIG


def test_a_store_is_upgraded_once(old):
    root, added = old
    store = LocalStore(root)
    gone = store.put_node({"layers": [1, 2]})
    store.unpin(gone)
    assert roots_of(LocalStore(root)) == added - {gone}


def test_a_new_store_pins_nothing_by_itself(tmp_path):
    LocalStore(tmp_path).add(b"x", pin=False)
    assert roots_of(LocalStore(tmp_path)) == set()
    assert LocalStore(tmp_path).collect().removed == 1


def test_an_upgrade_that_was_cut_off_is_done_again(old, monkeypatch):
    root, added = old

    def cut_off(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(upgrade, "_put_in_place", cut_off)
    with pytest.raises(KeyboardInterrupt):
        LocalStore(root)
    assert not (root / "pins").exists()
    monkeypatch.undo()
    assert roots_of(LocalStore(root)) == added


def test_two_processes_may_upgrade_at_once(old):
    root, added = old
    code = (
        "import sys; from neuronexus_kernel.storage import LocalStore\n"
        "print(len(list(LocalStore(sys.argv[1]).pins())))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, root], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [int(process.communicate()[0]) for process in processes] == [len(added)] * 3
    assert roots_of(LocalStore(root)) == added
    assert list((root / "staging").iterdir()) == []


def test_what_is_corrupt_in_an_old_store_is_pinned_with_all_it_may_need(old):
    root, added = old
    store = LocalStore(root)
    weights = next(cid for cid in added if store.get(cid) == BIG)
    shutil.rmtree(root / "pins")
    store._blocks.path_of(weights).write_bytes(b"damage")
    store = LocalStore(root)
    assert roots_of(store) > added
    assert {CID.of(BIG[at : at + (1 << 20)]) for at in range(0, len(BIG), 1 << 20)} < roots_of(
        store
    )
    assert [problem.fault for problem in store.verify().problems] == ["corrupt"]
