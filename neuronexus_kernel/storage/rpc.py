"""Speaking to an IPFS node: the one place that knows `ipfshttpclient`.

The library's last version knows nodes up to Kubo 0.7; the commands that are needed here are still
the same in Kubo 0.43 (https://docs.ipfs.tech/reference/kubo/rpc/), so a `Client` is made without
`connect`, which would refuse newer ones.  Of it we take what builds an address, a request and a
multipart body, and read the answers ourselves: the library waits without end, takes answers of any
size, and knows neither all options nor the form in which newer nodes list pins.

A node is believed in nothing.  Each exchange has an end in time and each answer one in bytes, and
only errors of our own come out, which never hold a secret.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from neuronexus_kernel.errors import (
    NeuroNexusError,
    NotFoundError,
    StoreError,
    StoreUnavailable,
)
from neuronexus_kernel.storage.endpoints import Endpoint

if TYPE_CHECKING:
    import ipfshttpclient
    import requests

    from neuronexus_kernel.storage.web import Exchange

Message: TypeAlias = "dict[str, Any]"
"""One JSON object of an answer."""

_PIECE = 256 * 1024
_LONGEST_MESSAGE = 64 * 1024 * 1024
_LONGEST_PROBLEM = 64 * 1024
_CONNECTING = 10.0
_CONNECTIONS = 64
_SLACK = 5.0
"""Seconds that a node has to say that its own time is up, before we stop waiting."""

_ABSENT = re.compile(
    r"not found|could not find|no such|not pinned|timed out|deadline exceeded|cannot fetch", re.I
)


class NotOffered(StoreUnavailable):
    """The node does not offer a command: hosted nodes leave some of them away."""


class Rpc:
    """The commands of one node, for many threads.

    Parameters
    ----------
    endpoint
        Where it answers.
    seconds
        How long a command may take, and how long the node may be silent while content travels.
    """

    def __init__(self, endpoint: Endpoint, *, seconds: float) -> None:
        self.endpoint = endpoint
        self._seconds = seconds
        self._mutex = threading.Lock()
        self._client: ipfshttpclient.Client | None = None
        self._process = 0
        self._exchanges: set[Exchange] = set()

    def __repr__(self) -> str:
        return f"Rpc({self.endpoint.url!r})"

    def read(
        self, command: str, *arguments: str, limit: int, search: float | None = None, **options: str
    ) -> bytes:
        """Return the bytes that a command gives.

        Parameters
        ----------
        command, arguments, options
            As in Kubo's documentation: ``"block/get"``, ``"bafy..."``.
        limit
            The most bytes that are taken.
        search
            How many seconds the node may look for something in its network; None leaves it to it.

        Raises
        ------
        NotFoundError
            If the node says that it does not have what is asked for.
        StoreError
            If it gives more than `limit` bytes, or refuses for another reason.
        StoreUnavailable
            If it cannot be reached, does not answer in time, or does not know who asks.
        """
        taken = bytearray()
        with self._asked(command, arguments, options, search=search) as pieces:
            for piece in pieces:
                taken += piece
                if len(taken) > limit:
                    raise StoreError(
                        f"The node at {self.endpoint} gave more than {limit} bytes for {command}; "
                        "they were not taken."
                    )
        return bytes(taken)

    def ask(
        self, command: str, *arguments: str, search: float | None = None, **options: str
    ) -> list[Message]:
        """Return the messages that a command gives; see `read` for the rest."""
        with self._asked(command, arguments, options, search=search) as pieces:
            return list(self._messages(command, pieces))

    def follow(
        self, command: str, *arguments: str, **options: str
    ) -> Generator[Message, None, None]:
        """Give the messages of a command as they come, for as long as some come."""
        with self._asked(command, arguments, options, endless=True) as pieces:
            yield from self._messages(command, pieces)

    def send(self, command: str, pieces: Iterable[bytes], **options: str) -> list[Message]:
        """Send bytes as a file, piece by piece, and return the messages of the answer.

        What `pieces` raises comes out as it is.
        """
        from ipfshttpclient import multipart

        problems: list[BaseException] = []

        def noted() -> Iterator[bytes]:
            try:
                yield from pieces
            except BaseException as problem:
                problems.append(problem)
                raise

        body, headers = multipart.stream_bytes(noted(), chunk_size=_PIECE)
        try:
            with self._asked(
                command, (), options, endless=True, body=body, headers=headers
            ) as answer:
                return list(self._messages(command, answer))
        except (StoreUnavailable, NotFoundError) as error:
            for problem in problems:
                raise problem from None
            if isinstance(error, NotFoundError):  # The node misses something that was to be sent.
                raise StoreError(str(error)) from None
            raise

    def offers(self, command: str) -> bool:
        """Tell whether a node knows a command that takes a file, by giving it none.

        So it also becomes clear whether the node is there and takes our credentials, before
        anything large is sent.
        """
        try:
            self.ask(command)
        except NotOffered:
            return False
        except (NotFoundError, StoreError):
            pass  # "argument 'path' is required", say.
        return True

    def close(self) -> None:
        """Break off what is under way; the next command opens new connections."""
        for exchange in list(self._exchanges):
            exchange.cut()
        with self._mutex:
            if self._client is not None and self._process == os.getpid():
                self._client.close()
            self._client = None

    # -- one exchange -----------------------------------------------------------------------

    @contextmanager
    def _asked(
        self,
        command: str,
        arguments: tuple[str, ...],
        options: dict[str, str],
        *,
        search: float | None = None,
        endless: bool = False,
        body: Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Iterator[Iterator[bytes]]:
        """Send a command; give the pieces of its answer."""
        from ipfshttpclient.exceptions import Error, ProtocolError

        from neuronexus_kernel.storage.web import FAILURES, Exchange

        seconds = self._seconds
        params = [(name.replace("_", "-"), value) for name, value in options.items()]
        if search is not None:
            params.append(("timeout", f"{round(1000 * search)}ms"))
            seconds = search + _SLACK
        params += [("arg", argument) for argument in arguments]

        def exchange() -> tuple[list[Any], Iterator[bytes]]:
            # With a body the first of the two also bounds how long it may stick on its way.
            connecting = seconds if body is not None else min(seconds, _CONNECTING)
            used, pieces = self._opened()._request(
                "POST",
                command,
                params,
                auth=None,
                data=body,
                headers={"Accept-Encoding": "identity", **(headers or {})},
                timeout=(connecting, seconds),
                chunk_size=_PIECE,
            )
            return used, pieces

        # Where an answer may go on for ever, each silence has an end instead.
        watch = Exchange(24 * 3600.0 if endless else seconds, self._exchanges)
        with watch:
            try:
                try:
                    used, pieces = exchange()
                except ProtocolError:
                    if body is not None:
                        raise
                    used, pieces = exchange()  # A node ends a connection that was idle for long.
                try:
                    yield pieces
                finally:
                    for each in used:
                        each.close()
            except (*FAILURES, Error) as error:
                if isinstance(error, NeuroNexusError):
                    raise
                raise self._unreachable(error, seconds if watch.is_cut else None) from None
            if watch.is_cut:
                raise self._unreachable(TimeoutError(), seconds)

    def _opened(self) -> Any:
        """Return the library's own client for HTTP, with connections of this process."""
        with self._mutex:
            if self._client is None or self._process != os.getpid():
                self._client = self._open()
                self._process = os.getpid()
            return self._client._client

    def _open(self) -> ipfshttpclient.Client:
        import ipfshttpclient

        from neuronexus_kernel.storage.web import prepare

        # As a name, so that the library leaves the choice of an address family to the system;
        # otherwise it would take its own connections, which cannot be watched.
        scheme = urlsplit(self.endpoint.url).scheme
        client = ipfshttpclient.Client(
            f"/dns/{self.endpoint.host}/tcp/{self.endpoint.port}/{scheme}",
            base=f"{urlsplit(self.endpoint.url).path}/api/v0",
            auth=self.endpoint.credentials or _nobody,
            session=True,
        )
        session = client._client._session
        # One command may be asked for while another one is being answered: none waits for its turn.
        prepare(session, self.endpoint.url, connections=_CONNECTIONS, wait=False)
        session.max_redirects = 0
        session.hooks["response"].append(self._check)
        return client

    # -- answers ----------------------------------------------------------------------------

    def _messages(self, command: str, pieces: Iterator[bytes]) -> Iterator[Message]:
        rest = bytearray()
        for piece in pieces:
            rest += piece
            if b"\n" in piece:
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    yield from self._message(command, line)
            if len(rest) > _LONGEST_MESSAGE:
                raise self._nonsense(command)
        yield from self._message(command, rest)

    def _message(self, command: str, line: bytearray) -> Iterator[Message]:
        if not line.strip():
            return
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise self._nonsense(command) from None
        if not isinstance(message, dict):
            raise self._nonsense(command)
        if message.get("Type") == "error" and isinstance(message.get("Message"), str):
            raise self._refusal(command, message["Message"])
        yield message

    def _check(self, response: requests.Response, **_: object) -> None:
        """Raise what an answer other than 200 means; `requests` calls this."""
        status = response.status_code
        if status == 200:
            return
        command = urlsplit(response.url).path.partition("/api/v0/")[2]
        try:
            text = response.raw.read(_LONGEST_PROBLEM, decode_content=False)
        finally:
            response.close()
        if status in (401, 403):
            raise StoreUnavailable(
                f"The node at {self.endpoint} does not let us in (it answered {status}). Check "
                "NEURONEXUS_IPFS, or INFURA_IPFS_ID and INFURA_IPFS_SECRET."
            )
        if status in (404, 405, 501):
            raise NotOffered(
                f"The node at {self.endpoint} does not offer {command} (it answered {status}). "
                "Check the address: it must be that of an RPC API, not of a gateway."
            )
        try:
            reason = str(json.loads(text)["Message"])
        except (ValueError, RecursionError, KeyError, TypeError):
            reason = ""
        if status in (429, 502, 503, 504) or not (reason or status == 400):
            raise StoreUnavailable(
                f"The node at {self.endpoint} cannot do {command} now (it answered {status}). "
                "Try again later."
            )
        raise self._refusal(command, reason or text.decode(errors="replace"))

    def _refusal(self, command: str, reason: str) -> NeuroNexusError:
        kind = NotFoundError if _ABSENT.search(reason) else StoreError
        reason = self.endpoint.hide(reason).rstrip(".")
        return kind(f"The node at {self.endpoint} refused {command}: {reason}.")

    def _nonsense(self, command: str) -> StoreError:
        return StoreError(
            f"The node at {self.endpoint} gave an answer to {command} that is none. Check the "
            "address: it must be that of a node's RPC API."
        )

    def _unreachable(self, error: Exception, seconds: float | None) -> StoreUnavailable:
        from neuronexus_kernel.storage.web import cause_of

        how = cause_of(error) if seconds is None else f"it took longer than {seconds:g} seconds"
        return StoreUnavailable(
            f"The node at {self.endpoint} does not answer: {self.endpoint.hide(how).rstrip('.')}. "
            "Start it, or check NEURONEXUS_IPFS."
        )


def _nobody(request: requests.PreparedRequest) -> requests.PreparedRequest:
    # Given as `auth` so that a .netrc file cannot take its place.
    return request
