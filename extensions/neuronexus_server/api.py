"""All that programs ask a hub for, as patterns and handlers, for whatever server serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_server.base.handlers import PublicStaticFileHandler

from neuronexus_kernel.hub.routes import STREAM
from neuronexus_server.archives import archive_handlers
from neuronexus_server.contents import content_handlers
from neuronexus_server.gateway import PATTERN, GatewayHandler
from neuronexus_server.handlers import operation_handlers
from neuronexus_server.reference import reference_handlers
from neuronexus_server.stream import StreamHandler

_STATIC = Path(__file__).parent / "static"


def api_handlers() -> list[tuple[Any, ...]]:
    """Return the API, its description, the live events and the gateway."""
    return [
        (STREAM, StreamHandler),
        (PATTERN, GatewayHandler),
        *content_handlers(),
        *archive_handlers(),
        *reference_handlers(),
        *operation_handlers(),
        (r"/neuronexus/static/(.*)", PublicStaticFileHandler, {"path": str(_STATIC)}),
    ]
