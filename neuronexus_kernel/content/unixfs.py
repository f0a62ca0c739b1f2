"""UnixFS: the address of a file, the same on every computer.

A file is cut into chunks, each a leaf; where there is more than one, DAG-PB nodes gather them into
a tree in which all leaves lie at the same depth.  How large the chunks are, what a leaf looks like
and how many links a node has is a profile of IPIP-499; without it, "the CID of a file" means
nothing.  `build` makes the blocks in one pass over the chunks and keeps one row of links per level,
so memory stays constant.  Folders are in `directory`.  Sources:
https://specs.ipfs.tech/ipips/ipip-0499/ and https://specs.ipfs.tech/unixfs/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

from neuronexus_kernel.content import dagpb
from neuronexus_kernel.content.chunks import chunks_from, chunks_of, in_order
from neuronexus_kernel.content.cid import CID, DAG_PB, RAW, decode_varint, encode_varint
from neuronexus_kernel.errors import ContentError, InvalidInputError

__all__ = [
    "DIRECTORY_TYPE",
    "FILE_TYPE",
    "PROFILES",
    "RAW_TYPE",
    "SHARD_TYPE",
    "SYMLINK_TYPE",
    "TYPES",
    "V0",
    "V1",
    "Built",
    "Message",
    "Profile",
    "Put",
    "build",
    "build_file",
    "build_leaf",
    "chunks_from",
    "chunks_of",
    "decode_message",
    "encode_message",
    "profile_named",
]

Put = Callable[[CID, "bytes | memoryview"], None]


# Profiles


@dataclass(frozen=True, slots=True)
class Profile:
    """All that decides which CID some content has.

    Attributes
    ----------
    name
        In IPIP-499.
    cid_version
        Of all but raw leaves, which version 0 cannot name.
    chunk
        Bytes of a leaf, but for the last one of a file.
    links
        Of a node of a file, at most.
    raw_leaves
        Whether a leaf is the bytes alone, or a DAG-PB node that holds them.
    measure
        How the size of a folder is told: as the bytes of its block, or only those of the names and
        CIDs in it.
    threshold
        A folder larger than this is sharded.
    fanout
        Buckets of a shard.
    """

    name: str
    cid_version: Literal[0, 1]
    chunk: int
    links: int
    raw_leaves: bool
    measure: Literal["block-bytes", "links-bytes"]
    threshold: int = 256 * 1024
    fanout: int = 256

    def cid(self, block: bytes | memoryview) -> CID:
        """Return the CID of a DAG-PB block."""
        return CID(DAG_PB, hashlib.sha256(block).digest(), version=self.cid_version)


V1 = Profile("unixfs-v1-2025", 1, 1024 * 1024, 1024, True, "block-bytes")
V0 = Profile("unixfs-v0-2015", 0, 256 * 1024, 174, False, "links-bytes")

PROFILES = {profile.name: profile for profile in (V1, V0)}


def profile_named(name: str) -> Profile:
    """Return the profile of a name.

    Raises
    ------
    InvalidInputError
        If there is none.
    """
    try:
        return PROFILES[name]
    except (KeyError, TypeError):
        known = " or ".join(PROFILES)
        raise InvalidInputError(f"profile must be {known}, not {name!r}.") from None


# Messages

RAW_TYPE, DIRECTORY_TYPE, FILE_TYPE, SYMLINK_TYPE, SHARD_TYPE = 0, 1, 2, 4, 5
TYPES = {0: "raw", 1: "directory", 2: "file", 3: "metadata", 4: "symlink", 5: "sharded directory"}

_TYPE, _DATA, _FILE_SIZE, _BLOCK_SIZE, _HASH_TYPE, _FANOUT = 0x08, 0x12, 0x18, 0x20, 0x28, 0x30
_KNOWN_AND_IGNORED = {0x38, 0x42}  # mode, time


@dataclass(frozen=True, slots=True)
class Message:
    """The UnixFS message in the data field of a DAG-PB node.

    Attributes
    ----------
    kind
        A key of `TYPES`.
    size
        Bytes of the file at and below this node; of other kinds 0.
    block_sizes
        For each link, the bytes of the file below it.
    data
        Bytes of the file held in the node itself, which come before the linked ones; the target of
        a symlink; the bit field of a shard.
    hash_type, fanout
        Of a shard: the multihash number of its hash function, and its buckets.
    """

    kind: int
    size: int = 0
    block_sizes: tuple[int, ...] = ()
    data: bytes = b""
    hash_type: int | None = None
    fanout: int | None = None


def encode_message(message: Message) -> bytes:
    """Return the protobuf bytes of a UnixFS message."""
    out = bytearray([_TYPE]) + encode_varint(message.kind)
    if message.data:
        out += bytes([_DATA]) + encode_varint(len(message.data)) + message.data
    if message.kind in (RAW_TYPE, FILE_TYPE):
        out += bytes([_FILE_SIZE]) + encode_varint(message.size)
    for size in message.block_sizes:
        out += bytes([_BLOCK_SIZE]) + encode_varint(size)
    if message.hash_type is not None:
        out += bytes([_HASH_TYPE]) + encode_varint(message.hash_type)
    if message.fanout is not None:
        out += bytes([_FANOUT]) + encode_varint(message.fanout)
    return bytes(out)


def decode_message(data: bytes) -> Message:
    """Read a UnixFS message.

    Raises
    ------
    ContentError
        If it is cut off, holds an unknown field or gives one twice, or its sizes do not add up.
    """
    single: dict[int, int] = {}
    sizes: list[int] = []
    content = b""
    at = 0
    while at < len(data):
        tag = data[at]
        value, at = decode_varint(data, at + 1)
        if tag == _BLOCK_SIZE:
            sizes.append(value)
            continue
        if tag in single:
            raise ContentError(f"The UnixFS field 0x{tag:02x} is given twice.")
        if tag not in (_TYPE, _DATA, _FILE_SIZE, _HASH_TYPE, _FANOUT, *_KNOWN_AND_IGNORED):
            raise ContentError(f"The UnixFS field 0x{tag:02x} is unknown.")
        single[tag] = value
        if tag & 7 == 2:
            if at + value > len(data):
                raise ContentError("The UnixFS message is cut off.")
            if tag == _DATA:
                content = data[at : at + value]
            at += value
    return _checked(single, tuple(sizes), content)


def _checked(single: dict[int, int], sizes: tuple[int, ...], content: bytes) -> Message:
    kind = single.get(_TYPE)
    if kind not in TYPES:
        raise ContentError(f"The UnixFS type {kind} is unknown.")
    size = 0
    if kind in (RAW_TYPE, FILE_TYPE):
        # "If this field is absent, MUST interpret it as 0": such a file holds nothing.
        size, total = single.get(_FILE_SIZE, 0), len(content) + sum(sizes)
        if size != total:
            raise ContentError(f"The UnixFS file says {size} bytes, but its parts have {total}.")
    elif sizes:
        raise ContentError(f"A UnixFS {TYPES[kind]} tells the sizes of parts of a file.")
    return Message(kind, size, sizes, content, single.get(_HASH_TYPE), single.get(_FANOUT))


# Files


@dataclass(frozen=True, slots=True)
class Built:
    """What was built: its root, the bytes of the content below it, and those of its blocks.

    Of a folder, ``size`` is the bytes of its blocks too.
    """

    cid: CID
    size: int
    total: int

    def link(self, name: str = "") -> dagpb.Link:
        """Return a link to it."""
        return dagpb.Link(self.cid, self.total, name)


def build(
    chunks: Iterable[bytes | memoryview], put: Put | None = None, profile: Profile = V1
) -> CID:
    """Return the CID of the file made of these chunks; see `build_file`."""
    return build_file(chunks, put, profile).cid


def build_file(
    chunks: Iterable[bytes | memoryview], put: Put | None = None, profile: Profile = V1
) -> Built:
    """Build the tree of a file.

    Parameters
    ----------
    chunks
        The file in pieces of exactly ``profile.chunk`` bytes but for the last (see `chunks_of` and
        `chunks_from`).  They are hashed in other threads: a piece must stay as it is until
        `chunks.KEPT` MiB more were asked for.
    put
        Called in this thread with every block and its CID, links after what they link to and the
        root last; None only computes the address.
    profile
        Decides the CID.
    """
    rows: list[list[Built]] = []
    leaf = partial(_leaf, profile=profile, keep=put is not None)
    for built, block in in_order(chunks, leaf, profile.chunk):
        if put:
            put(built.cid, block)
        _append(rows, 0, built, put, profile)
    if not rows:
        return build_leaf(b"", put, profile)
    level = 0
    while level < len(rows) - 1 or len(rows[level]) > 1:
        _append(rows, level + 1, _gather(rows[level], put, profile), put, profile)
        level += 1
    return rows[level][0]


def build_leaf(chunk: bytes | memoryview, put: Put | None = None, profile: Profile = V1) -> Built:
    """Build a file of at most one chunk; see `build_file`."""
    built, block = _leaf(chunk, profile=profile, keep=put is not None)
    if put:
        put(built.cid, block)
    return built


def _leaf(
    chunk: bytes | memoryview, *, profile: Profile, keep: bool
) -> tuple[Built, bytes | memoryview]:
    """Return a leaf and its block; where that is not kept, it is never put together."""
    size = len(chunk)
    if profile.raw_leaves:
        return Built(CID(RAW, hashlib.sha256(chunk).digest()), size, size), chunk
    head, tail = _envelope(size)
    total = len(head) + size + len(tail)
    if keep:
        block = b"".join((head, chunk, tail))
        return Built(profile.cid(block), size, total), block
    running = hashlib.sha256(head)
    running.update(chunk)
    running.update(tail)
    cid = CID(DAG_PB, running.digest(), version=profile.cid_version)
    return Built(cid, size, total), b""


@lru_cache(maxsize=256)
def _envelope(size: int) -> tuple[bytes, bytes]:
    """Return what stands before and behind the bytes of a file in a DAG-PB leaf."""
    length = encode_varint(size)
    before = bytes([_TYPE, FILE_TYPE]) + (bytes([_DATA]) + length if size else b"")
    behind = bytes([_FILE_SIZE]) + length
    return dagpb.data_head(len(before) + size + len(behind)) + before, behind


def _append(
    rows: list[list[Built]], level: int, part: Built, put: Put | None, profile: Profile
) -> None:
    """Add a subtree to its row; a full row becomes one subtree of the row above first."""
    while True:
        if level == len(rows):
            rows.append([])
        row = rows[level]
        if len(row) < profile.links:
            row.append(part)
            return
        rows[level] = [part]
        part, level = _gather(row, put, profile), level + 1


def _gather(row: list[Built], put: Put | None, profile: Profile) -> Built:
    """Write the node that links to these subtrees."""
    links = tuple(part.link() for part in row)
    sizes = tuple(part.size for part in row)
    message = Message(FILE_TYPE, sum(sizes), sizes)
    block = dagpb.encode(dagpb.PBNode(links, encode_message(message)))
    cid = profile.cid(block)
    if put:
        put(cid, block)
    return Built(cid, message.size, dagpb.total_size(block, links))
