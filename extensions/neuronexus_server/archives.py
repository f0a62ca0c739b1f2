"""Whole projects, to be taken out of the hub and into it: CAR files of any size.

What comes goes into a temporary file as it comes, so that the largest archive takes no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from jupyter_server.auth.decorator import allow_unauthenticated
from tornado.web import stream_request_body

from neuronexus_kernel.errors import NeuroNexusError, StoreError
from neuronexus_kernel.hub.records import Project
from neuronexus_kernel.hub.replays import Outcome
from neuronexus_kernel.hub.routes import API, ARCHIVE, ARCHIVES, CAR, Route
from neuronexus_server.arriving import Spooling
from neuronexus_server.context import context_of, visitor_of
from neuronexus_server.handlers import ApiHandler
from neuronexus_server.operations import Operation
from neuronexus_server.streaming import SendsPieces

_EXPORT = Operation.of(Route("export_project", "GET", ARCHIVE.removeprefix(API)), besides="stream")
_IMPORT = Operation.of(
    Route("import_project", "POST", ARCHIVES.removeprefix(API)), besides="stream"
)


class ExportHandler(SendsPieces, ApiHandler):
    """Gives the archive of a project."""

    @allow_unauthenticated
    async def get(self, project: str) -> None:
        """Send the archive as it is made."""
        self.admit()
        arguments = _EXPORT.arguments({**self.query_texts(), "project": project}, {})
        archive: Callable[..., Iterator[bytes]] = visitor_of(self).archive
        pieces = await context_of(self).call(archive, **arguments)
        self.set_header("Content-Type", CAR)
        self.set_header("Content-Disposition", 'attachment; filename="project.car"')
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        await self.send_pieces(pieces, f"the archive of {project}")


@stream_request_body
class ImportHandler(Spooling):
    """Takes the archive of a project."""

    operation = "import_project"

    def prepare_limit(self) -> int:
        """Return the hub's limit on archives."""
        return context_of(self).archive_limit

    @allow_unauthenticated
    async def post(self) -> None:
        """Make a project of the body."""
        stream = await self.arrived()
        arguments = _IMPORT.arguments(self.query_texts(), {})
        make: Callable[..., Project] = visitor_of(self).import_project

        async def act() -> Outcome:
            project = await context_of(self).call(make, stream=stream, **arguments)
            return Outcome(200, msgspec.json.encode(project))

        await self.once("import_project", act)

    def status_of(self, error: NeuroNexusError) -> int:
        """Return the HTTP status for an error: a malformed file is the visitor's, not ours."""
        if isinstance(error, StoreError) and not isinstance(error.__cause__, OSError):
            return 422
        return super().status_of(error)


def archive_handlers() -> list[tuple[str, type[ApiHandler], dict[str, Any]]]:
    """Return the patterns and handlers of archives."""
    return [
        (ARCHIVE.format(project="(?P<project>[^/]+)"), ExportHandler, {}),
        (ARCHIVES, ImportHandler, {}),
    ]
