"""What goes elsewhere goes leaves first, so that a root is never there before all below it."""

import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.cid import CID, DAG_CBOR, DAG_PB, IDENTITY
from neuronexus_kernel.errors import NotFoundError, StoreError
from neuronexus_kernel.storage import sending
from neuronexus_kernel.storage.dag import Limits, links_of, walk
from neuronexus_kernel.storage.files import MAX_BLOCK
from neuronexus_kernel.storage.importer import add_tree
from neuronexus_kernel.storage.sending import Spool, leaves_first, stream_of


def document(memory, node):
    return memory.keep(dagcbor.encode(node), DAG_CBOR)


@given(st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=30))
def test_each_block_comes_once_and_after_all_that_it_links_to(shape):
    """Documents, each linking to some of those before it."""
    blocks, cids = {}, []
    for number, links in enumerate(shape):
        node = {"number": number, "links": [cids[link] for link in links if link < number]}
        cids.append(CID.of(dagcbor.encode(node), DAG_CBOR))
        blocks[cids[-1]] = dagcbor.encode(node)
    given_before = set()
    for cid, block in leaves_first(blocks.__getitem__, cids[-1]):
        assert cid not in given_before
        assert set(links_of(cid, block)) <= given_before
        given_before.add(cid)
    assert given_before == {cid for cid, _ in walk(blocks.__getitem__, cids[-1])}


def test_the_root_comes_last(memory):
    root = add_tree(random.Random(1).randbytes(3_000_000), memory.put)
    assert [cid for cid, _ in leaves_first(memory.fetch, root)][-1] == root


def test_what_an_identity_cid_holds_is_not_given_and_its_links_are(memory):
    leaf = document(memory, 1)
    inline = CID(DAG_CBOR, dagcbor.encode([leaf]), IDENTITY)
    root = document(memory, {"inline": inline})
    assert [cid for cid, _ in leaves_first(memory.fetch, root)] == [leaf, root]
    assert [cid for cid, _ in leaves_first(memory.fetch, inline)] == [leaf]


def test_a_document_may_name_what_lies_elsewhere(memory):
    here, absent = document(memory, 1), CID.of(b"absent")
    root = document(memory, {"a": absent, "b": here})
    elsewhere = []
    given = [cid for cid, _ in leaves_first(memory.fetch, root, elsewhere=elsewhere)]
    assert given == [here, root]
    assert elsewhere == [absent]
    with pytest.raises(StoreError, match="incomplete"):
        list(leaves_first(memory.fetch, root))


def test_a_file_that_lacks_a_part_is_none(memory):
    root = add_tree(random.Random(1).randbytes(3_000_000), memory.put)
    del memory.blocks[memory.order[0]]
    with pytest.raises(StoreError, match="incomplete"):
        list(leaves_first(memory.fetch, root, elsewhere=[]))


def test_a_missing_root_is_not_found(memory):
    with pytest.raises(NotFoundError):
        list(leaves_first(memory.fetch, CID.of(b"absent")))


def test_bombs_and_towers_are_refused(memory):
    tower = document(memory, 0)
    for _ in range(20):
        tower = document(memory, [tower])
    for limits in (Limits(depth=10), Limits(blocks=10), Limits(size=30)):
        with pytest.raises(StoreError):
            list(leaves_first(memory.fetch, tower, limits=limits))
    assert len(list(leaves_first(memory.fetch, tower, limits=Limits(depth=20)))) == 21


# -- the spool -------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [0, 1 << 24])
def test_a_spool_gives_back_what_was_put_in(monkeypatch, in_memory):
    monkeypatch.setattr(sending, "_IN_MEMORY", in_memory)
    with Spool() as spool:
        root = add_tree(random.Random(1).randbytes(3_000_000), spool.put)
        assert spool.has_block(root)
        for cid, block in leaves_first(spool.block, root):
            assert cid.matches(block)
        old = CID(DAG_PB, root.digest, version=0)
        assert spool.block(old) == spool.block(root)
        with pytest.raises(NotFoundError):
            spool.block(CID.of(b"absent"))


def test_a_spool_notices_a_failing_disk():
    with Spool() as spool:
        cid = CID.of(b"content")
        spool.put(cid, b"content")
        spool._file.seek(0)
        spool._file.write(b"C")
        with pytest.raises(StoreError, match="other bytes"):
            spool.block(cid)


def test_a_spool_that_runs_full_says_where(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with Spool() as spool:
        monkeypatch.setattr(spool._file, "write", full)
        with pytest.raises(StoreError, match="TMPDIR"):
            spool.put(CID.of(b"content"), b"content")


def test_a_spool_takes_no_block_that_no_node_would_take():
    with Spool() as spool, pytest.raises(StoreError, match="limit"):
        spool.put(CID.of(b"large"), bytes(MAX_BLOCK + 1))


# -- bytes as a stream -----------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50)), st.integers(1, 20))
def test_pieces_read_as_a_stream_are_the_same_bytes(pieces, size):
    stream = stream_of(iter(pieces))
    read = b"".join(iter(lambda: stream.read(size), b""))
    assert read == b"".join(pieces)


def test_what_making_the_pieces_raises_comes_out_of_the_stream():
    def broken():
        yield b"some"
        raise NotFoundError("gone")

    stream = stream_of(broken())
    assert isinstance(stream, io.BufferedReader)
    with pytest.raises(NotFoundError):
        stream.read()
