"""Sharded folders: one folder over many blocks, found in by the hash of a name.

A hash array mapped trie.  The name of an entry is hashed with murmur3-x64-64; the first bits of the
hash, read from the highest, choose a bucket of the root shard.  A bucket with one entry holds a
link named for the bucket and the entry ("6E470.txt"); a bucket with more holds a link, named for
the bucket alone ("6E"), to a shard that goes on with the next bits.  So the same entries always
give the same tree, in whatever order they came.  Sources:
https://specs.ipfs.tech/unixfs/#dag-pb-hamtdirectory and the Go implementation in
https://github.com/ipfs/boxo (ipld/unixfs/hamt), which settles what the text leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuronexus_kernel.content import dagpb
from neuronexus_kernel.content.unixfs import (
    SHARD_TYPE,
    Built,
    Message,
    Profile,
    Put,
    encode_message,
)
from neuronexus_kernel.errors import ContentError

MURMUR3_X64_64 = 0x22
MAX_FANOUT = 1024

_MASK = 0xFFFFFFFFFFFFFFFF
_C1, _C2 = 0x87C37B91114253D5, 0x4CF5AD432745937F


def murmur3(data: bytes) -> int:
    """Return the first 64 bits of MurmurHash3_x64_128 with seed 0 (multihash 0x22).

    Source: https://github.com/aappleby/smhasher/blob/master/src/MurmurHash3.cpp
    """
    first = second = 0
    whole = len(data) & ~15
    for at in range(0, whole, 16):
        first ^= _mixed_first(int.from_bytes(data[at : at + 8], "little"))
        first = ((_rotated(first, 27) + second) * 5 + 0x52DCE729) & _MASK
        second ^= _mixed_second(int.from_bytes(data[at + 8 : at + 16], "little"))
        second = ((_rotated(second, 31) + first) * 5 + 0x38495AB5) & _MASK
    if len(data) > whole:
        second ^= _mixed_second(int.from_bytes(data[whole + 8 :], "little"))
        first ^= _mixed_first(int.from_bytes(data[whole : whole + 8], "little"))
    first ^= len(data)
    second ^= len(data)
    first = (first + second) & _MASK
    second = (second + first) & _MASK
    return (_finished(first) + _finished(second)) & _MASK


def _mixed_first(word: int) -> int:
    return _rotated(word * _C1 & _MASK, 31) * _C2 & _MASK


def _mixed_second(word: int) -> int:
    return _rotated(word * _C2 & _MASK, 33) * _C1 & _MASK


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK


def _finished(word: int) -> int:
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _MASK
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return word ^ word >> 33


def place(hashed: int, depth: int, fanout: int) -> int:
    """Return the bits of a hash that lead to a bucket of a shard, those of the bucket the lowest.

    Parameters
    ----------
    hashed
        Of a name.
    depth
        Of the shard; that of the root is 0.
    fanout
        Buckets of every shard.

    Raises
    ------
    ContentError
        If the hash has no bits left at this depth.
    """
    bits = fanout.bit_length() - 1
    if (depth + 1) * bits > 64:
        raise ContentError("A sharded folder is deeper than its hash has bits.")
    return hashed >> (64 - (depth + 1) * bits)


def bucket(hashed: int, depth: int, fanout: int) -> int:
    """Return the bucket that a hash leads to in a shard; see `place`."""
    return place(hashed, depth, fanout) & (fanout - 1)


def build_shards(links: Sequence[dagpb.Link], put: Put | None, profile: Profile) -> Built:
    """Build a sharded folder of entries with different names.

    Raises
    ------
    ContentError
        If so many bits of two names' hashes are equal that no shard could tell them apart.
    """
    hashed = sorted(((murmur3((link.name or "").encode()), link) for link in links), key=_hash)
    return _build(hashed, 0, put, profile)


def _hash(entry: tuple[int, dagpb.Link]) -> int:
    return entry[0]


def _build(
    entries: Sequence[tuple[int, dagpb.Link]], depth: int, put: Put | None, profile: Profile
) -> Built:
    """Build the shard of entries that are sorted by their hash."""
    buckets: dict[int, list[tuple[int, dagpb.Link]]] = {}
    for entry in entries:
        buckets.setdefault(bucket(entry[0], depth, profile.fanout), []).append(entry)
    links = []
    for index, some in buckets.items():
        digits = _digits(index, profile.fanout)
        if len(some) == 1:
            link = some[0][1]
            links.append(dagpb.Link(link.cid, link.size, digits + (link.name or "")))
        else:
            links.append(_build(some, depth + 1, put, profile).link(digits))
    field = sum(1 << index for index in buckets)
    message = Message(
        SHARD_TYPE,
        data=field.to_bytes((field.bit_length() + 7) // 8),
        hash_type=MURMUR3_X64_64,
        fanout=profile.fanout,
    )
    block = dagpb.encode(dagpb.PBNode(tuple(links), encode_message(message)))
    cid = profile.cid(block)
    if put:
        put(cid, block)
    total = dagpb.total_size(block, links)
    return Built(cid, total, total)


def _digits(index: int, fanout: int) -> str:
    """Return a bucket as the hexadecimal digits that the names of links begin with."""
    return f"{index:0{_width(fanout)}X}"


def _width(fanout: int) -> int:
    return len(f"{fanout - 1:X}")


@dataclass(frozen=True, slots=True)
class Slot:
    """A bucket that holds something.

    Attributes
    ----------
    bucket
        Its number.
    name
        Of the entry in it; None where it holds a shard.
    link
        To the entry or the shard.
    """

    bucket: int
    name: str | None
    link: dagpb.Link


@dataclass(frozen=True, slots=True)
class Shard:
    """One block of a sharded folder, taken apart: its buckets in their order."""

    fanout: int
    slots: tuple[Slot, ...]


def read_shard(node: dagpb.PBNode, message: Message) -> Shard:
    """Take a block of a sharded folder apart.

    Raises
    ------
    ContentError
        If its hash function or fanout is none that is allowed, or its links are not exactly those
        that its bit field tells, in this order.
    """
    fanout = message.fanout or 0
    if message.hash_type != MURMUR3_X64_64:
        raise ContentError(f"A shard is hashed with {message.hash_type}; only murmur3-x64-64 is.")
    if not 8 <= fanout <= MAX_FANOUT or fanout & (fanout - 1):
        raise ContentError(f"A shard has {fanout} buckets, not a power of 2 from 8 to 1024.")
    field = int.from_bytes(message.data)
    if len(message.data) > fanout // 8:
        raise ContentError(f"A shard of {fanout} buckets has {len(message.data)} bytes of bits.")
    if field.bit_count() != len(node.links):
        raise ContentError(
            f"A shard has {len(node.links)} links, but its bits tell {field.bit_count()}."
        )
    buckets = (index for index in range(fanout) if field >> index & 1)
    width = _width(fanout)
    slots = []
    for index, link in zip(buckets, node.links, strict=True):
        name = link.name or ""
        if name[:width] != _digits(index, fanout):
            raise ContentError(f"A link of a shard is named {name!r}, but lies in bucket {index}.")
        slots.append(Slot(index, name[width:] or None, link))
    return Shard(fanout, tuple(slots))
