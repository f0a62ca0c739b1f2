"""Gateways for tests, on loopback: one that serves blocks in memory, and lines that misbehave."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from neuronexus_kernel.content import CID


class HonestGateway(ThreadingHTTPServer):
    """Serves raw blocks, as the specification says, and remembers what it was asked for.

    Attributes
    ----------
    blocks
        What it has; `answer` may be set to give something else.
    asked
        How often each CID was asked for.
    """

    daemon_threads = True

    def __init__(self, blocks: dict[CID, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blocks = {cid.digest: block for cid, block in blocks.items()}
        self.asked: Counter[CID] = Counter()
        self.tokens: set[str | None] = set()
        self.at_once = self.most_at_once = 0
        self.pause = 0.0
        self.answer: Callable[[CID, BaseHTTPRequestHandler], bool] = lambda cid, handler: False
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that go away in the middle are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HonestGateway

    def do_GET(self) -> None:
        gateway = self.server
        cid = CID.parse(urlsplit(self.path).path.rpartition("/")[2])
        with gateway.lock:
            gateway.asked[cid] += 1
            gateway.tokens.add(self.headers.get("Authorization"))
            gateway.at_once += 1
            gateway.most_at_once = max(gateway.most_at_once, gateway.at_once)
        time.sleep(gateway.pause)
        with gateway.lock:
            gateway.at_once -= 1
        if not gateway.answer(cid, self):
            block = gateway.blocks.get(cid.digest)
            self.reply(404 if block is None else 200, block or b"")

    do_HEAD = do_GET

    def reply(self, status: int, body: bytes = b"", **headers: str) -> bool:
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(OSError):
                self.wfile.write(body)
        return True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def honest_gateway(blocks: dict[CID, bytes]) -> Iterator[HonestGateway]:
    server = HonestGateway(blocks)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def line(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Listen, and let `behave` have each connection; give the address."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def converse(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            behave(connection)

    def accept() -> None:
        while not stopped.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                threading.Thread(target=converse, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()
