"""DAG-PB: the block format of files in IPFS, a list of named links and some bytes.

The canonical form of https://ipld.io/specs/codecs/dag-pb/spec/: a protobuf message with the
links (field 2) before the data (field 1), in every link hash, name and size in this order, and
varints in their shortest form.  `decode` accepts exactly what `encode` writes, so that
``encode(decode(b)) == b`` holds for every block it accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuronexus_kernel.content.cid import CID, decode_varint, encode_varint
from neuronexus_kernel.errors import ContentError

_LINK, _DATA = 0x12, 0x0A
_HASH, _NAME, _SIZE = 0x0A, 0x12, 0x18


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a node.

    Attributes
    ----------
    cid
        What is linked to.
    size
        Bytes of the linked block and of all below it (``Tsize``); None where it is not told.
    name
        Name within a folder; files use the empty name; None where it is not told.
    """

    cid: CID
    size: int | None = None
    name: str | None = ""


@dataclass(frozen=True, slots=True)
class PBNode:
    """A DAG-PB node: links, then bytes (None where there are none, not even an empty field)."""

    links: tuple[Link, ...] = ()
    data: bytes | None = None


def encode(node: PBNode) -> bytes:
    """Return the canonical bytes of a node."""
    out = bytearray()
    for link in node.links:
        body = _encode_link(link)
        out.append(_LINK)
        out += encode_varint(len(body)) + body
    if node.data is not None:
        out += data_head(len(node.data)) + node.data
    return bytes(out)


def data_head(size: int) -> bytes:
    """Return what stands before so many bytes of data."""
    return bytes([_DATA]) + encode_varint(size)


def _encode_link(link: Link) -> bytes:
    target = bytes(link.cid)
    out = bytearray([_HASH]) + encode_varint(len(target)) + target
    if link.name is not None:
        name = link.name.encode()
        out += bytes([_NAME]) + encode_varint(len(name)) + name
    if link.size is not None:
        out += bytes([_SIZE]) + encode_varint(link.size)
    return bytes(out)


def decode(data: bytes) -> PBNode:
    """Return the node that canonical DAG-PB bytes hold.

    Raises
    ------
    ContentError
        If the bytes are cut off, not canonical, or hold an unknown field.
    """
    links: list[Link] = []
    content: bytes | None = None
    at = 0
    while at < len(data):
        tag = data[at]
        if tag == _LINK and content is None:
            body, at = _field(data, at + 1)
            links.append(_decode_link(body))
        elif tag == _DATA and content is None:
            content, at = _field(data, at + 1)
        else:
            raise ContentError(
                f"The DAG-PB field 0x{tag:02x} at byte {at} is unknown or misplaced."
            )
    return PBNode(tuple(links), content)


def _decode_link(data: bytes) -> Link:
    if data[:1] != bytes([_HASH]):
        raise ContentError("A DAG-PB link has no hash.")
    target, at = _field(data, 1)
    name: str | None = None
    size: int | None = None
    if at < len(data) and data[at] == _NAME:
        raw, at = _field(data, at + 1)
        name = _text(raw)
    if at < len(data) and data[at] == _SIZE:
        size, at = decode_varint(data, at + 1)
    if at != len(data):
        raise ContentError(f"A DAG-PB link holds an unknown or misplaced field at byte {at}.")
    return Link(CID.from_bytes(target), size, name)


def _field(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = decode_varint(data, at)
    if at + size > len(data):
        raise ContentError("The DAG-PB block is cut off.")
    return data[at : at + size], at + size


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ContentError("The name of a DAG-PB link is not UTF-8.") from None


def total_size(block: bytes, links: Sequence[Link]) -> int:
    """Return the ``Tsize`` of a link to this block: its bytes and those of all below it."""
    return len(block) + sum(link.size or 0 for link in links)
