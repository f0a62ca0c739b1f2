"""What a member may say to a kernel: widget traffic, and nothing that runs code.

A dashboard's kernel runs the hub's own notebook.  Its page talks to it by comm messages, and all
that a sign-in gives a member is that conversation.  Requests to execute, complete, inspect,
debug, read history or answer a prompt are refused unless an operator sends them.  The message
that is checked is the message that is sent: its header is written anew from what was parsed.
"""

from __future__ import annotations

import json
from typing import Any

from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

from neuronexus_server.context import context_of, visitor_of
from neuronexus_server.guests import SIGNED_OUT

_V1 = "v1.kernel.websocket.jupyter.org"
_QUESTIONS = frozenset({"kernel_info_request", "comm_info_request"})
_WIDGETS = frozenset({"comm_open", "comm_msg", "comm_close"})
_TARGETS = frozenset({"jupyter.widget", "jupyter.widget.control"})

Message = dict[str, Any]


class GuardedConnection(ZMQChannelsWebsocketConnection):
    """A kernel's WebSocket that lets members send widget messages only.

    It is closed when the sign-in ends or the account's role changes: a page that may still be
    here connects again, as what its visitor is now.
    """

    def connect(self) -> Any:
        """Open the channels, for as long as the sign-in lasts."""
        handler = self.websocket_handler
        self._forget = context_of(handler).guests.join(
            visitor_of(handler), lambda: handler.close(SIGNED_OUT)
        )
        return super().connect()

    def disconnect(self) -> None:
        """Close the channels."""
        self._forget()
        super().disconnect()

    def handle_incoming_message(self, incoming_msg: Any) -> None:
        """Pass a message on to the kernel, or refuse it."""
        if self._from_operator():
            super().handle_incoming_message(incoming_msg)
            return
        try:
            channel, header, content, sent = self._read(incoming_msg)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            self.log.warning("Refused a malformed message to kernel %s", self.kernel_id)
            return
        if is_harmless(channel, header.get("msg_type"), content):
            super().handle_incoming_message(sent)
        else:
            self._refuse(channel, header)

    def _from_operator(self) -> bool:
        user = self.websocket_handler.current_user
        return getattr(user, "role", "member") == "operator"

    def _read(self, incoming: Any) -> tuple[str, Message, Message, Any]:
        """Return a message's channel, header and content, and what to send in its place."""
        if self.subprotocol == _V1:
            _check_count(incoming, int.from_bytes(incoming[:8], "little"), size=8)
            channel, parts = deserialize_msg_from_ws_v1(incoming)
            header, content = _document(parts[0]), _document(parts[3])
            parts[0], parts[3] = self.session.pack(header), self.session.pack(content)
            return channel, header, content, serialize_msg_to_ws_v1(parts, channel)
        if isinstance(incoming, bytes):
            _check_count(incoming, int.from_bytes(incoming[:4], "big"), size=4)
            message = deserialize_binary_message(incoming)
            sent: Any = serialize_binary_message(message)
        else:
            message = json.loads(incoming)
            sent = json.dumps(message)
        if not isinstance(message["header"], dict) or not isinstance(message["content"], dict):
            raise TypeError("a message's header and content are objects")
        return message.get("channel") or "shell", message["header"], message["content"], sent

    def _refuse(self, channel: str, header: Message) -> None:
        kind = str(header.get("msg_type"))[:40]
        self.log.warning("Refused %r to kernel %s: not an operator", kind, self.kernel_id)
        if not kind.endswith("_request"):
            return
        reply = self.session.msg(
            kind.removesuffix("_request") + "_reply",
            content={
                "status": "error",
                "ename": "ForbiddenError",
                "evalue": "Only an operator may send this to a kernel of the hub.",
                "traceback": [],
            },
            parent={**header, "date": str(header.get("date", ""))},
        )
        if self.subprotocol == _V1:
            self.write_message(
                serialize_msg_to_ws_v1(reply, channel, self.session.pack), binary=True
            )
        else:
            reply["channel"] = channel
            self.write_message(json.dumps(reply, default=str))


def is_harmless(channel: str, kind: object, content: Message) -> bool:
    """Return whether a member may send this message.

    Parameters
    ----------
    channel
        The kernel's channel: ``shell``, ``control`` or ``stdin``.
    kind
        The message's ``msg_type``.
    content
        Its content; a member's page may open comms of widgets only.
    """
    if not isinstance(kind, str) or channel not in ("shell", "control"):
        return False
    if kind == "comm_open":
        return channel == "shell" and content.get("target_name") in _TARGETS
    if kind in _WIDGETS:
        return channel == "shell"
    return kind in _QUESTIONS


def _check_count(message: bytes, count: int, *, size: int) -> None:
    # Jupyter believes the count and would loop over, or allocate for, any number up to 2^64.
    if (count + 1) * size > len(message):
        raise ValueError("the message names more parts than it holds")


def _document(part: bytes) -> Message:
    document = json.loads(part)
    if not isinstance(document, dict):
        raise TypeError("a message's header and content are objects")
    return document
