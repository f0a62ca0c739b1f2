"""CAR files: what is written is read again, by us and by others, and public files are read."""

import base64
import io
import struct

import dag_cbor
import libipld
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR, DAG_PB, IDENTITY, SHA2_512
from neuronexus_kernel.errors import InvalidInputError, NotFoundError, StoreError
from neuronexus_kernel.storage import car, dag
from neuronexus_kernel.storage.car_index import encode_index
from neuronexus_kernel.storage.files import MAX_BLOCK

# From the specification: fixture/carv1-basic, with CIDs of both versions and three codecs.
BASIC = base64.b64decode(
    "Y6Jlcm9vdHOC2CpYJQABcRIg+IvIU4BM8pT+QX5PqDAoaJ/NsbFZLFEC4UdNvCAPq4vYKlglAAFxEiBp6gdA+YB6KPTZ"
    "MsYufByDvgVeVQcskCZqs+ed9jo2W2d2ZXJzaW9uAVsBcRIg+IvIU4BM8pT+QX5PqDAoaJ/NsbFZLFEC4UdNvCAPq4ui"
    "ZGxpbmvYKlgjABIgAqzsxd4kOOpBJqMBDssfilmcjv8i//Gh3P/pmbJ/095kbmFtZWRibGlwgwESIAKs7MXeJDjqQSaj"
    "AQ7LH4pZnI7/Iv/xodz/6Zmyf9PeEi4KJAFVEiC2+9Z1+Y4qvSLU7Sn9yDFQ/txIWX6S3Rp6JDgdRKJ0URIEYmVhchgE"
    "Ei8KIhIgeamC3jyZB5U9TTI87h0Pse2PRfjvAocMDLngkka9UwoSBnNlY29uZBiVASgBVRIgtvvWdfmOKr0i1O0p/cgx"
    "UP7cSFl+kt0aeiQ4HUSidFFjY2NjgAESIHmpgt48mQeVPU0yPO4dD7Htj0X47wKHDAy54JJGvVMKEi0KJAFVEiCBzFsX"
    "AYZ0tAG0LzW6B7t54hEjnCO//mWNoVd+PmRodxIDZG9nGAQSLQoiEiDn3Ehul+br5c2rqz45K9rRKLbgmsyUu04qoq97"
    "mG0k0BIFZmlyc3QYMygBVRIggcxbFwGGdLQBtC81uge7eeIRI5wjv/5ljaFXfj5kaHdiYmJiURIg59xIbpfm6+XNq6s+"
    "OSva0Si24JrMlLtOKqKve5htJNASLQokAVUSIGG+Vaji9rThcjOL3fGE1tvuKcmIU+CgSF7O5/J7mvC0EgNjYXQYBCgB"
    "VRIgYb5VqOL2tOFyM4vd8YTW2+4pyYhT4KBIXs7n8nua8LRhYWFhNgFxEiBp6gdA+YB6KPTZMsYufByDvgVeVQcskCZq"
    "s+ed9jo2W6JkbGlua/ZkbmFtZWVsaW1ibw=="
)
BASIC_CIDS = [
    "bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm",
    "QmNX6Tffavsya4xgBi2VJQnSuqy9GsxongxZZ9uZBqp16d",
    "bafkreifw7plhl6mofk6sfvhnfh64qmkq73oeqwl6sloru6rehaoujituke",
    "QmWXZxVQ9yZfhQxLD35eDR8LiMRsYtHxYqTFCBbJoiJVys",
    "bafkreiebzrnroamgos2adnbpgw5apo3z4iishhbdx77gldnbk57d4zdio4",
    "QmdwjhxpxzcMsR3qUuj7vUL8pbA7MgR3GAxWi2GLHjsKCT",
    "bafkreidbxzk2ryxwwtqxem4l3xyyjvw35yu4tcct4cqeqxwo47zhxgxqwq",
    "bafyreidj5idub6mapiupjwjsyyxhyhedxycv4vihfsicm2vt46o7morwlm",
]

# Written by go-car (v2/testdata/sample-unixfs-v2.car): a folder in a folder, and an index.
INDEXED = base64.b64decode(
    "CqFndmVyc2lvbgIAAAAAAAAAAAAAAAAAAAAAMwAAAAAAAAAcAQAAAAAAAE8BAAAAAAAAOqJlcm9vdHOB2CpYJQABcBIg"
    "CjRIcd7mx1Qgf1ls/JWuKdSgoh5wI5JaXWElIG3UqrRndmVyc2lvbgEwAVUSIKlIkE8vD0ebj4GXaUswGEsNLtHBzSoe"
    "wPuF0pmhkqRHaGVsbG8gd29ybGQKWQFwEiDLzhI4afhVrwPMSXUsGwWDICC3uKwc63yOSstnHfZ5gRIvCiQBVRIgqUiQ"
    "Ty8PR5uPgZdpSzAYSw0u0cHNKh7A+4XSmaGSpEcSBWIudHh0GAwKAggBVQFwEiAKNEhx3ubHVCB/WWz8la4p1KCiHnAj"
    "klpdYSUgbdSqtBIrCiQBcBIgy84SOGn4Va8DzEl1LBsFgyAgt7isHOt8jkrLZx32eYESAWEYAAoCCAGBCAEAAAASAAAA"
    "AAAAAAEAAAAoAAAAeAAAAAAAAAAKNEhx3ubHVCB/WWz8la4p1KCiHnAjklpdYSUgbdSqtMYAAAAAAAAAqUiQTy8PR5uP"
    "gZdpSzAYSw0u0cHNKh7A+4XSmaGSpEc7AAAAAAAAAMvOEjhp+FWvA8xJdSwbBYMgILe4rBzrfI5Ky2cd9nmBbAAAAAAA"
    "AAA="
)


def read(data, **options):
    roots, blocks = car.read_car(io.BytesIO(data), **options)
    return roots, list(blocks)


def put_all(*nodes):
    """Return blocks by CID: documents, or bytes as raw blocks."""
    blocks = {}
    for node in nodes:
        block, codec = (node, 0x55) if isinstance(node, bytes) else (dagcbor.encode(node), DAG_CBOR)
        blocks[CID.of(block, codec)] = block
    return blocks


def written(blocks, roots, **options):
    stream = io.BytesIO()
    size = car.write_car(blocks.__getitem__, roots, stream, **options)
    assert size == len(stream.getvalue()) == stream.tell()
    return stream.getvalue()


@pytest.fixture
def blocks():
    leaves = [CID.of(letter) for letter in (b"a", b"b", b"")]
    return put_all(b"a", b"b", b"", leaves[:2], {"all": leaves, "number": 1})


@pytest.fixture
def roots(blocks):
    return [cid for cid in blocks if cid.codec == DAG_CBOR]


def test_the_file_of_the_specification_is_read():
    roots, blocks = read(BASIC)
    assert [str(cid) for cid in roots] == [BASIC_CIDS[0], BASIC_CIDS[-1]]
    assert [str(cid) for cid, _ in blocks] == BASIC_CIDS
    assert dict(blocks)[CID.parse(BASIC_CIDS[2])] == b"cccc"


def test_the_file_of_the_specification_is_written_to_the_byte():
    roots, blocks = read(BASIC)
    assert written(dict(blocks), roots) == BASIC


def test_a_file_with_an_index_by_go_car_is_read_and_its_index_written_to_the_byte():
    roots, blocks = read(INDEXED)
    assert [len(block) for _, block in blocks] == [12, 53, 49]
    payload = INDEXED[51 : 51 + 284]
    assert read(payload) == (roots, blocks)
    ours = written(dict(blocks), roots, version=2)
    assert read(ours) == (roots, blocks[::-1])
    places = {}
    for cid, _ in blocks:
        at = payload.index(bytes(cid), 59) - 1
        places[cid.digest + struct.pack("<Q", at)] = cid.hash_code
    assert encode_index(places) == INDEXED[51 + 284 :]


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_written_is_read(blocks, roots, version):
    data = written(blocks, roots, version=version)
    expected = list(dag.walk(blocks.__getitem__, roots[0]))
    read_roots, read_blocks = read(data)
    assert read_roots == roots
    assert read_blocks[: len(expected)] == expected
    assert dict(read_blocks) == blocks


def test_blocks_with_other_hash_functions_have_their_place_in_the_index():
    import hashlib

    strong = CID(0x55, hashlib.sha512(b"strong").digest(), SHA2_512)
    blocks = put_all(b"weak", [strong, CID.of(b"weak")]) | {strong: b"strong"}
    root = list(blocks)[1]
    assert dict(read(written(blocks, [root], version=2))[1]) == blocks


def test_identity_cids_are_named_and_never_carried():
    inline = CID(0x55, b"inline", IDENTITY)
    blocks = put_all([inline])
    (root,) = blocks
    assert read(written(blocks, [root])) == ([root], [(root, blocks[root])])
    # The probe of a gateway: a root that needs no block.
    assert read(written({}, [inline])) == ([inline], [])


def test_a_file_of_version_2_may_begin_anywhere_in_a_stream(blocks, roots):
    stream = io.BytesIO(b"before")
    stream.seek(6)
    size = car.write_car(blocks.__getitem__, roots, stream, version=2)
    assert stream.tell() == 6 + size
    assert read(stream.getvalue()[6:])[0] == roots


def test_progress_is_told_of_the_bytes_of_blocks(blocks, roots):
    told = []
    data = written(blocks, roots, progress=told.append)
    assert sum(told) == sum(map(len, blocks.values()))
    taken = []
    car.import_car(io.BytesIO(data), lambda *_: None, progress=taken.append)
    assert taken == told


class Trickle(io.RawIOBase):
    """A stream that gives and takes a few bytes at a time, and cannot seek."""

    def __init__(self, data=b""):
        self.data, self.at = bytearray(data), 0

    def read(self, size=-1):
        piece = bytes(self.data[self.at : self.at + min(size, 7)])
        self.at += len(piece)
        return piece

    def writable(self):
        return True

    def write(self, data):
        self.data += bytes(data[:7])
        return min(7, len(data))


@pytest.mark.parametrize("version", [1, 2])
def test_a_stream_may_give_and_take_a_few_bytes_at_a_time(blocks, roots, version):
    data = written(blocks, roots, version=version)
    read_roots, read_blocks = car.read_car(Trickle(data))
    assert (read_roots, dict(read_blocks)) == (roots, blocks)
    if version == 1:
        stream = Trickle()
        assert car.write_car(blocks.__getitem__, roots, stream) == len(data)
        assert bytes(stream.data) == data


def test_memory_does_not_grow_with_the_file():
    import tracemalloc

    def blocks():
        for number in range(64):
            block = struct.pack("<Q", number) + bytes(MAX_BLOCK - 8)
            yield CID.of(block), block

    class Long(io.RawIOBase):
        """Sixty-four blocks of 2 MiB, made as they are read."""

        pieces, rest = car.encode_car([CID.of(b"")], blocks()), b""

        def read(self, size=-1):
            self.rest = self.rest or next(self.pieces, b"")
            piece, self.rest = self.rest[:size], self.rest[size:]
            return piece

    tracemalloc.start()
    total = sum(len(block) for _, block in car.read_car(Long())[1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 64 * MAX_BLOCK
    assert peak < 8 * MAX_BLOCK


# -- other implementations -------------------------------------------------------------------


def test_another_implementation_reads_what_we_write():
    # libipld takes files of DAG-CBOR alone.
    blocks = put_all({"leaf": 1}, ["a", None, b"bytes"])
    blocks |= put_all({"links": list(blocks), "text": "ä"})
    roots = list(blocks)[::-1]
    header, theirs = libipld.decode_car(written(blocks, roots))
    assert [CID.from_bytes(root) for root in header["roots"]] == roots
    assert theirs == {bytes(cid): dag_cbor_as_libipld(block) for cid, block in blocks.items()}


def dag_cbor_as_libipld(block):
    def plain(node):
        if isinstance(node, dict):
            return {key: plain(value) for key, value in node.items()}
        if isinstance(node, list):
            return [plain(value) for value in node]
        return bytes(node) if type(node).__name__ == "CID" else node

    return plain(dag_cbor.decode(block))


NODES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(
    st.lists(NODES | st.binary(max_size=40), min_size=1, max_size=12),
    st.data(),
    st.sampled_from([1, 2]),
)
def test_any_dag_survives(nodes, data, version):
    blocks = {}
    for node in nodes:
        links = data.draw(st.lists(st.sampled_from(list(blocks)), max_size=4)) if blocks else []
        blocks |= put_all([node, links] if links or not isinstance(node, bytes) else node)
    root = list(blocks)[-1]
    file = written(blocks, [root], version=version)
    below = list(dag.walk(blocks.__getitem__, root))
    assert read(file) == ([root], below)
    if version == 1 and all(cid.codec == DAG_CBOR for cid in blocks):
        header, theirs = libipld.decode_car(file)
        assert set(theirs) == {bytes(cid) for cid, _ in below}
        assert header["roots"] == [bytes(root)]


# -- what is refused before anything is written ----------------------------------------------


def test_a_file_needs_a_root_and_a_known_version(blocks, roots):
    with pytest.raises(InvalidInputError, match="at least one root"):
        written(blocks, [])
    with pytest.raises(InvalidInputError, match="version 1 or 2"):
        written(blocks, roots, version=3)


def test_a_missing_root_leaves_nothing_behind(blocks):
    def fetch(cid):
        raise NotFoundError(f"There is no {cid}.")

    stream = io.BytesIO()
    with pytest.raises(NotFoundError):
        car.write_car(fetch, [CID.of(b"missing")], stream)
    assert stream.getvalue() == b""


def test_version_2_does_not_go_into_a_pipe(blocks, roots):
    with pytest.raises(InvalidInputError, match="pipe"):
        car.write_car(blocks.__getitem__, roots, Trickle(), version=2)


def test_limits_hold_when_writing_and_reading(blocks, roots):
    data = written(blocks, roots)
    for limits in (dag.Limits(blocks=4), dag.Limits(size=10)):
        with pytest.raises(StoreError, match="more than"):
            written(blocks, roots, limits=limits)
        with pytest.raises(StoreError, match="more than"):
            read(data, limits=limits)


# -- taking in -------------------------------------------------------------------------------


class Store(dict):
    """What is there already."""

    def block(self, cid):
        return self[cid]

    def has_block(self, cid):
        return cid in self


def take_in(data, reader=None):
    taken = {}
    roots = car.import_car(io.BytesIO(data), taken.__setitem__, reader=reader)
    return roots, taken


def without(data, cid):
    """Return a file without one of its blocks."""
    roots, blocks = read(data)
    return b"".join(car.encode_car(roots, [block for block in blocks if block[0] != cid]))


def test_taking_in_puts_each_block_and_returns_the_roots(blocks, roots):
    for version in (1, 2):
        assert take_in(written(blocks, roots, version=version)) == (roots, blocks)


def test_a_file_that_lacks_any_block_is_refused(blocks, roots):
    data = written(blocks, roots)
    for cid in blocks:
        with pytest.raises(StoreError, match=f"incomplete: the block {cid}"):
            take_in(without(data, cid))


def test_a_block_that_is_there_already_need_not_be_in_the_file(blocks, roots):
    data = written(blocks, roots)
    for cid in blocks:
        there = Store({cid: blocks[cid]})
        assert take_in(without(data, cid), there)[0] == roots
    # But what is there must be whole, too.
    leaf, document = CID.of(b"a"), CID.of(blocks[roots[0]], DAG_CBOR)
    lacking, there = without(without(data, leaf), document), Store({document: blocks[document]})
    with pytest.raises(StoreError, match=f"incomplete: the block {leaf}"):
        take_in(lacking, there)


def test_a_block_under_no_root_may_lack_what_it_links_to(blocks, roots):
    stray = put_all([CID.of(b"nowhere")])
    file = b"".join(car.encode_car(roots, list(blocks.items()) + list(stray.items())))
    assert take_in(file) == (roots, blocks | stray)


def test_links_of_identity_cids_count(blocks):
    leaf = CID.of(b"leaf")
    inline = CID(DAG_CBOR, dagcbor.encode([leaf]), IDENTITY)
    nodes = put_all([inline], b"leaf")
    root = next(iter(nodes))
    data = written(nodes, [root])
    assert take_in(data) == ([root], nodes)
    with pytest.raises(StoreError, match=f"incomplete: the block {leaf}"):
        take_in(without(data, leaf))


def test_both_versions_of_a_cid_are_one_block_when_taking_in():
    folder = b"\x0a\x02\x08\x01"
    old, new = CID(DAG_PB, CID.of(folder).digest, version=0), CID.of(folder, DAG_PB)
    document = put_all([old])
    root = next(iter(document))
    file = b"".join(car.encode_car([root], [*document.items(), (new, folder)]))
    assert take_in(file)[0] == [root]


def test_a_codec_that_cannot_be_followed_is_named(blocks):
    odd = CID.of(b"{}", 0x0129)
    with pytest.raises(StoreError, match="dag-json"):
        take_in(b"".join(car.encode_car([odd], [(odd, b"{}")])))
