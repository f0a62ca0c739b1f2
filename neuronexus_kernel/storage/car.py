"""CAR files: blocks one after another, to carry content from store to store.

Version 1 is a header that names the roots, then sections of a length, a CID and a block.  Version
2 puts a fixed header before that payload and an index (`car_index`) behind it.  Both are written
and read (`car_reading`) in one pass.  Sources: https://ipld.io/specs/transport/car/carv1/ and
https://ipld.io/specs/transport/car/carv2/.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import BinaryIO

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.cid import CID, IDENTITY, encode_varint
from neuronexus_kernel.errors import InvalidInputError, StoreError
from neuronexus_kernel.storage.car_index import encode_index
from neuronexus_kernel.storage.car_reading import HEADER_2, MAX_HEADER, PRAGMA, SIZE_2, read_car
from neuronexus_kernel.storage.dag import Block, Fetch, Limits, Walk, key_of, links_of
from neuronexus_kernel.storage.interface import BlockReader, Progress, Put

__all__ = [
    "MAX_HEADER",
    "PRAGMA",
    "encode_car",
    "import_car",
    "read_car",
    "write_all",
    "write_car",
]


def write_car(
    fetch: Fetch,
    roots: Sequence[CID],
    stream: BinaryIO,
    *,
    version: int = 1,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> int:
    """Write all blocks of some roots, depth first and each once; return how many bytes.

    Parameters
    ----------
    fetch
        Returns a verified block.
    roots
        At least one.
    stream
        For version 2 it must be able to seek, as the sizes come first.
    version
        1, or 2 with an index (MultihashIndexSorted).
    limits
        How much may be written.
    progress
        Told of the bytes of blocks.

    Raises
    ------
    InvalidInputError
        If there is no root, the version is another, or the stream cannot seek.
    NotFoundError
        If a root is missing.
    StoreError
        If a block below a root is missing or malformed, or a limit is passed.  What was written
        until then is to be thrown away.
    """
    if not roots:
        raise InvalidInputError("A CAR file needs at least one root.")
    if version not in (1, 2):
        raise InvalidInputError(f"CAR files have version 1 or 2, not {version!r}.")
    if version == 2 and not stream.seekable():
        raise InvalidInputError(
            "A CAR file of version 2 begins with its sizes, so that it cannot be written to a "
            "pipe. Write it to a file, or write version 1."
        )
    walk = Walk(fetch, limits=limits)
    blocks = chain.from_iterable(walk.blocks(root) for root in roots)
    first = next(blocks, None)  # Nothing is written when there is no such root.
    blocks = blocks if first is None else chain((first,), blocks)
    told = blocks if progress is None else _told(blocks, progress)
    if version == 1:
        return _write_payload(roots, told, stream, {})
    start = stream.tell()
    _write(stream, bytes(SIZE_2))
    places: dict[bytes, int] = {}
    size = _write_payload(roots, told, stream, places)
    index = encode_index(places)
    _write(stream, index)
    stream.seek(start)
    _write(stream, PRAGMA + HEADER_2.pack(bytes(16), SIZE_2, size, SIZE_2 + size))
    stream.seek(start + SIZE_2 + size + len(index))
    return SIZE_2 + size + len(index)


def encode_car(roots: Sequence[CID], blocks: Iterable[Block]) -> Iterator[bytes]:
    """Give the bytes of a CAR file of version 1 piece by piece, a block as it is.

    Parameters
    ----------
    roots
        What the header names.
    blocks
        In the order in which they are written.
    """
    yield _encode_header(roots)
    for cid, block in blocks:
        name = bytes(cid)
        yield encode_varint(len(name) + len(block)) + name
        yield block


def _encode_header(roots: Sequence[CID]) -> bytes:
    header = dagcbor.encode({"roots": list(roots), "version": 1})
    if len(header) > MAX_HEADER:
        raise InvalidInputError(
            f"{len(roots)} roots are too many for one CAR file. Put them into a folder or a "
            "document, and export that."
        )
    return encode_varint(len(header)) + header


def _write_payload(
    roots: Sequence[CID], blocks: Iterable[Block], stream: BinaryIO, places: dict[bytes, int]
) -> int:
    """Write version 1 and note the place of each block; return how many bytes."""
    position = 0

    def noted() -> Iterator[Block]:
        for cid, block in blocks:
            places[cid.digest + struct.pack("<Q", position)] = cid.hash_code
            yield cid, block

    for piece in encode_car(roots, noted()):
        _write(stream, piece)
        position += len(piece)
    return position


def _told(blocks: Iterable[Block], progress: Progress) -> Iterator[Block]:
    for cid, block in blocks:
        yield cid, block
        progress(len(block))


def write_all(stream: BinaryIO, pieces: Iterable[bytes]) -> int:
    """Write pieces to a stream as they are made; return how many bytes.

    Raises
    ------
    InvalidInputError
        If the stream does not block.
    """
    size = 0
    for piece in pieces:
        _write(stream, piece)
        size += len(piece)
    return size


def _write(stream: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        count: int | None = stream.write(rest)
        if count is None:
            raise InvalidInputError("The stream takes nothing yet; open it in blocking mode.")
        rest = rest[count:]


def import_car(
    stream: BinaryIO,
    put: Put,
    *,
    reader: BlockReader | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> list[CID]:
    """Put all blocks of a CAR file, and see that its roots are whole; return the roots.

    Parameters
    ----------
    stream
        The file; see `read_car`.
    put
        Takes each block, in the order of the file: where that is depth first, blocks come before
        those that they link to, so that what was put must not be seen before this returns.
    reader
        What is there already: blocks that are missing from the file may be there.
    limits
        How much to take.
    progress
        Told of the bytes of blocks.

    Raises
    ------
    StoreError
        If the file is malformed, or a root or a block below it is neither in it nor in `reader`.
        What was put must then be thrown away.
    """
    roots, blocks = read_car(stream, limits=limits)
    links: dict[bytes, tuple[bytes, ...]] = {}
    for cid, block in blocks:
        links[key_of(cid)] = tuple(key_of(link) for link in links_of(cid, block))
        put(cid, block)
        if progress is not None:
            progress(len(block))
    _check_whole(roots, links, reader)
    return roots


def _check_whole(
    roots: Sequence[CID], links: dict[bytes, tuple[bytes, ...]], reader: BlockReader | None
) -> None:
    todo = [key_of(root) for root in roots]
    seen: set[bytes] = set()
    while todo:
        key = todo.pop()
        if key in seen:
            continue
        seen.add(key)
        below = links.get(key)
        if below is None:
            below = _links_elsewhere(CID.from_bytes(key), reader)
        todo.extend(below)


def _links_elsewhere(cid: CID, reader: BlockReader | None) -> tuple[bytes, ...]:
    """Return the links of a block that is not in the file."""
    if cid.hash_code == IDENTITY:
        return tuple(key_of(link) for link in links_of(cid, cid.digest))
    if reader is None or not reader.has_block(cid):
        raise StoreError(
            f"The CAR file is incomplete: the block {cid} is missing. Export it again with all "
            "that its roots link to."
        )
    return tuple(key_of(link) for link in links_of(cid, reader.block(cid)))
