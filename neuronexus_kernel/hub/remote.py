"""RemoteHub: the hub's interface over HTTP and WebSocket.

`ROUTES` says what the API is; this module only carries.  A call names an operation and its
parameters, and gets back the record that the hub returned or the error that the hub raised, so
that a notebook cannot tell a hub elsewhere from one in its own process.  The token travels in the
``Authorization`` header and nowhere else: not in an address, a representation or a log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from neuronexus_kernel.errors import (
    ForbiddenError,
    HubUnavailableError,
    InvalidInputError,
    NeuroNexusError,
    QuotaError,
)
from neuronexus_kernel.hub.records import (
    Account,
    Balance,
    Codec,
    Contribution,
    Event,
    LedgerLine,
    LedgerStatus,
    Network,
    NewContribution,
    NewProject,
    NewRun,
    Project,
    Root,
    Round,
    Run,
    RunResult,
    Session,
    Sight,
    Version,
)
from neuronexus_kernel.hub.routes import API, BY_OPERATION, CONTENT, STREAM

if TYPE_CHECKING:
    import requests
    from websocket import WebSocket

T = TypeVar("T")

# Repeating these has the effect of doing them once: the caller names what it makes.
_REPEATABLE = frozenset(
    {"create_project", "start_run", "record_round", "finish_run", "submit", "confirm"}
)
# What a server or a proxy cuts off without a word of explanation is larger than this.
_LARGE = 1024 * 1024
_PAUSES = (0.1, 0.3, 0.6, 1.0, 1.0, 2.0, 2.0, 3.0)
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
# The server pings every 15 seconds; three missed pings mean that it is gone.
_SILENCE = 45.0
# A stream that lasted this long was a good one: its end is the first failure again.
_SETTLED = 5.0


class RemoteHub:
    """A hub behind an address; implements `Hub`.

    Parameters
    ----------
    address
        Where the hub answers, for example ``http://127.0.0.1:8765``.
    token
        Proves who the caller is; `login` sets it.
    timeout
        Seconds to wait for an answer before the hub counts as unavailable.

    Raises
    ------
    InvalidInputError
        If the address is not an ``http://`` or ``https://`` URL.
    """

    def __init__(self, address: str, token: str | None = None, *, timeout: float = 30.0) -> None:
        self._address = _checked_address(address)
        self._token = token
        self._timeout = timeout
        self._session: requests.Session | None = None
        self._sockets: set[WebSocket] = set()
        self._lock = Lock()
        self._closed = Flag()

    def __repr__(self) -> str:
        return f"RemoteHub({self._address!r})"

    @property
    def address(self) -> str:
        """The hub's URL, without a slash at its end."""
        return self._address

    # -- accounts -------------------------------------------------------------------------

    def register(self, name: str, password: str) -> Account:
        """See `Hub.register`."""
        return self._call("register", Account, name=name, password=password)

    def login(self, name: str, password: str) -> Session:
        """See `Hub.login`."""
        session = self._call("login", Session, name=name, password=password)
        self._token = session.token
        return session

    def logout(self) -> None:
        """See `Hub.logout`."""
        try:
            if self._token is not None:
                self._call("logout", type(None))
        finally:
            self._token = None

    def whoami(self) -> Account | None:
        """See `Hub.whoami`."""
        return self._call("whoami", Account | None)  # type: ignore[arg-type]

    def create_token(self, label: str) -> Session:
        """See `Hub.create_token`."""
        return self._call("create_token", Session, label=label)

    def accounts(self) -> list[Account]:
        """See `Hub.accounts`."""
        return self._call("accounts", list[Account])

    def add_operator(self, name: str, password: str | None = None) -> Account:
        """See `Hub.add_operator`."""
        return self._call("add_operator", Account, name=name, password=password)

    # -- content --------------------------------------------------------------------------

    def put(
        self,
        data: bytes,
        *,
        name: str = "",
        kind: str = "file",
        visibility: Sight = "public",
        codec: Codec = "file",
    ) -> Root:
        """See `Hub.put`."""
        query = {"name": name, "kind": kind, "visibility": visibility, "codec": codec}
        content = self._send("POST", CONTENT, query=query, body=data, repeat=True)
        return self._decode(content, Root)

    def get(self, cid: str) -> bytes:
        """See `Hub.get`."""
        return self._send("GET", f"{CONTENT}/{quote(cid, safe='')}", repeat=True)

    def roots(self, *, kind: str | None = None) -> list[Root]:
        """See `Hub.roots`."""
        return self._call("roots", list[Root], kind=kind)

    # -- projects and versions ------------------------------------------------------------

    def create_project(self, project: NewProject) -> Project:
        """See `Hub.create_project`."""
        return self._call("create_project", Project, project=project)

    def project(self, name: str) -> Project:
        """See `Hub.project`."""
        return self._call("project", Project, name=name)

    def projects(self) -> list[Project]:
        """See `Hub.projects`."""
        return self._call("projects", list[Project])

    def versions(self, project: str) -> list[Version]:
        """See `Hub.versions`."""
        return self._call("versions", list[Version], project=project)

    # -- training runs --------------------------------------------------------------------

    def start_run(self, run: NewRun) -> Run:
        """See `Hub.start_run`."""
        return self._call("start_run", Run, run=run)

    def record_round(self, run: str, report: Round) -> None:
        """See `Hub.record_round`."""
        self._call("record_round", type(None), run=run, report=report)

    def finish_run(self, run: str, result: RunResult) -> Run:
        """See `Hub.finish_run`."""
        return self._call("finish_run", Run, run=run, result=result)

    def run(self, run: str) -> Run:
        """See `Hub.run`."""
        return self._call("run", Run, run=run)

    def runs(self, project: str) -> list[Run]:
        """See `Hub.runs`."""
        return self._call("runs", list[Run], project=project)

    # -- contributions --------------------------------------------------------------------

    def submit(self, contribution: NewContribution) -> Contribution:
        """See `Hub.submit`."""
        return self._call("submit", Contribution, contribution=contribution)

    def contribution(self, contribution: str) -> Contribution:
        """See `Hub.contribution`."""
        return self._call("contribution", Contribution, contribution=contribution)

    def contributions(self, *, project: str | None = None) -> list[Contribution]:
        """See `Hub.contributions`."""
        return self._call("contributions", list[Contribution], project=project)

    def confirm(self, contribution: str) -> Contribution:
        """See `Hub.confirm`."""
        return self._call("confirm", Contribution, contribution=contribution)

    # -- tokens ---------------------------------------------------------------------------

    def balances(self) -> list[Balance]:
        """See `Hub.balances`."""
        return self._call("balances", list[Balance])

    def balance(self, account: str) -> Balance:
        """See `Hub.balance`."""
        return self._call("balance", Balance, account=account)

    def ledger_lines(self, *, account: str | None = None) -> list[LedgerLine]:
        """See `Hub.ledger_lines`."""
        return self._call("ledger_lines", list[LedgerLine], account=account)

    def verify_ledger(self) -> LedgerStatus:
        """See `Hub.verify_ledger`."""
        return self._call("verify_ledger", LedgerStatus)

    # -- looking --------------------------------------------------------------------------

    def events(
        self, since: int = 0, *, limit: int = 1000, project: str | None = None
    ) -> list[Event]:
        """See `Hub.events`."""
        return self._call("events", list[Event], since=since, limit=limit, project=project)

    def follow(self, since: int = 0, *, project: str | None = None) -> Iterator[Event]:
        """See `Hub.follow`.

        A dropped connection is taken up again where it broke off.

        Raises
        ------
        HubUnavailableError
            If the hub cannot be reached, at first or again.
        """
        last, failures = since, 0
        patience: tuple[float, ...] = _PAUSES[:2]
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                for event in self._stream(last, project):
                    if event.previous != last:
                        raise _Dropped("the stream skipped an event")
                    last, failures, patience = event.seq, 0, _PAUSES
                    yield event
            except _Dropped as dropped:
                if self._closed.is_set():
                    return
                if time.monotonic() - began > _SETTLED:
                    failures, patience = 0, _PAUSES
                if failures == len(patience):
                    raise self._unreachable(dropped) from dropped
                time.sleep(patience[failures])
                failures += 1

    def network(self) -> Network:
        """See `Hub.network`."""
        return self._call("network", Network)

    def close(self) -> None:
        """End every `follow` and let go of connections."""
        self._closed.set()
        with self._lock:
            sockets = list(self._sockets)
        for socket in sockets:
            _end(socket)
        if self._session is not None:
            self._session.close()

    # -- carrying -------------------------------------------------------------------------

    def _call(self, operation: str, returns: type[T], **parameters: object) -> T:
        route = BY_OPERATION[operation]
        given = {name: value for name, value in parameters.items() if value is not None}
        path = route.path
        for name in [name for name in given if f"{{{name}}}" in path]:
            path = path.replace(f"{{{name}}}", quote(_text(given.pop(name), name), safe=""))
        if route.verb == "POST":
            body = msgspec.json.encode(given)
            repeat = operation in _REPEATABLE
            content = self._send("POST", API + path, body=body, repeat=repeat, json=True)
        else:
            query = {name: str(value) for name, value in given.items()}
            content = self._send(route.verb, API + path, query=query, repeat=route.verb == "GET")
        return self._decode(content or b"null", returns)

    def _decode(self, content: bytes, returns: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=returns)
        except msgspec.MsgspecError as error:
            raise HubUnavailableError(
                f"{self._address} answered with something that this version does not understand "
                f"({error}). Check that both sides run the same version of NeuroNexus."
            ) from error

    def _send(
        self,
        verb: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
        repeat: bool = False,
        json: bool = False,
    ) -> bytes:
        import requests

        headers = {"Accept": "application/json, application/problem+json"}
        if body is not None:
            headers["Content-Type"] = "application/json" if json else "application/octet-stream"
        # A silent peer is waited for longer when a lot has to travel.
        patience = self._timeout + (len(body) if body else 0) / 1e6

        def attempt() -> requests.Response:
            return self._connections().request(
                verb,
                self._address + path,
                params=query,
                data=body,
                headers=headers,
                auth=self._authorise,
                timeout=(min(self._timeout, 10.0), patience),
                allow_redirects=False,
            )

        try:
            response = _patiently(attempt, requests.ConnectionError) if repeat else attempt()
        except requests.RequestException as error:
            raise self._unreachable(error) from error
        if response.status_code >= 300:
            raise self._problem(response.status_code, response.content, sent=len(body or b""))
        return response.content

    def _connections(self) -> requests.Session:
        with self._lock:
            if self._closed.is_set():
                raise HubUnavailableError("This connection to the hub is closed; connect again.")
            if self._session is None:
                self._session = _session(self._address)
            return self._session

    def _authorise(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Given as `auth` so that a .netrc file cannot take its place.
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def _problem(self, status: int, content: bytes, *, sent: int = 0) -> NeuroNexusError:
        try:
            document = msgspec.json.decode(content, type=_Problem)
        except msgspec.MsgspecError:
            if status in (400, 413) and sent > _LARGE:
                return QuotaError(f"The hub does not accept an object of {sent} bytes.")
            return HubUnavailableError(
                f"{self._address} answered {status}, but not as a NeuroNexus hub would. "
                "Check the address."
            )
        return NeuroNexusError.named(document.code)(document.detail)

    def _unreachable(self, error: Exception) -> HubUnavailableError:
        return HubUnavailableError(
            f"The hub at {self._address} does not answer: {_cause(error)}. Start one with "
            "`neuronexus hub start`, or check the address in $NEURONEXUS_HUB."
        )

    def _stream(self, since: int, project: str | None) -> Iterator[Event]:
        """Yield events from one WebSocket connection, until it drops or is closed."""
        socket = self._open_stream(since, project)
        try:
            while True:
                yield from msgspec.json.decode(_receive(socket), type=list[Event])
        finally:
            with self._lock:
                self._sockets.discard(socket)
            _end(socket)

    def _open_stream(self, since: int, project: str | None) -> WebSocket:
        import websocket

        query = f"since={since}" + (f"&project={quote(project, safe='')}" if project else "")
        bearer = [f"Authorization: Bearer {self._token}"] if self._token else []
        host = urlsplit(self._address).hostname or ""
        socket = websocket.WebSocket(enable_multithread=True)
        try:
            socket.connect(  # type: ignore[no-untyped-call]
                f"ws{self._address.removeprefix('http')}{STREAM}?{query}",
                header=bearer,
                timeout=self._timeout,
                suppress_origin=True,
                http_no_proxy=[host] if host in _LOOPBACK else None,
            )
        except websocket.WebSocketBadStatusException as error:
            if error.status_code in (502, 503, 504):
                raise _Dropped(str(error.status_code)) from error
            raise self._problem(error.status_code, error.resp_body or b"") from error
        except (OSError, websocket.WebSocketException) as error:
            raise _Dropped(_cause(error)) from error
        socket.settimeout(max(_SILENCE, self._timeout))
        with self._lock:
            self._sockets.add(socket)
        if self._closed.is_set():
            _end(socket)
        return socket


class _Dropped(Exception):
    """A stream ended without being asked to."""


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
    for pause in _PAUSES[:2]:
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
        raise _Dropped(_cause(error)) from error
    if not message:
        raise _Dropped("the hub closed the stream")
    return message


def _end(socket: WebSocket) -> None:
    """Close a WebSocket, also while another thread waits on it."""
    try:
        socket.abort()  # type: ignore[no-untyped-call]
    except OSError:
        pass
    finally:
        socket.shutdown()  # type: ignore[no-untyped-call]


def _cause(error: BaseException) -> str:
    """Say in a few words what an exception of the network layers is about."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    text = str(error) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{name} must be a text that is not empty, not {value!r}.")
    return value
