import hashlib
import io
import os
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import CID, chunks, dagpb, unixfs
from neuronexus_kernel.content.cid import DAG_PB
from neuronexus_kernel.content.unixfs import (
    V0,
    V1,
    Message,
    build,
    build_file,
    build_leaf,
    chunks_from,
    chunks_of,
    profile_named,
)
from neuronexus_kernel.errors import ContentError, InvalidInputError

CHUNK = V1.chunk


def test_small_files_are_one_raw_block():
    assert str(build(chunks_of(b""))) == (
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    )
    assert str(build(chunks_of(b"hello world"))) == (
        "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
    )


def test_the_profiles_are_known_by_name():
    assert profile_named("unixfs-v1-2025") is V1
    assert profile_named("unixfs-v0-2015") is V0
    for wrong in ("unixfs-v2", "", None, 1, []):
        with pytest.raises(InvalidInputError, match="unixfs-v1-2025 or unixfs-v0-2015"):
            profile_named(wrong)


def kubo_tree(leaves, width):
    """The balanced layout as Kubo builds it: the old root becomes the first child of a new one.

    Returns the tree as nested tuples of leaf numbers.
    """
    rest = list(leaves)

    def fill(node, depth):
        while len(node) < width and rest:
            node.append(rest.pop(0) if depth == 1 else fill([], depth - 1))
        return tuple(node)

    root, depth = rest.pop(0), 1
    while rest:
        root, depth = fill([root], depth), depth + 1
    return root


@pytest.mark.parametrize("base", [V0, V1], ids=lambda profile: profile.name)
@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_tree_has_kubos_layout(base, width):
    profile = replace(base, links=width, chunk=1)
    for count in range(1, 70):
        blocks = {}
        root = build(
            [bytes([number]) for number in range(count)],
            lambda cid, block, kept=blocks: kept.update({cid: bytes(block)}),
            profile,
        )

        def tree(cid, kept=blocks):
            block = kept[cid]
            if cid.codec != DAG_PB:
                return block[0]
            node = dagpb.decode(block)
            if not node.links:
                return unixfs.decode_message(node.data).data[0]
            return tuple(tree(link.cid) for link in node.links)

        assert tree(root) == kubo_tree(range(count), width)


@pytest.mark.parametrize("base", [V0, V1], ids=lambda profile: profile.name)
def test_every_node_tells_the_sizes_below_it_and_the_root_comes_last(base):
    profile = replace(base, links=3, chunk=7)
    blocks = {}
    order = []

    def put(cid, block):
        blocks[cid] = bytes(block)
        order.append(cid)

    built = build_file([bytes([number]) * 7 for number in range(29)] + [b"end"], put, profile)
    assert order[-1] == built.cid

    def below(cid):
        """Bytes of the file and of the blocks at and below `cid`."""
        block = blocks[cid]
        assert cid.matches(block)
        assert cid.version == (profile.cid_version if cid.codec == DAG_PB else 1)
        if cid.codec != DAG_PB:
            return len(block), len(block)
        node = dagpb.decode(block)
        parts = [below(link.cid) for link in node.links]
        message = unixfs.decode_message(node.data)
        assert message.block_sizes == tuple(content for content, _ in parts)
        assert [link.size for link in node.links] == [total for _, total in parts]
        assert all(order.index(link.cid) < order.index(cid) for link in node.links)
        return message.size, len(block) + sum(total for _, total in parts)

    assert below(built.cid) == (built.size, built.total)
    assert built.size == 29 * 7 + 3


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 40), st.integers(2, 5), st.sampled_from([V0, V1]))
def test_the_cid_is_the_same_whether_blocks_are_kept_or_not(data, size, links, base):
    profile = replace(base, chunk=size, links=links)
    kept = build(chunks_of(data, size), lambda cid, block: None, profile)
    assert build(chunks_of(data, size), None, profile) == kept
    assert build(chunks_from(io.BytesIO(data), size), None, profile) == kept
    if len(data) <= size:
        assert build_leaf(data, None, profile).cid == kept


class Dribble(io.RawIOBase):
    """A stream that gives a few bytes at a time."""

    def __init__(self, data, step):
        self.rest, self.step = data, step

    def readable(self):
        return True

    def readinto(self, room):
        count = min(self.step, len(room))
        piece, self.rest = self.rest[:count], self.rest[count:]
        room[: len(piece)] = piece
        return len(piece)


class ReadOnly:
    """A stream with nothing but `read`."""

    def __init__(self, data):
        self.stream = io.BytesIO(data)

    def read(self, count):
        return self.stream.read(min(count, 99_999))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 5])
def test_streams_are_cut_like_bytes_however_they_come(size):
    data = hashlib.sha256(b"x").digest() * (size // 32 + 1)
    data = data[:size]
    expected = [bytes(chunk) for chunk in chunks_of(data)]
    assert b"".join(expected) == data
    assert all(len(chunk) == CHUNK for chunk in expected[:-1])
    for stream in (io.BytesIO(data), Dribble(data, 65_537), ReadOnly(data)):
        assert [bytes(chunk) for chunk in chunks_from(stream)] == expected


def test_a_text_stream_is_refused():
    with pytest.raises(ContentError, match="binary"):
        list(chunks_from(io.StringIO("text")))


def test_views_of_wider_numbers_are_cut_by_bytes():
    import numpy as np

    numbers = np.arange(300_000, dtype="<f8").reshape(500, 600)
    assert build(chunks_of(numbers.data)) == build(chunks_of(numbers.tobytes()))
    strided = numbers[::2, ::3]
    assert build(chunks_of(strided.data)) == build(chunks_of(strided.tobytes()))


# Threads


def numbered(count, size):
    """A stream of chunks, each filled with its number."""
    return io.BytesIO(b"".join(bytes([number % 256]) * size for number in range(count)))


@pytest.mark.parametrize("size", [CHUNK, CHUNK // 4])
@pytest.mark.parametrize("processors", [1, 2, 8])
def test_buffers_are_not_used_again_before_their_chunk_is_done(monkeypatch, size, processors):
    monkeypatch.setattr(chunks, "processors", lambda: processors)
    began = []

    def work(chunk):
        # The first chunk is looked at only when no more can be read without waiting for it.
        began.append(None)
        time.sleep(0.2 if len(began) == 1 else 0)
        return chunk[0], chunk[-1], len(chunk)

    count = 30 * CHUNK // size
    done = list(chunks.in_order(chunks_from(numbered(count, size), size), work, size))
    assert done == [(number % 256, number % 256, size) for number in range(count)]


def test_little_is_done_without_threads(monkeypatch):
    monkeypatch.setattr(chunks, "processors", lambda: 4)
    here = threading.get_ident()
    one = chunks.in_order([b"only"], lambda chunk: threading.get_ident())
    assert list(one) == [here]
    several = chunks.in_order([b"a", b"b", b"c"], lambda chunk: threading.get_ident())
    assert here not in list(several)


def test_an_error_of_the_source_or_of_the_sink_ends_the_threads():
    def failing():
        for _ in range(4):
            yield bytes(CHUNK)
        raise ConnectionError("gone")

    before = threading.active_count()
    with pytest.raises(ConnectionError):
        build(failing())

    def full(cid, block):
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        build(chunks_of(bytes(5 * CHUNK)), full)
    assert threading.active_count() == before


def test_a_file_is_built_in_constant_memory():
    """A stream of 512 MiB never has more than a few buffers."""
    import tracemalloc

    class Zeros(io.RawIOBase):
        left = 512 * CHUNK

        def readable(self):
            return True

        def readinto(self, room):
            count = min(self.left, len(room))
            self.left -= count
            return count

    tracemalloc.start()
    try:
        build(chunks_from(Zeros()))
        assert tracemalloc.get_traced_memory()[1] < 24 * CHUNK
    finally:
        tracemalloc.stop()


# Messages

MESSAGES = st.one_of(
    st.builds(
        lambda data, sizes: Message(2, len(data) + sum(sizes), tuple(sizes), data),
        st.binary(max_size=20),
        st.lists(st.integers(0, 2**40), max_size=5),
    ),
    st.just(Message(1)),
    st.builds(lambda target: Message(4, data=target), st.binary(min_size=1, max_size=20)),
    st.builds(
        lambda bits, kind, fanout: Message(5, data=bits, hash_type=kind, fanout=fanout),
        st.binary(max_size=32),
        st.integers(0, 2**40),
        st.integers(0, 2**40),
    ),
)


@settings(deadline=None)
@given(MESSAGES)
def test_a_message_comes_back(message):
    assert unixfs.decode_message(unixfs.encode_message(message)) == message


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_any_bytes_are_a_message_or_a_content_error(data):
    try:
        message = unixfs.decode_message(data)
    except ContentError:
        return
    assert message.kind in unixfs.TYPES


MALFORMED = {
    "nothing": "",
    "no type": "1800",
    "type 6": "08061800",
    "type twice": "080208021800",
    "data twice": "0802120161120161",
    "data cut off": "0802120561",
    "sizes do not add up": "080218052001",
    "data does not add up": "0802120161" + "1802",
    "data, but no size": "0802120161",
    "parts, but no size": "08022001",
    "parts of a folder": "08012001",
    "fanout twice": "080528223080023008",
    "unknown field": "08024801",
    "packed sizes": "08022202" + "0101",
    "varint cut off": "080218",
    "long varint": "0802188000",
}


@pytest.mark.parametrize("block", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_messages_are_refused(block):
    with pytest.raises(ContentError):
        unixfs.decode_message(bytes.fromhex(block))


def test_the_address_of_a_block_depends_on_its_codec():
    assert CID.of(b"", DAG_PB) != CID.of(b"")


def test_importing_the_builder_starts_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, neuronexus_kernel.content.directory\n"
        "heavy = {'concurrent.futures', 'torch', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
