"""The hub as a trustless gateway: its blocks and CAR files for anybody who may read them.

``/ipfs/{cid}`` gives one block, ``/ipfs/{cid}/{path}`` the blocks of what lies there, as
https://specs.ipfs.tech/http-gateways/trustless-gateway/ says; nothing is unpacked and nothing is
fetched from elsewhere.  What a visitor may read is decided for each block by the hub
(`hub.reach`): the handler works with a reader that knows of no others, so that no path, scope or
format leads around that.  Sealed content is in a store that is not read here at all.

A CAR file is sent as it is made; see ``streaming``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado.web import HTTPError

from neuronexus_kernel.errors import (
    ContentError,
    InvalidInputError,
    NeuroNexusError,
    NotFoundError,
    QuotaError,
    StoreError,
)
from neuronexus_kernel.storage import paths
from neuronexus_kernel.storage.car import encode_car
from neuronexus_kernel.storage.dag import (
    IncompleteError,
    Limits,
    Walk,
    file_size,
    following,
    nothing,
)
from neuronexus_server.context import HubContext, context_of, visitor_of
from neuronexus_server.gateway_request import NotAcceptableError, Wanted, read_request
from neuronexus_server.handlers import ApiHandler
from neuronexus_server.streaming import SendsPieces

if TYPE_CHECKING:
    from neuronexus_kernel.hub.reach import VisibleBlocks

PATTERN = r"/ipfs/(?P<rest>.*)"

_FOR_EVER = "max-age=29030400, immutable"
_MOST_VISITS = 64
_RETRY_SECONDS = 5


class GatewayHandler(SendsPieces, ApiHandler):
    """Gives raw blocks and CAR files."""

    @allow_unauthenticated
    async def get(self, rest: str) -> None:
        """Give what the path, the query and the headers ask for."""
        self.admit()
        if self.request.headers.get("Service-Worker") == "script":
            raise InvalidInputError("Nothing here is a script for a service worker.")
        wanted = read_request(
            self.request.path[self.request.path.index("/ipfs/") :],
            {name: self.get_query_arguments(name) for name in self.request.query_arguments},
            self.request.headers.get("Accept"),
        )
        context = context_of(self)
        if context.visits >= _MOST_VISITS:
            raise QuotaError("The gateway is busy; come again in a moment.")
        context.visits += 1
        try:
            await self._answer(context, visitor_of(self).blocks(), wanted)
        except IncompleteError:
            raise NotFoundError(
                f"Some of what lies at {wanted.path} is not here, or not for you to read. Ask for "
                "less of it, as with dag-scope=block."
            ) from None
        except StoreError:
            # Its words are for the operator: they may name files of this machine.
            self.log.exception("The gateway could not give %s", wanted.path)
            raise HTTPError(500) from None
        finally:
            context.visits -= 1

    head = get

    async def _answer(self, context: HubContext, blocks: VisibleBlocks, wanted: Wanted) -> None:
        if wanted.kind == "raw":
            block = await context.read(blocks.block, wanted.cid)
            self._describe(wanted, (wanted.cid,), is_public=blocks.is_public(wanted.cid))
            if not self._is_known():
                self.set_header("Content-Length", str(len(block)))
                self.write(block)
            return
        trace = await context.read(self._trace, blocks, wanted)
        # Behind a document there may be content of the project, which a shared cache must not keep.
        self._describe(wanted, trace.roots, is_public=self.current_user is None)
        if self._is_known():
            return
        if self.request.method == "HEAD":
            await self.flush()
            return
        pieces = encode_car([trace.end], _walk(blocks, trace, wanted))
        await self.send_pieces(pieces, wanted.path)

    def _is_known(self) -> bool:
        """Tell whether the visitor has this very answer, and then say so."""
        known: bool = self.check_etag_header()
        if known:
            self.set_status(304)
        return known

    @staticmethod
    def _trace(blocks: VisibleBlocks, wanted: Wanted) -> paths.Trace:
        """Follow the path, and see that what lies there can be begun with."""
        trace = paths.trace(blocks.block, wanted.cid, wanted.names)
        block = blocks.block(trace.end)
        size = None if wanted.span is None else file_size(trace.end, block)
        if size and wanted.span is not None and wanted.span.is_outside(size):
            raise InvalidInputError(
                f"The file {trace.end} has {size} bytes; none of those asked for are among them."
            )
        return trace

    def _describe(self, wanted: Wanted, roots: tuple[Any, ...], *, is_public: bool) -> None:
        self.set_header("Content-Type", wanted.content_type)
        self.set_header("Content-Disposition", wanted.disposition)
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", f"{'public' if is_public else 'private'}, {_FOR_EVER}")
        self.set_header("Etag", wanted.etag)
        self.set_header("Vary", "Accept")
        self.set_header("Accept-Ranges", "none")
        self.set_header("X-Ipfs-Path", wanted.path)
        self.set_header("X-Ipfs-Roots", ",".join(map(str, roots)))
        if wanted.location is not None:
            self.set_header("Content-Location", wanted.location)

    def status_of(self, error: NeuroNexusError) -> int:
        """Return the HTTP status that the specification gives for an error."""
        if isinstance(error, NotAcceptableError):
            return 406
        if isinstance(error, (ContentError, InvalidInputError)):
            return 400
        if isinstance(error, paths.EndsInsideError):
            return 501
        if isinstance(error, NotFoundError):
            cached = "only-if-cached" in self.request.headers.get("Cache-Control", "")
            return 412 if cached else 404
        return super().status_of(error)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write a problem document, and when to come again."""
        if status_code in (429, 503):
            self.set_header("Retry-After", str(_RETRY_SECONDS))
        if status_code == 405:
            self.set_header("Allow", "GET, HEAD")
        super().write_error(status_code, **kwargs)


def _walk(blocks: VisibleBlocks, trace: paths.Trace, wanted: Wanted) -> Iterator[Any]:
    """Give the blocks of a CAR file: those on the way, then those of what lies at the path."""
    walk = Walk(blocks.block, limits=Limits(), duplicates=wanted.duplicates)
    way = chain.from_iterable(walk.blocks(cid, nothing) for cid in trace.way)
    return chain(way, walk.blocks(trace.end, following(wanted.scope, wanted.span)))
