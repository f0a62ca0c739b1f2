"""Trees of valid blocks that lie: each is refused, in bounded time."""

import pytest

from neuronexus_kernel.content import CID, dagpb, unixfs
from neuronexus_kernel.content.cid import DAG_PB
from neuronexus_kernel.content.dagpb import Link, PBNode
from neuronexus_kernel.content.unixfs import FileNode
from neuronexus_kernel.errors import NotFoundError, StoreError
from neuronexus_kernel.storage import LocalStore
from neuronexus_kernel.storage.blocks import BlockStore
from neuronexus_kernel.storage.unixfs import MAX_DEPTH

LEAF = b"leaf"


@pytest.fixture
def root(tmp_path):
    return tmp_path


@pytest.fixture
def store(root):
    return LocalStore(root)


@pytest.fixture
def put(root):
    """Put any block below the store's interface."""
    blocks = BlockStore(root)

    def put(data, codec=DAG_PB):
        cid = CID.of(data, codec)
        with blocks.batch() as batch:
            batch.put(cid, data)
        return cid

    return put


def file_node(links, sizes, *, data=b"", size=None, kind=2):
    total = len(data) + sum(sizes) if size is None else size
    message = FileNode(kind, total, tuple(sizes), data)
    body = unixfs.encode_message(message)
    return dagpb.encode(PBNode(tuple(Link(cid, 0) for cid in links), body))


def test_a_file_may_hold_data_in_its_nodes(store, put):
    leaf = put(file_node([], [], data=b"below"))
    cid = put(file_node([leaf, put(LEAF, 0x55)], [5, 4], data=b"above "))
    assert store.get(cid) == b"above belowleaf"
    assert store.size(cid) == 15
    stream = store.open(cid)
    for start in range(16):
        stream.seek(start)
        assert stream.read() == b"above belowleaf"[start:]


def test_mode_and_time_are_ignored(store, put):
    body = unixfs.encode_message(FileNode(2, 3, (), b"abc")) + bytes.fromhex("38a40342020801")
    assert store.get(put(dagpb.encode(PBNode((), body)))) == b"abc"


def test_a_file_of_version_0_leaves_is_read(store, put):
    # `ipfs add` of the old profile: the leaf of "hello world" is itself a DAG-PB block.
    cid = put(file_node([], [], data=b"hello world"))
    assert str(CID(DAG_PB, cid.digest, version=0)) == (
        "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"
    )
    assert store.get("Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD") == b"hello world"


@pytest.mark.parametrize("block", [b"\xff", b"\x0a\x05ab", b"", b"\x0a\x00", b"\x0a\x02\x08\x09"])
def test_a_block_that_is_no_unixfs_file_is_refused(store, put, block):
    cid = put(block)
    for ask in (store.get, store.open, store.size):
        with pytest.raises(StoreError, match="no UnixFS file"):
            ask(cid)


def test_a_folder_is_no_file(store, put):
    cid = put(dagpb.encode(PBNode((), unixfs.encode_message(FileNode(1, 0)))))
    with pytest.raises(StoreError, match="directory, not a file"):
        store.get(cid)


@pytest.mark.parametrize("sizes", [[], [4, 4]])
def test_links_and_sizes_must_be_as_many(store, put, sizes):
    with pytest.raises(StoreError, match="malformed"):
        store.get(put(file_node([put(LEAF, 0x55)], sizes)))


@pytest.mark.parametrize("told", [3, 5, 2**62])
def test_a_part_of_another_size_than_told_is_refused(store, put, told):
    with pytest.raises(StoreError, match="has 4 bytes"):
        store.get(put(file_node([put(LEAF, 0x55)], [told])))


def test_a_size_that_does_not_add_up_is_refused(store, put):
    with pytest.raises(StoreError, match="says 9 bytes"):
        store.size(put(file_node([put(LEAF, 0x55)], [4], size=9)))


def test_a_billion_links_to_nothing_are_refused_at_once(store, put):
    cid = put(file_node([], []))
    for _ in range(6):
        cid = put(file_node([cid] * 100, [0] * 100))
    with pytest.raises(StoreError, match="empty"):
        store.get(cid)


def test_a_chain_without_end_is_refused(store, put):
    cid = put(LEAF, 0x55)
    for _ in range(MAX_DEPTH + 1):
        cid = put(file_node([cid], [4]))
    with pytest.raises(StoreError, match="nested deeper"):
        store.get(cid)


def test_a_file_of_an_exbibyte_can_be_opened_and_read_in_part(store, put):
    cid, size = put(LEAF, 0x55), 4
    for _ in range(6):
        cid = put(file_node([cid] * 1000, [size] * 1000))
        size *= 1000
    assert store.size(cid) == 4 * 10**18
    stream = store.open(cid)
    stream.seek(3 * 10**18 + 2)
    assert stream.read(6) == b"afleaf"


def test_a_link_to_a_block_that_was_never_there_is_named(store, put):
    missing = CID.of(b"never")
    cid = put(file_node([missing], [5]))
    with pytest.raises(StoreError, match=str(missing)):
        store.get(cid)
    with pytest.raises(NotFoundError):
        store.get(missing)


def test_a_link_to_an_inline_block_is_refused(store, put):
    with pytest.raises(StoreError, match="missing"):
        store.get(put(file_node([CID(0x55, b"inline", hash_code=0)], [6])))
