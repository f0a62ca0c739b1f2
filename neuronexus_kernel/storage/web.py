"""Requests that end: HTTP to places that may be slow, silent or hostile.

A time-out on each read does not bound a request: a server can send one byte whenever the time is
almost up.  So an exchange has a deadline for all of it, and when that comes its connection is shut
down from a thread beside, whatever it was waiting for: a TLS handshake, headers, the body.  Bodies
have a limit, redirects are not followed, nothing is unpacked, and no cookie is kept; a token goes
in the header of its own place and nowhere else.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from neuronexus_kernel.errors import ForbiddenError, InvalidInputError

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_PIECE = 256 * 1024
_CONNECTING = 10.0  # seconds, for each address of a host
FAILURES = (
    *(requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException),
    *(OSError, ValueError, AttributeError),  # The last two where a socket ends under a reader.
)

_current = threading.local()


class WebError(Exception):
    """An exchange failed.

    Parameters
    ----------
    what
        How, in a few words.
    unwanted
        Whether there was an answer, but one that was not asked for.
    """

    def __init__(self, what: str, *, unwanted: bool = False) -> None:
        super().__init__(what)
        self.unwanted = unwanted


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said.

    Attributes
    ----------
    status
        HTTP status.
    headers
        Their names in any case.
    body
        All of it, or nothing where it was not asked for.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Web:
    """Connections to one place, for many threads.

    Parameters
    ----------
    address
        ``http://`` or ``https://``, a host, and a path if the place lies below one.
    token
        Sent as a bearer.
    connections
        How many may be open at the same time.

    Raises
    ------
    InvalidInputError
        If the address is none.
    ForbiddenError
        If it holds a password.
    """

    def __init__(self, address: str, *, token: str | None = None, connections: int = 8) -> None:
        self.address = _checked(address)
        self._token = token
        self._session = requests.Session()
        self._exchanges: set[Exchange] = set()
        prepare(self._session, self.address, connections=connections)

    def __repr__(self) -> str:
        return f"Web({self.address!r})"

    def ask(
        self,
        method: str,
        path: str,
        *,
        limit: int,
        seconds: float,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
    ) -> Answer:
        """Send a request and return the whole answer.

        Parameters
        ----------
        method, path
            The path begins with a slash, and may have a query.
        limit
            Bytes of body that are taken.
        seconds
            For all of it, from the connection on.
        data
            The body of the request.

        Raises
        ------
        WebError
            If no answer came in time, or its body was cut off, packed or above the limit.
        """
        with Exchange(seconds, self._exchanges) as exchange:
            try:
                with self._session.request(
                    method,
                    self.address + path,
                    headers={**(headers or {}), "Accept-Encoding": "identity"},
                    data=data,
                    auth=self._authorise,
                    timeout=(min(seconds, _CONNECTING), seconds),
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    status, told = response.status_code, dict(response.headers.lower_items())
                    body = b"" if method == "HEAD" else _body(response, status, limit)
            except FAILURES as error:
                if exchange.is_cut:
                    raise WebError(f"it took longer than {seconds:g} seconds") from None
                raise WebError(cause_of(error)) from None
            if exchange.is_cut:
                raise WebError(f"it took longer than {seconds:g} seconds")
        return Answer(status, told, body)

    def close(self) -> None:
        """Break off what is under way, and let go of the connections."""
        for exchange in list(self._exchanges):
            exchange.cut()
        self._session.close()

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Given as `auth` so that a .netrc file cannot take its place.
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _checked(address: str) -> str:
    parts = urlsplit(address) if isinstance(address, str) else urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInputError(
            f"{address!r} is no address; write it like https://example.org or "
            "http://127.0.0.1:8765."
        )
    if parts.username or parts.password:
        raise ForbiddenError("An address holds no password; give a token instead.")
    return address.split("?")[0].split("#")[0].rstrip("/")


def _body(response: requests.Response, status: int, limit: int) -> bytes:
    if status != 200:
        # Of an error only so much is read that the connection can mostly be used again.
        return bytes(response.raw.read(_PIECE, decode_content=False))
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise WebError("it sent a packed body, which was not asked for", unwanted=True)
    pieces, size = [], 0
    # `raw.read`, and not `raw.stream`: the standard library bounds the lines between chunks.
    while piece := response.raw.read(_PIECE, decode_content=False):
        size += len(piece)
        if size > limit:
            raise WebError(f"it sent more than {limit} bytes", unwanted=True)
        pieces.append(piece)
    return b"".join(pieces)


def cause_of(error: BaseException) -> str:
    """Return what is at the bottom of an error of the network, in a few words."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    text = str(error) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def prepare(
    session: requests.Session, address: str, *, connections: int, wait: bool = True
) -> None:
    """Make a session ready for one place: its connections can be watched, and nothing is kept.

    Parameters
    ----------
    session, address
        The session, and where it leads.
    connections
        How many are kept open.
    wait
        Whether no more are opened than that.
    """
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    # Proxies of the environment are for elsewhere.
    session.trust_env = urlsplit(address).hostname not in LOOPBACK
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(pool_maxsize=connections, pool_block=wait))


class Exchange:
    """One request and its answer, on a connection that is shut down when the time is up.

    Parameters
    ----------
    seconds
        From entering the ``with`` block on.
    among
        It is one of these until it is over, so that all of them can be cut.

    Attributes
    ----------
    is_cut
        Whether that was done.
    """

    def __init__(self, seconds: float, among: set[Exchange]) -> None:
        self._among = among
        self._timer = threading.Timer(seconds, self.cut)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.is_cut = False

    def __enter__(self) -> Exchange:
        _current.exchange = self
        self._among.add(self)
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._among.discard(self)
        _current.exchange = None
        with self._lock:
            for line in self._sockets:
                line.close()
            self._sockets.clear()

    def watch(self, line: socket.socket) -> None:
        """Shut this connection down when the time is up."""
        with self._lock:
            # Another handle of the same connection: TLS takes the first one away.
            self._sockets.append(socket.socket(fileno=os.dup(line.fileno())))
            if self.is_cut:
                self._shut()

    def cut(self) -> None:
        """Shut its connection down now."""
        with self._lock:
            self.is_cut = True
            self._shut()

    def _shut(self) -> None:
        for line in self._sockets:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def _watched(line: socket.socket | None) -> None:
    exchange: Exchange | None = getattr(_current, "exchange", None)
    if exchange is not None and line is not None:
        exchange.watch(line)


class _Watched:
    """Shows an exchange the connection that it goes over, new or used before."""

    sock: Any

    def _new_conn(self) -> socket.socket:
        line: socket.socket = super()._new_conn()  # type: ignore[misc]
        _watched(line)
        return line

    def request(self, *args: Any, **kwargs: Any) -> None:
        _watched(self.sock)
        super().request(*args, **kwargs)  # type: ignore[misc]


class _HTTPConnection(_Watched, HTTPConnection):
    pass


class _HTTPSConnection(_Watched, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._prepare(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        self._prepare(manager)
        return manager

    @staticmethod
    def _prepare(manager: Any) -> None:
        if "socks" not in type(manager).__module__:
            manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
