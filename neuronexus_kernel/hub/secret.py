"""The hub's secret: one key, from which the keys for its purposes are derived.

It is `SESSION_SECRET` where that is set, as it must be where several processes serve one hub from
different homes; else a random one, kept in the hub's home and readable by its owner alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from neuronexus_kernel.errors import StoreError

FILE = "session.secret"
_BYTES = 32


def session_secret(home: Path, configured: str | None) -> bytes:
    """Return the hub's secret, making one when there is none yet.

    Parameters
    ----------
    home
        The hub's folder.
    configured
        The secret from the settings, or None.

    Raises
    ------
    StoreError
        If the file in the home cannot be read or written, or is too short to be a secret.
    """
    if configured is not None:
        return hashlib.sha256(configured.encode()).digest()
    path = home / FILE
    try:
        if not path.exists():
            _write(path, secrets.token_hex(_BYTES).encode())
        secret = path.read_bytes().strip()
        path.chmod(0o600)
    except OSError as error:
        raise StoreError(f"The hub's secret {path} could not be read or made: {error}.") from None
    if len(secret) < _BYTES:
        raise StoreError(
            f"{path} is too short to be a secret; remove it, and the hub makes another. Browsers "
            "then have to sign in again."
        )
    return hashlib.sha256(secret).digest()


def derive(secret: bytes, purpose: str) -> bytes:
    """Return the key for one purpose."""
    return hmac.digest(secret, purpose.encode(), "sha256")


def _write(path: Path, secret: bytes) -> None:
    """Write the file whole or not at all; another process that was faster has written it."""
    draft = path.with_name(f".{FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
