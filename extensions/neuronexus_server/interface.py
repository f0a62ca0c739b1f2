"""All that a program asks a hub for over HTTP and WebSocket, in the order in which it is looked up.

A hub of its own and the one inside a personal JupyterLab answer the same addresses; pages for
people come besides.
"""

from __future__ import annotations

from typing import Any

from neuronexus_kernel.hub.routes import STREAM
from neuronexus_server.archives import archive_handlers
from neuronexus_server.contents import content_handlers
from neuronexus_server.gateway import PATTERN, GatewayHandler
from neuronexus_server.handlers import api_handlers
from neuronexus_server.reference import document_handlers
from neuronexus_server.stream import StreamHandler


def interface_handlers() -> list[tuple[Any, ...]]:
    """Return the patterns and handlers."""
    return [
        (STREAM, StreamHandler),
        (PATTERN, GatewayHandler),
        *content_handlers(),
        *document_handlers(),
        *archive_handlers(),
        *api_handlers(),
    ]
