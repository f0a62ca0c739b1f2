"""Reading UnixFS files from blocks, in constant memory and without trusting them.

Every block is verified by the store, but a tree of valid blocks can still lie: about its sizes,
by being as deep as it likes, or by linking to nothing a billion times.  Here each part must
have the size that its parent told and hold at least one byte, and depth is bounded, so the work
is bounded by the size that the root declares; and `content` takes no more than it is told to.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neuronexus_kernel.content import dagpb
from neuronexus_kernel.content.cid import CID, CODECS, DAG_PB, IDENTITY, RAW
from neuronexus_kernel.content.unixfs import (
    FILE_TYPE,
    RAW_TYPE,
    TYPES,
    Message,
    decode_message,
)
from neuronexus_kernel.errors import ContentError, NotFoundError, StoreError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from neuronexus_kernel.storage.threads import SharedThreads

MAX_DEPTH = 32
MAX_IN_MEMORY = 4 * 1024**3

Fetch = Callable[[CID], bytes]
"""Returns a verified block."""


def fetch_block(fetch: Fetch, cid: CID, root: CID) -> bytes:
    """Return a block of some content; that of an identity CID lies in the CID itself.

    Raises
    ------
    NotFoundError
        If the root is missing.
    StoreError
        If another block is: then the content is incomplete.
    """
    if cid.hash_code == IDENTITY:
        return cid.digest
    try:
        return fetch(cid)
    except NotFoundError:
        if cid == root:
            raise
        raise StoreError(
            f"{root} is incomplete: its block {cid} is missing. Add the content again."
        ) from None


def decode(block: bytes, cid: CID) -> tuple[dagpb.PBNode, Message]:
    """Return the node and the UnixFS message of a DAG-PB block.

    Raises
    ------
    StoreError
        If it holds none, or the CID has another codec.
    """
    if cid.codec != DAG_PB:
        raise unsupported(cid)
    try:
        node = dagpb.decode(block)
        return node, decode_message(node.data or b"")
    except ContentError as error:
        raise StoreError(f"Block {cid} is no UnixFS file or folder: {error}") from None


def unsupported(cid: CID) -> StoreError:
    """Return the error for a codec that cannot be where it is."""
    codec = f"{CODECS.get(cid.codec, 'unknown')} (0x{cid.codec:x})"
    return StoreError(f"{cid} has the codec {codec}; files and folders are raw or dag-pb.")


def size_of(fetch: Fetch, root: CID) -> int:
    """Return the bytes of the file at `root`, as its root block tells (verified on reading)."""
    return _file(fetch_block(fetch, root, root), root, is_root=True)[0].size


def content(
    fetch: Fetch, root: CID, *, limit: int = MAX_IN_MEMORY, ahead: int | SharedThreads = 0
) -> bytes:
    """Return all bytes of the file at `root`.

    Parameters
    ----------
    fetch
        Returns a verified block.
    root
        As in `read`.
    limit
        A file that declares more bytes is refused: a few small blocks can declare exbibytes.
    ahead
        As in `read`.

    Raises
    ------
    NotFoundError, StoreError
        As in `read`, and where the file is larger than `limit`.
    """
    # Other blocks than DAG-PB ones are the bytes themselves, and a block is never large.
    if root.codec == DAG_PB:
        block = fetch_block(fetch, root, root)
        _check_fits(root, _file(block, root, is_root=True)[0].size, limit)
        fetch = remembering(fetch, root, block)
    pieces = read(fetch, root, ahead=ahead)
    first = next(pieces, b"")
    second = next(pieces, None)
    if second is None:
        return first
    whole = io.BytesIO()
    whole.writelines((first, second))
    whole.writelines(pieces)
    return whole.getvalue()


def _check_fits(root: CID, size: int, limit: int) -> None:
    if size > limit:
        raise StoreError(
            f"{root} declares {size:,} bytes; at most {limit:,} are taken into memory at once. "
            "Read it piece by piece, or download it."
        )


def remembering(fetch: Fetch, cid: CID, block: bytes) -> Fetch:
    """Return a `fetch` that has this block already."""
    return lambda asked: block if asked == cid else fetch(asked)


@dataclass(slots=True)
class _Part:
    """A subtree that is still to be read: where it begins, and how large its parent says it is."""

    cid: CID
    start: int
    size: int | None
    depth: int
    coming: Future[bytes] | None = field(default=None)


def read(
    fetch: Fetch,
    root: CID,
    start: int = 0,
    stop: int | None = None,
    *,
    ahead: int | SharedThreads = 0,
) -> Generator[bytes, None, None]:
    """Give bytes of the file at `root` piece by piece.

    Parameters
    ----------
    fetch
        Returns a verified block.
    root
        A DAG-PB file, or any other block, whose content is then its bytes.
    start, stop
        The bytes from `start` on and before `stop`; blocks that hold none of them are not fetched.
    ahead
        So many blocks are fetched before they are needed, side by side in as many threads that
        call `fetch`, or in these threads; from the second piece on, as who reads here and there
        needs no more than one.

    Raises
    ------
    NotFoundError
        If the root is missing.
    StoreError
        If the root is no file, a block below it is missing or corrupt, or the tree is malformed.
    """
    todo = [_Part(root, 0, None, 0)]
    has_given = False
    count = ahead if isinstance(ahead, int) else ahead.count
    with _fetching(fetch, root, ahead) as (get, expect):
        while todo:
            part = todo.pop()
            for other in reversed(todo[-count:] if count and has_given else ()):
                expect(other)
            message, links = _file(get(part), part.cid, is_root=not part.depth)
            if part.size is not None and message.size != part.size:
                raise StoreError(
                    f"The file {root} is malformed: its part {part.cid} has {message.size} bytes, "
                    f"not {part.size}."
                )
            if part.depth > MAX_DEPTH:
                raise StoreError(f"The file {root} is nested deeper than {MAX_DEPTH} levels.")
            end = part.start + len(message.data)
            if end > start and message.data and (stop is None or part.start < stop):
                upto = None if stop is None or stop >= end else stop - part.start
                yield message.data[max(0, start - part.start) : upto]
                has_given = True
            todo.extend(_below(part, message, links, start, stop))


def _below(
    part: _Part, message: Message, links: tuple[dagpb.Link, ...], start: int, stop: int | None
) -> list[_Part]:
    """Return the parts of a part that hold bytes that are asked for, the last one first."""
    parts = []
    at = part.start + len(message.data)
    for link, size in zip(links, message.block_sizes, strict=True):
        if at + size > start and (stop is None or at < stop):
            parts.append(_Part(link.cid, at, size, part.depth + 1))
        at += size
    parts.reverse()
    return parts


@contextmanager
def _fetching(
    fetch: Fetch, root: CID, ahead: int | SharedThreads
) -> Iterator[tuple[Callable[[_Part], bytes], Callable[[_Part], None]]]:
    """Give two functions: one returns the block of a part, the other has it fetched meanwhile."""
    if not ahead:
        yield lambda part: fetch_block(fetch, part.cid, root), lambda part: None
        return

    from concurrent.futures import ThreadPoolExecutor, wait

    own: ThreadPoolExecutor | None = None
    offer: Callable[..., Future[bytes] | None]
    if isinstance(ahead, int):
        own = ThreadPoolExecutor(ahead, "nx-read")
        offer = own.submit
    else:
        offer = ahead.offer
    coming: set[Future[bytes]] = set()

    def expect(part: _Part) -> None:
        if part.coming is None:
            part.coming = offer(fetch_block, fetch, part.cid, root)
            if part.coming is not None:
                coming.add(part.coming)

    def get(part: _Part) -> bytes:
        if part.coming is None:
            return fetch_block(fetch, part.cid, root)
        coming.discard(part.coming)
        return part.coming.result()

    try:
        yield get, expect
    finally:
        # What is being fetched ends first, as nobody may look for it any more.
        wait([future for future in coming if not future.cancel()])
        if own:
            own.shutdown()


def _file(block: bytes, cid: CID, *, is_root: bool) -> tuple[Message, tuple[dagpb.Link, ...]]:
    """Return what a block says as the root of a file or as a part of one."""
    if cid.codec == RAW or (is_root and cid.codec != DAG_PB and cid.codec in CODECS):
        return Message(RAW_TYPE, len(block), data=block), ()
    node, message = decode(block, cid)
    if message.kind not in (RAW_TYPE, FILE_TYPE):
        raise StoreError(f"{cid} is a {TYPES[message.kind]}, not a file.")
    if len(node.links) != len(message.block_sizes):
        raise StoreError(
            f"Block {cid} is malformed: it has {len(node.links)} links and "
            f"{len(message.block_sizes)} sizes."
        )
    if 0 in message.block_sizes:
        raise StoreError(f"Block {cid} is malformed: one of its parts is empty.")
    if any(link.name for link in node.links):
        raise StoreError(f"Block {cid} is malformed: a part of a file has a name.")
    return message, node.links


class FileReader(io.RawIOBase):
    """A read-only stream over a file of the store, with ``seek``, in constant memory.

    Parameters
    ----------
    fetch
        Returns a verified block.
    root
        The file.
    ahead
        As in `read`.
    """

    def __init__(self, fetch: Fetch, root: CID, *, ahead: int | SharedThreads = 0) -> None:
        super().__init__()
        # Every `seek` begins at the root again.
        self._fetch = remembering(fetch, root, fetch_block(fetch, root, root))
        self._root = root
        self._ahead = ahead
        self._size = size_of(self._fetch, root)
        self._position = 0
        self._pieces = read(self._fetch, root, ahead=ahead)
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
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}.get(whence)
        if base is None or base + offset < 0:
            raise ValueError(f"There is no position {offset} (whence {whence}) in this file.")
        target = base + offset
        if target != self._position:
            self._position = target
            self._pieces.close()
            self._pieces = read(self._fetch, self._root, target, ahead=self._ahead)
            self._piece = memoryview(b"")
        return target

    def readinto(self, buffer: object) -> int:
        """Fill `buffer` as far as the current block goes; return the number of bytes."""
        self._check_open()
        room = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        count = min(len(room), len(self._piece))
        room[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        self._position += count
        return count

    def close(self) -> None:
        """Close it; what was being read ahead ends first."""
        if not self.closed:
            self._pieces.close()
        super().close()

    def readall(self) -> bytes:
        """Return the rest of the file, if it fits into memory."""
        self._check_open()
        _check_fits(self._root, self._size - self._position, MAX_IN_MEMORY)
        rest = b"".join((self._piece, *self._pieces))
        self._piece = memoryview(b"")
        self._position += len(rest)
        return rest

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")
