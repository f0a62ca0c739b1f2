"""Reading files: any part of them, and only the blocks that it needs."""

import io
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content.unixfs import V0, V1, build, chunks_of
from neuronexus_kernel.errors import StoreError
from neuronexus_kernel.storage.threads import SharedThreads
from neuronexus_kernel.storage.unixfs import FileReader, content, read

BASES = [V0, V1]
SHARED = SharedThreads(2)


def kept_file(memory, data, profile):
    return build(chunks_of(data, profile.chunk), memory.put, profile)


@settings(max_examples=80, deadline=None)
@given(
    st.binary(max_size=200),
    st.integers(1, 30),
    st.integers(2, 4),
    st.sampled_from(BASES),
    st.integers(0, 220),
    st.none() | st.integers(0, 220),
    st.sampled_from([0, 0, 2, SHARED]),
)
def test_any_range_of_any_file_is_read(data, size, links, base, start, stop, ahead):
    blocks = {}
    profile = replace(base, chunk=size, links=links)
    root = build(chunks_of(data, size), lambda cid, b: blocks.update({cid: bytes(b)}), profile)
    assert content(blocks.__getitem__, root, ahead=ahead) == data
    pieces = read(blocks.__getitem__, root, start, stop, ahead=ahead)
    assert b"".join(pieces) == data[start:stop]


@pytest.mark.parametrize("base", BASES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("ahead", [0, 4, SHARED])
def test_a_range_touches_only_the_blocks_it_needs(memory, base, ahead):
    profile = replace(base, chunk=10, links=4)
    data = random.Random(1).randbytes(640)  # 64 leaves below 16 nodes, 4 nodes and the root
    root = kept_file(memory, data, profile)
    for start, stop, leaves in ((0, 1, 1), (333, 334, 1), (333, 345, 2), (639, None, 1)):
        memory.asked.clear()
        assert b"".join(read(memory.fetch, root, start, stop, ahead=ahead)) == data[start:stop]
        assert len(memory.asked) <= 3 + 2 * leaves
    memory.asked.clear()
    assert list(read(memory.fetch, root, 640)) == []
    assert memory.asked == [root]


def test_blocks_are_fetched_side_by_side_and_given_in_order(memory):
    profile = replace(V1, chunk=10, links=8)
    data = random.Random(2).randbytes(640)
    root = kept_file(memory, data, profile)
    together, most, lock = 0, 0, threading.Lock()

    def slow(cid):
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        threading.Event().wait(0.002)
        with lock:
            together -= 1
        return memory.fetch(cid)

    assert content(slow, root, ahead=4) == data
    assert 2 <= most <= 5
    assert len(memory.asked) == len(set(memory.asked)) == 64 + 8 + 1


def test_reading_ahead_ends_with_the_reader(memory):
    root = kept_file(memory, random.Random(3).randbytes(500), replace(V1, chunk=10))
    before = threading.active_count()
    pieces = read(memory.fetch, root, ahead=3)
    next(pieces)
    assert threading.active_count() == before  # who reads one piece may need no other
    next(pieces)
    assert threading.active_count() > before
    pieces.close()
    assert threading.active_count() == before
    for end in (lambda stream: stream.close(), lambda stream: stream.seek(5)):
        stream = FileReader(memory.fetch, root, ahead=3)
        stream.read(10)
        stream.read(10)
        assert threading.active_count() > before
        end(stream)
        assert threading.active_count() == before
    assert stream.read(3) == content(memory.fetch, root)[5:8]
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


def test_streams_share_threads_and_read_for_themselves_when_these_are_busy(memory):
    data = random.Random(6).randbytes(400)
    root = kept_file(memory, data, replace(V1, chunk=10))
    readers, lock = set(), threading.Lock()
    gate = threading.Barrier(4)

    def fetch(cid):
        with lock:
            readers.add(threading.current_thread().name.partition("_")[0])
        return memory.fetch(cid)

    def stream():
        gate.wait()
        return content(fetch, root, ahead=SHARED)

    with ThreadPoolExecutor(4, "asks") as pool:
        assert [each.result() for each in [pool.submit(stream) for _ in range(4)]] == [data] * 4
    assert readers == {"asks", "nx-verify"}


def test_a_broken_block_is_told_to_who_reads_it_and_the_threads_go_on(memory):
    data = random.Random(7).randbytes(100)
    root = kept_file(memory, data, replace(V1, chunk=10))

    def broken(cid):
        if len(memory.asked) > 5:
            raise StoreError("corrupt")
        return memory.fetch(cid)

    for _ in range(8):
        memory.asked.clear()
        with pytest.raises(StoreError, match="corrupt"):
            content(broken, root, ahead=SHARED)
    memory.asked.clear()
    assert content(memory.fetch, root, ahead=SHARED) == data


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_reads_ahead_with_threads_of_its_own(memory):
    data = random.Random(8).randbytes(400)
    root = kept_file(memory, data, replace(V1, chunk=10))
    assert content(memory.fetch, root, ahead=SHARED) == data
    child = os.fork()
    if child == 0:
        os._exit(content(memory.fetch, root, ahead=SHARED) != data)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("base", BASES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("ahead", [0, 2, SHARED])
def test_a_stream_is_read_from_anywhere(memory, base, ahead):
    data = random.Random(4).randbytes(999)
    root = kept_file(memory, data, replace(base, chunk=64, links=3))
    stream = io.BufferedReader(FileReader(memory.fetch, root, ahead=ahead), 50)
    expected = io.BytesIO(data)
    rng = random.Random(5)
    for _ in range(200):
        count = rng.choice([0, 1, 63, 64, 65, 500, -1])
        if rng.random() < 0.7:
            position = rng.randrange(1100)
            assert stream.seek(position) == expected.seek(position)
        assert stream.read(count) == expected.read(count)
        assert stream.tell() == expected.tell()
    assert stream.seek(-5, io.SEEK_END) == 994
    assert stream.read() == data[-5:]
    with pytest.raises((ValueError, OSError)):
        stream.seek(-1)
