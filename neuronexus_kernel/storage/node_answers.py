"""What nodes answer over their RPC, as values; read so that nothing in it can surprise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.errors import ContentError
from neuronexus_kernel.storage.interface import Pin
from neuronexus_kernel.storage.rpc import Message


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node is.

    Attributes
    ----------
    peer
        Its id in the network.
    agent
        Its program and version.
    addresses
        Where other nodes reach it.
    """

    peer: str
    agent: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that another one is connected with.

    Attributes
    ----------
    peer
        Its id in the network.
    address
        Where it is.
    """

    peer: str
    address: str


@dataclass(frozen=True, slots=True)
class Repository:
    """How much lies on a node.

    Attributes
    ----------
    size
        In bytes.
    most
        How much the node wants to keep at most.
    """

    size: int
    most: int


def identity_in(answer: list[Message]) -> Identity:
    """Read the answer to ``id``."""
    message = _first(answer)
    addresses = _list(message.get("Addresses"))
    return Identity(
        peer=_text(message.get("ID")),
        agent=_text(message.get("AgentVersion")),
        addresses=tuple(filter(None, map(_text, addresses))),
    )


def peers_in(answer: list[Message]) -> list[Peer]:
    """Read the answer to ``swarm/peers``."""
    found = map(_dict, _list(_first(answer).get("Peers")))
    return [Peer(_text(each.get("Peer")), _text(each.get("Addr"))) for each in found]


def repository_in(answer: list[Message]) -> Repository:
    """Read the answer to ``repo/stat``."""
    message = _first(answer)
    return Repository(_number(message.get("RepoSize")), _number(message.get("StorageMax")))


def pins_in(message: Message) -> Iterator[Pin]:
    """Read pins from a message of ``pin/ls``: there is one in it, or all are."""
    keys = message.get("Keys")
    listed = _dict(keys).items() if keys is not None else [(message.get("Cid"), message)]
    for text, about in listed:
        cid, kind = _cid(text), _dict(about).get("Type")
        if cid is not None and kind in ("recursive", "direct"):
            yield Pin(cid, _text(_dict(about).get("Name")), kind == "recursive", "")


def root_in(message: Message) -> tuple[CID | None, str]:
    """Read a message of ``dag/import``: a root, and why it could not be pinned."""
    root = _dict(message.get("Root"))
    return _cid(_dict(root.get("Cid")).get("/")), _text(root.get("PinErrorMsg"))


def key_in(answer: list[Message]) -> CID | None:
    """Read the answer to ``block/put``: the CID that the node gave to a block."""
    return _cid(_first(answer).get("Key"))


def _first(answer: list[Message]) -> Message:
    return answer[0] if answer else {}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _cid(text: Any) -> CID | None:
    try:
        return CID.parse(text)
    except ContentError:
        return None


def _number(value: Any) -> int:
    """Read a number, which js-ipfs writes as text."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0
