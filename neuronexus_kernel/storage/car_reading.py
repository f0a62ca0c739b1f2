"""Reading CAR files of version 1 and 2; see `car` for what they are.

What is read is trusted in nothing: each block is checked against its CID before it is given, each
length against its limit before memory is taken, and the index against the sections that were
really there.  Beside the block at hand, reading keeps about a hundred bytes for each block that
went by, to know it again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.cid import CID, IDENTITY
from neuronexus_kernel.errors import ContentError, StoreError
from neuronexus_kernel.storage.car_index import check_index
from neuronexus_kernel.storage.car_source import Source
from neuronexus_kernel.storage.dag import Block, Limits, key_of
from neuronexus_kernel.storage.files import MAX_BLOCK

PRAGMA = bytes.fromhex("0aa16776657273696f6e02")
"""The first bytes of version 2: what a reader of version 1 takes for a header of version 2."""

HEADER_2 = struct.Struct("<16sQQQ")
"""What follows it: characteristics, where the payload begins, its size, where the index begins."""

SIZE_2 = len(PRAGMA) + HEADER_2.size
MAX_HEADER = 1 << 20

_MAX_SECTION = MAX_BLOCK + 1024  # the CID comes before the block
_MAX_PADDING = 1 << 20
_FULLY_INDEXED = bytes([0x80]) + bytes(15)


def read_car(
    stream: BinaryIO, *, lenient: bool = False, limits: Limits | None = None
) -> tuple[list[CID], Iterator[Block]]:
    """Read a CAR file of version 1 or 2; return its roots, and its blocks as they come.

    Parameters
    ----------
    stream
        In binary mode, read forward to its end; it need not be able to seek.
    lenient
        Pass over blocks that were there before, blocks of identity CIDs, and an index of an
        unknown form, and take a file without roots: what gateways send may have those.
        Otherwise they are refused.
    limits
        How many blocks, and bytes of them, there may be.

    Returns
    -------
    list of CID
        The roots.  That they and all below them are there is for the caller to find out; see
        `car.import_car`.
    iterator
        CIDs and blocks, each verified.  All were right, and the file was whole, once it ends.

    Raises
    ------
    StoreError
        If the file is cut off, malformed in any way, or holds a block that is not what its CID
        says; also from the iterator.
    """
    source = Source(stream)
    reading = _Reading(source, lenient, limits or Limits())
    header = _read_header(source)
    if header == PRAGMA[1:]:
        return reading.version_2()
    return reading.version_1(header)


class _Reading:
    """One pass over a CAR file.

    Parameters
    ----------
    source
        The file.
    lenient, limits
        See `read_car`.
    """

    def __init__(self, source: Source, lenient: bool, limits: Limits) -> None:
        self._source = source
        self._lenient = lenient
        self._limits = limits
        self._base = 0
        # Digest and place of each section, and its hash function: what an index must tell.
        self._places: dict[bytes, int] | None = None

    def version_1(self, header: bytes) -> tuple[list[CID], Iterator[Block]]:
        """Return the roots of a header, and the blocks behind it up to the end of the file."""
        return self._roots(header), self._sections()

    def version_2(self) -> tuple[list[CID], Iterator[Block]]:
        """Return the roots and blocks of the payload; its surroundings are checked in passing."""
        source = self._source
        characteristics, start, size, index = HEADER_2.unpack(
            source.take(HEADER_2.size, "the header of version 2")
        )
        if characteristics not in (bytes(16), _FULLY_INDEXED):
            raise StoreError(
                f"The CAR file has unknown characteristics ({characteristics.hex()}). Write it "
                "again as version 1."
            )
        if start < SIZE_2 or (index and index < start + size):
            raise StoreError("The CAR file is malformed: its parts overlap.")
        self._skip(start)
        source.end = start + size
        self._base = start
        if index:
            self._places = {}
        roots = self._roots(_read_header(source))
        return roots, self._then_index(index)

    def _then_index(self, index: int) -> Iterator[Block]:
        yield from self._sections()
        self._source.end = None
        if self._places is not None:
            self._skip(index)
            check_index(self._source, self._places, lenient=self._lenient)
        if not self._source.at_end():
            raise StoreError("The CAR file is malformed: bytes follow its last part.")

    def _skip(self, to: int) -> None:
        padding = to - self._source.position
        if padding > _MAX_PADDING:
            raise StoreError(f"The CAR file is malformed: it has {padding} bytes of padding.")
        self._source.take(padding, "the padding")

    def _roots(self, header: bytes) -> list[CID]:
        try:
            document = dagcbor.decode(header)
        except ContentError as error:
            raise StoreError(f"The header of the CAR file is malformed: {error}") from None
        if not isinstance(document, dict) or document.keys() != {"roots", "version"}:
            raise StoreError("This is no CAR file: its header has other fields than such files.")
        version, roots = document["version"], document["roots"]
        if version != 1 or isinstance(version, (bool, float)):
            raise StoreError(f"The CAR file has version {version!r}; 1 and 2 are known.")
        if not isinstance(roots, list):
            raise StoreError("The header of the CAR file is malformed: its roots are no list.")
        cids = [root for root in roots if isinstance(root, CID)]
        if len(cids) != len(roots):
            raise StoreError("The header of the CAR file is malformed: a root is no link.")
        if not cids and not self._lenient:
            raise StoreError("The CAR file names no root, so that nobody can ask for its content.")
        return cids

    def _sections(self) -> Iterator[Block]:
        seen: set[bytes] = set()
        count = total = 0
        while not self._source.at_end():
            place = self._source.position - self._base
            cid, block = self._section()
            count, total = count + 1, total + len(block)
            if count > self._limits.blocks or total > self._limits.size:
                raise StoreError(
                    f"The CAR file has more than {self._limits.blocks:,} blocks, or "
                    f"{self._limits.size:,} bytes of them; it was not read."
                )
            is_identity, key = cid.hash_code == IDENTITY, key_of(cid)
            if self._places is not None and not is_identity:
                self._places[cid.digest + struct.pack("<Q", place)] = cid.hash_code
            if not is_identity and key not in seen:
                seen.add(key)
                yield cid, block
            elif not self._lenient:
                fault = "has its bytes in its CID" if is_identity else "is there twice"
                raise StoreError(f"The CAR file is malformed: the block {cid} {fault}.")

    def _section(self) -> Block:
        size = self._source.varint("a section's length")
        if size == 0:
            raise StoreError("The CAR file is malformed: it has a section of no bytes.")
        if size > _MAX_SECTION:
            raise StoreError(
                f"The CAR file has a section of {size} bytes; blocks have {MAX_BLOCK} at most."
            )
        section = self._source.take(size, "a section")
        try:
            cid, at = CID.read(section)
            is_right = cid.matches(memoryview(section)[at:])
        except ContentError as error:
            raise StoreError(f"A block of the CAR file cannot be checked: {error}") from None
        if len(section) - at > MAX_BLOCK:
            raise StoreError(
                f"The CAR file has a block of {len(section) - at} bytes ({cid}); blocks have "
                f"{MAX_BLOCK} at most."
            )
        if not is_right:
            raise StoreError(f"The CAR file is corrupt: the block {cid} has other bytes.")
        return cid, section[at:]


def _read_header(source: Source) -> bytes:
    size = source.varint("the header's length")
    if not 0 < size <= MAX_HEADER:
        raise StoreError(f"This is no CAR file: its header would have {size} bytes.")
    return source.take(size, "the header")
