"""A stand-in for an IPFS node: not Kubo, but a real HTTP server on loopback that speaks its RPC.

It knows the commands that `KuboStore` uses and answers as Kubo 0.43 does (one JSON message a line,
errors as ``{"Message", "Code", "Type"}`` with status 500, pins with names), over a `BlockStore` on
disk.  What real nodes do rarely, it does to order: be down, slow, silent or hostile, break off,
keep half of what it was sent, ask for a password, or offer less.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from neuronexus_kernel.content.cid import CID, CODECS
from neuronexus_kernel.errors import NeuroNexusError, NotFoundError, StoreError
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import car, dag
from neuronexus_kernel.storage.blocks import BlockStore

Fault = Callable[["Exchange"], bool]
"""Answers an exchange in its own way and returns True, or returns False to have it answered."""


class LoopbackNode:
    """A node with a repository of its own.

    Parameters
    ----------
    repository
        A folder; what is in it survives `stop`.
    tls
        With this it speaks https, at 127.0.0.2: a name for which certificates count.

    Attributes
    ----------
    asked
        How often each command was asked for.
    faults
        What to do otherwise than a node would, by command.
    login
        Name and password that are asked for, if any.
    sent
        Bytes of blocks that were sent to it.
    """

    def __init__(self, repository: Path, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._host = "127.0.0.2" if tls else "127.0.0.1"
        self.blocks = BlockStore(repository, StorageSettings(fsync="never"))
        self.pins: dict[CID, tuple[str, str]] = {}
        self.asked: Counter[str] = Counter()
        self.options: list[tuple[str, dict[str, str]]] = []
        self.faults: dict[str, Fault] = {}
        self.login: tuple[str, str] | None = None
        self.sent = 0
        self.port = 0
        self.connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        """Where it answers, also while it is stopped."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    def start(self) -> LoopbackNode:
        """Answer from now on, at the same address as before."""
        node = self

        class Handler(Exchange):
            pass

        Handler.node = node
        self._server = ThreadingHTTPServer((self._host, self.port), Handler)
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            self._server.shutdown()
            for connection in list(self.connections):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._server.server_close()
            self._thread.join()
            self._server = None

    def __enter__(self) -> LoopbackNode:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def has(self, cid: CID) -> bool:
        """Tell whether the block is here."""
        return self.blocks.has(cid)

    def digests(self) -> set[bytes]:
        """Return the digests of all blocks that are here."""
        return {CID.parse(file.name).digest for file in self.blocks.files()}

    def put(self, blocks: Iterator[tuple[CID, bytes]]) -> None:
        """Keep some blocks."""
        with self.blocks.batch() as batch:
            for cid, block in blocks:
                self.sent += len(block)
                batch.put(cid, block)


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    node: LoopbackNode

    def setup(self) -> None:
        super().setup()
        self.node.connections.add(self.connection)

    def finish(self) -> None:
        self.node.connections.discard(self.connection)
        super().finish()

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        self.command_name = url.path.partition("/api/v0/")[2]
        query = parse_qs(url.query)
        self.arguments = query.pop("arg", [])
        self.option = {name: values[-1] for name, values in query.items()}
        node = self.node
        node.asked[self.command_name] += 1
        node.options.append((self.command_name, self.option))
        self._file: bytes | None = None
        self._body_is_read = "multipart" not in self.headers.get("Content-Type", "")
        try:
            if not self._knows_who_asks():
                return self.reply(401, b"authorization required\n", "text/plain")
            fault = node.faults.get(self.command_name)
            if fault is None or not fault(self):
                self.answer()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _knows_who_asks(self) -> bool:
        if self.node.login is None:
            return True
        right = base64.b64encode(":".join(self.node.login).encode()).decode()
        return self.headers.get("Authorization") == f"Basic {right}"

    def answer(self) -> None:
        """Answer as a node would."""
        handle = getattr(self, "do_" + self.command_name.replace("/", "_"), None)
        if handle is None:
            return self.reply(404, b"404 page not found\n", "text/plain")
        try:
            return handle()
        except NotFoundError:
            text = (
                f"block was not found locally (offline): ipld: could not find {self.arguments[0]}"
            )
            return self.refuse(text)
        except NeuroNexusError as error:
            return self.refuse(str(error))

    # -- commands ---------------------------------------------------------------------------

    def do_id(self) -> None:
        self.tell(
            {
                "ID": "12D3KooWLoopback",
                "AgentVersion": "loopback/1.0",
                "Addresses": ["/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWLoopback"],
            }
        )

    def do_swarm_peers(self) -> None:
        self.tell({"Peers": [{"Addr": "/ip4/127.0.0.1/tcp/4002", "Peer": "12D3KooWOther"}]})

    def do_repo_stat(self) -> None:
        usage = self.node.blocks.usage()
        self.tell({"RepoSize": usage.bytes, "StorageMax": 10**10, "NumObjects": usage.blocks})

    def do_block_get(self) -> None:
        self.reply(200, self.node.blocks.get(self._cid()), "application/vnd.ipld.raw")

    def do_block_stat(self) -> None:
        cid = self._cid()
        self.tell({"Key": str(cid), "Size": len(self.node.blocks.get(cid))})

    def do_block_put(self) -> None:
        codecs = {name: code for code, name in CODECS.items()}
        cid = CID.of(self.file(), codecs[self.option["cid-codec"]])
        self.node.put(iter([(cid, self.file())]))
        self.tell({"Key": str(cid), "Size": len(self.file())})

    def do_dag_import(self) -> None:
        if self._body_is_read:
            return self.reply(400, b'file argument "path" is required\n', "text/plain")
        roots, blocks = car.read_car(io.BytesIO(self.file()), lenient=True)
        self.node.put(blocks)
        messages = []
        for root in roots if self.option.get("pin-roots") == "true" else []:
            problem = ""
            try:
                for _ in dag.walk(self.node.blocks.get, root):
                    pass
                self.node.pins.setdefault(root, ("recursive", ""))
            except StoreError as error:
                problem = str(error)
            messages.append({"Root": {"Cid": {"/": str(root)}, "PinErrorMsg": problem}})
        return self.tell(*messages)

    def do_pin_add(self) -> None:
        cid, name = self._cid(), self.option.get("name", "")
        if self.option.get("recursive") == "true":
            try:
                for _ in dag.walk(self.node.blocks.get, cid):
                    pass
            except StoreError as error:
                return self.refuse(f"ipld: could not find a block: {error}")
            self.node.pins[cid] = ("recursive", name)
        else:
            self.node.blocks.get(cid)
            if self.node.pins.get(cid, ("",))[0] == "recursive":
                return self.refuse(f"pin: {cid} already pinned recursively")
            self.node.pins[cid] = ("direct", name)
        return self.tell({"Progress": 1}, {"Pins": [str(cid)]})

    def do_pin_rm(self) -> None:
        if self.node.pins.pop(self._cid(), None) is None:
            return self.refuse("not pinned or pinned indirectly")
        return self.tell({"Pins": [str(self._cid())]})

    def do_pin_ls(self) -> None:
        kind = self.option.get("type", "all")
        found = {c: p for c, p in self.node.pins.items() if kind in ("all", p[0])}
        if self.arguments:
            found = {cid: pin for cid, pin in found.items() if cid == self._cid()}
            if not found:
                return self.refuse(f"path '{self.arguments[0]}' is not pinned")
        about = {str(cid): {"Type": pin[0], "Name": pin[1]} for cid, pin in found.items()}
        if self.option.get("stream") == "true":
            return self.tell(*({"Cid": cid, **pin} for cid, pin in about.items()))
        return self.tell({"Keys": about})

    def _cid(self) -> CID:
        return CID.parse(self.arguments[0].removeprefix("/ipfs/"))

    # -- HTTP -------------------------------------------------------------------------------

    def tell(self, *messages: object) -> None:
        """Answer with messages, one a line."""
        lines = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
        self.reply(200, lines, "application/json")

    def refuse(self, message: str) -> None:
        """Answer with an error, as a node does."""
        text = json.dumps({"Message": message, "Code": 0, "Type": "error"}).encode()
        self.reply(500, text, "application/json")

    def reply(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        """Answer with anything."""
        if not self._body_is_read:
            self.close_connection = True  # As the rest of what is being sent is not taken.
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def file(self, most: int | None = None) -> bytes:
        """Return the file that was sent, or its first bytes."""
        if self._file is None:
            body = b"".join(self._chunks(most))
            start = body.index(b"\r\n\r\n") + 4
            boundary = self.headers["Content-Type"].partition('boundary="')[2].rstrip('"')
            end = body.rfind(f"\r\n--{boundary}--".encode())
            self._file = body[start : end if end >= 0 else None]
        return self._file

    def _chunks(self, most: int | None) -> Iterator[bytes]:
        taken = 0
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
            taken += size
            if most is not None and taken >= most:
                return
        self.rfile.readline()
        self._body_is_read = True

    def log_message(self, *_: object) -> None:
        pass


# -- faults ----------------------------------------------------------------------------------


def times(count: int, fault: Fault) -> Fault:
    """Have a fault so many times, and none after that."""
    left = [count]

    def some(exchange: Exchange) -> bool:
        left[0] -= 1
        return left[0] >= 0 and fault(exchange)

    return some


def says(status: int, body: bytes, kind: str = "text/plain", **headers: str) -> Fault:
    """Answer with this."""

    def answer(exchange: Exchange) -> bool:
        exchange.reply(status, body, kind, **headers)
        return True

    return answer


def refuses(message: str) -> Fault:
    """Answer with an error of the node."""

    def answer(exchange: Exchange) -> bool:
        exchange.refuse(message)
        return True

    return answer


def is_silent(seconds: float) -> Fault:
    """Say nothing for a while, and then answer."""

    def answer(exchange: Exchange) -> bool:
        time.sleep(seconds)
        return False

    return answer


def drips(body: bytes, seconds: float) -> Fault:
    """Answer byte by byte, so that no single wait is long."""

    def answer(exchange: Exchange) -> bool:
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(len(body)))
        exchange.end_headers()
        with suppress(OSError):
            for byte in body:
                exchange.wfile.write(bytes([byte]))
                time.sleep(seconds)
        exchange.close_connection = True
        return True

    return answer


def keeps_saying(message: object, seconds: float) -> Fault:
    """Give the same message again and again."""

    def answer(exchange: Exchange) -> bool:
        line = json.dumps(message).encode() + b"\n"
        exchange.send_response(200)
        exchange.send_header("Transfer-Encoding", "chunked")
        exchange.end_headers()
        exchange.close_connection = True
        with suppress(OSError):
            for _ in range(1000):
                exchange.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                time.sleep(seconds)
        return True

    return answer


def hangs_up(exchange: Exchange) -> bool:
    """Close the connection without a word."""
    exchange.close_connection = True
    return True


def breaks_off(body: bytes) -> Fault:
    """Promise more than is sent."""

    def answer(exchange: Exchange) -> bool:
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(len(body) + 1000))
        exchange.end_headers()
        exchange.wfile.write(body)
        exchange.close_connection = True
        return True

    return answer


def never_ends(piece: bytes) -> Fault:
    """Answer with the same bytes for ever."""

    def answer(exchange: Exchange) -> bool:
        exchange.send_response(200)
        exchange.end_headers()
        exchange.close_connection = True
        with suppress(OSError):
            while True:
                exchange.wfile.write(piece)
        return True

    return answer


def takes_only(most: int) -> Fault:
    """Read some of what is sent, keep the blocks that are whole, and close the connection."""

    def answer(exchange: Exchange) -> bool:
        if exchange._body_is_read:
            return False
        _, blocks = car.read_car(io.BytesIO(exchange.file(most)), lenient=True)
        taken = []
        with suppress(StoreError):
            taken.extend(blocks)
        exchange.node.put(iter(taken))
        exchange.close_connection = True
        return True

    return answer


@contextmanager
def loopback_node(repository: Path, *, tls: ssl.SSLContext | None = None) -> Iterator[LoopbackNode]:
    """Give a node that runs."""
    with LoopbackNode(repository, tls=tls) as node:
        yield node
