import hashlib
import io

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import CID, dagpb, unixfs
from neuronexus_kernel.content.cid import DAG_PB
from neuronexus_kernel.content.unixfs import CHUNK, FileNode, build, chunks_from, chunks_of
from neuronexus_kernel.errors import ContentError

MIB = 1024 * 1024


def deterministic_chunks(size, seed):
    """The byte stream of Kubo's and IPIP-499's fixtures: ChaCha20 under the seed's SHA-256."""
    key = hashlib.sha256(seed.encode()).digest()
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()
    while size:
        count = min(size, CHUNK)
        yield stream.update(bytes(count))
        size -= count


# Of Kubo's test/cli/cid_profiles_test.go and js-ipfs-unixfs, profile unixfs-v1-2025.
PROFILE_VECTORS = [
    (MIB, "chunk-v1-seed", "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"),
    (MIB + 1, "chunk-v1-seed", "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64"),
    (1024 * MIB, "v1-2025-seed", "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm"),
    (1024 * MIB + 1, "v1-2025-seed", "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe"),
]


@pytest.mark.parametrize(("size", "seed", "cid"), PROFILE_VECTORS)
def test_the_cids_of_the_profile_are_those_of_kubo(size, seed, cid):
    assert str(build(deterministic_chunks(size, seed))) == cid


def test_small_files_are_one_raw_block():
    assert str(build(chunks_of(b""))) == (
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    )
    assert str(build(chunks_of(b"hello world"))) == (
        "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
    )


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


@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_tree_has_kubos_layout(monkeypatch, width):
    monkeypatch.setattr(unixfs, "MAX_LINKS", width)
    for count in range(1, 70):
        chunks = [bytes([number]) for number in range(count)]
        blocks = {}
        root = build(chunks, lambda cid, block, kept=blocks: kept.update({cid: bytes(block)}))

        def tree(cid, kept=blocks):
            block = kept[cid]
            if cid.codec != DAG_PB:
                return block[0]
            return tuple(tree(link.cid) for link in dagpb.decode(block).links)

        assert tree(root) == kubo_tree(range(count), width)


def test_every_node_tells_the_sizes_below_it_and_the_root_comes_last(monkeypatch):
    monkeypatch.setattr(unixfs, "MAX_LINKS", 3)
    blocks = {}
    order = []

    def put(cid, block):
        blocks[cid] = bytes(block)
        order.append(cid)

    root = build([bytes([number]) * 7 for number in range(29)] + [b"end"], put)
    assert order[-1] == root

    def below(cid):
        """Bytes of the file and of the blocks at and below `cid`."""
        block = blocks[cid]
        if cid.codec != DAG_PB:
            return len(block), len(block)
        node = dagpb.decode(block)
        parts = [below(link.cid) for link in node.links]
        message = unixfs.decode_message(node.data)
        assert message.block_sizes == tuple(content for content, _ in parts)
        assert [link.size for link in node.links] == [total for _, total in parts]
        assert all(order.index(link.cid) < order.index(cid) for link in node.links)
        return message.size, len(block) + sum(total for _, total in parts)

    assert below(root)[0] == 29 * 7 + 3


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


MESSAGES = st.builds(
    lambda data, sizes: FileNode(2, len(data) + sum(sizes), tuple(sizes), data),
    st.binary(max_size=20),
    st.lists(st.integers(0, 2**40), max_size=5),
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
