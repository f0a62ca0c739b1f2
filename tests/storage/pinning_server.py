"""A pinning service for tests: a real HTTP server on loopback that speaks the API 1.0.0.

It keeps requests in memory and moves each from ``queued`` over ``pinning`` to ``pinned`` as it is
looked at.  What services do on bad days, it does to order: refuse, be busy, break off after the
work was done, fail to find content, or answer nonsense.  The API:
https://ipfs.github.io/pinning-services-api-spec/.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

Fault = Callable[["Exchange"], bool]
"""Answers an exchange in its own way and returns True, or returns False to have it answered."""

_STEPS = {"queued": "pinning", "pinning": "pinned"}


class PinningServer(ThreadingHTTPServer):
    """A service with one account.

    Attributes
    ----------
    token
        Of the account.
    requests
        What the account asked for, by id.
    faults
        Answer what comes next, one after the other.
    unfindable
        CIDs that the service cannot find.
    asked
        How often each method was used.
    """

    daemon_threads = True

    def __init__(self, token: str) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.token = token
        self.requests: dict[str, dict] = {}
        self.faults: list[Fault] = []
        self.unfindable: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.queries: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self._moment = datetime.now(UTC)
        self._number = 0

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_address[1]}/psa"

    def accept(self, pin: dict) -> dict:
        """Take a request."""
        self._number += 1
        self._moment += timedelta(milliseconds=1)
        request = {
            "requestid": f"{self._number:06}/é?",  # Ids need not be fit for a path.
            "status": "queued",
            "created": self._moment.isoformat().replace("+00:00", "Z"),
            "pin": pin,
            "delegates": ["/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWService"],
        }
        self.requests[request["requestid"]] = request
        return request

    def look_at(self, request: dict) -> dict:
        """Return a request, and get on with it."""
        shown = dict(request)
        if request["pin"]["cid"] in self.unfindable and request["status"] == "pinning":
            request |= {"status": "failed", "info": {"status_details": "no provider found"}}
        else:
            request["status"] = _STEPS.get(request["status"], request["status"])
        return shown


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: PinningServer

    def handle_method(self) -> None:
        service = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.id = unquote(url.path.removeprefix("/psa/pins").removeprefix("/"))
        with service.lock:
            service.asked[self.command] += 1
            service.queries.append(self.query)
            self.body = json.loads(body) if body else None
            if self.headers.get("Authorization") != f"Bearer {service.token}":
                return self.refuse(401, "UNAUTHORIZED", "the token is unknown")
            fault = service.faults.pop(0) if service.faults else None
            if fault is None or not fault(self):
                self.answer()
            return None

    do_GET = do_POST = do_DELETE = handle_method

    def answer(self) -> None:
        """Answer as a service would."""
        service = self.server
        if self.command == "GET" and not self.id:
            return self.tell(200, self.listing())
        if self.command == "POST" and not self.id:
            return self.tell(202, service.accept(self.body))
        if self.id not in service.requests:
            return self.refuse(404, "NOT_FOUND", "there is no such request")
        if self.command == "GET":
            return self.tell(200, service.look_at(service.requests[self.id]))
        del service.requests[self.id]
        return self.tell(202, service.accept(self.body) if self.command == "POST" else None)

    def listing(self) -> dict:
        """Return the requests that were asked for, the youngest first."""
        found = list(self.server.requests.values())
        query = self.query
        statuses = query.get("status", "pinned").split(",")
        found = [each for each in found if each["status"] in statuses]
        if "cid" in query:
            assert len(query["cid"].split(",")) <= 10
            found = [each for each in found if each["pin"]["cid"] in query["cid"].split(",")]
        if "name" in query:
            found = [each for each in found if self._has_name(each["pin"].get("name", ""))]
        if "before" in query:
            found = [each for each in found if each["created"] < query["before"]]
        if "after" in query:
            found = [each for each in found if each["created"] > query["after"]]
        if "meta" in query:
            meta = json.loads(query["meta"]).items()
            found = [each for each in found if meta <= each["pin"].get("meta", {}).items()]
        found.sort(key=lambda each: each["created"], reverse=True)
        return {"count": len(found), "results": found[: int(query.get("limit", 10))]}

    def _has_name(self, name: str) -> bool:
        wanted, match = self.query["name"], self.query.get("match", "exact")
        if match.startswith("i"):
            wanted, name = wanted.lower(), name.lower()
        return wanted in name if match.endswith("partial") else wanted == name

    def tell(self, status: int, answer: object) -> None:
        """Answer with JSON, or nothing."""
        self.reply(status, b"" if answer is None else json.dumps(answer).encode())

    def refuse(self, status: int, reason: str, details: str) -> None:
        """Answer with an error, as the API says."""
        self.tell(status, {"error": {"reason": reason, "details": details}})

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        """Answer with anything."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self) -> None:
        """Close the connection without a word."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass


# -- faults ----------------------------------------------------------------------------------


def is_busy(status: int = 429, **headers: str) -> Fault:
    """Be too busy to do anything."""
    return says(status, b'{"error": {"reason": "BUSY"}}', **headers)


def says(status: int, body: bytes, **headers: str) -> Fault:
    """Answer with this."""

    def answer(exchange: Exchange) -> bool:
        exchange.reply(status, body, **headers)
        return True

    return answer


def refuses(status: int, reason: str, details: str) -> Fault:
    """Refuse as the API says."""

    def answer(exchange: Exchange) -> bool:
        exchange.refuse(status, reason, details)
        return True

    return answer


def hangs_up(exchange: Exchange) -> bool:
    """Close the connection and do nothing."""
    exchange.hang_up()
    return True


def works_and_hangs_up(exchange: Exchange) -> bool:
    """Do what is asked, and close the connection instead of saying so."""
    tell, exchange.tell = exchange.tell, lambda status, answer: None
    exchange.answer()
    exchange.tell = tell
    exchange.hang_up()
    return True


@contextmanager
def pinning_server(token: str) -> Iterator[PinningServer]:
    """Give a service that runs."""
    server = PinningServer(token)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
