"""Content identifiers (CIDs): the name of some bytes is the hash of those bytes.

A CID is a version, a codec that says how to read the bytes, and a multihash of them.  Version 1
is written in lower-case base32 (prefix ``b``), version 0 in base58btc and always dag-pb with
sha2-256.  Sources: https://github.com/multiformats/cid, multihash, multibase and multicodec.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from neuronexus_kernel.errors import ContentError

RAW = 0x55
DAG_PB = 0x70
DAG_CBOR = 0x71

SHA2_256 = 0x12
SHA2_512 = 0x13
IDENTITY = 0x00

CODECS = {RAW: "raw", DAG_PB: "dag-pb", DAG_CBOR: "dag-cbor"}
_DIGEST_SIZES = {SHA2_256: 32, SHA2_512: 64}
_IDENTITY_LIMIT = 128
_TEXT_LIMIT = 512
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


_SHORT = [bytes([value]) for value in range(0x80)]


def encode_varint(value: int) -> bytes:
    """Return `value` (>= 0) as an unsigned LEB128 varint."""
    if value < 0x80:
        return _SHORT[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, offset: int = 0) -> tuple[int, int]:
    """Read a minimal varint of at most nine bytes; return it and the offset behind it.

    Raises
    ------
    ContentError
        If the varint is cut off, longer than nine bytes, or not minimal.
    """
    value = 0
    for index in range(9):
        if offset + index >= len(data):
            raise ContentError("The bytes end inside a varint: the data is cut off.")
        byte = data[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise ContentError("A varint is not in its shortest form.")
            return value, offset + index + 1
    raise ContentError("A varint is longer than nine bytes.")


@dataclass(frozen=True, slots=True, order=True)
class CID:
    """A content identifier.

    Parameters
    ----------
    codec
        Multicodec number of the content: `RAW`, `DAG_PB`, `DAG_CBOR` or another.
    digest
        The hash, without its multihash prefix.
    hash_code
        Multihash number; sha2-256 unless said otherwise.
    version
        1, or 0 for the historic form (dag-pb and sha2-256 only).
    """

    codec: int
    digest: bytes
    hash_code: int = SHA2_256
    version: int = 1

    def __post_init__(self) -> None:
        if self.version not in (0, 1):
            raise ContentError(f"CID version {self.version} is unknown; 0 and 1 exist.")
        if self.version == 0 and (self.codec, self.hash_code) != (DAG_PB, SHA2_256):
            raise ContentError("A version 0 CID is always dag-pb with sha2-256.")
        if not (0 <= self.codec < 1 << 63 and 0 <= self.hash_code < 1 << 63):
            raise ContentError("A CID's codec and hash function are numbers below 2^63.")
        expected = _DIGEST_SIZES.get(self.hash_code)
        if expected is not None and len(self.digest) != expected:
            raise ContentError(f"The CID's digest has {len(self.digest)} bytes, not {expected}.")
        if self.hash_code == IDENTITY and len(self.digest) > _IDENTITY_LIMIT:
            raise ContentError(f"An identity CID holds at most {_IDENTITY_LIMIT} bytes.")

    @classmethod
    def of(cls, data: bytes | memoryview, codec: int = RAW) -> CID:
        """Return the CID (version 1, sha2-256) of a block of bytes."""
        return cls(codec, hashlib.sha256(data).digest())

    @classmethod
    def parse(cls, text: str | CID) -> CID:
        """Read a CID from its text.

        Raises
        ------
        ContentError
            If the text is no CID in base32 (``b...``) or base58btc (``Qm...`` or ``z...``).
        """
        if isinstance(text, CID):
            return text
        if not isinstance(text, str):
            raise ContentError(f"A CID is text such as 'bafkrei...', not {type(text).__name__}.")
        try:
            return cls.from_bytes(_decode_text(text))
        except (ValueError, ContentError) as error:
            reason = str(error).rstrip(".")
            raise ContentError(f"{_short(text)!r} is not a CID: {reason}.") from None

    @classmethod
    def from_bytes(cls, data: bytes) -> CID:
        """Read a binary CID that fills `data` exactly."""
        cid, end = cls.read(data)
        if end != len(data):
            raise ContentError(f"{len(data) - end} bytes follow the CID.")
        return cid

    @classmethod
    def read(cls, data: bytes, offset: int = 0) -> tuple[CID, int]:
        """Read a binary CID at `offset`; return it and the offset behind it."""
        if data[offset : offset + 2] == b"\x12\x20":
            digest = bytes(data[offset + 2 : offset + 34])
            return cls(DAG_PB, digest, SHA2_256, 0), offset + 34
        version, offset = decode_varint(data, offset)
        if version != 1:
            raise ContentError(f"CID version {version} is unknown")
        codec, offset = decode_varint(data, offset)
        hash_code, offset = decode_varint(data, offset)
        size, offset = decode_varint(data, offset)
        if offset + size > len(data):
            raise ContentError("the CID's digest is cut off")
        return cls(codec, bytes(data[offset : offset + size]), hash_code), offset + size

    def __bytes__(self) -> bytes:
        multihash = encode_varint(self.hash_code) + encode_varint(len(self.digest)) + self.digest
        if self.version == 0:
            return multihash
        return b"\x01" + encode_varint(self.codec) + multihash

    def __str__(self) -> str:
        if self.version == 0:
            return _base58_encode(bytes(self))
        return "b" + _base32_encode(bytes(self))

    def __repr__(self) -> str:
        return f"CID({str(self)!r})"

    def matches(self, data: bytes | memoryview) -> bool:
        """Tell whether `data` hashes to this CID.

        Raises
        ------
        ContentError
            If the CID's hash function is none that we verify.
        """
        if self.hash_code == SHA2_256:
            return hashlib.sha256(data).digest() == self.digest
        if self.hash_code == SHA2_512:
            return hashlib.sha512(data).digest() == self.digest
        if self.hash_code == IDENTITY:
            return bytes(data) == self.digest
        raise ContentError(f"Hash function 0x{self.hash_code:x} of {self} is not supported.")


def _decode_text(text: str) -> bytes:
    """Return the binary CID behind its text, which has exactly one spelling per multibase."""
    if len(text) > _TEXT_LIMIT:
        raise ContentError(f"it has {len(text)} characters")
    if len(text) == 46 and text.startswith("Qm"):
        return _base58_decode(text)
    if text.startswith("b"):
        body = text[1:]
        raw = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
        if _base32_encode(raw) != body:
            raise ContentError("its base32 is not in canonical form")
    elif text.startswith("z"):
        raw = _base58_decode(text[1:])
    else:
        raise ContentError("its multibase prefix is not 'b' or 'z'")
    if raw[:1] == b"\x12":
        raise ContentError("a version 0 CID has no multibase prefix")
    return raw


def _base32_encode(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=").lower()


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _base58_encode(data: bytes) -> str:
    number = int.from_bytes(data)
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def _base58_decode(text: str) -> bytes:
    number = 0
    for character in text:
        digit = _BASE58.find(character)
        if digit < 0:
            raise ContentError(f"{character!r} is not a base58 digit")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8)
