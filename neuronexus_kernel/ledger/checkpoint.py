"""Checkpoints: the hub's signed word on how the log stood at a size.

A checkpoint is three lines of text (origin, size, root) in a signed note with an Ed25519
signature, as https://c2sp.org/tlog-checkpoint and https://c2sp.org/signed-note define them, so
that any tool of the transparency-log world can check ours.  A log that signs two histories is
found out for ever; `CheckpointSigner` therefore signs only what provably extends its last.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import LedgerError
from neuronexus_kernel.ledger import merkle

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_ED25519 = b"\x01"
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)")
_MAX_SIGNATURES = 64


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How a log stood when it had `size` entries.

    Parameters
    ----------
    origin
        Name of the log, such as ``hub.example/ledger``; no spaces, no plus.
    size
        Number of entries.
    root
        Root of the Merkle tree over them, 32 bytes.

    Raises
    ------
    LedgerError
        If a field is malformed.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        _check_name(self.origin)
        if self.size < 0 or len(self.root) != merkle.HASH_SIZE:
            raise LedgerError("A checkpoint has a size from 0 and a root of 32 bytes.")

    @property
    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the text of a checkpoint, without its signatures.

        Raises
        ------
        LedgerError
            If it is not exactly three lines as `text` writes them.  Extension lines, which
            nobody can audit, are refused.
        """
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not _SIZE.fullmatch(lines[1]):
            raise LedgerError("A checkpoint is three lines: origin, size and root.")
        return cls(lines[0], int(lines[1]), _base64(lines[2]))


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public half of a signing key, with the name that it signs under.

    Parameters
    ----------
    name
        The signer's name; for a log, its origin.
    public
        The Ed25519 public key, 32 bytes.
    """

    name: str
    public: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.public) != 32:
            raise LedgerError(f"An Ed25519 public key has 32 bytes, not {len(self.public)}.")

    @classmethod
    def of(cls, key: Ed25519PrivateKey, name: str) -> VerifierKey:
        """Return the public half of `key`."""
        return cls(name, key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a key from its text ``name+id+base64``.

        Raises
        ------
        LedgerError
            If the text is malformed, of another algorithm, or its id does not fit the key.
        """
        parts = text.split("+", 2)
        if len(parts) != 3:
            raise LedgerError(f"{text[:80]!r} is not a verifier key 'name+id+key'.")
        encoded = _base64(parts[2])
        if encoded[:1] != _ED25519:
            raise LedgerError("The verifier key is not an Ed25519 key.")
        key = cls(parts[0], encoded[1:])
        if str(key) != text:
            raise LedgerError("The id in the verifier key does not fit its name and key.")
        return key

    @property
    def id(self) -> bytes:
        """Four bytes that tell keys of one name apart."""
        data = self.name.encode() + b"\n" + _ED25519 + self.public
        return hashlib.sha256(data).digest()[:4]

    def __str__(self) -> str:
        encoded = base64.b64encode(_ED25519 + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{encoded}"


def sign_note(text: str, key: Ed25519PrivateKey, *, name: str) -> str:
    """Return `text`, which must end in a newline, as a note signed under `name`.

    Raises
    ------
    LedgerError
        If the text does not end in a newline or holds control characters.
    """
    _check_text(text)
    verifier = VerifierKey.of(key, name)
    signature = base64.b64encode(verifier.id + key.sign(text.encode())).decode()
    return f"{text}\n— {name} {signature}\n"


def open_note(note: str, key: VerifierKey) -> str:
    """Return the text of a note, if it is signed by `key`.

    Signatures of other keys are ignored; a false one of this key refuses the note.

    Raises
    ------
    LedgerError
        If the note is malformed, or not truly signed by `key`.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    text, signatures = _split_note(note)
    own = [blob[4:] for name, blob in signatures if name == key.name and blob[:4] == key.id]
    if not own:
        raise LedgerError(f"The note is not signed by {key.name}.")
    try:
        for signature in own:
            Ed25519PublicKey.from_public_bytes(key.public).verify(signature, text.encode())
    except InvalidSignature:
        raise LedgerError(f"The signature of {key.name} under the note is false.") from None
    return text


def open_checkpoint(note: str, key: VerifierKey) -> Checkpoint:
    """Return the checkpoint in a note signed by the log itself.

    Raises
    ------
    LedgerError
        If the note is not truly signed by `key`, or its origin is not the key's name.
    """
    checkpoint = Checkpoint.parse(open_note(note, key))
    if checkpoint.origin != key.name:
        raise LedgerError(f"The checkpoint is of {checkpoint.origin}, not of {key.name}.")
    return checkpoint


class CheckpointSigner:
    """Signs checkpoints of one log, each of which extends the last.

    Parameters
    ----------
    key
        The log's private key.
    origin
        The log's name, also the name it signs under.
    last
        The last signed note that left the hub, or None for a log that never signed.  The caller
        keeps each note safe before showing it to anyone, and gives it back here after a restart.

    Raises
    ------
    LedgerError
        If `last` is not signed by this key for this log.
    """

    __slots__ = ("_key", "_last", "_verifier")

    def __init__(self, key: Ed25519PrivateKey, origin: str, *, last: str | None = None) -> None:
        self._key = key
        self._verifier = VerifierKey.of(key, origin)
        self._last = None if last is None else open_checkpoint(last, self._verifier)

    @property
    def verifier(self) -> VerifierKey:
        """What others need to verify the notes."""
        return self._verifier

    @property
    def last(self) -> Checkpoint | None:
        """The checkpoint signed last."""
        return self._last

    def sign(self, size: int, root: bytes, *, proof: Sequence[bytes] = ()) -> str:
        """Return the signed note for the log of `size` entries and this `root`.

        Parameters
        ----------
        size, root
            How the log stands.
        proof
            Consistency proof from `last` to it; empty for the first checkpoint and for the
            same one again.

        Raises
        ------
        LedgerError
            If the proof does not show that the log only grew since the last checkpoint.
        """
        checkpoint = Checkpoint(self._verifier.name, size, root)
        last = self._last
        if last is not None and not merkle.verify_consistency(
            proof, first=last.size, first_root=last.root, second=size, second_root=root
        ):
            raise LedgerError(
                f"Refused to sign {size} entries: they do not extend the {last.size} entries "
                "signed before. The log was changed or shortened; run 'neuronexus ledger verify'."
            )
        note = sign_note(checkpoint.text, self._key, name=checkpoint.origin)
        self._last = checkpoint
        return note


def _split_note(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    head, separator, tail = note.rpartition("\n\n")
    lines = tail.split("\n")
    if not separator or lines[-1] or not 1 <= len(lines) - 1 <= _MAX_SIGNATURES:
        raise LedgerError("A note is text, an empty line, and signature lines.")
    text = head + "\n"
    _check_text(text)
    signatures = []
    for line in lines[:-1]:
        match = _SIGNATURE.fullmatch(line)
        if match is None:
            raise LedgerError(f"{line[:80]!r} is not a signature line of a note.")
        blob = _base64(match[2])
        if len(blob) < 5:
            raise LedgerError("A signature of the note is cut off.")
        signatures.append((match[1], blob))
    return text, signatures


def _check_text(text: str) -> None:
    if not text.endswith("\n") or any(c < " " and c != "\n" for c in text):
        raise LedgerError("A note's text ends in a newline and has no other control characters.")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise LedgerError(f"{name!r} is not a key name: no spaces, no plus, not empty.")


def _base64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise LedgerError(f"{text[:80]!r} is not base64.") from None
    if base64.b64encode(data).decode() != text:
        raise LedgerError(f"{text[:80]!r} is not base64 in its one canonical form.")
    return data
