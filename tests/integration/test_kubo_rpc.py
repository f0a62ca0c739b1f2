"""Content on real IPFS nodes, over their RPC.

Kubo where its program ``ipfs`` is on the PATH; js-ipfs, which was written apart from Kubo and is
not kept up any more, where ``npm ci`` in ``js_ipfs`` has installed it.  Where js-ipfs does
otherwise than Kubo, the test says so.
"""

import importlib.util
import io
import os
import random
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.errors import NotFoundError, StoreError, StoreUnavailable
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import LocalStore, cid_of
from neuronexus_kernel.storage.car import encode_car
from neuronexus_kernel.storage.kubo import KuboStore
from neuronexus_kernel.storage.outbox import Outbox
from neuronexus_kernel.storage.replicated import ReplicatedStore
from neuronexus_kernel.storage.rpc import Rpc


def beside(path):
    """Import what lies elsewhere among the tests."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent.parent / path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


nodes = beside("integration/ipfs_nodes.py")
contract = beside("contracts/test_store.py")

RANDOM = random.Random(3)
FILE = RANDOM.randbytes(3_000_000)  # Three chunks.
INSTALLED = {"kubo": nodes.has_kubo(), "js-ipfs": nodes.has_js_ipfs()}
NODES = [name for name, is_installed in INSTALLED.items() if is_installed]
NO_KUBO = "Kubo's program ipfs is not on the PATH"

if not NODES:
    pytest.skip(f"{NO_KUBO}, and js-ipfs is not installed", allow_module_level=True)


@pytest.mark.skipif(not INSTALLED["kubo"], reason=NO_KUBO)
def test_kubo_is_one_of_the_nodes():
    """For whoever reads the result: without it, js-ipfs stands alone."""
    assert "kubo" in NODES


# js-ipfs takes its time.
MARKS = {"kubo": (), "js-ipfs": (pytest.mark.long,)}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=MARKS[name]) for name in NODES])
def node(request, tmp_path_factory):
    """The name of a node, and the address of its RPC."""
    run = {"kubo": nodes.kubo, "js-ipfs": nodes.js_ipfs}[request.param]
    with run(tmp_path_factory.mktemp("node") / "repository") as address:
        yield request.param, address


@pytest.fixture
def store(node):
    # js-ipfs also looks for blocks that it is told to look for at home only.
    store = KuboStore(node[1], seconds=30.0, search=10.0 if node[0] == "kubo" else 0.5)
    yield store
    with suppress(StoreUnavailable):
        for pin in list(store.pins()):
            store.unpin(pin.cid)
    store.close()


@pytest.fixture
def place(store):
    """What the contract's fixtures build on."""
    return contract.Place(store, store)


@pytest.fixture
def own(store):
    """A store that takes content itself."""
    return store


# The contract of all stores, on these nodes: its tests, and the fixtures that build on a place.
globals().update(
    {
        name: each
        for name, each in vars(contract).items()
        if name in ("add", "folder")
        or (name.startswith("test_") and name != "test_kubo_is_one_of_the_stores")
    }
)
_NEED_NAMES = {
    "test_what_is_added_is_pinned_under_its_name",
    "test_pinning_again_changes_nothing",
    "test_a_pin_that_is_not_there_cannot_be_taken_back",
}


@pytest.fixture(autouse=True)
def _js_ipfs_keeps_no_names_of_pins(request):
    if "js-ipfs" in request.node.name and request.node.originalname in _NEED_NAMES:
        request.applymarker(pytest.mark.xfail(reason="js-ipfs keeps no names", strict=True))


@pytest.fixture
def rpc(store):
    """The commands of the node itself, to see what it thinks."""
    return Rpc(store._endpoint, seconds=30.0)


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "one.txt").write_text("one")
    (tree / "below" / "zwei ü.bin").write_bytes(FILE)
    return tree


def is_kubo(node):
    return node[0] == "kubo"


# -- the same content, the same CID ----------------------------------------------------------


def test_the_node_reads_what_we_made(store, rpc):
    """Its own reader of files gives the bytes, and not only its blocks do."""
    for profile in ("unixfs-v1-2025", "unixfs-v0-2015"):
        cid = store.add(FILE, profile=profile)
        assert rpc.read("cat", str(cid), limit=10_000_000) == FILE


def test_what_the_node_adds_by_itself_has_our_cid(store, rpc):
    """Its `add`, told to do as the profile unixfs-v0-2015 does."""
    options = {"cid_version": "0", "raw_leaves": "false", "chunker": "size-262144", "pin": "false"}
    (message,) = [each for each in rpc.send("add", [FILE], **options) if each.get("Hash")]
    assert message["Hash"] == str(cid_of(FILE, profile="unixfs-v0-2015"))
    assert store.get(message["Hash"]) == FILE


def test_a_car_file_of_the_node_is_ours(store, rpc, tree, tmp_path):
    """`dag export` of the node is read by us, and ours by the node."""
    cid = store.add(tree)
    exported = rpc.read("dag/export", str(cid), limit=10_000_000)
    local = LocalStore(tmp_path / "local", StorageSettings(fsync="never"))
    assert local.import_car(io.BytesIO(exported)) == [cid]
    assert local.get(f"{cid}/below/zwei ü.bin") == FILE
    stream = io.BytesIO()
    store.export_car([cid], stream, version=2)
    stream.seek(0)
    assert store.import_car(stream) == [cid]


# -- pins ------------------------------------------------------------------------------------


def pins_of(store):
    return {pin.cid: pin for pin in store.pins()}


def test_pins_are_made_listed_and_taken_back(store, node):
    cid = store.add(FILE, name="weights")
    assert pins_of(store)[cid].recursive
    if is_kubo(node):  # js-ipfs keeps no names.
        assert pins_of(store)[cid].name == "weights"
    store.unpin(cid)
    assert cid not in pins_of(store)
    with pytest.raises(NotFoundError):
        store.unpin(cid)
    store.pin(cid, recursive=False)
    assert not pins_of(store)[cid].recursive
    store.pin(cid)
    assert pins_of(store)[cid].recursive
    store.pin(cid, recursive=False)
    assert pins_of(store)[cid].recursive


def test_what_is_pinned_already_is_not_sent_again(store, monkeypatch):
    store.add(FILE)
    monkeypatch.setattr(store, "_send_car", lambda *_, **__: pytest.fail("it was sent again"))
    store.add(FILE)


def test_a_document_is_pinned_with_what_is_there(store):
    weights = store.add(FILE, pin=False)
    whole = store.put_node({"weights": weights})
    partial = store.put_node({"weights": weights, "sealed": CID.of(b"lies elsewhere")})
    assert pins_of(store)[whole].recursive
    assert not pins_of(store)[partial].recursive


def test_garbage_goes_and_what_is_pinned_stays(store, rpc):
    kept, dropped = store.add(b"kept" * 100_000), store.add(b"dropped" * 100_000, pin=False)
    rpc.ask("repo/gc")
    assert store.has(kept)
    assert store.get(kept) == b"kept" * 100_000
    assert not store.has(dropped)


# -- what is not there, and nodes that are not there -----------------------------------------


def test_content_that_nobody_has_is_not_found(store):
    absent = CID.of(b"absent")
    assert not store.has(absent)
    for call in (store.get, store.stat, store.pin, store.unpin):
        with pytest.raises(NotFoundError):
            call(absent)


def test_a_document_whose_parts_are_missing_cannot_be_exported(store):
    cid = store.put_node({"sealed": CID.of(b"elsewhere")})
    with pytest.raises(StoreError, match="incomplete"):
        store.export_car([cid], io.BytesIO())


def test_a_block_that_is_not_what_it_says_is_never_believed(store, rpc, node):
    """Kubo refuses it; js-ipfs takes it, and then we do not."""
    root = CID.of(b"right")
    try:
        rpc.send("dag/import", encode_car([root], [(root, b"wrong")]), pin_roots="false")
    except (StoreError, StoreUnavailable):
        return
    assert not is_kubo(node)
    with pytest.raises(StoreError, match="other bytes"):
        store.get(root)
    rpc.ask("block/rm", str(root), force="true")


def test_a_hosted_node_that_takes_no_car_files_is_given_blocks(store, tree):
    store._takes_cars = False
    cid = store.add(tree)
    old = store.add(FILE, profile="unixfs-v0-2015")
    assert store.get(f"{cid}/below/zwei ü.bin") == FILE
    assert store.get(old) == FILE
    assert pins_of(store)[cid].recursive


# -- about the node --------------------------------------------------------------------------


def test_the_node_tells_about_itself(store, node):
    identity = store.identity()
    assert identity.peer.startswith("12D3Koo")
    assert identity.agent.startswith("kubo/" if is_kubo(node) else "js-ipfs/")
    assert store.peers() == []
    before = store.repository()
    store.add(os.urandom(2_000_000))
    assert store.repository().size - before.size >= 2_000_000
    assert before.most > before.size


def test_work_goes_on_without_the_node_and_is_pushed_to_it(store, tmp_path):
    local = LocalStore(tmp_path / "local", StorageSettings(fsync="never"))
    outbox = Outbox(tmp_path / "outbox", sync=False)
    offline = ReplicatedStore(local, KuboStore("http://127.0.0.1:9"), outbox)
    data = os.urandom(2_500_000)
    cid = offline.add(data, name="made on a train")
    document = offline.put_node({"data": cid})
    assert len(offline.waiting()) == 2
    online = ReplicatedStore(local, store, outbox)
    assert online.push().done == (cid, document)
    assert store.get(cid) == data
    assert {cid, document} <= pins_of(store).keys()


def test_a_damaged_store_is_repaired_from_the_node(store, tree, tmp_path):
    local = LocalStore(tmp_path / "local", StorageSettings(fsync="never"))
    root = local.add(tree)
    assert store.add(tree) == root
    damaged, missing, *_ = sorted(local.root.glob("blocks/*/*"))
    block = bytearray(damaged.read_bytes())
    block[len(block) // 2] ^= 1
    damaged.write_bytes(block)
    missing.unlink()
    assert not local.verify().ok
    found = local.verify(repair=[store])
    assert len(found.problems) == 2
    assert all(problem.repaired for problem in found.problems)
    assert local.verify().ok
    assert local.get(f"{root}/below/zwei ü.bin") == FILE


@pytest.mark.long
def test_a_large_stream_goes_through(store, tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        for _ in range(60):
            file.write(os.urandom(1024 * 1024))
    seen = []
    with path.open("rb") as stream:
        cid = store.add(stream, progress=seen.append)
    assert sum(seen) == 60 * 1024 * 1024
    target = store.download(cid, tmp_path / "target")
    assert target.read_bytes() == path.read_bytes()
