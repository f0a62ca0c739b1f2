"""Carrying requests and streams between a notebook and a hub elsewhere.

One pool of connections for HTTP, one WebSocket for each stream.  What fails on the way becomes a
`HubUnavailableError` that says what to do; what the hub refuses becomes the error it raised.  The
token travels in the ``Authorization`` header and nowhere else: not in an address, a
representation or a log.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from neuronexus_kernel.errors import (
    ForbiddenError,
    HubUnavailableError,
    InvalidInputError,
    NeuroNexusError,
    QuotaError,
)
from neuronexus_kernel.hub.records import Event
from neuronexus_kernel.hub.routes import CAR, STREAM
from neuronexus_kernel.storage.car import write_all

if TYPE_CHECKING:
    import requests
    from websocket import WebSocket

T = TypeVar("T")

PAUSES = (0.1, 0.3, 0.6, 1.0, 1.0, 2.0, 2.0, 3.0)
"""Seconds to wait before each further attempt to reach a hub that was there before."""

# What a server or a proxy cuts off without a word of explanation is larger than this.
_LARGE = 1024 * 1024
_PIECE = 1024 * 1024
_LONG = 1800.0
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
# The server pings every 15 seconds; three missed pings mean that it is gone.
_SILENCE = 45.0


class Dropped(Exception):
    """A stream could not be opened, or ended without being asked to."""


class Transport:
    """Connections to one hub, for one visitor.

    Parameters
    ----------
    address
        Where the hub answers.
    token
        Proves who the caller is; may be set later.
    timeout
        Seconds to wait for an answer.

    Raises
    ------
    InvalidInputError
        If the address is not an ``http://`` or ``https://`` URL.
    """

    def __init__(self, address: str, token: str | None = None, *, timeout: float = 30.0) -> None:
        self.address = _checked_address(address)
        self.token = token
        self._timeout = timeout
        self._session: requests.Session | None = None
        self._sockets: set[WebSocket] = set()
        self._lock = Lock()
        self._closed = Flag()

    def __repr__(self) -> str:
        return f"Transport({self.address!r})"

    def ask(
        self,
        verb: str,
        path: str,
        returns: type[T],
        *,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
        repeat: bool = False,
        json: bool = False,
    ) -> T:
        """Send a request and return the record in its answer; see `send`."""
        content = self.send(verb, path, query=query, body=body, repeat=repeat, json=json)
        return self._decode(content or b"null", returns)

    def send(
        self,
        verb: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
        repeat: bool = False,
        json: bool = False,
    ) -> bytes:
        """Send a request and return the bytes of its answer.

        Parameters
        ----------
        repeat
            Whether to try again when the connection fails: only where twice is as good as once.
        json
            Whether the body is JSON; otherwise it is plain bytes.

        Raises
        ------
        HubUnavailableError
            If the hub does not answer, or not as a hub would.
        NeuroNexusError
            What the hub raised.
        """
        import requests

        headers = {"Accept": "application/json, application/problem+json"}
        if body is not None:
            headers["Content-Type"] = "application/json" if json else "application/octet-stream"
        # A silent peer is waited for longer when a lot has to travel.
        patience = self._timeout + (len(body) if body else 0) / 1e6

        def attempt() -> requests.Response:
            return self._request(verb, path, query, headers, patience, data=body)

        try:
            response = _patiently(attempt, requests.ConnectionError) if repeat else attempt()
        except requests.RequestException as error:
            raise self.unreachable(error) from error
        if response.status_code >= 300:
            raise self._problem(response.status_code, response.content, sent=len(body or b""))
        return response.content

    def download(self, path: str, stream: BinaryIO, *, query: dict[str, str]) -> int:
        """Write the bytes of an answer to a stream as they come; return how many; see `send`."""
        import requests

        headers = {"Accept": "*/*, application/problem+json"}
        try:
            response = self._request("GET", path, query, headers, self._long, stream=True)
            with response:
                if response.status_code >= 300:
                    raise self._problem(response.status_code, response.content)
                return write_all(stream, response.iter_content(_PIECE))
        except requests.RequestException as error:
            raise self.unreachable(error) from error

    def upload(self, path: str, stream: BinaryIO, returns: type[T], *, query: dict[str, str]) -> T:
        """Send what a stream holds as it is read; return the record in the answer; see `send`."""
        import requests

        sent = 0

        def pieces() -> Iterator[bytes]:
            nonlocal sent
            while piece := stream.read(_PIECE):
                sent += len(piece)
                yield piece

        headers = {"Accept": "application/json, application/problem+json", "Content-Type": CAR}
        try:
            response = self._request("POST", path, query, headers, self._long, data=pieces())
        except requests.RequestException as error:
            raise self.unreachable(error) from error
        if response.status_code >= 300:
            raise self._problem(response.status_code, response.content, sent=sent)
        return self._decode(response.content, returns)

    def _request(
        self,
        verb: str,
        path: str,
        query: dict[str, str] | None,
        headers: dict[str, str],
        patience: float,
        *,
        data: bytes | Iterator[bytes] | None = None,
        stream: bool = False,
    ) -> requests.Response:
        return self._connections().request(
            verb,
            self.address + path,
            params=query,
            data=data,
            headers=headers,
            auth=self._authorise,
            timeout=(min(self._timeout, 10.0), patience),
            allow_redirects=False,
            stream=stream,
        )

    @property
    def _long(self) -> float:
        """Seconds to wait for a peer that takes a large file apart, or puts it together."""
        return max(self._timeout, _LONG)

    def stream(self, since: int, project: str | None) -> Iterator[Event]:
        """Yield events from one WebSocket connection, until it drops or is closed.

        Raises
        ------
        Dropped
            If the connection fails.
        NeuroNexusError
            What the hub raised.
        """
        socket = self._open_stream(since, project)
        try:
            while True:
                yield from self._decode(_receive(socket), list[Event])
        finally:
            with self._lock:
                self._sockets.discard(socket)
            _wake(socket)
            socket.shutdown()  # type: ignore[no-untyped-call]

    def is_closed(self) -> bool:
        """Return whether `close` was called."""
        return self._closed.is_set()

    def close(self) -> None:
        """End every stream and let go of connections."""
        self._closed.set()
        with self._lock:
            sockets = list(self._sockets)
        for socket in sockets:
            _wake(socket)
        if self._session is not None:
            self._session.close()

    def unreachable(self, error: Exception) -> HubUnavailableError:
        """Return the error that says that the hub does not answer, and what to do."""
        return HubUnavailableError(
            f"The hub at {self.address} does not answer: {_cause(error)}. Start one with "
            "`neuronexus hub start`, or check the address in $NEURONEXUS_HUB."
        )

    def _decode(self, content: str | bytes, returns: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=returns)
        except msgspec.MsgspecError as error:
            raise HubUnavailableError(
                f"{self.address} answered with something that this version does not understand "
                f"({error}). Check that both sides run the same version of NeuroNexus."
            ) from error

    def _connections(self) -> requests.Session:
        with self._lock:
            if self._closed.is_set():
                raise HubUnavailableError("This connection to the hub is closed; connect again.")
            if self._session is None:
                self._session = _session(self.address)
            return self._session

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Given as `auth` so that a .netrc file cannot take its place.
        if self.token is not None:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request

    def _problem(self, status: int, content: bytes, *, sent: int = 0) -> NeuroNexusError:
        try:
            document = msgspec.json.decode(content, type=_Problem)
        except msgspec.MsgspecError:
            if status in (400, 413) and sent > _LARGE:
                return QuotaError(f"The hub does not accept an object of {sent} bytes.")
            return HubUnavailableError(
                f"{self.address} answered {status}, but not as a NeuroNexus hub would. "
                "Check the address."
            )
        return NeuroNexusError.named(document.code)(document.detail)

    def _open_stream(self, since: int, project: str | None) -> WebSocket:
        import websocket

        query = f"since={since}" + (f"&project={quote(project, safe='')}" if project else "")
        bearer = [f"Authorization: Bearer {self.token}"] if self.token else []
        host = urlsplit(self.address).hostname or ""
        socket = websocket.WebSocket(enable_multithread=True)
        try:
            socket.connect(  # type: ignore[no-untyped-call]
                f"ws{self.address.removeprefix('http')}{STREAM}?{query}",
                header=bearer,
                timeout=self._timeout,
                suppress_origin=True,
                http_no_proxy=[host] if host in _LOOPBACK else None,
            )
        except websocket.WebSocketBadStatusException as error:
            if error.status_code in (502, 503, 504):
                raise Dropped(str(error.status_code)) from error
            raise self._problem(error.status_code, error.resp_body or b"") from error
        except (OSError, websocket.WebSocketException) as error:
            raise Dropped(_cause(error)) from error
        socket.settimeout(max(_SILENCE, self._timeout))
        with self._lock:
            self._sockets.add(socket)
        if self._closed.is_set():
            _wake(socket)
        return socket


class _Problem(msgspec.Struct):
    """What this side reads of a problem document (RFC 9457)."""

    code: str
    detail: str = ""


def _checked_address(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInputError(
            f"{address!r} is not the address of a hub; write it like http://127.0.0.1:8765."
        )
    if parts.username or parts.password:
        raise ForbiddenError("A hub's address holds no password; give a token instead.")
    return address.split("?")[0].split("#")[0].rstrip("/")


def _session(address: str) -> requests.Session:
    from http.cookiejar import DefaultCookiePolicy

    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.trust_env = urlsplit(address).hostname not in _LOOPBACK
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_connections=1, pool_maxsize=8))
    return session


def _patiently(attempt: Callable[[], T], failure: type[Exception]) -> T:
    for pause in PAUSES[:2]:
        try:
            return attempt()
        except failure:
            time.sleep(pause)
    return attempt()


def _receive(socket: WebSocket) -> str | bytes:
    import websocket

    try:
        message: str | bytes = socket.recv()
    except (OSError, websocket.WebSocketException) as error:
        raise Dropped(_cause(error)) from error
    if not message:
        raise Dropped("the hub closed the stream")
    return message


def _wake(socket: WebSocket) -> None:
    """Shut a WebSocket down, so that a thread that waits on it goes on and closes it."""
    with contextlib.suppress(OSError):
        socket.abort()  # type: ignore[no-untyped-call]


def _cause(error: BaseException) -> str:
    """Say in a few words what an exception of the network layers is about."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    text = str(error) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
