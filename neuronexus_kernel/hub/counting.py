"""What is to be stored, bytes or a stream, counted while it is read, so that no limit is passed."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, cast

from neuronexus_kernel.errors import ContentError, InvalidInputError, QuotaError
from neuronexus_kernel.storage.files import MAX_BLOCK


class Counted(io.RawIOBase):
    """What is to be stored: bytes as they are, or a stream that is counted while it is read.

    Parameters
    ----------
    data
        The bytes, or a stream in binary mode.
    limit
        The most bytes that there may be.

    Raises
    ------
    QuotaError
        If there are more; a stream raises it when it is read.
    """

    def __init__(self, data: bytes | BinaryIO, limit: int) -> None:
        self._data = data
        self._limit = limit
        self.size = 0
        if isinstance(data, bytes):
            self._count(len(data))

    @property
    def source(self) -> bytes | BinaryIO:
        """Bytes where bytes were given: a store keeps them without a copy."""
        return self._data if isinstance(self._data, bytes) else cast("BinaryIO", self)

    @property
    def stream(self) -> BinaryIO:
        """A stream in any case."""
        return io.BytesIO(self._data) if isinstance(self._data, bytes) else cast("BinaryIO", self)

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes and count them."""
        assert not isinstance(self._data, bytes)
        room = memoryview(buffer)
        piece = self._data.read(len(room))
        if not isinstance(piece, bytes):
            raise InvalidInputError(
                f"The stream gives {type(piece).__name__}; open it in binary, blocking mode."
            )
        room[: len(piece)] = piece
        self._count(len(piece))
        return len(piece)

    def _count(self, more: int) -> None:
        self.size += more
        if self.size > self._limit:
            raise QuotaError(
                f"The object has {self.size:,} bytes or more; this hub accepts {self._limit:,} "
                "at most."
            )


def whole_of(given: Counted) -> bytes:
    """Return all of a document, which is one block.

    Raises
    ------
    ContentError
        If it is larger than a block.
    """
    source = given.source
    if isinstance(source, bytes):
        return source
    whole = b""
    while len(whole) <= MAX_BLOCK and (piece := source.read(MAX_BLOCK + 1 - len(whole))):
        whole += piece
    if len(whole) > MAX_BLOCK:
        raise ContentError(f"A document is one block, of {MAX_BLOCK:,} bytes at most.")
    return whole
