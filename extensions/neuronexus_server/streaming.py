"""Sending what is made while it is sent: piece by piece, and only as fast as it is taken.

The next piece is made, on a thread for reading content, when the visitor has taken the last.  Where
it cannot be completed, the connection is cut, so that nobody takes the part for the whole.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable, Iterator

from jupyter_server.base.handlers import JupyterHandler
from tornado.iostream import StreamClosedError

from neuronexus_server.context import context_of

_PIECE = 256 * 1024
_STALL_SECONDS = 30.0  # for a piece: a visitor slower than 9 KiB/s is let go


class SendsPieces(JupyterHandler):
    """A handler that sends what is made while it is sent."""

    async def send_pieces(self, parts: Iterable[bytes], what: str) -> None:
        """Send all parts.

        Parameters
        ----------
        parts
            Small ones are joined.
        what
            Names it in the log.

        Raises
        ------
        Exception
            What the parts raise before anything was sent.
        """
        context = context_of(self)
        pieces = _joined(parts)
        context.streams += 1
        try:
            while piece := await context.read(next, pieces, b""):
                self.write(piece)
                await asyncio.wait_for(self.flush(), _STALL_SECONDS)
        except StreamClosedError:
            return
        except Exception as error:
            if not self._headers_written:
                raise
            self.log.warning("The hub ended %s early: %r", what, error)
            self._cut(forget=isinstance(error, TimeoutError))
        finally:
            context.streams -= 1
            context.touch()

    def _cut(self, *, forget: bool) -> None:
        """End the connection, so that nobody takes for whole what was sent.

        Parameters
        ----------
        forget
            Whether to throw away what the kernel still holds for a visitor who does not read.
        """
        stream = self.request.connection.stream
        if forget and not stream.closed():
            at_once = struct.pack("ii", 1, 0)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        stream.close()


def _joined(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Join small parts, so that not every one costs a turn of the event loop."""
    piece = bytearray()
    for part in parts:
        piece += part
        if len(piece) >= _PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)
