"""What goes to another store, and in which order: leaves first, the root last.

Whoever is cut off in the middle has then left no root behind that looks whole and is not.  What is
made on the way, and is to be seen by nobody before all of it is there, waits in a `Spool`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Any, BinaryIO

from neuronexus_kernel.content.cid import CID, DAG_CBOR, IDENTITY
from neuronexus_kernel.errors import NotFoundError, StoreError
from neuronexus_kernel.storage.dag import Block, Fetch, Limits, Links, key_of, links_of
from neuronexus_kernel.storage.files import MAX_BLOCK

_IN_MEMORY = 16 * 1024 * 1024


def leaves_first(
    fetch: Fetch,
    root: CID,
    *,
    links: Links = links_of,
    elsewhere: list[CID] | None = None,
    limits: Limits | None = None,
) -> Iterator[Block]:
    """Give all blocks of some content, each once and after all that it links to.

    Parameters
    ----------
    fetch
        Returns a verified block.
    root
        The content.
    links
        Which links of a block to follow: `dag.links_of` for all, or `dag.parts_of`.
    elsewhere
        Takes what documents link to and `fetch` does not have.  A document may name what lies
        elsewhere; a file or a folder that lacks a part is none.
    limits
        How far to go.

    Raises
    ------
    NotFoundError
        If the root is missing.
    StoreError
        If a part of a file or a folder is missing, a block is malformed, or a limit is passed.
    """
    limits = limits or Limits()
    seen = {key_of(root)}
    block = root.digest if root.hash_code == IDENTITY else fetch(root)
    path = [(root, block, iter(links(root, block)))]
    size = len(block)
    while path:
        cid, block, left = path[-1]
        link = next((link for link in left if key_of(link) not in seen), None)
        if link is None:
            path.pop()
            if cid.hash_code != IDENTITY:
                yield cid, block
            continue
        seen.add(key_of(link))
        below = _below(fetch, link, cid, root, elsewhere)
        if below is None:
            continue
        size += len(below)
        if len(seen) > limits.blocks or size > limits.size:
            raise StoreError(
                f"{root} has more than {limits.blocks:,} blocks, or {limits.size:,} bytes of "
                "them; it was not sent."
            )
        if len(path) > limits.depth:
            raise StoreError(f"{root} is nested deeper than {limits.depth} levels.")
        path.append((link, below, iter(links(link, below))))


def _below(
    fetch: Fetch, link: CID, cid: CID, root: CID, elsewhere: list[CID] | None
) -> bytes | None:
    if link.hash_code == IDENTITY:
        return link.digest
    try:
        return fetch(link)
    except NotFoundError:
        if cid.codec == DAG_CBOR and elsewhere is not None:
            elsewhere.append(link)
            return None
        raise StoreError(
            f"{root} is incomplete: its block {link} is missing. Add the content again."
        ) from None


class Spool:
    """Blocks on their way: in memory while they are few, else in a file without a name."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self._places: dict[bytes, tuple[int, int]] = {}
        self._end = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def put(self, cid: CID, block: bytes | memoryview) -> None:
        """Take a block, unless it is here.

        Raises
        ------
        StoreError
            If it is too large for a block, or the disk is full.
        """
        key = key_of(cid)
        if cid.hash_code == IDENTITY or key in self._places:
            return
        if len(block) > MAX_BLOCK:
            raise StoreError(
                f"A block of {len(block)} bytes is above the limit of {MAX_BLOCK}: no IPFS node "
                "would take it. Add the bytes as a file and link to its CID instead."
            )
        try:
            self._file.seek(self._end)
            self._file.write(block)
        except OSError as error:
            raise StoreError(
                f"The folder for temporary files has no room: {error.strerror or error}. Free "
                "some, or set TMPDIR to another one."
            ) from None
        self._places[key] = (self._end, len(block))
        self._end += len(block)

    def block(self, cid: CID) -> bytes:
        """Return a block, checked again.

        Raises
        ------
        NotFoundError
            If it is not here.
        StoreError
            If the file does not give back what was written.
        """
        if cid.hash_code == IDENTITY:
            return cid.digest
        place = self._places.get(key_of(cid))
        if place is None:
            raise NotFoundError(f"The block {cid} was not given.")
        try:
            self._file.seek(place[0])
            block = self._file.read(place[1])
        except OSError as error:
            raise StoreError(f"A temporary file cannot be read: {error.strerror}.") from None
        if not cid.matches(block):
            raise StoreError("A temporary file gave back other bytes. The disk may be failing.")
        return block

    def has_block(self, cid: CID) -> bool:
        """Tell whether a block is here."""
        return cid.hash_code == IDENTITY or key_of(cid) in self._places


def stream_of(pieces: Iterator[bytes]) -> BinaryIO:
    """Return a stream to be read forward, of bytes that are made while it is read."""
    return io.BufferedReader(_Pieces(pieces), buffer_size=MAX_BLOCK)


class _Pieces(io.RawIOBase):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__()
        self._pieces = pieces
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer).cast("B")
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = memoryview(piece)
        count = min(len(room), len(self._piece))
        room[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count
