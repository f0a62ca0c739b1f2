"""Shards: where a name lies, what is built, and which blocks are refused."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import dagpb, hamt
from neuronexus_kernel.content.dagpb import Link, PBNode
from neuronexus_kernel.content.hamt import bucket, build_shards, murmur3, read_shard
from neuronexus_kernel.content.unixfs import (
    SHARD_TYPE,
    V0,
    V1,
    Message,
    build_leaf,
    decode_message,
)
from neuronexus_kernel.errors import ContentError

# The first word of MurmurHash3_x64_128 of the reference implementation, seed 0.
HASHES = {
    b"": 0x0,
    b"a": 0x85555565F6597889,
    b"foo": 0xE271865701F54561,
    b"hello": 0xCBD8A7B341BD9B02,
    b"12345678": 0x3B4A640638B1419C,
    b"123456789abcdef": 0x7F33FB62C27E4346,
    b"123456789abcdef0": 0x76D828B63EBDED13,
    b"The quick brown fox jumps over the lazy dog": 0xE34BBC7BBC071B6C,
    "Ünïcödé".encode(): 0xD87C51B72C8CF88D,
}


@pytest.mark.parametrize(("data", "hashed"), HASHES.items())
def test_names_are_hashed_as_the_reference_does(data, hashed):
    assert murmur3(data) == hashed


def test_buckets_are_taken_from_the_highest_bits():
    """The example of the specification: "470.txt" lies in bucket 00 and below it in 6E."""
    hashed = murmur3(b"470.txt")
    assert [bucket(hashed, depth, 256) for depth in range(2)] == [0x00, 0x6E]
    other = murmur3(b"742.txt")
    assert [bucket(other, depth, 256) for depth in range(2)] == [0x00, 0xFF]
    assert [bucket(0x0123456789ABCDEF, depth, 256) for depth in (0, 1, 7)] == [1, 0x23, 0xEF]
    assert bucket(1 << 63, 0, 8) == 4
    assert bucket(0b1111111111 << 54, 0, 1024) == 1023


def test_a_hash_has_only_so_many_bits():
    assert bucket(0, 7, 256) == 0
    for depth, fanout in ((8, 256), (21, 8), (6, 1024)):
        with pytest.raises(ContentError, match="deeper"):
            bucket(0, depth, fanout)


def links_named(names, profile=V1):
    return [build_leaf(name.encode(), None, profile).link(name) for name in names]


def entries_below(blocks, cid, fanout=256):
    """All entries below a shard, with the digits that lead to each."""
    node = dagpb.decode(blocks[cid])
    for slot in read_shard(node, decode_message(node.data)).slots:
        if slot.name is None:
            for path, name, link in entries_below(blocks, slot.link.cid, fanout):
                yield (slot.bucket, *path), name, link
        else:
            yield (slot.bucket,), slot.name, slot.link


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), max_size=60),
    st.sampled_from([8, 16, 256]),
    st.sampled_from([V0, V1]),
    st.randoms(),
)
def test_every_entry_lies_where_its_hash_leads(names, fanout, base, rng):
    profile = replace(base, fanout=fanout)
    blocks = {}
    order = list(names)
    built = build_shards(
        links_named(order, profile), lambda cid, block: blocks.update({cid: block}), profile
    )
    found = {}
    for path, name, link in entries_below(blocks, built.cid):
        hashed = murmur3(name.encode())
        assert path == tuple(bucket(hashed, depth, fanout) for depth in range(len(path)))
        found[name] = link.cid
    assert found == {name: build_leaf(name.encode(), None, profile).cid for name in names}
    assert built.total == sum(map(len, blocks.values())) + sum(
        build_leaf(name.encode(), None, profile).total for name in names
    )
    rng.shuffle(order)
    assert build_shards(links_named(order, profile), None, profile).cid == built.cid


def test_names_that_no_shard_can_tell_apart_are_refused(monkeypatch):
    monkeypatch.setattr(hamt, "murmur3", lambda name: 7)
    with pytest.raises(ContentError, match="deeper"):
        build_shards(links_named(["a", "b"]), None, V1)


# Blocks that are refused

LEAF = build_leaf(b"leaf").cid


def shard(names, bits, *, kind=0x22, fanout=256):
    links = tuple(Link(LEAF, 4, name) for name in names)
    return PBNode(links), Message(SHARD_TYPE, data=bits, hash_type=kind, fanout=fanout)


def test_a_shard_is_taken_apart():
    read = read_shard(*shard(["00a", "05", "FF00"], bytes([0x80]) + bytes(30) + bytes([0x21])))
    assert [(slot.bucket, slot.name) for slot in read.slots] == [(0, "a"), (5, None), (255, "00")]
    # Leading zeros of the bits are left out by some and written by others.
    for zeros in range(32):
        assert read_shard(*shard(["01x"], bytes(zeros) + b"\x02")).slots[0].bucket == 1
    assert read_shard(*shard([], b"")).slots == ()
    assert read_shard(*shard(["00Fx"], b"\x80" + bytes(1), fanout=1024)).slots[0].name == "x"
    assert read_shard(*shard(["7x"], b"\x80", fanout=8)).slots[0].name == "x"


REFUSED = {
    "another hash function": shard(["00a"], b"\1", kind=0x12),
    "no hash function": shard(["00a"], b"\1", kind=None),
    "no fanout": shard(["00a"], b"\1", fanout=None),
    "fanout 0": shard([], b"", fanout=0),
    "fanout 4": shard(["0a"], b"\1", fanout=4),
    "fanout 100": shard(["00a"], b"\1", fanout=100),
    "fanout 2048": shard(["000a"], b"\1", fanout=2048),
    "fanout 2^62": shard(["00a"], b"\1", fanout=1 << 62),
    "more bits than buckets": shard(["00a"], bytes(32) + b"\1"),
    "a bit without a link": shard(["00a"], b"\3"),
    "a link without a bit": shard(["00a", "01b"], b"\1"),
    "links in another order": shard(["01b", "00a"], b"\3"),
    "another bucket than the bit tells": shard(["01a"], b"\1"),
    "lower-case digits": shard(["0aa"], b"\4\0"),
    "a name without digits": shard(["0"], b"\1"),
    "no name": shard([None], b"\1"),
    "one bucket twice": shard(["00a", "00b"], b"\3"),
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
def test_malformed_shards_are_refused(wrong):
    with pytest.raises(ContentError):
        read_shard(*wrong)


@settings(deadline=None)
@given(
    st.lists(st.text(max_size=4) | st.none(), max_size=4),
    st.binary(max_size=33),
    st.none() | st.integers(0, 2**62) | st.just(0x22),
    st.none() | st.integers(0, 2**62) | st.sampled_from([8, 256, 1024]),
)
def test_any_shard_is_read_or_refused(names, bits, kind, fanout):
    try:
        read = read_shard(*shard(names, bits, kind=kind, fanout=fanout))
    except ContentError:
        return
    assert len(read.slots) == len(names)
    assert all(one.bucket < other.bucket for one, other in itertools.pairwise(read.slots))
