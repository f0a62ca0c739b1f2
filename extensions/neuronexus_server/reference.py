"""The API's description: as a document for programs, and as a page for people.

The page is made on the server from the document; it needs no script and nothing from elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from markupsafe import Markup, escape

from neuronexus_kernel.hub.routes import API
from neuronexus_server.handlers import ApiHandler
from neuronexus_server.openapi import document
from neuronexus_server.pages import Page

DOCUMENT = f"{API}/openapi.json"
PAGE = "/neuronexus/api"

_MARKS = ((r"`([^`]+)`", r"<code>\1</code>"), (r"\*\*([^*]+)\*\*", r"<strong>\1</strong>"))


@dataclass(frozen=True, slots=True)
class _Entry:
    """One operation, as the page shows it."""

    verb: str
    path: str
    told: dict[str, Any]


class DocumentHandler(ApiHandler):
    """Gives the document."""

    @allow_unauthenticated
    async def get(self) -> None:
        """Send it."""
        self.admit()
        self.answer(_here(document(), self.base_url))

    head = get


class ReferencePage(Page):
    """Shows the document."""

    @allow_unauthenticated
    async def get(self) -> None:
        """Send the page."""
        told = _here(document(), self.base_url)
        groups: dict[str, list[_Entry]] = {}
        for path, verbs in told["paths"].items():
            for verb, operation in verbs.items():
                groups.setdefault(operation["tags"][0], []).append(_Entry(verb, path, operation))
        self.show(
            "reference.html",
            document=f"{self.base_url.rstrip('/')}{DOCUMENT}",
            api=told["servers"][0]["url"],
            info=told["info"],
            groups=dict(sorted(groups.items())),
            schemas=dict(sorted(told["components"]["schemas"].items())),
            parameters=told["components"]["parameters"],
            text=_text,
            kind=_kind,
        )


def reference_handlers() -> list[tuple[str, type[JupyterHandler]]]:
    """Return the patterns and handlers of the description."""
    return [(DOCUMENT, DocumentHandler), (f"{PAGE}/?", ReferencePage)]


def _here(told: dict[str, Any], base: str) -> dict[str, Any]:
    """Return the document for a server whose addresses begin with `base`."""
    return {**told, "servers": [{"url": f"{base.rstrip('/')}{API}"}]}


def _text(words: str) -> Markup:
    """Return the little Markdown that the document has as HTML."""
    paragraphs = []
    for each in words.strip().split("\n\n"):
        html = str(escape(each)).replace("\n", "<br>")
        for mark, tag in _MARKS:
            html = re.sub(mark, tag, html)
        paragraphs.append(f"<p>{html}</p>")
    return Markup("".join(paragraphs))  # escaped above


def _kind(schema: dict[str, Any]) -> Markup:
    """Say in a few words what a value is, with links to the records."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#{0}">{0}</a>').format(name)
    if "anyOf" in schema:
        return Markup(" or ").join(_kind(each) for each in schema["anyOf"])
    if "enum" in schema:
        return Markup(" | ").join(
            Markup("<code>{}</code>").format(msgspec.json.encode(each).decode())
            for each in schema["enum"]
        )
    if schema.get("type") == "array":
        return Markup("list of {}").format(_kind(schema.get("items") or {}))
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of {}").format(_kind(schema["additionalProperties"]))
    return Markup("{}").format(schema.get("format") or schema.get("type") or "any")
