"""Reading UnixFS files from blocks, in constant memory and without trusting them.

Every block is verified by the store, but a tree of valid blocks can still lie: about its sizes,
by being as deep as it likes, or by linking to nothing a billion times.  Here each part must
have the size that its parent told and hold at least one byte, and depth is bounded, so the work
is bounded by the size that the root declares.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

from neuronexus_kernel.content import dagpb
from neuronexus_kernel.content.cid import CID, DAG_PB
from neuronexus_kernel.content.unixfs import (
    FILE_TYPE,
    RAW_TYPE,
    TYPES,
    FileNode,
    decode_message,
)
from neuronexus_kernel.errors import ContentError, NotFoundError, StoreError

MAX_DEPTH = 32

Fetch = Callable[[CID], bytes]


def size_of(fetch: Fetch, root: CID) -> int:
    """Return the bytes of the file at `root`, as its root block tells (verified on reading)."""
    return _read(fetch(root), root)[0].size


def read(fetch: Fetch, root: CID, start: int = 0) -> Iterator[bytes]:
    """Give the bytes of the file at `root` piece by piece, from byte `start` on.

    Parameters
    ----------
    fetch
        Returns a verified block.
    root
        A DAG-PB file, or any other block, whose content is then its bytes.

    Raises
    ------
    NotFoundError
        If the root is missing.
    StoreError
        If the root is no file, a block below it is missing or corrupt, or the tree is malformed.
    """
    skip = start
    todo: list[tuple[CID, int | None, int]] = [(root, None, 0)]
    while todo:
        cid, expected, depth = todo.pop()
        if expected is not None and skip >= expected:
            skip -= expected
            continue
        node, links = _read(_fetch(fetch, cid, root), cid)
        if expected is not None and node.size != expected:
            raise StoreError(
                f"The file {root} is malformed: its part {cid} has {node.size} bytes, not "
                f"{expected}."
            )
        if depth > MAX_DEPTH:
            raise StoreError(f"The file {root} is nested deeper than {MAX_DEPTH} levels.")
        if skip < len(node.data):
            yield node.data[skip:] if skip else node.data
        skip = max(0, skip - len(node.data))
        parts = zip(links, node.block_sizes, strict=True)
        todo.extend((link.cid, size, depth + 1) for link, size in reversed(list(parts)))


def _fetch(fetch: Fetch, cid: CID, root: CID) -> bytes:
    try:
        return fetch(cid)
    except NotFoundError:
        if cid == root:
            raise
        raise StoreError(
            f"The file {root} is incomplete: its block {cid} is missing. Add the file again."
        ) from None


def _read(block: bytes, cid: CID) -> tuple[FileNode, tuple[dagpb.Link, ...]]:
    if cid.codec != DAG_PB:
        return FileNode(RAW_TYPE, len(block), data=block), ()
    try:
        node = dagpb.decode(block)
        message = decode_message(node.data or b"")
    except ContentError as error:
        raise StoreError(f"Block {cid} is no UnixFS file: {error}") from None
    if message.kind not in (RAW_TYPE, FILE_TYPE):
        raise StoreError(f"{cid} is a {TYPES[message.kind]}, not a file.")
    if len(node.links) != len(message.block_sizes):
        raise StoreError(
            f"Block {cid} is malformed: it has {len(node.links)} links and "
            f"{len(message.block_sizes)} sizes."
        )
    if 0 in message.block_sizes:
        raise StoreError(f"Block {cid} is malformed: one of its parts is empty.")
    return message, node.links


class FileReader(io.RawIOBase):
    """A read-only stream over a file of the store, with ``seek``; it holds one block at a time.

    Parameters
    ----------
    fetch
        Returns a verified block.
    root
        The file.
    """

    def __init__(self, fetch: Fetch, root: CID) -> None:
        super().__init__()
        self._fetch = fetch
        self._root = root
        self._size = size_of(fetch, root)
        self._position = 0
        self._pieces = read(fetch, root)
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; the blocks before it are not read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}.get(whence)
        if base is None or base + offset < 0:
            raise ValueError(f"There is no position {offset} (whence {whence}) in this file.")
        target = base + offset
        if target != self._position:
            self._position = target
            self._pieces = read(self._fetch, self._root, target)
            self._piece = memoryview(b"")
        return target

    def readinto(self, buffer: object) -> int:
        """Fill `buffer` as far as the current block goes; return the number of bytes."""
        room = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        count = min(len(room), len(self._piece))
        room[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        self._position += count
        return count
