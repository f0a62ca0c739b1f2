"""Walking through a DAG: which blocks belong to some content, and in which order.

A block names others by links, and how it does is told by the codec of its CID.  A walk is depth
first and in the order of the links, so that the same content always gives the same blocks in the
same order, and it is bounded: valid blocks can still form a tree without an end in sight.

A request for content asks for one of three scopes, after the trustless gateway specification
(https://specs.ipfs.tech/http-gateways/trustless-gateway/): the block alone, all that is needed to
read the one file or to list the one folder, or everything below.  What to follow below a block is
a function (`Follow`), and so each link carries what is to be followed below it in turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TypeAlias

from neuronexus_kernel.content import dagcbor, dagpb
from neuronexus_kernel.content.cid import CID, CODECS, DAG_CBOR, DAG_PB, IDENTITY, RAW
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.content.unixfs import (
    FILE_TYPE,
    RAW_TYPE,
    SHARD_TYPE,
    Message,
    decode_message,
)
from neuronexus_kernel.errors import ContentError, InvalidInputError, NotFoundError, StoreError

Fetch = Callable[[CID], bytes]
"""Returns a verified block."""

Block = tuple[CID, bytes]
Links = Callable[[CID, bytes], list[CID]]
"""Gives those links of a block that matter."""

Follow: TypeAlias = "Callable[[CID, bytes], Sequence[tuple[CID, Follow]]]"
"""Gives the links of a block that are to be followed, each with what is followed below it."""

# Named in messages only: what others keep in IPFS and this store does not read.
_FOREIGN_CODECS = {
    0x51: "cbor",
    0x72: "libp2p-key",
    0x78: "git-raw",
    0x85: "dag-jose",
    0x0129: "dag-json",
    0x0200: "json",
}
_SPAN = re.compile(r"(-?[0-9]{1,18}):(\*|-?[0-9]{1,18})")


class IncompleteError(StoreError):
    """A block below a root is missing."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a walk may go.

    Attributes
    ----------
    blocks
        Blocks that are visited, and links that wait to be.
    size
        Bytes of all blocks that are given.
    depth
        Links from the root to a block.
    """

    blocks: int = 1 << 20
    size: int = 1 << 40
    depth: int = 1024


class Scope(StrEnum):
    """Which blocks of some content are asked for."""

    BLOCK = "block"
    ENTITY = "entity"
    """All blocks of a file, or those that list a folder; else the block alone."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Span:
    """A range of bytes of a file, both ends included.

    Attributes
    ----------
    first
        Its first byte; a negative number counts from the end of the file.
    last
        Its last byte, likewise; None for the last one of the file.
    """

    first: int
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read ``from:to``, where ``to`` may be ``*`` (the parameter ``entity-bytes``).

        Raises
        ------
        InvalidInputError
            If it is written otherwise.
        """
        match = _SPAN.fullmatch(text)
        if match is None:
            raise InvalidInputError(
                f"A range of bytes is written from:to, such as 0:1023 or -1024:*, not {text!r}."
            )
        first, last = match.groups()
        return cls(int(first), None if last == "*" else int(last))

    def within(self, size: int) -> tuple[int, int] | None:
        """Return the first and last byte in a file of `size` bytes; None where there is none."""
        first = self.first if self.first >= 0 else max(0, size + self.first)
        last = size - 1 if self.last is None else self.last
        last = size + last if last < 0 else min(last, size - 1)
        return (first, last) if first <= last else None

    def is_outside(self, size: int) -> bool:
        """Tell whether the range begins behind a file of `size` bytes, or ends before it."""
        ends_before = self.last is not None and size + self.last < 0
        return self.first >= size or ends_before


def links_of(cid: CID, block: bytes) -> list[CID]:
    """Return what a block links to, in its order; a link that is there twice is given twice.

    Raises
    ------
    StoreError
        If the block is malformed, or its codec is none of dag-pb, dag-cbor and raw.
    """
    if cid.codec == RAW:
        return []
    try:
        if cid.codec == DAG_PB:
            return [link.cid for link in dagpb.decode(block).links]
        if cid.codec == DAG_CBOR:
            return list(_links_in(dagcbor.decode(block)))
    except ContentError as error:
        raise StoreError(f"Block {cid} is malformed: {error}") from None
    codec = _FOREIGN_CODECS.get(cid.codec, "unknown")
    known = ", ".join(CODECS.values())
    raise StoreError(f"{cid} has the codec {codec} (0x{cid.codec:x}); this store reads {known}.")


def document(fetch: Fetch, cid: CID) -> Node:
    """Return the document (dag-cbor) under a CID.

    Raises
    ------
    NotFoundError
        If it is missing.
    StoreError
        If the CID is that of something else, or the block is malformed.
    """
    if cid.codec != DAG_CBOR:
        kind = CODECS.get(cid.codec, f"codec 0x{cid.codec:x}")
        raise StoreError(f"{cid} is no document but {kind}. Use get() for its bytes.")
    try:
        return dagcbor.decode(fetch(cid))
    except ContentError as error:
        raise StoreError(f"Block {cid} is no DAG-CBOR document: {error}") from None


def parts_of(cid: CID, block: bytes) -> list[CID]:
    """Return what a block consists of: the links of dag-pb.

    The chunks of a file and the entries of a folder are parts of it.  A document (dag-cbor) has
    none: it names other content, and whoever may read the document may read that or not.
    """
    return links_of(cid, block) if cid.codec == DAG_PB else []


def key_of(cid: CID) -> bytes:
    """Return what tells blocks apart: codec and multihash, the same for both CID versions."""
    return bytes(cid) if cid.version else b"\x01\x70" + bytes(cid)


def everything(cid: CID, block: bytes) -> list[tuple[CID, Follow]]:
    """Follow all links, and all links below them (`Scope.ALL`)."""
    return [(link, everything) for link in links_of(cid, block)]


def nothing(cid: CID, block: bytes) -> list[tuple[CID, Follow]]:
    """Follow no link (`Scope.BLOCK`)."""
    return []


def entity(cid: CID, block: bytes) -> list[tuple[CID, Follow]]:
    """Follow the parts of a file and the shards of a folder (`Scope.ENTITY`)."""
    unixfs = _unixfs_of(cid, block)
    if unixfs is None:
        return []
    node, message = unixfs
    if message.kind in (RAW_TYPE, FILE_TYPE):
        return [(link.cid, entity) for link in node.links]
    if message.kind == SHARD_TYPE:
        # An entry's name comes behind the digits of its place; a shard has the digits alone.
        digits = len(f"{(message.fanout or 256) - 1:X}")
        return [(link.cid, entity) for link in node.links if len(link.name or "") == digits]
    return []


def following(scope: Scope, span: Span | None = None) -> Follow:
    """Return what to follow below the root of a request.

    Parameters
    ----------
    scope
        Which blocks are asked for.
    span
        Of a file only the blocks with these bytes; it implies `Scope.ENTITY`, and is ignored
        where the root is no file.
    """
    if span is not None:
        return partial(_spanned, span)
    return {Scope.BLOCK: nothing, Scope.ENTITY: entity, Scope.ALL: everything}[scope]


def file_size(cid: CID, block: bytes) -> int | None:
    """Return the bytes of the file with this root block, or None where it is no file."""
    if cid.codec == RAW:
        return len(block)
    unixfs = _unixfs_of(cid, block)
    if unixfs is None or unixfs[1].kind not in (RAW_TYPE, FILE_TYPE):
        return None
    return unixfs[1].size


class Walk:
    """One pass over blocks, with one set of limits for all that it gives.

    Parameters
    ----------
    fetch
        Returns a verified block.
    limits
        How far to go.
    duplicates
        Whether a block is given each time that a link leads to it; otherwise it is given once.
    """

    def __init__(
        self, fetch: Fetch, *, limits: Limits | None = None, duplicates: bool = False
    ) -> None:
        self._fetch = fetch
        self._limits = limits or Limits()
        self._duplicates = duplicates
        self._visited = 0
        self._given = 0
        self._seen: set[bytes] = set()
        # Seen, but not all below them: a later link may lead to another part of the same node.
        self._partly: set[bytes] = set()

    def blocks(self, root: CID, follow: Follow = everything) -> Iterator[Block]:
        """Give the blocks of some content, each before what it links to.

        Blocks of identity CIDs are not given, as their CIDs hold them; their links are followed.

        Raises
        ------
        NotFoundError
            If the root is missing.
        StoreError
            If a block below it is missing or malformed, or a limit is passed.
        """
        todo: list[tuple[CID, Follow, int]] = [(root, follow, 0)]
        while todo:
            cid, follow, depth = todo.pop()
            key = key_of(cid)
            is_new = self._duplicates or key not in self._seen
            if not is_new and key not in self._partly:
                continue
            self._seen.add(key)
            block = self._read(cid, root)
            links = follow(cid, block)
            if links and depth == self._limits.depth:
                raise StoreError(f"{root} is nested deeper than {depth} levels; it was not read.")
            if follow in (everything, entity):
                self._partly.discard(key)
            else:
                self._partly.add(key)
            if is_new and cid.hash_code != IDENTITY:
                self._count(root, block)
                yield cid, block
            todo.extend((link, below, depth + 1) for link, below in reversed(links))
            if len(todo) > self._limits.blocks:
                raise self._too_many(root)

    def _read(self, cid: CID, root: CID) -> bytes:
        self._visited += 1
        if self._visited > self._limits.blocks:
            raise self._too_many(root)
        if cid.hash_code == IDENTITY:
            return cid.digest
        try:
            return self._fetch(cid)
        except NotFoundError:
            if cid == root:
                raise
            raise IncompleteError(
                f"{root} is incomplete: its block {cid} is missing. Add the content again."
            ) from None

    def _count(self, root: CID, block: bytes) -> None:
        self._given += len(block)
        if self._given > self._limits.size:
            raise StoreError(
                f"{root} has more than {self._limits.size:,} bytes of blocks; it was not read."
            )

    def _too_many(self, root: CID) -> StoreError:
        return StoreError(f"{root} has more than {self._limits.blocks:,} blocks; it was not read.")


def walk(fetch: Fetch, root: CID, *, limits: Limits | None = None) -> Iterator[Block]:
    """Give all blocks of some content, depth first, each once; see `Walk.blocks`."""
    return Walk(fetch, limits=limits).blocks(root)


def _links_in(node: Node) -> Iterator[CID]:
    if isinstance(node, CID):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _links_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from _links_in(value)


def _unixfs_of(cid: CID, block: bytes) -> tuple[dagpb.PBNode, Message] | None:
    """Return the node and its message where a block is UnixFS, else None."""
    if cid.codec != DAG_PB:
        return None
    try:
        node = dagpb.decode(block)
    except ContentError as error:
        raise StoreError(f"Block {cid} is malformed: {error}") from None
    try:
        message = decode_message(node.data or b"")
    except ContentError:
        return None  # dag-pb of another kind: an entity of this block alone
    is_file = message.kind in (RAW_TYPE, FILE_TYPE)
    if is_file and len(node.links) != len(message.block_sizes):
        raise StoreError(
            f"Block {cid} is malformed: it has {len(node.links)} links and "
            f"{len(message.block_sizes)} sizes."
        )
    return node, message


def _spanned(span: Span, cid: CID, block: bytes) -> Sequence[tuple[CID, Follow]]:
    size = file_size(cid, block)
    if size is None:
        return entity(cid, block)
    bounds = span.within(size)
    return [] if bounds is None else _part(0, *bounds, cid, block)


def _part(
    start: int, first: int, last: int, cid: CID, block: bytes
) -> Sequence[tuple[CID, Follow]]:
    """Follow the links of a file's node, which begins at byte `start`, to some of its bytes."""
    unixfs = _unixfs_of(cid, block)
    if unixfs is None or unixfs[1].kind not in (RAW_TYPE, FILE_TYPE):
        return []
    node, message = unixfs
    links: list[tuple[CID, Follow]] = []
    start += len(message.data)
    for link, size in zip(node.links, message.block_sizes, strict=True):
        end = start + size
        if start <= last and end > first:
            whole = first <= start and end - 1 <= last
            links.append((link.cid, entity if whole else partial(_part, start, first, last)))
        start = end
    return links
