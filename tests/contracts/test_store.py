"""Every content store under one contract: a folder, a node, both together, and a gateway to read.

Each test runs on every store that can do what it asks for.  A `GatewayStore` only reads, and so
what it reads is added to a `LocalStore` behind the gateway.
"""

from __future__ import annotations

import importlib.util
import io
import os
import random
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR, DAG_PB
from neuronexus_kernel.errors import ContentError, InvalidInputError, NotFoundError, StoreError
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import ContentStore, LocalStore, cid_of
from neuronexus_kernel.storage.car import encode_car
from neuronexus_kernel.storage.gateway import GatewayStore
from neuronexus_kernel.storage.interface import Kind
from neuronexus_kernel.storage.kubo import KuboStore
from neuronexus_kernel.storage.outbox import Outbox
from neuronexus_kernel.storage.replicated import ReplicatedStore

TESTS = Path(__file__).parent.parent
QUICK = StorageSettings(fsync="never")
PROFILES = ["unixfs-v1-2025", "unixfs-v0-2015"]
MIB = 1024 * 1024
SIZES = [0, 1, 256 * 1024, 256 * 1024 + 1, MIB, MIB + 1, 3 * MIB + 17]


def beside(path: str) -> ModuleType:
    """Import a helper of other tests by its path."""
    name = Path(path).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TESTS / path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@dataclass
class Place:
    """A store, and the store through which content comes into it."""

    store: ContentStore
    writer: ContentStore


@contextmanager
def local(folder: Path) -> Iterator[Place]:
    store = LocalStore(folder / "store", QUICK)
    yield Place(store, store)


@contextmanager
def kubo(folder: Path) -> Iterator[Place]:
    with beside("integration/ipfs_nodes.py").kubo(folder / "repository") as address:
        store = KuboStore(address, seconds=30.0, search=1.0)
        yield Place(store, store)
        store.close()


@contextmanager
def node(folder: Path) -> Iterator[Place]:
    with beside("storage/loopback_rpc.py").loopback_node(folder / "repository") as stand_in:
        store = KuboStore(stand_in.address, seconds=30.0, search=0.2)
        yield Place(store, store)
        store.close()


@contextmanager
def replicated(folder: Path) -> Iterator[Place]:
    with node(folder) as place:
        here = LocalStore(folder / "store", QUICK)
        store = ReplicatedStore(here, place.store, Outbox(folder / "outbox"))
        yield Place(store, store)


@contextmanager
def gateway(folder: Path) -> Iterator[Place]:
    behind = LocalStore(folder / "store", QUICK)
    with beside("storage/gateway_server.py").honest_gateway({}) as server:

        def answer(cid: CID, handler: object) -> bool:
            if not behind.has_block(cid):
                return False
            return handler.reply(200, behind.block(cid))

        server.answer = answer
        store = GatewayStore(server.address)
        yield Place(store, behind)
        store.close()


KINDS: dict[str, Callable] = {
    "local": local,
    "kubo": kubo,
    "node": node,
    "replicated": replicated,
    "gateway": gateway,
}
HAS_KUBO = shutil.which("ipfs") is not None
ALL = [name for name in KINDS if HAS_KUBO or name != "kubo"]


@pytest.mark.skipif(not HAS_KUBO, reason="Kubo's program ipfs is not on the PATH")
def test_kubo_is_one_of_the_stores():
    """For whoever reads the result: elsewhere, a stand-in speaks for it."""
    assert "kubo" in ALL


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Iterator[Callable[[str], Place]]:
    """Give the store of a kind; what one test leaves is there for the next."""
    made: dict[str, Place] = {}
    with ExitStack() as stack:

        def place(kind: str) -> Place:
            if kind not in made:
                made[kind] = stack.enter_context(KINDS[kind](tmp_path_factory.mktemp(kind)))
            return made[kind]

        yield place


@pytest.fixture(params=ALL)
def place(request: pytest.FixtureRequest, places: Callable[[str], Place]) -> Place:
    """A store of each kind."""
    return places(request.param)


@pytest.fixture
def store(place: Place) -> ContentStore:
    """A store that can at least be read."""
    return place.store


@pytest.fixture
def add(place: Place) -> Callable:
    """Bring content into the store."""
    return place.writer.add


@pytest.fixture(params=[kind for kind in ALL if kind != "gateway"])
def own(request: pytest.FixtureRequest, places: Callable[[str], Place]) -> ContentStore:
    """A store that takes content itself."""
    return places(request.param).store


def fresh(size: int) -> bytes:
    return secrets.token_bytes(size)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with folders, an empty one too, a symlink, and names of many kinds."""
    root = tmp_path / "folder"
    (root / "below" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / ".hidden").write_bytes(b"hidden")
    (root / "größe 🌍.txt").write_bytes(fresh(10))
    (root / "below" / "deep" / "big.bin").write_bytes(fresh(2 * MIB + 5))
    (root / "below" / "nothing").write_bytes(b"")
    (root / "link").symlink_to("below/deep")
    return root


def contents(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = None
    return found


# -- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("size", SIZES)
def test_what_was_added_comes_back_under_its_cid(store, add, size, profile):
    data = fresh(size)
    cid = add(data, profile=profile)
    assert cid == cid_of(data, profile=profile)
    assert store.get(cid) == store.get(str(cid)) == data
    assert store.size(cid) == size
    assert store.has(cid)
    about = store.stat(cid)
    assert (about.cid, about.kind, about.size) == (cid, Kind.FILE, size)
    assert about.total >= size


def test_a_symlink_at_the_end_of_a_path_is_followed_when_it_is_read(store, add, tmp_path):
    root = tmp_path / "linked"
    (root / "below").mkdir(parents=True)
    (root / "below" / "data.bin").write_bytes(data := fresh(MIB + 5))
    (root / "latest").symlink_to("below/data.bin")
    (root / "folder").symlink_to("below")
    (root / "out").symlink_to("../elsewhere")
    cid = add(root)
    address = f"{cid}/latest"
    assert store.get(address) == data
    with store.open(address) as stream:
        assert stream.read() == data
    assert store.size(address) == len(data)
    assert [entry.name for entry in store.ls(f"{cid}/folder")] == ["data.bin"]
    assert store.download(address, tmp_path / "got").read_bytes() == data
    assert not (tmp_path / "got").is_symlink()
    assert store.stat(address).kind == Kind.SYMLINK
    assert store.resolve(address, follow=True) == store.resolve(f"{cid}/below/data.bin")
    with pytest.raises(StoreError, match="above it"):
        store.get(f"{cid}/out")


def test_bytes_paths_and_streams_give_one_cid(own, tmp_path):
    data = fresh(MIB + 1)
    path = tmp_path / "file"
    path.write_bytes(data)
    given = [data, bytearray(data), memoryview(data), path, io.BytesIO(data)]
    assert {own.add(each) for each in given} == {cid_of(data)}


def test_progress_is_told(own):
    told = []
    own.add(fresh(2 * MIB + 1), progress=told.append)
    assert sum(told) == 2 * MIB + 1


def test_a_stream_reads_from_anywhere(store, add):
    data = fresh(3 * MIB + 17)
    rng = random.Random(1)
    with store.open(add(data)) as stream:
        for _ in range(30):
            at, count = rng.randrange(len(data) + 9), rng.choice([1, 1000, MIB])
            assert stream.seek(at) == at
            assert stream.read(count) == data[at : at + count]
        assert stream.seek(-7, io.SEEK_END) == len(data) - 7
        assert stream.read() == data[-7:]


def test_single_blocks_are_given_and_verified(store, add):
    data = fresh(MIB + 5)
    root, leaf = add(data), CID.of(data[:MIB])
    assert store.block(leaf) == data[:MIB]
    assert CID.of(store.block(root), DAG_PB) == root
    assert store.has_block(leaf)
    assert not store.has_block(CID.of(fresh(8)))
    inline = CID(0x55, b"inline", hash_code=0)
    assert store.block(inline) == b"inline"
    assert store.has_block(inline)


def test_many_threads_read_at_once(store, add):
    files = [fresh(MIB + number) for number in range(6)]
    cids = [add(data) for data in files]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(store.get, cids * 3)) == files * 3


def test_many_threads_add_at_once(own):
    shared, mine = fresh(MIB + 1), [fresh(1000) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(own.add, [shared] * 6)) == {cid_of(shared)}
        assert list(pool.map(own.add, mine)) == list(map(cid_of, mine))


# -- folders ---------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_a_folder_comes_back_as_it_was(store, add, folder, tmp_path, profile):
    cid = add(folder, profile=profile)
    assert cid == cid_of(folder, profile=profile)
    target = store.download(cid, tmp_path / "again")
    expected = contents(folder)
    del expected[".hidden"]
    assert contents(target) == expected


def test_hidden_entries_come_along_on_demand(store, add, folder, tmp_path):
    cid = add(folder, hidden=True)
    assert contents(store.download(cid, tmp_path / "again")) == contents(folder)


def test_a_folder_is_listed(store, add, folder):
    entries = store.ls(add(folder))
    assert [(entry.name, entry.kind) for entry in entries] == [
        ("below", Kind.FOLDER),
        ("empty", Kind.FOLDER),
        ("größe 🌍.txt", Kind.FILE),
        ("link", Kind.SYMLINK),
    ]
    assert [entry.size for entry in entries][2:] == [10, len("below/deep")]


def test_a_path_leads_into_a_folder(store, add, folder):
    cid = add(folder)
    big = (folder / "below" / "deep" / "big.bin").read_bytes()
    for path in ("below/deep/big.bin", "link/big.bin"):
        assert store.get(f"{cid}/{path}") == big
        assert store.resolve(f"{cid}/{path}") == cid_of(big)
        assert store.size(f"{cid}/{path}") == len(big)
    assert [entry.name for entry in store.ls(f"{cid}/below")] == ["deep", "nothing"]
    assert store.stat(f"{cid}/below").kind == Kind.FOLDER
    assert store.has(f"{cid}/below/nothing")
    assert not store.has(f"{cid}/below/nobody")
    with pytest.raises(NotFoundError):
        store.get(f"{cid}/below/nobody")


def test_a_sharded_folder_is_listed_and_entered(store, add, tmp_path):
    root = tmp_path / "many"
    root.mkdir()
    names = [f"{number:04d}-{'x' * 250}" for number in range(950)]
    for name in names:
        (root / name).write_bytes(b"")
    (root / names[777]).write_bytes(b"not empty")
    cid = add(root)
    assert len(store.block(cid)) < 100_000  # In one block they would have more than 256 KiB.
    assert [entry.name for entry in store.ls(cid)] == names
    assert store.get(f"{cid}/{names[777]}") == b"not empty"


def test_nothing_is_overwritten_by_a_download(store, add, tmp_path):
    (tmp_path / "there").write_bytes(b"before")
    with pytest.raises(Exception, match="there"):
        store.download(add(b"after"), tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == b"before"


# -- documents and CAR files -----------------------------------------------------------------


def test_a_document_comes_back(store, place):
    node = {"a": [1, -2, 0.5, None, True], "link": CID.of(fresh(8)), "bytes": fresh(8)}
    cid = place.writer.put_node(node)
    assert cid == dagcbor.cid_of(node)
    assert store.get_node(cid) == store.get_node(str(cid)) == node
    assert store.get(cid) == dagcbor.encode(node)
    assert store.size(cid) == len(dagcbor.encode(node))
    assert store.stat(cid).kind == Kind.DOCUMENT


def test_a_file_is_no_document_and_a_document_no_folder(store, place):
    for cid in (place.writer.add(fresh(9)), place.writer.add(fresh(MIB + 1))):
        with pytest.raises(StoreError):
            store.get_node(cid)
        with pytest.raises(StoreError):
            store.ls(cid)
    with pytest.raises(StoreError):
        store.ls(place.writer.put_node({"salt": fresh(8)}))


@pytest.mark.parametrize("version", [1, 2])
def test_content_travels_as_a_car_file(store, add, folder, tmp_path, version):
    roots = [add(folder), add(fresh(MIB + 1), profile="unixfs-v0-2015")]
    stream = io.BytesIO()
    size = store.export_car(roots, stream, version=version)
    assert size == len(stream.getvalue())
    stream.seek(0)
    other = LocalStore(tmp_path / "other", QUICK)
    assert other.import_car(stream) == roots
    for root in roots:
        assert other.has(root)
    assert other.verify().ok


def test_a_car_file_is_taken_in_whole_or_not_at_all(own, tmp_path):
    source = LocalStore(tmp_path / "source", QUICK)
    root = source.add(fresh(2 * MIB + 3))
    stream = io.BytesIO()
    source.export_car([root], stream)
    whole = stream.getvalue()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    for bad in (bytes(damaged), whole[:-1], b"no CAR file"):
        with pytest.raises(StoreError):
            own.import_car(io.BytesIO(bad))
        assert not own.has(root)
    assert own.import_car(io.BytesIO(whole)) == [root]
    assert own.get(root) == source.get(root)


# -- what is not there, and what is no address ------------------------------------------------


def test_what_is_not_there_is_said_to_be_missing(store):
    file, node = CID.of(fresh(8)), CID.of(fresh(8), DAG_CBOR)
    for ask in (store.get, store.open, store.size, store.stat, store.block):
        with pytest.raises(NotFoundError):
            ask(file)
    with pytest.raises(NotFoundError):
        store.get_node(node)
    with pytest.raises(NotFoundError):
        store.ls(CID.of(fresh(8), DAG_PB))
    with pytest.raises(NotFoundError):
        store.export_car([file], io.BytesIO())
    assert not store.has(file)


@pytest.mark.parametrize("text", ["", "nonsense", "../etc/passwd", "bafkrei", "/ipfs/"])
def test_text_that_is_no_address_is_refused(store, text):
    for ask in (store.get, store.open, store.size, store.has, store.ls, store.resolve):
        with pytest.raises(ContentError):
            ask(text)


@pytest.mark.parametrize("data", ["text", None, 7])
def test_what_is_no_source_of_bytes_is_refused(own, data):
    with pytest.raises(InvalidInputError):
        own.add(data)


def test_a_profile_that_nobody_knows_is_refused(own):
    with pytest.raises(InvalidInputError, match="unixfs-v1-2025"):
        own.add(b"x", profile="unixfs-v9")


# -- pins ------------------------------------------------------------------------------------


def pins_of(store: ContentStore, cid: CID) -> list[tuple[str, bool]]:
    return [(pin.name, pin.recursive) for pin in store.pins() if pin.cid == cid]


def test_what_is_added_is_pinned_under_its_name(own):
    cid = own.add(fresh(MIB + 1), name="weights of today")
    assert pins_of(own, cid) == [("weights of today", True)]
    own.unpin(cid)
    assert pins_of(own, cid) == []
    document = own.put_node({"salt": fresh(8)}, name="receipt")
    assert pins_of(own, document) == [("receipt", True)]
    block = fresh(100)
    root = CID.of(block)
    car = io.BytesIO(b"".join(encode_car([root], [(root, block)])))
    assert own.import_car(car, name="from a CAR file") == [root]
    assert pins_of(own, root) == [("from a CAR file", True)]


def test_nothing_is_pinned_that_should_not_be(own):
    assert pins_of(own, own.add(fresh(10), pin=False)) == []
    assert pins_of(own, own.put_node({"salt": fresh(8)}, pin=False)) == []


def test_pinning_again_changes_nothing(own):
    cid = own.add(fresh(10), pin=False)
    pin = own.pin(cid, name="a")
    assert (pin.cid, pin.name, pin.recursive) == (cid, "a", True)
    assert own.pin(cid, name="a").cid == cid
    assert pins_of(own, cid) == [("a", True)]


def test_one_block_can_be_pinned_alone(own):
    cid = own.add(fresh(MIB + 1), pin=False)
    assert own.pin(cid, recursive=False).recursive is False
    assert pins_of(own, cid) == [("", False)]


def test_a_pin_that_is_not_there_cannot_be_taken_back(own):
    cid = own.add(fresh(10), pin=False)
    with pytest.raises(NotFoundError):
        own.unpin(cid)
    own.pin(cid, name="a")
    with pytest.raises(NotFoundError):
        own.unpin(cid, name="b")
    own.unpin(cid, name="a")


def test_what_is_not_there_cannot_be_pinned(own):
    with pytest.raises(NotFoundError):
        own.pin(CID.of(fresh(8)))
