"""Bodies of any size: handed on piece by piece, or kept in a file without a name."""

from __future__ import annotations

import tempfile
from typing import BinaryIO, cast

from tornado.web import HTTPError

from neuronexus_kernel.errors import NeuroNexusError
from neuronexus_kernel.hub.archive_blocks import no_room
from neuronexus_kernel.settings import MIB
from neuronexus_server.context import context_of, visitor_of
from neuronexus_server.handlers import ApiHandler

_PIECE = MIB


class Arriving(ApiHandler):
    """Base of what takes bytes: it hands them on, piece by piece, before they fill the memory.

    Attributes
    ----------
    operation
        What somebody must be allowed to do who sends anything.
    """

    takes = ()
    operation = "put"

    def check_visitor(self) -> None:
        """Refuse who may not do this, so that nothing of what they send is kept."""
        super().check_visitor()
        if self.request.method in ("POST", "PATCH"):
            visitor_of(self).admit(self.operation)

    async def data_received(self, chunk: bytes) -> None:  # type: ignore[override]
        """Take the next bytes of the body."""
        context_of(self).touch()
        super().data_received(chunk)
        if len(self.body) >= _PIECE:
            await self.hand_on()

    async def hand_on(self) -> None:
        """Pass on what has arrived; an error is told when the body has been read."""
        piece, self.body = bytes(self.body), bytearray()
        if piece and self._refusal is None and self._received <= self._limit:
            try:
                await self.take(piece)
            except (NeuroNexusError, HTTPError) as error:
                self._refusal = error

    async def take(self, piece: bytes) -> None:
        """Take the next piece."""
        raise NotImplementedError


class Spooling(Arriving):
    """Keeps what arrives in a file without a name, on the disk where it will stay."""

    def initialize(self) -> None:
        """Begin with nothing."""
        self._spool: BinaryIO | None = None
        self._is_read = False

    def allowed(self) -> list[str]:
        """Return the methods that this address knows."""
        return ["POST"]

    async def take(self, piece: bytes) -> None:
        """Write the next piece to the file."""
        spool = self._file()
        if self.fingerprint is not None:
            self.fingerprint.update(piece)
        with no_room():
            await context_of(self).call(spool.write, piece)

    async def arrived(self) -> BinaryIO:
        """Return the whole body as a file, once all of it is there."""
        await self.hand_on()
        self.admit()
        spool = self._file()
        spool.seek(0)
        self._is_read = True
        return spool

    def on_finish(self) -> None:
        """Let go of the file."""
        super().on_finish()
        self._let_go()

    def on_connection_close(self) -> None:
        """Let go of the file when the sender goes away, unless it is whole and being read."""
        super().on_connection_close()
        if not self._is_read:
            self._let_go()

    def _file(self) -> BinaryIO:
        if self._spool is None:
            folder = context_of(self).hub.spool
            self._spool = cast("BinaryIO", tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
        return self._spool

    def _let_go(self) -> None:
        if self._spool is not None:
            self._spool.close()
