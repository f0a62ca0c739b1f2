"""The REST API, made from the table of routes and the hub's own type hints.

A handler parses, calls the hub as the visitor, and renders; it holds no rule of its own.  Bodies
are read as they come and refused once they are too large.  Listings come page by page
(`listings`), what changes something may be repeated (`replaying`), and what has not changed is not
sent again (``ETag``).  Content is `contents`' business.
"""

from __future__ import annotations

import math
import re
from asyncio import Future
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import msgspec
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from tornado.web import HTTPError, stream_request_body

from neuronexus_kernel.errors import (
    AuthenticationError,
    ForbiddenError,
    NeuroNexusError,
    NotFoundError,
    QuotaError,
)
from neuronexus_kernel.hub.replays import Fingerprint, Outcome
from neuronexus_kernel.hub.routes import API, RENEWAL, ROUTES
from neuronexus_kernel.hub.signins import OWNER
from neuronexus_kernel.settings import MIB
from neuronexus_server.authorizer import ForMembers
from neuronexus_server.bodies import json_object
from neuronexus_server.context import context_of, source_of, visitor_of
from neuronexus_server.listings import Listing
from neuronexus_server.operations import Operation
from neuronexus_server.problems import Problems
from neuronexus_server.rates import Allowance, told
from neuronexus_server.replaying import HEADER, REPLAYED, key_in

RECORD_LIMIT = 2 * MIB
"""Largest JSON body of a request, in bytes."""

STRANGERS_LIMIT = 16 * 1024
"""Largest JSON body where it comes from somebody who is not signed in."""

MAX_ADDRESS = 8 * 1024
"""Longest path and query of a request, in bytes."""

# A body that is too large is read and thrown away; one that is twice too large is cut off.
_OVERRUN = 16 * MIB
# The parameter by which the next page of a numbered listing is asked for.
_NUMBERED = {"events": "since", "audit": "before"}


class ApiHandler(ForMembers, Problems, JupyterHandler):
    """Base of the API's handlers: who is asking, and how much they may send."""

    is_rated = True
    """Whether its requests count against what a visitor may ask for."""

    takes: tuple[str, ...] = ("application/json",)
    """Media types of the bodies it reads; empty for any."""

    longest = MAX_ADDRESS
    """Bytes of the longest address."""

    fingerprint: Fingerprint | None = None
    """What tells this request from others under its key; who hands its body on adds that."""

    _allowance: Allowance | None = None
    _received = 0
    _limit = 0

    def prepare_limit(self) -> int:
        """Return how many bytes of body this request may have."""
        is_known = self.request.headers.get("Authorization") or self.request.headers.get("Cookie")
        return RECORD_LIMIT if is_known else STRANGERS_LIMIT

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
            self.check_form()
            await super().prepare()
            await context_of(self).identify(self)
            self.check_visitor()
            self.check_rate()
            key = key_in(self.request.headers.get(HEADER))
            if key is not None and self.request.method in ("POST", "DELETE"):
                self.fingerprint = Fingerprint(key, self.request.method, self.request.uri or "")
        except (NeuroNexusError, HTTPError) as error:
            self._refusal = error

    def check_form(self) -> None:
        """Refuse addresses that are too long, and bodies that are not what they seem."""
        headers = self.request.headers
        if len(self.request.uri or "") > self.longest:
            raise HTTPError(414)
        if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            raise HTTPError(415)
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind and self.takes and self.request.method in ("POST", "PATCH", "PUT"):
            is_json = "application/json" in self.takes and kind.endswith("+json")
            if kind not in self.takes and not is_json:
                raise HTTPError(415)

    def check_rate(self) -> None:
        """Refuse a visitor who asks too much at once."""
        account = self.account_name
        if not self.is_rated or account == OWNER.name:
            return
        visitor = account or f"@{source_of(self)}"
        allowance = self._allowance = context_of(self).rates.take(visitor)
        if allowance is not None and allowance.wait > 0:
            raise QuotaError(
                "Too many requests: come again in a moment (see Retry-After). An operator sets "
                "the limit by NEURONEXUS_REQUESTS_PER_SECOND."
            )

    @property
    def account_name(self) -> str:
        """Whose request this is; empty for a stranger's."""
        # Jupyter's own user, where it has one, is another with each request.
        account = visitor_of(self).whoami()
        return "" if account is None else account.name

    def check_visitor(self) -> None:
        """Refuse pages of other sites and sign-ins that have ended."""
        if not self.check_origin():
            raise ForbiddenError("Requests from pages of other sites are not answered.")
        if self.neuronexus_credentials and self.current_user is None:
            raise AuthenticationError("The sign-in has ended; sign in again.")
        credentials = visitor_of(self).credentials
        if self.token_authenticated and credentials is not None and credentials.due:
            self.set_header(RENEWAL, "due")

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

    async def once(
        self,
        operation: str,
        act: Callable[[], Awaitable[Outcome]],
        *,
        body: bytes | None = None,
        secret: bool = False,
    ) -> None:
        """Carry out what is asked for, once if the request names itself by a key, and answer.

        Parameters
        ----------
        operation
            The method of `Hub` that it amounts to: only who may call it now is told what it came
            to before.
        body
            What tells the request from others under its key; by default its body.
        secret
            Whether the answer holds a credential.
        """
        if self.fingerprint is None:
            self.send(await act())
            return
        context = context_of(self)
        await context.call(visitor_of(self).admit, operation)
        self.fingerprint.update(self.body if body is None else body)
        outcome, was_done = await context.replaying.once(
            self.account_name, self.fingerprint, act, secret=secret
        )
        if was_done:
            self.set_header(REPLAYED, "true")
        self.send(outcome)

    def answer(self, result: object) -> None:
        """Send a record as JSON."""
        self.send(Outcome(200, msgspec.json.encode(result)))

    def send(self, outcome: Outcome) -> None:
        """Send an answer that is JSON, or nothing."""
        self.set_status(outcome.status)
        if outcome.status == 204:
            self.finish()
            return
        # Tornado adds the ETag of an answer to GET, and answers 304 where the visitor has it.
        is_kept = self.request.method in ("GET", "HEAD")
        self.set_header("Cache-Control", "private, no-cache" if is_kept else "no-store")
        self.set_header("Vary", "Authorization, Cookie")
        self.set_header("Content-Type", "application/json")
        self.finish(outcome.body)

    def flush(self, include_footers: bool = False) -> Future[None]:
        """Say what the visitor may still ask for, as part of the headers."""
        if self._allowance is not None and not self._headers_written:
            self.set_header("RateLimit-Policy", context_of(self).rates.policy)
            self.set_header("RateLimit", told(self._allowance))
        return super().flush(include_footers)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write a problem document, and what to do next where a header says it."""
        if status_code == 405:
            self.set_header("Allow", ", ".join(self.allowed()))
        if status_code == 429 and self._allowance is not None and self._allowance.wait > 0:
            self.set_header("Retry-After", str(max(1, math.ceil(self._allowance.wait))))
        super().write_error(status_code, **kwargs)

    def allowed(self) -> list[str]:
        """Return the methods that this address knows."""
        return ["GET", "HEAD"]

    @allow_unauthenticated
    async def refuse(self, *_: str, **__: str) -> None:
        """Answer a method that this address does not know."""
        self.admit()
        raise HTTPError(405)

    get = head = post = put = patch = delete = options = refuse

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

    def allowed(self) -> list[str]:
        """Return the methods that this address knows."""
        return [*self._operations, "HEAD"] if "GET" in self._operations else [*self._operations]

    @allow_unauthenticated
    async def get(self, **path: str) -> None:
        """Answer a question."""
        operation = self._operation("GET")
        query = self.query_texts()
        if not operation.is_listing:
            found = await self._call(operation, operation.arguments({**query, **path}, {}))
            self._link_to_more(operation, found)
            self.answer(found)
            return
        listing = Listing(operation.route.operation, query)
        arguments = operation.arguments({**query, **path}, {}) | listing.arguments
        page, link = listing.page(await self._call(operation, arguments))
        if link is not None:
            self.set_header("Link", f'<{link}>; rel="next"')
        self.answer(page)

    head = get

    @allow_unauthenticated
    async def post(self, **path: str) -> None:
        """Make or change something."""
        operation = self._operation("POST")
        await self._change(operation, operation.arguments(path, json_object(bytes(self.body))))

    @allow_unauthenticated
    async def delete(self, **path: str) -> None:
        """End something."""
        operation = self._operation("DELETE")
        await self._change(operation, operation.arguments({**self.query_texts(), **path}, {}))

    async def _change(self, operation: Operation, arguments: dict[str, object]) -> None:
        async def act() -> Outcome:
            result = await self._call(operation, arguments)
            return (
                Outcome(204, b"") if result is None else Outcome(200, msgspec.json.encode(result))
            )

        body = operation.shown(arguments) if operation.takes_passwords else None
        name = operation.route.operation
        await self.once(name, act, body=body, secret=operation.is_secret)

    def _operation(self, verb: str) -> Operation:
        self.admit()
        operation = self._operations.get(verb)
        if operation is None:
            raise HTTPError(405)
        return operation

    async def _call(self, operation: Operation, arguments: dict[str, object]) -> Any:
        context, name = context_of(self), operation.route.operation
        method: Callable[..., object] = getattr(visitor_of(self), name)
        if operation.takes_passwords:
            async with context.password_checks:
                return await context.call(method, **arguments)
        return await context.call(method, **arguments)

    def _link_to_more(self, operation: Operation, found: Any) -> None:
        """Lead on from a page of what is numbered and needs no cursor."""
        parameter = _NUMBERED.get(operation.route.operation)
        if parameter is not None and found:
            query = {**self.query_texts(), parameter: found[-1].seq}
            self.set_header("Link", f'<?{urlencode(query)}>; rel="next"')


class UnknownHandler(ApiHandler):
    """Answers for addresses below the API that do not exist."""

    @allow_unauthenticated
    async def get(self, *_: str) -> None:
        """Say that there is nothing."""
        raise NotFoundError(f"The API has nothing at {self.request.path}.")

    post = put = delete = patch = head = options = get


def operation_handlers() -> list[tuple[str, type[ApiHandler], dict[str, Any]]]:
    """Return the patterns and handlers of the operations, and of what is nothing; the last ones."""
    paths: dict[str, dict[str, Operation]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.verb] = Operation.of(route)
    handlers: list[tuple[str, type[ApiHandler], dict[str, Any]]] = [
        (API + re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path), OperationHandler, {"operations": verbs})
        for path, verbs in paths.items()
    ]
    handlers.append((f"{API}(?:/.*)?", UnknownHandler, {}))
    return handlers
