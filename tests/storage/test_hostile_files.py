"""Trees of valid blocks that lie: each is refused, in bounded time."""

import pytest

from neuronexus_kernel.content import CID, dagpb, unixfs
from neuronexus_kernel.content.cid import DAG_CBOR, DAG_PB, IDENTITY, RAW, SHA2_512
from neuronexus_kernel.content.dagpb import Link, PBNode
from neuronexus_kernel.content.directory import build_folder, symlink
from neuronexus_kernel.content.unixfs import Message
from neuronexus_kernel.errors import NotFoundError, StoreError
from neuronexus_kernel.storage.unixfs import MAX_DEPTH, FileReader, content, read, size_of

LEAF = b"leaf"


@pytest.fixture
def get(memory):
    return lambda cid, **options: content(memory.fetch, cid, **options)


@pytest.fixture
def leaf(memory):
    return memory.keep(LEAF, RAW)


def file_node(links, sizes, *, data=b"", size=None, kind=2, name=""):
    total = len(data) + sum(sizes) if size is None else size
    body = unixfs.encode_message(Message(kind, total, tuple(sizes), data))
    return dagpb.encode(PBNode(tuple(Link(cid, 0, name) for cid in links), body))


def test_a_file_may_hold_data_in_its_nodes(memory, get, leaf):
    below = memory.keep(file_node([], [], data=b"below"))
    cid = memory.keep(file_node([below, leaf], [5, 4], data=b"above "))
    assert get(cid) == b"above belowleaf"
    assert size_of(memory.fetch, cid) == 15
    for start in range(17):
        for stop in (*range(17), None):
            pieces = b"".join(read(memory.fetch, cid, start, stop))
            assert pieces == b"above belowleaf"[start:stop]


def test_mode_and_time_are_ignored(memory, get):
    body = unixfs.encode_message(Message(2, 3, (), b"abc")) + bytes.fromhex("38a40342020801")
    assert get(memory.keep(dagpb.encode(PBNode((), body)))) == b"abc"


def test_the_deprecated_raw_type_is_read(memory, get):
    part = memory.keep(file_node([], [], data=b"old", kind=0))
    assert get(part) == b"old"
    assert get(memory.keep(file_node([part], [3]))) == b"old"


def test_a_file_of_version_0_leaves_is_read(memory, get):
    # `ipfs add` of the old profile: the leaf of "hello world" is itself a DAG-PB block.
    cid = memory.keep(file_node([], [], data=b"hello world"))
    old = CID(DAG_PB, cid.digest, version=0)
    assert str(old) == "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"
    assert get(old) == b"hello world"


def test_links_without_names_are_read_as_those_with_empty_ones(memory, get, leaf):
    cid = memory.keep(file_node([leaf, leaf], [4, 4], name=None))
    assert get(cid) == LEAF + LEAF


@pytest.mark.parametrize("block", [b"\xff", b"\x0a\x05ab", b"", b"\x0a\x00", b"\x0a\x02\x08\x09"])
def test_a_block_that_is_no_unixfs_file_is_refused(memory, get, block):
    cid = memory.keep(block)
    for ask in (
        get,
        lambda cid: FileReader(memory.fetch, cid),
        lambda cid: size_of(memory.fetch, cid),
    ):
        with pytest.raises(StoreError, match="no UnixFS file"):
            ask(cid)


def test_what_is_no_file_is_called_what_it_is(memory, get):
    with pytest.raises(StoreError, match="directory, not a file"):
        get(build_folder([], memory.put).cid)
    with pytest.raises(StoreError, match="symlink, not a file"):
        get(symlink(b"x", memory.put).cid)


@pytest.mark.parametrize("sizes", [[], [4, 4]])
def test_links_and_sizes_must_be_as_many(memory, get, leaf, sizes):
    with pytest.raises(StoreError, match="malformed"):
        get(memory.keep(file_node([leaf], sizes)))


@pytest.mark.parametrize("told", [3, 5, 2**31])
def test_a_part_of_another_size_than_told_is_refused(memory, get, leaf, told):
    with pytest.raises(StoreError, match="has 4 bytes"):
        get(memory.keep(file_node([leaf], [told])))


def test_a_size_that_does_not_add_up_is_refused(memory, leaf):
    with pytest.raises(StoreError, match="says 9 bytes"):
        size_of(memory.fetch, memory.keep(file_node([leaf], [4], size=9)))


def test_a_part_with_a_name_is_refused(memory, get, leaf):
    with pytest.raises(StoreError, match="has a name"):
        get(memory.keep(file_node([leaf], [4], name="x")))


def test_a_folder_or_symlink_as_a_part_is_refused(memory, get):
    for part in (build_folder([], memory.put).cid, symlink(b"leaf", memory.put).cid):
        with pytest.raises(StoreError, match="not a file"):
            get(memory.keep(file_node([part], [4])))


def test_a_billion_links_to_nothing_are_refused_at_once(memory, get):
    cid = memory.keep(file_node([], []))
    for _ in range(6):
        cid = memory.keep(file_node([cid] * 100, [0] * 100))
    with pytest.raises(StoreError, match="empty"):
        get(cid)


def test_a_chain_without_end_is_refused(memory, get, leaf):
    cid = leaf
    for _ in range(MAX_DEPTH):
        cid = memory.keep(file_node([cid], [4]))
    assert get(cid) == LEAF
    with pytest.raises(StoreError, match="nested deeper"):
        get(memory.keep(file_node([cid], [4])))


def exbibytes(memory, leaf):
    """A file of 4·10^18 bytes out of seven small blocks."""
    cid, size = leaf, 4
    for _ in range(6):
        cid = memory.keep(file_node([cid] * 1000, [size] * 1000))
        size *= 1000
    return cid


def test_a_file_of_an_exbibyte_can_be_opened_and_read_in_part(memory, leaf):
    cid = exbibytes(memory, leaf)
    assert size_of(memory.fetch, cid) == 4 * 10**18
    stream = FileReader(memory.fetch, cid)
    stream.seek(3 * 10**18 + 2)
    assert stream.read(6) == b"af"
    assert stream.read(6) == b"leaf"


def test_a_file_of_an_exbibyte_is_not_taken_into_memory(memory, get, leaf):
    cid = exbibytes(memory, leaf)
    with pytest.raises(StoreError, match="declares 4,000,000,000,000,000,000 bytes"):
        get(cid)
    with pytest.raises(StoreError, match="declares"):
        FileReader(memory.fetch, cid).read()
    with pytest.raises(StoreError, match="at most 3"):
        get(memory.keep(file_node([leaf], [4])), limit=3)
    assert get(memory.keep(file_node([leaf], [4])), limit=4) == LEAF


@pytest.mark.parametrize("ahead", [0, 3])
def test_a_link_to_a_block_that_was_never_there_is_named(memory, get, leaf, ahead):
    missing = CID.of(b"never")
    cid = memory.keep(file_node([leaf, missing, leaf], [4, 5, 4]))
    with pytest.raises(StoreError, match=f"incomplete.*{missing}"):
        get(cid, ahead=ahead)
    with pytest.raises(NotFoundError):
        get(missing, ahead=ahead)


# Other hash functions and codecs


def test_an_inline_block_is_its_own_address(memory, get):
    inline = CID(RAW, b"inline", IDENTITY)
    assert get(inline) == b"inline"
    assert get(memory.keep(file_node([inline], [6]))) == b"inline"
    folded = CID(DAG_PB, file_node([], [], data=b"in a node"), IDENTITY)
    assert get(folded) == b"in a node"
    assert size_of(memory.fetch, folded) == 9
    assert memory.asked[0] not in (inline, folded)
    assert str(CID(RAW, b"", IDENTITY)) == "bafkqaaa"


def test_blocks_hashed_with_sha2_512_are_read(memory, get):
    import hashlib

    cid = CID(RAW, hashlib.sha512(LEAF).digest(), SHA2_512)
    memory.put(cid, LEAF)
    assert get(memory.keep(file_node([cid], [4]))) == LEAF


def test_a_document_is_its_bytes_but_no_part_of_a_file(memory, get):
    cid = memory.keep(b"\xa0", DAG_CBOR)
    assert get(cid) == b"\xa0"
    with pytest.raises(StoreError, match=r"dag-cbor \(0x71\)"):
        get(memory.keep(file_node([cid], [1])))


def test_a_codec_that_is_not_read_is_named(memory, get):
    for codec in (0x0129, 0x78):
        cid = memory.keep(b"{}", codec)
        for ask in (cid, memory.keep(file_node([cid], [2]))):
            with pytest.raises(StoreError, match=f"0x{codec:x}"):
                get(ask)
