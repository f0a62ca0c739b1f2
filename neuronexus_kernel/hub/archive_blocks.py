"""The blocks of an archive: which belong in it, and what is in a file that says it is one.

An archive is a CAR file (version 1); its root is that of ``archive_documents``.  The documents come
first, then the content, each root with what it consists of.  What goes in is decided by the records
alone: a document of the content names other content, and takes nothing along.

A file is read several times instead of being kept in memory: first to see that it is sound, that
all its content is whole and that no block is in it that nothing needs; then once for each store
that takes some of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import BinaryIO

from neuronexus_kernel.content import CID
from neuronexus_kernel.content.cid import DAG_CBOR, DAG_PB, IDENTITY
from neuronexus_kernel.errors import InvalidInputError, StoreError
from neuronexus_kernel.hub.archived import Content
from neuronexus_kernel.storage.car import read_car
from neuronexus_kernel.storage.dag import (
    Block,
    Fetch,
    Follow,
    Limits,
    Walk,
    key_of,
    links_of,
    parts_of,
)
from neuronexus_kernel.storage.sending import Spool


def blocks_of(contents: Sequence[Content], fetch: Callable[[bool], Fetch]) -> Iterator[Block]:
    """Give the blocks of some content, each once.

    Parameters
    ----------
    contents
        The roots.
    fetch
        Gives, for sealed content or other, what returns its verified blocks.

    Raises
    ------
    StoreError
        If a block is missing or damaged.
    """
    seen: set[bytes] = set()
    for sealed in (False, True):
        walk = Walk(fetch(sealed))
        for content in contents:
            if (content.visibility == "sealed") is sealed:
                for cid, block in walk.blocks(CID.parse(content.root), _parts):
                    if key_of(cid) not in seen:
                        seen.add(key_of(cid))
                        yield cid, block


def _parts(cid: CID, block: bytes) -> Sequence[tuple[CID, Follow]]:
    return [(part, _parts) for part in parts_of(cid, block)]


class ArchiveFile:
    """A CAR file that says it is an archive.

    Parameters
    ----------
    file
        It, able to seek.
    spool
        Takes its documents.
    limits
        How many blocks, and bytes of them, it may have.

    Raises
    ------
    InvalidInputError
        If it has several roots.
    StoreError
        If it is malformed, or a block is not what its CID says.
    """

    def __init__(self, file: BinaryIO, spool: Spool, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._start = file.tell()
        self._parts: dict[bytes, tuple[CID, ...]] = {}
        self.document: Fetch = spool.block
        roots, blocks = read_car(file, limits=limits)
        if len(roots) != 1:
            raise InvalidInputError(f"An archive has one root; this CAR file has {len(roots)}.")
        self.root = roots[0]
        for cid, block in blocks:
            links = links_of(cid, block)
            self._parts[key_of(cid)] = tuple(links) if cid.codec == DAG_PB else ()
            if cid.codec == DAG_CBOR:
                spool.put(cid, block)

    def check(self, documents: Iterable[CID], contents: Iterable[Content]) -> None:
        """See that all content is whole, and that no block is there beside it and the documents.

        Raises
        ------
        StoreError
            If a block is missing, or one is there that nothing needs.
        """
        beyond = set(self._parts) - {key_of(cid) for cid in documents}
        beyond -= self._keys_of(CID.parse(content.root) for content in contents)
        if beyond:
            raise StoreError(
                f"The archive holds {len(beyond)} blocks that belong to nothing in it, such as "
                f"{CID.from_bytes(min(beyond))}; nothing was taken in."
            )

    def blocks_of(self, roots: Sequence[CID]) -> Iterator[Block]:
        """Give the blocks of some content in the order of the file."""
        wanted = self._keys_of(roots)
        self._file.seek(self._start)
        _, blocks = read_car(self._file, limits=self._limits)
        return (each for each in blocks if key_of(each[0]) in wanted)

    def _keys_of(self, roots: Iterable[CID]) -> set[bytes]:
        keys: set[bytes] = set()
        todo = list(roots)
        while todo:
            cid = todo.pop()
            key = key_of(cid)
            if key in keys:
                continue
            if cid.hash_code == IDENTITY:
                todo += parts_of(cid, cid.digest)
                continue
            if key not in self._parts:
                raise StoreError(f"The archive is incomplete: its block {cid} is missing.")
            keys.add(key)
            todo += self._parts[key]
        return keys


@contextmanager
def opened(stream: BinaryIO, limits: Limits) -> Iterator[ArchiveFile]:
    """Read an archive from a stream, which need not be able to seek; see `ArchiveFile`."""
    with Spool() as spool:
        if stream.seekable():
            yield ArchiveFile(stream, spool, limits)
            return
        with TemporaryFile() as file:
            size = 0
            while piece := stream.read(1 << 20):
                size += len(piece)
                if size > 2 * limits.size:  # CIDs and lengths come between the blocks
                    raise StoreError(f"The archive has more than {limits.size:,} bytes.")
                with no_room():
                    file.write(piece)
            with no_room():
                file.seek(0)
            yield ArchiveFile(file, spool, limits)


@contextmanager
def no_room() -> Iterator[None]:
    """Turn errors of writing to a temporary file into one that says what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"The folder for temporary files has no room: {error.strerror or error}. Free some, "
            "or set TMPDIR to another one."
        ) from error
