import hashlib
import io
import os
import random
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import CID, dagcbor, dagpb
from neuronexus_kernel.content.cid import DAG_CBOR, DAG_PB, SHA2_512
from neuronexus_kernel.errors import (
    ContentError,
    InvalidInputError,
    NotFoundError,
    StoreError,
)
from neuronexus_kernel.storage import ContentStore, LocalStore, cid_of
from neuronexus_kernel.storage.car import encode_car

MIB = 1024 * 1024
BIG = random.Random(0).randbytes(3 * MIB + 17)


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def block_files(store):
    return sorted(path for path in (store.root / "blocks").rglob("*") if path.is_file())


def test_a_local_store_is_a_content_store(store):
    kept: ContentStore = store
    assert kept.get(kept.add(b"bytes")) == b"bytes"


def test_an_empty_file_comes_back(store):
    cid = store.add(b"")
    assert store.get(cid) == b""
    assert store.size(cid) == 0
    assert store.open(cid).read() == b""


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    length=st.integers(0, 3000) | st.integers(MIB - 2, MIB + 2) | st.integers(0, 5 * MIB),
    seed=st.integers(0, 9),
)
def test_whatever_is_added_comes_back(store, length, seed):
    data = random.Random(seed).randbytes(length)
    cid = store.add(data)
    assert cid == cid_of(data)
    assert store.get(cid) == data
    assert store.size(cid) == length
    assert store.has(cid)
    assert store.open(cid).read() == data


def test_bytes_views_paths_and_streams_give_one_cid(store, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(BIG)
    expected = store.add(BIG)
    assert store.add(memoryview(BIG)) == expected
    assert store.add(bytearray(BIG)) == expected
    assert store.add(path) == expected
    assert store.add(io.BytesIO(BIG)) == expected
    with path.open("rb") as stream:
        assert cid_of(stream) == expected
    assert cid_of(path) == expected


def test_files_to_one_mebibyte_are_one_raw_block(store):
    assert str(store.add(b"x" * MIB)).startswith("bafkrei")
    assert len(block_files(store)) == 1
    assert str(store.add(b"y" * (MIB + 1))).startswith("bafybei")


def test_the_cid_may_be_given_as_text(store):
    cid = str(store.add(BIG))
    assert store.get(cid) == BIG
    assert store.size(cid) == len(BIG)
    assert store.has(cid)


def test_adding_again_writes_nothing(store):
    cid = store.add(BIG)
    before = [(path, path.stat().st_ino) for path in block_files(store)], list(store.pins())
    assert store.add(BIG) == cid
    assert (
        [(path, path.stat().st_ino) for path in block_files(store)],
        list(store.pins()),
    ) == before


def test_equal_chunks_are_kept_once(store):
    store.add(bytes(5 * MIB))
    assert len(block_files(store)) == 2


def test_a_second_store_on_the_folder_sees_the_content(store):
    cid = store.add(BIG)
    assert LocalStore(store.root).get(cid) == BIG
    assert LocalStore(str(store.root)).has(cid)


def test_an_unknown_cid_is_named(store):
    cid = CID.of(b"never added")
    for ask in (store.get, store.open, store.size):
        with pytest.raises(NotFoundError, match=str(cid)):
            ask(cid)
    with pytest.raises(NotFoundError, match="add the content first"):
        store.get_node(CID.of(b"never added", DAG_CBOR))
    assert not store.has(cid)


@pytest.mark.parametrize("text", ["", "nonsense", "../../etc/passwd", "bafkrei"])
def test_text_that_is_no_cid_is_refused(store, text):
    for ask in (store.get, store.open, store.size, store.has, store.get_node):
        with pytest.raises(ContentError):
            ask(text)


def test_a_cid_of_an_unknown_hash_function_is_not_here(store):
    cid = CID(0x55, bytes(32), hash_code=0xB220)
    assert not store.has(cid)
    with pytest.raises(NotFoundError):
        store.get(cid)


def test_an_inline_block_lies_in_its_cid(store):
    cid = CID(0x55, b"inline", hash_code=0)
    assert store.has(cid)
    assert store.get(cid) == store.block(cid) == b"inline"
    assert block_files(store) == []


def test_blocks_of_sha2_512_are_read_and_verified(store):
    block = b"hashed otherwise"
    cid = CID(0x55, hashlib.sha512(block).digest(), hash_code=SHA2_512)
    car = io.BytesIO(b"".join(encode_car([cid], [(cid, block)])))
    assert store.import_car(car) == [cid]
    assert store.get(str(cid)) == block
    [file] = block_files(store)
    file.write_bytes(b"hashed otherwisf")
    with pytest.raises(StoreError, match="corrupt"):
        store.get(cid)


@pytest.mark.parametrize("data", ["text", None, 7, ["list"]])
def test_what_is_no_source_of_bytes_is_refused(store, data):
    with pytest.raises(InvalidInputError, match=type(data).__name__):
        store.add(data)


def test_a_missing_file_and_a_text_stream_are_refused(store, tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        store.add(tmp_path / "nowhere")
    with pytest.raises(ContentError, match="binary"):
        store.add(io.StringIO("text"))
    assert block_files(store) == []


def test_a_stream_that_fails_leaves_nothing(store):
    class Failing(io.RawIOBase):
        left = 3

        def readable(self):
            return True

        def readinto(self, room):
            self.left -= 1
            if self.left == 0:
                raise ConnectionError("gone")
            return len(room)

    with pytest.raises(ConnectionError):
        store.add(Failing())
    assert block_files(store) == []
    assert list((store.root / "staging").iterdir()) == []


# Documents


def test_documents_come_back_under_their_dag_cbor_cid(store):
    node = {"weights": CID.of(b"w"), "rate": 0.1, "list": [1, "two", b"3", None, True]}
    cid = store.put_node(node)
    assert cid == dagcbor.cid_of(node)
    assert store.get_node(cid) == node
    assert store.get(cid) == dagcbor.encode(node)
    assert store.open(str(cid)).read() == dagcbor.encode(node)


def test_a_file_is_no_document(store):
    with pytest.raises(StoreError, match="raw"):
        store.get_node(store.add(b"bytes"))
    with pytest.raises(StoreError, match="dag-pb"):
        store.get_node(store.add(BIG))


def test_a_document_above_the_block_limit_is_refused(store):
    with pytest.raises(StoreError, match="Add the bytes as a file"):
        store.put_node({"data": bytes(2 * MIB)})
    assert block_files(store) == []


# Streams


def test_a_stream_can_be_read_from_anywhere(store):
    stream = store.open(store.add(BIG))
    expected = io.BytesIO(BIG)
    rng = random.Random(1)
    for _ in range(60):
        position, count = rng.randrange(len(BIG) + 50), rng.choice([1, 10, 100_000, 2 * MIB])
        assert stream.seek(position) == expected.seek(position)
        assert stream.read(count) == expected.read(count)
        assert stream.tell() == expected.tell()
    assert stream.seek(-5, io.SEEK_END) == len(BIG) - 5
    assert stream.read() == BIG[-5:]
    with pytest.raises((ValueError, OSError)):
        stream.seek(-1)


def test_seeking_reads_only_the_blocks_it_needs(store):
    cid = store.add(BIG)
    first = CID.of(BIG[:MIB])
    next(path for path in block_files(store) if path.name == str(first)).unlink()
    stream = store.open(cid)
    stream.seek(MIB)
    assert stream.read() == BIG[MIB:]
    stream.seek(0)
    with pytest.raises(StoreError, match=str(first)):
        stream.read(1)


# Damage


@pytest.mark.parametrize("number", range(5))
def test_a_flipped_bit_in_any_block_is_found(store, number):
    cid = store.add(BIG)
    files = block_files(store)
    assert len(files) == 5
    damaged = files[number]
    content = bytearray(damaged.read_bytes())
    content[random.Random(number).randrange(len(content))] ^= 1 << number
    damaged.write_bytes(content)
    with pytest.raises(StoreError, match="corrupt") as raised:
        store.get(cid)
    assert damaged.name in str(raised.value)
    assert str(damaged) in str(raised.value)
    with pytest.raises(StoreError, match=damaged.name):
        store.open(cid).read()


@pytest.mark.parametrize("damage", [b"", b"short", b"longer than it was", bytes(3 * MIB)])
def test_a_block_of_another_length_is_found(store, damage):
    cid = store.add(b"what it was")
    block_files(store)[0].write_bytes(damage)
    for ask in (store.get, store.size, store.open):
        with pytest.raises(StoreError, match="corrupt"):
            ask(cid)


def test_a_damaged_document_is_found(store):
    cid = store.put_node({"a": 1})
    block_files(store)[0].write_bytes(dagcbor.encode({"a": 2}))
    with pytest.raises(StoreError, match=str(cid)):
        store.get_node(cid)


def test_adding_the_content_again_heals_a_damaged_block(store):
    cid = store.add(BIG)
    for path in block_files(store):
        path.write_bytes(b"damage")
    assert store.add(BIG) == cid
    assert store.get(cid) == BIG


def test_a_missing_inner_block_is_named_with_its_file(store):
    cid = store.add(BIG)
    missing = CID.of(BIG[MIB : 2 * MIB])
    next(path for path in block_files(store) if path.name == str(missing)).unlink()
    with pytest.raises(StoreError, match="incomplete") as raised:
        store.get(cid)
    assert str(missing) in str(raised.value)
    assert str(cid) in str(raised.value)


def test_a_folder_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="file"):
        LocalStore(tmp_path / "file" / "store")


# Together


def test_many_threads_add_and_read_the_same_and_other_content(store):
    shared = random.Random(7).randbytes(2 * MIB)
    problems = []

    def work(number):
        try:
            own = random.Random(number).randbytes(MIB + number)
            for _ in range(4):
                assert store.get(store.add(shared)) == shared
                assert store.get(store.add(own)) == own
                assert store.get_node(store.put_node({"n": number})) == {"n": number}
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert list((store.root / "staging").iterdir()) == []


def test_opening_a_store_leaves_the_writes_of_others_alone(store):
    arrived, go_on = threading.Event(), threading.Event()

    class Slow(io.RawIOBase):
        pieces = [b"first", b"second", b""]

        def readable(self):
            return True

        def readinto(self, room):
            if len(self.pieces) == 2:
                arrived.set()
                go_on.wait(10)
            piece = self.pieces.pop(0)
            room[: len(piece)] = piece
            return len(piece)

    cids = []
    writer = threading.Thread(target=lambda: cids.append(store.add(Slow())))
    writer.start()
    assert arrived.wait(10)
    LocalStore(store.root)
    assert len(list((store.root / "staging").iterdir())) == 1
    go_on.set()
    writer.join()
    assert store.get(cids[0]) == b"firstsecond"


def test_remains_of_a_dead_writer_are_removed_when_the_store_opens(store):
    remains = store.root / "staging" / "0123456789abcdef"
    remains.mkdir()
    (remains / "0").write_bytes(b"half a blo")
    LocalStore(store.root)
    assert not remains.exists()


def test_blocks_are_readable_by_their_owner_only(store):
    store.add(b"sealed")
    assert block_files(store)[0].stat().st_mode & 0o077 == 0


def test_a_cid_of_version_0_names_the_same_block(store):
    cid = store.add(BIG)
    assert store.get(str(CID(DAG_PB, cid.digest, version=0))) == BIG


def test_importing_the_store_needs_no_heavy_library():
    import subprocess
    import sys

    code = (
        "import sys, neuronexus_kernel.storage\n"
        "heavy = {'torch', 'numpy', 'pandas', 'sqlalchemy', 'duckdb'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_the_root_node_of_a_file_links_to_its_chunks(store):
    root = store.add(BIG)
    block = next(path for path in block_files(store) if path.name == str(root)).read_bytes()
    links = dagpb.decode(block).links
    assert [link.cid for link in links] == [
        CID.of(BIG[start : start + MIB]) for start in range(0, len(BIG), MIB)
    ]


MEMORY = """
import io, os, resource, sys
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import LocalStore

class Counting(io.RawIOBase):
    "A stream of so many chunks, no two of them equal."
    def __init__(self, chunks):
        self.chunks = iter(range(chunks))
    def readable(self):
        return True
    def readinto(self, room):
        number = next(self.chunks, None)
        if number is None:
            return 0
        room[:8] = number.to_bytes(8, "big")
        return len(room)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

store = LocalStore(sys.argv[1], StorageSettings(fsync="never"))
store.add(Counting(20))
before = peak()
with store.open(store.add(Counting(160))) as stream:
    while stream.read(1 << 20):
        pass
assert store.verify().ok
print(peak() - before)
"""


def test_memory_does_not_grow_with_a_file(tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 16
