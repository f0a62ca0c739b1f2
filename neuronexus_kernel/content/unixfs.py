"""UnixFS: the address of a file, the same on every computer.

The profile ``unixfs-v1-2025`` of IPIP-499: the file is cut into chunks of 1 MiB, each a raw
block; where there is more than one, DAG-PB nodes of up to 1024 links gather them into a tree in
which all leaves lie at the same depth.  Everything is a CIDv1 with sha2-256.  `build` makes the
blocks in one pass over the chunks and keeps one row of links per level, so memory stays
constant.  Sources: https://specs.ipfs.tech/ipips/ipip-0499/ and
https://specs.ipfs.tech/unixfs/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from neuronexus_kernel.content import dagpb
from neuronexus_kernel.content.cid import CID, DAG_PB, decode_varint, encode_varint
from neuronexus_kernel.errors import ContentError

CHUNK = 1024 * 1024
MAX_LINKS = 1024

RAW_TYPE, DIRECTORY_TYPE, FILE_TYPE = 0, 1, 2
TYPES = {0: "raw", 1: "directory", 2: "file", 3: "metadata", 4: "symlink", 5: "sharded directory"}

_TYPE, _DATA, _FILE_SIZE, _BLOCK_SIZE = 0x08, 0x12, 0x18, 0x20
_KNOWN_AND_IGNORED = {0x28, 0x30, 0x38, 0x42}  # hash type, fanout, mode, time

Put = Callable[[CID, "bytes | memoryview"], None]


@dataclass(frozen=True, slots=True)
class FileNode:
    """The UnixFS message in the data field of a DAG-PB node.

    Attributes
    ----------
    kind
        A key of `TYPES`.
    size
        Bytes of the file at and below this node.
    block_sizes
        For each link, the bytes of the file below it.
    data
        Bytes of the file held in the node itself; they come before the linked ones.
    """

    kind: int
    size: int
    block_sizes: tuple[int, ...] = ()
    data: bytes = b""


def encode_message(node: FileNode) -> bytes:
    """Return the protobuf bytes of a UnixFS message."""
    out = bytearray([_TYPE]) + encode_varint(node.kind)
    if node.data:
        out += bytes([_DATA]) + encode_varint(len(node.data)) + node.data
    out += bytes([_FILE_SIZE]) + encode_varint(node.size)
    for size in node.block_sizes:
        out += bytes([_BLOCK_SIZE]) + encode_varint(size)
    return bytes(out)


def decode_message(data: bytes) -> FileNode:
    """Read a UnixFS message.

    Raises
    ------
    ContentError
        If it is cut off, holds an unknown field or gives one twice, or its sizes do not add up.
    """
    single: dict[int, int] = {}
    sizes: list[int] = []
    content = b""
    seen: set[int] = set()
    at = 0
    while at < len(data):
        tag = data[at]
        if tag in seen:
            raise ContentError(f"The UnixFS field 0x{tag:02x} is given twice.")
        value, at = decode_varint(data, at + 1)
        if tag == _BLOCK_SIZE:
            sizes.append(value)
            continue
        seen.add(tag)
        if tag in (_TYPE, _FILE_SIZE):
            single[tag] = value
        elif tag not in _KNOWN_AND_IGNORED and tag != _DATA:
            raise ContentError(f"The UnixFS field 0x{tag:02x} is unknown.")
        elif tag & 7 == 2:
            if at + value > len(data):
                raise ContentError("The UnixFS message is cut off.")
            if tag == _DATA:
                content = data[at : at + value]
            at += value
    return _checked(single, sizes, content)


def _checked(single: dict[int, int], sizes: list[int], content: bytes) -> FileNode:
    kind = single.get(_TYPE)
    if kind not in TYPES:
        raise ContentError(f"The UnixFS type {kind} is unknown.")
    total = len(content) + sum(sizes)
    size = single.get(_FILE_SIZE, total)
    if kind in (RAW_TYPE, FILE_TYPE) and size != total:
        raise ContentError(f"The UnixFS file says {size} bytes, but its parts have {total}.")
    return FileNode(kind, size, tuple(sizes), content)


@dataclass(frozen=True, slots=True)
class _Part:
    """A finished subtree: its root, the bytes of the file below it, and those of its blocks."""

    cid: CID
    content: int
    total: int


def build(chunks: Iterable[bytes | memoryview], put: Put | None = None) -> CID:
    """Return the CID of the file made of these chunks.

    Parameters
    ----------
    chunks
        The file in pieces of exactly `CHUNK` bytes but for the last (see `chunks_of` and
        `chunks_from`).  A piece is used only until the next is asked for.
    put
        Called with every block and its CID, links after what they link to and the root last;
        None only computes the address.
    """
    rows: list[list[_Part]] = []
    for chunk in chunks:
        leaf = CID.of(chunk)
        if put:
            put(leaf, chunk)
        _append(rows, 0, _Part(leaf, len(chunk), len(chunk)), put)
    if not rows:
        return build([b""], put)
    level = 0
    while level < len(rows) - 1 or len(rows[level]) > 1:
        _append(rows, level + 1, _gather(rows[level], put), put)
        level += 1
    return rows[level][0].cid


def _append(rows: list[list[_Part]], level: int, part: _Part, put: Put | None) -> None:
    """Add a subtree to its row; a full row becomes one subtree of the row above first."""
    while True:
        if level == len(rows):
            rows.append([])
        row = rows[level]
        if len(row) < MAX_LINKS:
            row.append(part)
            return
        rows[level] = [part]
        part, level = _gather(row, put), level + 1


def _gather(row: list[_Part], put: Put | None) -> _Part:
    """Write the node that links to these subtrees."""
    links = tuple(dagpb.Link(part.cid, part.total) for part in row)
    size = sum(part.content for part in row)
    message = FileNode(FILE_TYPE, size, tuple(part.content for part in row))
    block = dagpb.encode(dagpb.PBNode(links, encode_message(message)))
    cid = CID.of(block, DAG_PB)
    if put:
        put(cid, block)
    return _Part(cid, size, dagpb.total_size(block, links))


def chunks_of(data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
    """Cut bytes in memory into chunks, without copying them."""
    view = memoryview(data)
    view = view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]


def chunks_from(stream: BinaryIO) -> Iterator[memoryview]:
    """Read a stream in chunks, through one buffer that is used again.

    Raises
    ------
    ContentError
        If the stream gives text, or nothing because it does not block.
    """
    buffer = memoryview(bytearray(CHUNK))
    fill = getattr(stream, "readinto", None)
    while True:
        filled = 0
        while filled < CHUNK:
            room = buffer[filled:]
            count = fill(room) if fill else _read_into(stream, room)
            if count is None:
                raise ContentError("The stream gives nothing yet; open it in blocking mode.")
            if count == 0:
                break
            filled += count
        if filled:
            yield buffer[:filled]
        if filled < CHUNK:
            return


def _read_into(stream: BinaryIO, room: memoryview) -> int | None:
    piece: object = stream.read(len(room))
    if piece is None:
        return None
    if not isinstance(piece, bytes):
        raise ContentError(f"The stream gives {type(piece).__name__}; open it in binary mode.")
    room[: len(piece)] = piece
    return len(piece)
