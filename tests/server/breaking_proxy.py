"""A proxy on loopback whose connections break when a test says so."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class BreakingProxy:
    """Passes bytes on between clients and a hub, and breaks connections on request.

    Parameters
    ----------
    address
        Of the hub.

    Attributes
    ----------
    answers_to_drop
        So many answers are read from the hub and never passed on: the work is done, the connection
        breaks.
    cut_after
        Once so many bytes have been sent, the connection breaks; None for never.
    sent
        Bytes that clients have sent.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._hub = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.answers_to_drop = 0
        self.dropped = 0
        self.cut_after: int | None = None
        self.sent = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            hub = socket.create_connection(self._hub)
        except OSError:
            client.close()
            return
        back = threading.Thread(target=self._answers, args=(hub, client), daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                with self._lock:
                    self.sent += len(piece)
                    is_cut = self.cut_after is not None and self.sent > self.cut_after
                    if is_cut:
                        self.cut_after = None
                hub.sendall(piece)
                if is_cut:
                    break
        _end(hub, client)

    def _answers(self, hub: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := hub.recv(65536):
                with self._lock:
                    is_dropped = self.answers_to_drop > 0
                    if is_dropped:
                        self.answers_to_drop -= 1
                        self.dropped += 1
                if is_dropped:
                    break
                client.sendall(piece)
        _end(hub, client)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
