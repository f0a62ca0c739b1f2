"""A store here and a node: work goes on when the node does not, and nothing is forgotten."""

import importlib.util
import io
import random
import sys
import time
from pathlib import Path

import pytest

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    StoreError,
    StoreUnavailable,
)
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import LocalStore, car, cid_of
from neuronexus_kernel.storage import replicated as module
from neuronexus_kernel.storage.kubo import KuboStore
from neuronexus_kernel.storage.outbox import Action, Outbox
from neuronexus_kernel.storage.replicated import ReplicatedStore, with_node

_SPEC = importlib.util.spec_from_file_location(
    "loopback_rpc", Path(__file__).with_name("loopback_rpc.py")
)
rpc = sys.modules[_SPEC.name] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(rpc)

FILE = random.Random(2).randbytes(3_000_000)  # Three chunks.
QUICK = StorageSettings(fsync="never")


@pytest.fixture
def node(tmp_path):
    with rpc.loopback_node(tmp_path / "node") as node:
        yield node


@pytest.fixture
def remote(node):
    store = KuboStore(node.address, seconds=5.0, search=0.5)
    yield store
    store.close()


@pytest.fixture
def local(tmp_path):
    return LocalStore(tmp_path / "local", QUICK)


@pytest.fixture
def store(local, remote):
    return ReplicatedStore(local, remote, Outbox(local.root / "outbox", sync=False))


# -- adding ----------------------------------------------------------------------------------


def test_what_is_added_is_here_and_on_the_node(store, local, remote):
    cid = store.add(FILE, name="weights")
    document = store.put_node({"weights": cid})
    assert local.get(cid) == remote.get(cid) == FILE
    assert {(pin.cid, pin.name) for pin in remote.pins()} == {(cid, "weights"), (document, "")}
    assert store.waiting() == []


def test_a_car_file_goes_to_both(store, local, remote, tmp_path):
    other = LocalStore(tmp_path / "other", QUICK)
    stream = io.BytesIO()
    root = other.add(FILE)
    other.export_car([root], stream)
    stream.seek(0)
    assert store.import_car(stream) == [root]
    assert local.has(root)
    assert remote.has(root)


def test_work_goes_on_when_the_node_is_down_and_is_pushed_later(store, local, remote, node):
    node.stop()
    cids = [store.add(bytes([number]) * 1000, name=str(number)) for number in range(5)]
    document = store.put_node({"all": cids})
    assert store.get(cids[0]) == bytes(1000)
    assert store.get_node(document) == {"all": cids}
    assert [task.root for task in store.waiting()] == [*cids, document]
    assert "does not answer" in store.push().problem
    node.start()
    pushed = store.push()
    assert pushed.done == (*cids, document)
    assert [(pin.cid, pin.recursive) for pin in remote.pins() if pin.cid == document] == [
        (document, True)
    ]
    assert store.waiting() == []


def test_a_node_that_is_down_is_tried_now_and_then_only(store, node):
    node.stop()
    start = time.monotonic()
    for number in range(20):
        store.add(bytes([number]))
    assert time.monotonic() - start < 2
    assert store.waiting()[0].tries == 0


def test_the_next_success_pushes_all_that_waits(store, remote, node):
    node.stop()
    first = store.add(b"first")
    node.start()
    store.push(due=True)
    assert not remote.has(first)  # It rests.
    with pytest.raises(NotFoundError):
        store.get(CID.of(b"absent"))  # An answer, all the same.
    second = store.add(b"second")
    assert remote.has(first)
    assert remote.has(second)


def test_reading_from_the_node_shows_that_it_is_back(store, remote, node, monkeypatch):
    monkeypatch.setattr(module, "_SILENCE", 0.0)
    there = remote.add(b"there")
    node.stop()
    first = store.add(b"first")
    node.start()
    assert store.get(there) == b"there"
    store.add(b"second")
    assert remote.has(first)


def test_a_push_that_is_cut_off_is_done_again(store, remote, node):
    node.faults["dag/import"] = rpc.times(2, rpc.takes_only(2 * 1024 * 1024))
    cid = store.add(FILE)
    assert not remote.has(cid)
    assert [task.root for task in store.waiting()] == [cid]
    del node.faults["dag/import"]
    assert store.push().done == (cid,)
    assert remote.get(cid) == FILE


def test_what_a_killed_process_left_is_pushed_by_the_next(store, local, remote, node):
    node.stop()
    cid = store.add(FILE, name="weights")
    node.start()
    again = ReplicatedStore(
        LocalStore(local.root, QUICK), remote, Outbox(local.root / "outbox", sync=False)
    )
    assert again.push().done == (cid,)
    assert [(pin.cid, pin.name) for pin in remote.pins()] == [(cid, "weights")]


def test_content_that_is_corrupt_here_does_not_hold_up_the_rest(store, local, remote, node):
    node.stop()
    broken, whole = store.add(FILE), store.add(b"whole")
    chunk = cid_of(FILE[: 1024 * 1024])
    local._blocks.path_of(chunk).write_bytes(b"other")
    node.start()
    pushed = store.push()
    assert pushed.done == (whole,)
    assert [cid for cid, _ in pushed.failed] == [broken]
    assert [task.root for task in store.waiting()] == [broken]


def test_content_that_was_collected_before_it_could_be_pushed_is_forgotten(store, local, node):
    node.stop()
    cid = store.add(b"passing", pin=False)
    local.collect()
    assert not local.has(cid)
    node.start()
    assert [root for root, _ in store.push().failed] == [cid]
    assert store.waiting() == []


def test_a_store_that_does_not_push_by_itself_waits_for_push(local, remote):
    store = ReplicatedStore(local, remote, Outbox(local.root / "outbox"), push=False)
    cid = store.add(b"content")
    assert not remote.has(cid)
    assert store.push(due=True).done == (cid,)


# -- pins ------------------------------------------------------------------------------------


def test_a_promise_is_taken_back_on_the_node_with_the_last_name(store, remote):
    cid = store.add(b"content", name="a")
    store.pin(cid, name="b")
    store.unpin(cid, name="b")
    assert [(pin.cid, pin.name) for pin in remote.pins()] == [(cid, "a")]
    store.unpin(cid)
    assert list(remote.pins()) == []
    assert list(store.pins()) == []


def test_a_promise_taken_back_while_the_node_is_down_is_taken_back_there_later(store, remote, node):
    cid = store.add(b"content")
    node.stop()
    store.unpin(cid)
    assert [(task.root, task.action) for task in store.waiting()] == [(cid, Action.DROP)]
    node.start()
    store.push()
    assert list(remote.pins()) == []


def test_content_added_and_dropped_while_the_node_is_down_never_gets_there(store, remote, node):
    node.stop()
    cid = store.add(b"content")
    store.unpin(cid)
    node.start()
    assert store.push().done == (cid,)
    assert not remote.has(cid)


def test_pinning_fetches_what_is_not_here(store, local, remote):
    cid = remote.add(FILE, pin=False)
    store.pin(cid, name="mine")
    assert local.get(cid) == FILE
    assert [(pin.cid, pin.name) for pin in local.pins()] == [(cid, "mine")]
    assert [(pin.cid, pin.name) for pin in remote.pins()] == [(cid, "mine")]


def test_pinning_a_document_fetches_what_it_names(store, local, remote):
    weights = remote.add(FILE)
    document = remote.put_node({"weights": weights})
    store.pin(document)
    assert local.has(weights)


def test_a_node_that_lost_something_gets_it_again(store, node, remote):
    cids = [store.add(bytes([number])) for number in range(3)]
    remote.unpin(cids[1])
    node.blocks.path_of(cids[1]).unlink()
    assert store.reconcile() == 1
    assert store.push().done == (cids[1],)
    assert remote.get(cids[1]) == b"\x01"
    assert store.reconcile() == 0


# -- beside what is not public ----------------------------------------------------------------


@pytest.fixture
def careful(local, remote):
    """The store of a hub's folder, as the command line uses it."""
    return ReplicatedStore(local, remote, Outbox(local.root / "outbox"), only_added=True)


def test_only_what_is_added_travels(careful, local, node, tmp_path):
    project = local.add(FILE, name="hub")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"of somebody who uses the store")
    added = careful.add(folder)
    careful.pin(project, name="mine")
    careful.put_node({"links": project})
    stream = io.BytesIO(b"".join(car.encode_car([project], [])))  # It leans on what is here.
    assert careful.import_car(stream, name="imported") == [project]
    careful.unpin(project, name="mine")
    assert careful.push().done == ()
    assert node.digests() == {added.digest, cid_of(b"of somebody who uses the store").digest}


def test_a_document_that_waited_since_before_goes_alone(store, careful, local, node):
    node.stop()
    document = store.put_node({"links": cid_of(FILE)})
    local.add(FILE, name="hub")
    node.start()
    assert careful.push().done == (document,)
    assert node.digests() == {document.digest}


def test_what_was_added_is_taken_back_with_its_last_pin(careful, remote):
    cid = careful.add(b"content", name="a")
    careful.pin(cid, name="b")
    careful.unpin(cid, name="a")
    assert [pin.name for pin in remote.pins()] == ["a"]
    careful.unpin(cid, name="b")
    assert list(remote.pins()) == []


def test_what_was_pinned_again_meanwhile_stays_on_the_node(careful, local, remote, node):
    cid = careful.add(b"content")
    node.stop()
    careful.unpin(cid)
    local.add(b"content", name="hub")
    node.start()
    assert careful.push().done == (cid,)
    assert [pin.cid for pin in remote.pins()] == [cid]


def test_pins_that_are_not_all_public_are_not_compared(careful, local):
    local.add(FILE, name="hub")
    with pytest.raises(ForbiddenError):
        careful.reconcile()
    assert careful.waiting() == []


# -- reading ---------------------------------------------------------------------------------


def test_what_is_read_from_the_node_stays_here(store, local, remote, node):
    cid = remote.add(FILE)
    assert store.get(cid) == FILE
    node.stop()
    assert local.has(cid)
    assert store.get(cid) == FILE


def test_a_folder_that_is_downloaded_stays_here(store, local, remote, tmp_path, node):
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_bytes(FILE)
    cid = remote.add(folder)
    assert store.get(f"{cid}/below/file") == FILE
    assert not local.has(cid)  # Only the file was asked for.
    store.download(cid, tmp_path / "target")
    assert (tmp_path / "target" / "below" / "file").read_bytes() == FILE
    assert local.has(cid)


def test_reading_in_parts_fetches_those_parts_and_promises_no_whole(store, local, remote, node):
    cid = remote.add(FILE)
    node.asked.clear()
    with store.open(cid) as stream:
        stream.seek(2_500_000)
        assert stream.read(100) == FILE[2_500_000:2_500_100]
    assert node.asked["block/get"] <= 3
    assert not local.has(cid)
    assert local.has_block(cid_of(FILE[2 * 1024 * 1024 :]))
    node.stop()
    with pytest.raises(NotFoundError):
        local.get(cid)
    with pytest.raises(StoreUnavailable):
        store.get(cid)


def test_what_is_corrupt_or_missing_here_is_fetched_again(store, local, remote):
    cid = store.add(FILE)
    path = local._blocks.path_of(cid_of(FILE[: 1024 * 1024]))
    path.write_bytes(b"other")
    assert store.get(cid) == FILE
    assert local.get(cid) == FILE
    path.unlink()
    assert store.get(cid) == FILE
    assert local.verify().ok


def test_what_is_corrupt_here_and_nowhere_else_is_told(store, local, node):
    node.stop()
    cid = store.add(FILE)
    local._blocks.path_of(cid_of(FILE[: 1024 * 1024])).write_bytes(b"other")
    with pytest.raises(StoreError, match="corrupt"):
        store.get(cid)


def test_a_listing_a_size_and_a_document_come_from_the_node(store, local, remote, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(FILE)
    cid = remote.add(folder)
    document = remote.put_node({"a": [1, 2]})
    assert [entry.name for entry in store.ls(cid)] == ["file"]
    assert store.size(f"{cid}/file") == len(FILE)
    assert store.stat(cid).kind == "folder"
    assert store.get_node(document) == {"a": [1, 2]}
    assert local.get_node(document) == {"a": [1, 2]}
    stream = io.BytesIO()
    assert store.export_car([cid], stream) == len(stream.getvalue())


def test_what_is_neither_here_nor_there_is_not_found(store):
    absent = CID.of(b"absent")
    assert not store.has(absent)
    with pytest.raises(NotFoundError):
        store.get(absent)
    with pytest.raises(NotFoundError):
        store.pin(absent)


def test_what_is_not_here_is_unavailable_while_the_node_is(store, node):
    node.stop()
    assert not store.has(CID.of(b"absent"))
    with pytest.raises(StoreUnavailable):
        store.get(CID.of(b"absent"))


def test_a_silent_node_delays_reading_once_only(local, node, monkeypatch):
    monkeypatch.setattr("neuronexus_kernel.storage.rpc._SLACK", 0.2)
    node.faults["block/get"] = rpc.is_silent(5.0)
    remote = KuboStore(node.address, seconds=0.5, search=0.1)
    store = ReplicatedStore(local, remote, Outbox(local.root / "outbox"))
    start = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.block(CID.of(b"absent"))
    first = time.monotonic() - start
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            store.block(CID.of(b"absent"))
    assert time.monotonic() - start - first < 1


def test_a_full_store_reads_all_the_same(remote, tmp_path):
    local = LocalStore(tmp_path / "small", StorageSettings(quota=1_000_000, fsync="never"))
    store = ReplicatedStore(local, remote, Outbox(tmp_path / "outbox"))
    cid = remote.add(FILE)
    assert store.get(cid) == FILE
    assert not local.has(cid)


def test_a_target_that_exists_is_not_a_reason_to_ask_the_node(store, node, tmp_path):
    cid = store.add(b"content")
    node.asked.clear()
    (tmp_path / "target").write_text("mine")
    with pytest.raises(ConflictError):
        store.download(cid, tmp_path / "target")
    assert not node.asked


# -- the setting -----------------------------------------------------------------------------


def test_without_a_node_a_store_stays_what_it_is(local):
    assert with_node(local, environment={}) is local


def test_a_node_that_is_configured_gets_what_is_added(local, node, remote):
    store = with_node(local, environment={"NEURONEXUS_IPFS": node.address})
    assert isinstance(store, ReplicatedStore)
    assert remote.has(store.add(b"content"))
