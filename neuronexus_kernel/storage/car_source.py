"""A stream read forward, where each read gives exactly what was asked for or says what is wrong."""

from __future__ import annotations

from typing import BinaryIO

from neuronexus_kernel.content.cid import decode_varint
from neuronexus_kernel.errors import ContentError, StoreError

_AHEAD = 64 * 1024
_VARINT = 9


class Source:
    """The bytes of a CAR file.

    Parameters
    ----------
    stream
        In binary mode; it may give less than it is asked for.

    Attributes
    ----------
    position
        Bytes that were taken.
    end
        Where the part that is read ends, or None for the end of the stream.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._rest = memoryview(b"")
        self.position = 0
        self.end: int | None = None

    def take(self, count: int, what: str) -> bytes:
        """Return the next `count` bytes, which are `what`.

        Raises
        ------
        StoreError
            If the part or the stream ends before, or the stream cannot be read.
        """
        if self.end is not None and count > self.end - self.position:
            raise StoreError(f"The CAR file is malformed: its payload ends inside {what}.")
        data = bytes(self._rest[:count])
        self._rest = self._rest[count:]
        if len(data) < count:
            pieces, missing = [data], count - len(data)
            while missing:
                piece = self._read(max(missing, _AHEAD))
                if not piece:
                    raise StoreError(f"The CAR file is cut off inside {what}.")
                pieces.append(piece[:missing])
                self._rest = memoryview(piece)[missing:]
                missing -= len(pieces[-1])
            data = b"".join(pieces)
        self.position += count
        return data

    def varint(self, what: str) -> int:
        """Return the next number, in its shortest form."""
        head = bytearray()
        while len(head) < _VARINT and (not head or head[-1] & 0x80):
            head += self.take(1, what)
        try:
            return decode_varint(bytes(head))[0]
        except ContentError as error:
            raise StoreError(f"The CAR file is malformed in {what}: {error}") from None

    def drain(self, most: int, what: str) -> None:
        """Pass over all that is left, which is `what`.

        Raises
        ------
        StoreError
            If that is more than `most` bytes.
        """
        start = self.position
        while not self.at_end():
            self.take(len(self._rest), what)
            if self.position - start > most:
                raise StoreError(f"The CAR file is malformed: {what} has no end.")

    def at_end(self) -> bool:
        """Tell whether nothing is left of the part, or of the stream."""
        if self.end is not None:
            return self.position >= self.end
        if not self._rest:
            self._rest = memoryview(self._read(_AHEAD))
        return not self._rest

    def _read(self, count: int) -> bytes:
        try:
            piece: object = self._stream.read(count)
        except OSError as error:
            raise StoreError(f"The CAR file cannot be read: {error.strerror or error}.") from None
        if not isinstance(piece, bytes):
            raise StoreError(
                "The CAR file cannot be read: open it in binary and blocking mode "
                f"(it gave {type(piece).__name__})."
            )
        return piece
