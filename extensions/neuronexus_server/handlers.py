"""The REST API, made from the table of routes and the hub's own type hints.

A handler parses, calls the hub as the visitor, and renders; it holds no rule of its own.  Bodies
are read as they come and refused once they are too large.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import msgspec
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from tornado.web import HTTPError, stream_request_body

from neuronexus_kernel.errors import (
    AuthenticationError,
    ForbiddenError,
    InvalidInputError,
    NeuroNexusError,
    NotFoundError,
    QuotaError,
)
from neuronexus_kernel.hub.hub import Hub
from neuronexus_kernel.hub.routes import API, CONTENT, ROUTES, Route
from neuronexus_kernel.settings import MIB
from neuronexus_server.authorizer import ForMembers
from neuronexus_server.context import context_of, visitor_of
from neuronexus_server.problems import Problems

if TYPE_CHECKING:
    from neuronexus_kernel.hub.local import LocalHub

RECORD_LIMIT = 2 * MIB
"""Largest JSON body of a request, in bytes."""

# A body that is too large is read and thrown away; one that is twice too large is cut off.
_OVERRUN = 16 * MIB
_CHUNK = MIB


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API, ready to be called.

    Attributes
    ----------
    route
        Where it is.
    parameters
        Types of the method's parameters.
    required
        Parameters without a default.
    """

    route: Route
    parameters: dict[str, Any]
    required: frozenset[str]

    @classmethod
    def of(cls, route: Route) -> Operation:
        """Read an operation's parameters from the method of `Hub` that it names."""
        method = getattr(Hub, route.operation)
        signature = list(inspect.signature(method).parameters.values())[1:]
        hints = get_type_hints(method)
        return cls(
            route,
            {parameter.name: hints[parameter.name] for parameter in signature},
            frozenset(p.name for p in signature if p.default is inspect.Parameter.empty),
        )

    def arguments(self, texts: dict[str, str], values: dict[str, object]) -> dict[str, object]:
        """Convert what a request gave to what the method takes.

        Parameters
        ----------
        texts
            Parameters from the path and the query.
        values
            Parameters from the JSON body.

        Raises
        ------
        InvalidInputError
            If one is unknown, missing or of the wrong type; the message names it.
        """
        given = {**values, **texts}
        unknown = sorted(given.keys() - self.parameters.keys())
        missing = sorted(self.required - given.keys())
        if unknown or missing:
            names = ", ".join(repr(name) for name in missing or unknown)
            raise InvalidInputError(
                f"{self.route.verb} {self.route.path}: "
                + (f"{names} is missing." if missing else f"there is no parameter {names}.")
            )
        converted = {name: _convert(texts[name], self.parameters[name], name) for name in texts}
        for name in values.keys() - texts.keys():
            converted[name] = _convert(values[name], self.parameters[name], name, strict=True)
        return converted


class ApiHandler(ForMembers, Problems, JupyterHandler):
    """Base of the API's handlers: who is asking, and how much they may send."""

    def prepare_limit(self) -> int:
        """Return how many bytes of body this request may have."""
        return RECORD_LIMIT

    async def prepare(self) -> None:  # type: ignore[override]
        """Identify the visitor before the body is read.

        A refusal waits until the body has been read, and thrown away, because a client that is
        cut off while it writes may not see the answer.
        """
        self.body = bytearray()
        self._received = 0
        self._limit = self.prepare_limit()
        self._refusal: NeuroNexusError | HTTPError | None = None
        self.request.connection.set_max_body_size(self._limit + max(self._limit, _OVERRUN))
        context_of(self).touch()
        try:
            await super().prepare()
            self.check_visitor()
        except (NeuroNexusError, HTTPError) as error:
            self._refusal = error

    def check_visitor(self) -> None:
        """Refuse pages of other sites and sign-ins that have ended."""
        if not self.check_origin():
            raise ForbiddenError("Requests from pages of other sites are not answered.")
        if self.neuronexus_credentials and self.current_user is None:
            raise AuthenticationError("The sign-in has ended; sign in again.")

    def data_received(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        self._received += len(chunk)
        if self._received <= self._limit and self._refusal is None:
            self.body += chunk
        elif self.body:
            self.body = bytearray()

    def admit(self) -> None:
        """Refuse what was found wanting, now that the body has been read."""
        if self._refusal is not None:
            raise self._refusal
        if self._received > self._limit:
            raise QuotaError(
                f"The body has {self._received} bytes; at most {self._limit} are accepted here."
            )

    def query_texts(self) -> dict[str, str]:
        """Return the parameters of the query."""
        return {name: self.get_query_argument(name) for name in self.request.query_arguments}

    def check_xsrf_cookie(self) -> None:
        """Ask for an XSRF token where the browser's cookie is what proves the visitor."""
        known = getattr(self, "_jupyter_current_user", None) is not None
        if known and not self.token_authenticated:
            super().check_xsrf_cookie()

    def answer(self, result: object) -> None:
        """Send a record as JSON."""
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(msgspec.json.encode(result))

    def status_of(self, error: NeuroNexusError) -> int:
        """Return the HTTP status for an error, telling a full quota from a body too large."""
        too_large = isinstance(error, QuotaError) and self._received > self._limit
        return 413 if too_large else error.status


@stream_request_body
class OperationHandler(ApiHandler):
    """Answers the operations that share one path."""

    def initialize(self, operations: dict[str, Operation]) -> None:
        """Take the operations by HTTP method."""
        self._operations = operations

    @allow_unauthenticated
    async def get(self, **path: str) -> None:
        """Answer a question."""
        await self._answer(path)

    @allow_unauthenticated
    async def post(self, **path: str) -> None:
        """Make or change something."""
        await self._answer(path)

    @allow_unauthenticated
    async def delete(self, **path: str) -> None:
        """End something."""
        await self._answer(path)

    async def _answer(self, path: dict[str, str]) -> None:
        self.admit()
        operation = self._operations.get(self.request.method or "")
        if operation is None:
            raise HTTPError(405)
        if operation.route.verb == "POST":
            texts, values = path, _json_object(bytes(self.body))
        else:
            texts, values = {**self.query_texts(), **path}, {}
        arguments = operation.arguments(texts, values)
        result = await self._call(visitor_of(self), operation.route.operation, arguments)
        if operation.parameters is not None and result is None and operation.route.verb != "GET":
            self.set_status(204)
            self.finish()
        else:
            self.answer(result)

    async def _call(self, hub: LocalHub, name: str, arguments: dict[str, object]) -> object:
        context = context_of(self)
        method: Callable[..., object] = getattr(hub, name)
        if name in ("login", "register", "add_operator"):
            async with context.password_checks:
                return await context.call(method, **arguments)
        return await context.call(method, **arguments)


@stream_request_body
class UploadHandler(ApiHandler):
    """Takes bytes into the content store."""

    def prepare_limit(self) -> int:
        """Return the hub's limit on objects."""
        return context_of(self).upload_limit

    def check_visitor(self) -> None:
        """Refuse strangers, so that nothing of what they send is kept."""
        super().check_visitor()
        if self.request.method == "POST" and self.current_user is None:
            raise AuthenticationError("Sign in before you upload.")

    @allow_unauthenticated
    async def post(self) -> None:
        """Store the body under its CID."""
        self.admit()
        arguments = _PUT.arguments(self.query_texts(), {"data": b""})
        arguments["data"] = bytes(self.body)
        self.body = bytearray()
        self.answer(await context_of(self).call(visitor_of(self).put, **arguments))


class DownloadHandler(ApiHandler):
    """Gives back the bytes of a root; they are somebody's upload and never shown as a page."""

    @allow_unauthenticated
    async def get(self, cid: str) -> None:
        """Send the content of a CID."""
        self.admit()
        data = await context_of(self).call(visitor_of(self).get, cid)
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Disposition", "attachment")
        self.set_header("Content-Security-Policy", "sandbox; default-src 'none'")
        self.set_header("Cache-Control", "private, max-age=31536000, immutable")
        self.set_header("Content-Length", str(len(data)))
        for start in range(0, len(data), _CHUNK):
            self.write(data[start : start + _CHUNK])
            await self.flush()
        self.finish()


class UnknownHandler(ApiHandler):
    """Answers for addresses below the API that do not exist."""

    @allow_unauthenticated
    async def get(self, *_: str) -> None:
        """Say that there is nothing."""
        raise NotFoundError(f"The API has nothing at {self.request.path}.")

    post = put = delete = patch = head = get


def api_handlers() -> list[tuple[str, type[ApiHandler], dict[str, Any]]]:
    """Return the patterns and handlers of the whole API, streams apart."""
    paths: dict[str, dict[str, Operation]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.verb] = Operation.of(route)
    handlers: list[tuple[str, type[ApiHandler], dict[str, Any]]] = [
        (API + re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path), OperationHandler, {"operations": verbs})
        for path, verbs in paths.items()
    ]
    handlers.append((CONTENT, UploadHandler, {}))
    handlers.append((f"{CONTENT}/(?P<cid>[^/]+)", DownloadHandler, {}))
    handlers.append((f"{API}(?:/.*)?", UnknownHandler, {}))
    return handlers


_PUT = Operation.of(Route("put", "POST", "/content"))


def _convert(value: object, kind: Any, name: str, *, strict: bool = False) -> object:
    if isinstance(value, str) and (kind is str or str in get_args(kind)):
        return value  # a text that reads like a number or like null stays a text
    if typing.get_origin(kind) is None and kind is bytes:
        return value
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"{name}: {error}.") from None


def _json_object(body: bytes) -> dict[str, object]:
    if not body:
        return {}
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise InvalidInputError(f"The body must be one JSON object: {error}.") from None
