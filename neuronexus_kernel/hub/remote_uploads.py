"""Sending large objects to a hub elsewhere: in parts, going on where a connection broke.

A large object is announced, its parts are added one after another, and the last request has it
stored.  One part is held in memory, so that any stream will do, also one that cannot seek.  When a
connection breaks, the hub is asked how much it has of the part, and the rest is sent.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from neuronexus_kernel.errors import (
    ConflictError,
    HubUnavailableError,
    InvalidInputError,
    NeuroNexusError,
)
from neuronexus_kernel.hub.patience import PAUSES
from neuronexus_kernel.hub.records import Root, Upload
from neuronexus_kernel.hub.routes import CONTENT, UPLOADS

if TYPE_CHECKING:
    from neuronexus_kernel.hub.transport import Transport

PART = 8 * 1024 * 1024
"""Bytes of a part."""

_STORED_PER_SECOND = 2e6
"""How fast a slow hub stores what has arrived, in bytes: it is waited for that long."""


def send_object(
    transport: Transport, data: bytes | BinaryIO, described: dict[str, str], *, part: int = PART
) -> Root:
    """Send an object, and return its root; one that is no larger than a part goes at once.

    Parameters
    ----------
    data
        The object; a stream is read from where it stands.
    described
        Its name, kind, visibility, codec and license.
    part
        Bytes of a part.

    Raises
    ------
    HubUnavailableError
        If the hub stays away.
    NeuroNexusError
        What the hub raised.
    """
    if isinstance(data, bytes) and len(data) <= part:
        return _at_once(transport, data, described)
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    size = _size_of(stream)
    first = _read(stream, part)
    if len(first) < part:
        return _at_once(transport, first, described)
    new = {**described, **({} if size is None else {"size": size})}
    begun = transport.ask(
        "POST", UPLOADS, Upload, body=msgspec.json.encode(new), keyed=True, json=True
    )
    sender = _Sender(transport, f"{UPLOADS}/{begun.id}")
    try:
        sender.add(first)
        while piece := _read(stream, part):
            sender.add(piece)
        return sender.finish()
    except HubUnavailableError:
        raise
    except BaseException:
        # What cannot be finished should not wait for its end on the hub's disk.
        with contextlib.suppress(NeuroNexusError):
            transport.exchange("DELETE", sender.path)
        raise


def _at_once(transport: Transport, data: bytes, described: dict[str, str]) -> Root:
    # Content has its address: twice is as good as once.
    return transport.ask("POST", CONTENT, Root, query=described, body=data, repeat=True)


class _Sender:
    """An upload as its sender sees it."""

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport = transport
        self.path = path
        self._offset = 0

    def add(self, piece: bytes) -> None:
        """Send a part, however often the connection breaks, as long as something gets through."""
        start, failures = self._offset, 0
        while self._offset < start + len(piece):
            try:
                self._patch(piece[self._offset - start :], is_last=False)
                self._offset = start + len(piece)
            except (HubUnavailableError, ConflictError) as error:
                before = self._offset
                self._wait(failures, error)
                self._offset = self._told()
                if not start <= self._offset <= start + len(piece):
                    raise ConflictError(
                        f"The hub has {self._offset} bytes of an upload of which "
                        f"{before} were sent; somebody else sends to it."
                    ) from None
                failures = failures + 1 if self._offset == before else 0

    def finish(self) -> Root:
        """Have what was sent stored, however often the connection breaks."""
        for failures in range(len(PAUSES) + 1):
            try:
                content = self._patch(b"", is_last=True)
                return msgspec.json.decode(content, type=Root)
            except (HubUnavailableError, ConflictError) as error:
                self._wait(failures, error)
        raise AssertionError  # the last failure is raised above

    def _patch(self, piece: bytes, *, is_last: bool) -> bytes:
        headers = {
            "Content-Type": "application/partial-upload",
            "Upload-Offset": str(self._offset),
            "Upload-Complete": "?1" if is_last else "?0",
        }
        patience = self._offset / _STORED_PER_SECOND if is_last else 0.0
        return self._transport.exchange(
            "PATCH", self.path, body=piece, headers=headers, patience=patience
        ).content

    def _told(self) -> int:
        """Ask the hub how much it has."""
        headers = self._transport.exchange("HEAD", self.path, repeat=True).headers
        try:
            return int(headers["Upload-Offset"])
        except (KeyError, ValueError):
            raise HubUnavailableError(
                f"{self._transport.address} does not say how far an upload is. Check that both "
                "sides run the same version of NeuroNexus."
            ) from None

    @staticmethod
    def _wait(failures: int, error: NeuroNexusError) -> None:
        if failures >= len(PAUSES):
            raise error
        time.sleep(PAUSES[failures])


def _size_of(stream: BinaryIO) -> int | None:
    """Return how many bytes a stream still has, where it can tell."""
    try:
        if not stream.seekable():
            return None
        here = stream.tell()
        end = stream.seek(0, os.SEEK_END)
        stream.seek(here)
    except (AttributeError, OSError):
        return None
    return max(0, end - here)


def _read(stream: BinaryIO, size: int) -> bytes:
    """Read a part: as many bytes as asked for, unless the stream ends."""
    pieces, missing = [], size
    while missing:
        piece = stream.read(missing)
        if not isinstance(piece, bytes):
            raise InvalidInputError(
                f"The stream gives {type(piece).__name__}; open it in binary, blocking mode."
            )
        if not piece:
            break
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
