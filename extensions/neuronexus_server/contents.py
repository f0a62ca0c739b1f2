"""Content over HTTP: objects in one piece, large ones in parts, and downloads.

No object is held in memory: what arrives goes to a file as it comes, from which the content store
takes it, and what is asked for is read and sent piece by piece.

Objects in parts follow draft-ietf-httpbis-resumable-upload in its headers: ``POST uploads``
announces an object, ``PATCH uploads/{upload}`` adds bytes at ``Upload-Offset``, ``HEAD`` tells how
far it has come, and a ``PATCH`` with ``Upload-Complete: ?1`` has it stored and returns its root.
What a broken connection brought is kept.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
from jupyter_server.auth.decorator import allow_unauthenticated
from tornado.web import HTTPError, stream_request_body

from neuronexus_kernel.content import CID
from neuronexus_kernel.errors import (
    ConflictError,
    InvalidInputError,
    NeuroNexusError,
    StoreError,
)
from neuronexus_kernel.hub.records import NewUpload, Upload
from neuronexus_kernel.hub.replays import Outcome
from neuronexus_kernel.hub.routes import CONTENT, UPLOADS, Route
from neuronexus_kernel.settings import MIB
from neuronexus_server.arriving import Arriving, Spooling
from neuronexus_server.bodies import json_object
from neuronexus_server.context import context_of, visitor_of
from neuronexus_server.handlers import ApiHandler
from neuronexus_server.operations import Operation
from neuronexus_server.streaming import SendsPieces

if TYPE_CHECKING:
    from neuronexus_kernel.hub.uploads import OwnUploads

PARTIAL = "application/partial-upload"

_PIECE = MIB
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_TRUTHS = {"?1": True, "?0": False}
_PUT = Operation.of(Route("put", "POST", "/content"), besides="data")


@stream_request_body
class ContentHandler(Spooling):
    """Takes an object in one piece."""

    def prepare_limit(self) -> int:
        """Return the hub's limit on objects."""
        return context_of(self).upload_limit

    @allow_unauthenticated
    async def post(self) -> None:
        """Store the body under its CID."""
        arguments = {"data": await self.arrived(), **_PUT.arguments(self.query_texts(), {})}

        async def act() -> Outcome:
            root = await context_of(self).call(visitor_of(self).put, **arguments)
            return Outcome(200, msgspec.json.encode(root))

        await self.once("put", act)


class DownloadHandler(SendsPieces, ApiHandler):
    """Gives back the bytes of a root; they are somebody's upload and never shown as a page."""

    @allow_unauthenticated
    async def get(self, cid: str) -> None:
        """Send the content of a CID, or a range of it."""
        self.admit()
        context = context_of(self)
        root = str(CID.parse(cid))
        stream = await context.call(visitor_of(self).stream, cid)
        try:
            size = await context.read(stream.seek, 0, 2)
            self._describe(root)
            if self.check_etag_header():
                self.set_status(304)
                self.finish()
                return
            start, end = self._span(size)
            self.set_header("Content-Length", str(end - start))
            await context.read(stream.seek, start)
            if self.request.method == "GET":
                await self.send_pieces(_pieces(stream, end - start), root)
        finally:
            await context.read(stream.close)
        if not self._finished:
            self.finish()

    head = get

    def compute_etag(self) -> str | None:
        """Return what the content's address says: it never changes."""
        return self._headers.get("Etag")

    def _describe(self, root: str) -> None:
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Disposition", "attachment")
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'")
        self.set_header("Cache-Control", "private, max-age=31536000, immutable")
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Etag", f'"{root}"')

    def _span(self, size: int) -> tuple[int, int]:
        """Return the first byte to send and the one behind the last."""
        header = self.request.headers.get("Range")
        match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
        if_range = self.request.headers.get("If-Range")
        if match is None or (if_range is not None and if_range != self._headers.get("Etag")):
            return 0, size  # Several ranges, or another unit: all of it, as the standard allows.
        first, last = match.groups()
        if not first and not last:
            return 0, size
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if first and last and int(last) < start:
            return 0, size
        if start >= size:
            self.set_header("Content-Range", f"bytes */{size}")
            raise HTTPError(416)
        self.set_status(206)
        self.set_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        return start, end


@stream_request_body
class UploadsHandler(ApiHandler):
    """Takes the announcement of an object that will arrive in parts."""

    def allowed(self) -> list[str]:
        """Return the methods that this address knows."""
        return ["POST"]

    @allow_unauthenticated
    async def post(self) -> None:
        """Begin an upload."""
        self.admit()
        uploads = visitor_of(self).uploads()
        try:
            new = msgspec.convert(json_object(bytes(self.body)), NewUpload)
        except msgspec.ValidationError as error:
            raise InvalidInputError(f"The body is no upload: {error}.") from None

        async def act() -> Outcome:
            upload = await context_of(self).call(uploads.begin, new)
            return Outcome(201, msgspec.json.encode(upload))

        await self.once("put", act)

    def send(self, outcome: Outcome) -> None:
        """Say where the upload is."""
        upload = msgspec.json.decode(outcome.body, type=Upload)
        self.set_header("Location", f"{self.base_url.rstrip('/')}{UPLOADS}/{upload.id}")
        _describe(self, upload)
        super().send(outcome)


@stream_request_body
class PartHandler(Arriving):
    """Takes the parts of one upload."""

    takes = (PARTIAL,)

    def initialize(self) -> None:
        """Begin with nothing."""
        self._offset = 0
        self._is_last = False
        self._uploads: OwnUploads | None = None

    def prepare_limit(self) -> int:
        """Return the hub's limit on objects."""
        return context_of(self).upload_limit if self.request.method == "PATCH" else 0

    def allowed(self) -> list[str]:
        """Return the methods that this address knows."""
        return ["GET", "HEAD", "PATCH", "DELETE"]

    async def prepare(self) -> None:  # type: ignore[override]
        """Identify the visitor, and see that the part fits, before it is read."""
        await super().prepare()
        if self._refusal is None and self.request.method == "PATCH":
            try:
                await self._expect()
            except (NeuroNexusError, HTTPError) as error:
                self._refusal = error

    async def _expect(self) -> None:
        self._uploads = visitor_of(self).uploads()
        if self.request.headers.get("Content-Type", "") != PARTIAL:
            raise HTTPError(415)
        offset = self.request.headers.get("Upload-Offset", "")
        is_last = _TRUTHS.get(self.request.headers.get("Upload-Complete", "?0"))
        if not (offset.isascii() and offset.isdecimal() and len(offset) < 18) or is_last is None:
            raise InvalidInputError(
                "Upload-Offset is how many bytes come before these; Upload-Complete is ?1 or ?0."
            )
        self._offset, self._is_last = int(offset), is_last
        upload = await self._call(self._uploads.find)
        if self._offset != upload.offset and not (upload.complete and is_last):
            raise ConflictError(f"The upload has {upload.offset} bytes, not {offset}; go on there.")

    async def take(self, piece: bytes) -> None:
        """Add the next piece."""
        assert self._uploads is not None
        upload = await self._call(self._uploads.append, self._offset, piece)
        self._offset = upload.offset

    @allow_unauthenticated
    async def patch(self, upload: str) -> None:
        """End a part; the last one has the object stored."""
        await self.hand_on()
        self.admit()
        assert self._uploads is not None
        if self._is_last:
            self.answer(await self._call(self._uploads.finish))
        else:
            _describe(self, await self._call(self._uploads.settle))
            self.send(Outcome(204, b""))

    @allow_unauthenticated
    async def get(self, upload: str) -> None:
        """Tell how far an upload has come."""
        self.admit()
        found = await self._call(visitor_of(self).uploads().find)
        _describe(self, found)
        self.answer(found)

    head = get

    @allow_unauthenticated
    async def delete(self, upload: str) -> None:
        """End an upload that will not be finished."""
        self.admit()
        await self._call(visitor_of(self).uploads().cancel)
        self.send(Outcome(204, b""))

    def on_connection_close(self) -> None:
        """Keep what has arrived of a part, when the sender goes away."""
        super().on_connection_close()
        self._rescue = asyncio.ensure_future(self.hand_on())

    async def _call(self, method: Callable[..., Any], *rest: object) -> Any:
        return await context_of(self).call(method, self.path_kwargs["upload"], *rest)


def content_handlers() -> list[tuple[str, type[ApiHandler], dict[str, Any]]]:
    """Return the patterns and handlers of content."""
    return [
        (CONTENT, ContentHandler, {}),
        (f"{CONTENT}/(?P<cid>[^/]+)", DownloadHandler, {}),
        (UPLOADS, UploadsHandler, {}),
        (f"{UPLOADS}/(?P<upload>[^/]+)", PartHandler, {}),
    ]


def _pieces(stream: BinaryIO, missing: int) -> Iterator[bytes]:
    """Give so many bytes of a stream."""
    while missing:
        piece = stream.read(min(missing, _PIECE))
        if not piece:
            raise StoreError("The content ends too early.")
        missing -= len(piece)
        yield piece


def _describe(handler: ApiHandler, upload: Upload) -> None:
    handler.set_header("Upload-Offset", str(upload.offset))
    handler.set_header("Upload-Complete", "?1" if upload.complete else "?0")
    handler.set_header("Upload-Limit", f"max-size={context_of(handler).upload_limit}")
    if upload.size is not None:
        handler.set_header("Upload-Length", str(upload.size))
