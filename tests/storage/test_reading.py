"""Reading files: any part of them, and only the blocks that it needs."""

import io
import random
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content.unixfs import V0, V1, build, chunks_of
from neuronexus_kernel.storage.unixfs import FileReader, content, read

BASES = [V0, V1]


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
    st.sampled_from([0, 0, 2]),
)
def test_any_range_of_any_file_is_read(data, size, links, base, start, stop, ahead):
    blocks = {}
    profile = replace(base, chunk=size, links=links)
    root = build(chunks_of(data, size), lambda cid, b: blocks.update({cid: bytes(b)}), profile)
    assert content(blocks.__getitem__, root, ahead=ahead) == data
    pieces = read(blocks.__getitem__, root, start, stop, ahead=ahead)
    assert b"".join(pieces) == data[start:stop]


@pytest.mark.parametrize("base", BASES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("ahead", [0, 4])
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


@pytest.mark.parametrize("base", BASES, ids=lambda profile: profile.name)
@pytest.mark.parametrize("ahead", [0, 2])
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
