"""DAG-CBOR: one document, one encoding, so that a document has one CID.

The strict subset of CBOR of https://ipld.io/specs/codecs/dag-cbor/spec/: shortest integers and
lengths, 64-bit floats without NaN and infinities, string keys sorted by length and then by
bytes, no tag but 42 (a link).  `decode` accepts exactly what `encode` writes, so that
``encode(decode(b)) == b`` holds for every block it accepts.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from neuronexus_kernel.content.cid import CID, DAG_CBOR
from neuronexus_kernel.errors import ContentError

Node: TypeAlias = (
    "bool | int | float | str | bytes | CID | Sequence[Node] | Mapping[str, Node] | None"
)

MAX_DEPTH = 128
_HEAD_FORMATS = ((24, 1, ">B"), (25, 2, ">H"), (26, 4, ">I"), (27, 8, ">Q"))


def encode(node: Node) -> bytes:
    """Return the canonical DAG-CBOR bytes of a document.

    Parameters
    ----------
    node
        None, bool, int (64 bits), finite float, str, bytes, `CID`, list, tuple, or a mapping
        with string keys, nested at most `MAX_DEPTH` deep.

    Raises
    ------
    ContentError
        If a value has no DAG-CBOR form; the message gives its path.
    """
    out = bytearray()
    _write(node, out, "", 0)
    return bytes(out)


def decode(data: bytes) -> Node:
    """Return the document that canonical DAG-CBOR bytes hold.

    Raises
    ------
    ContentError
        If the bytes are cut off, not canonical, or hold something outside DAG-CBOR.
    """
    node, end = _read(bytes(data), 0, 0)
    if end != len(data):
        raise ContentError(f"{len(data) - end} bytes follow the DAG-CBOR document.")
    return node


def cid_of(node: Node) -> CID:
    """Return the CID of a document in its canonical encoding."""
    return CID.of(encode(node), DAG_CBOR)


def _head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    for info, size, form in _HEAD_FORMATS[:-1]:
        if value < 1 << (8 * size):
            return bytes([major << 5 | info]) + struct.pack(form, value)
    return bytes([major << 5 | 27]) + struct.pack(">Q", value)


def _write(node: object, out: bytearray, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ContentError(f"The document is nested deeper than {MAX_DEPTH} levels at {path}.")
    if node is None:
        out.append(0xF6)
    elif isinstance(node, bool):
        out.append(0xF5 if node else 0xF4)
    elif isinstance(node, int):
        if not -(1 << 64) <= node < 1 << 64:
            raise ContentError(f"{path or 'the document'} is an integer of more than 64 bits.")
        out += _head(0, node) if node >= 0 else _head(1, -1 - node)
    elif isinstance(node, float):
        if not math.isfinite(node):
            raise ContentError(f"{path or 'the document'} is {node}; DAG-CBOR has finite floats.")
        out += b"\xfb" + struct.pack(">d", node)
    elif isinstance(node, str):
        text = _utf8(node, path or "the document")
        out += _head(3, len(text)) + text
    elif isinstance(node, (bytes, bytearray, memoryview)):
        raw = node.tobytes() if isinstance(node, memoryview) else node
        out += _head(2, len(raw)) + raw
    elif isinstance(node, CID):
        link = b"\0" + bytes(node)
        out += b"\xd8\x2a" + _head(2, len(link)) + link
    elif isinstance(node, (list, tuple)):
        out += _head(4, len(node))
        for index, item in enumerate(node):
            _write(item, out, f"{path}[{index}]", depth + 1)
    elif isinstance(node, Mapping):
        _write_map(node, out, path, depth)
    else:
        kind = type(node).__name__
        raise ContentError(f"{path or 'the document'} is a {kind}, which has no DAG-CBOR form.")


def _utf8(text: str, where: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ContentError(f"{where} is text that has no UTF-8 form.") from None


def _write_map(node: Mapping[object, object], out: bytearray, path: str, depth: int) -> None:
    keys: list[tuple[int, bytes, str]] = []
    for key in node:
        if not isinstance(key, str):
            raise ContentError(f"The key {key!r} at {path or 'the top'} is not a string.")
        raw = _utf8(key, f"a key of {path or 'the document'}")
        keys.append((len(raw), raw, key))
    out += _head(5, len(keys))
    for size, raw, key in sorted(keys):
        out += _head(3, size) + raw
        _write(node[key], out, f"{path}.{key}" if path else key, depth + 1)


def _read_head(data: bytes, at: int) -> tuple[int, int, int, int]:
    """Return major type, additional info, value and the offset behind the head."""
    if at >= len(data):
        raise ContentError("The DAG-CBOR document is cut off.")
    major, info = data[at] >> 5, data[at] & 0x1F
    at += 1
    if info < 24:
        return major, info, info, at
    for code, size, form in _HEAD_FORMATS:
        if info == code:
            if at + size > len(data):
                raise ContentError("The DAG-CBOR document is cut off.")
            value = int(struct.unpack_from(form, data, at)[0])
            if major != 7 and (value < 24 or (size > 1 and value < 1 << (4 * size))):
                raise ContentError(f"A number at byte {at - 1} is not in its shortest form.")
            return major, info, value, at + size
    raise ContentError(f"Indefinite lengths and reserved heads are not DAG-CBOR (byte {at - 1}).")


def _read(data: bytes, at: int, depth: int) -> tuple[Node, int]:
    if depth > MAX_DEPTH:
        raise ContentError(f"The document is nested deeper than {MAX_DEPTH} levels.")
    start = at
    major, info, value, at = _read_head(data, at)
    if major == 0:
        return value, at
    if major == 1:
        return -1 - value, at
    if major in (2, 3):
        if at + value > len(data):
            raise ContentError(f"The string at byte {start} is cut off.")
        chunk = data[at : at + value]
        return (chunk if major == 2 else _text(chunk, start)), at + value
    if major == 4:
        items: list[Node] = []
        for _ in range(value):
            item, at = _read(data, at, depth + 1)
            items.append(item)
        return items, at
    if major == 5:
        return _read_map(data, at, value, depth)
    if major == 6:
        return _read_link(data, at, value, start)
    return _read_simple(data, at, info, start)


def _text(chunk: bytes, start: int) -> str:
    try:
        return chunk.decode()
    except UnicodeDecodeError:
        raise ContentError(f"The text at byte {start} is not UTF-8.") from None


def _read_map(data: bytes, at: int, count: int, depth: int) -> tuple[Node, int]:
    result: dict[str, Node] = {}
    last: tuple[int, bytes] | None = None
    for _ in range(count):
        key, end = _read(data, at, depth + 1)
        if not isinstance(key, str):
            raise ContentError(f"A map key at byte {at} is not a string.")
        raw = key.encode()
        if last is not None and (len(raw), raw) <= last:
            raise ContentError(f"The map keys at byte {at} are not sorted, or one is double.")
        last = (len(raw), raw)
        result[key], at = _read(data, end, depth + 1)
    return result, at


def _read_link(data: bytes, at: int, tag: int, start: int) -> tuple[CID, int]:
    if tag != 42:
        raise ContentError(f"Tag {tag} at byte {start} is not DAG-CBOR; only 42 (a link) is.")
    major, _, size, at = _read_head(data, at)
    if major != 2 or at + size > len(data) or data[at : at + 1] != b"\0":
        raise ContentError(f"The link at byte {start} is malformed.")
    return CID.from_bytes(data[at + 1 : at + size]), at + size


def _read_simple(data: bytes, at: int, info: int, start: int) -> tuple[Node, int]:
    simple: dict[int, bool | None] = {20: False, 21: True, 22: None}
    if info in simple:
        return simple[info], at
    if info == 27:
        (number,) = struct.unpack_from(">d", data, start + 1)
        if math.isfinite(number):
            return float(number), at
    raise ContentError(f"The value at byte {start} is not DAG-CBOR (64-bit finite floats only).")
