"""What the trainer and its workers say to each other: DAG-CBOR documents over a socket pair.

Only places in shared memory, names and small numbers travel; arrays do not, and nothing is
pickled.
"""

from __future__ import annotations

import socket

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.dagcbor import Node

_FRAME = 8


class Channel:
    """One end of the pair.

    Parameters
    ----------
    end
        A connected stream socket.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        """Return the descriptor, for `select`."""
        return self._end.fileno()

    def send(self, document: dict[str, Node]) -> None:
        """Send a document.

        Raises
        ------
        OSError
            If the other end is gone.
        """
        data = dagcbor.encode(document)
        self._end.sendall(len(data).to_bytes(_FRAME, "big") + data)

    def receive(self) -> dict[str, Node]:
        """Wait for a document.

        Raises
        ------
        EOFError
            If the other end is gone.
        """
        document = dagcbor.decode(self._read(int.from_bytes(self._read(_FRAME), "big")))
        assert isinstance(document, dict)
        return document

    def close(self) -> None:
        """Close this end; the other one sees the end of the stream."""
        self._end.close()

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                part = self._end.recv(min(count - len(data), 1 << 20))
            except ConnectionError:
                part = b""
            if not part:
                raise EOFError
            data += part
        return bytes(data)
