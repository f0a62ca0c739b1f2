"""What tokens were found to stand for a moment ago, so that not every request asks the database.

An entry holds for two seconds, and only until any sign-in of this process ends or changes: what is
taken away here is gone at the next request, what another process takes away within two seconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from neuronexus_kernel.hub.database import now
from neuronexus_kernel.hub.permissions import Credentials

BELIEVED_SECONDS = 2.0
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class _Entry:
    credentials: Credentials
    expires: str
    generation: int
    moment: float


class Lookups:
    """Remembers look-ups for a short time."""

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}

    def find(self, token_hash: bytes, generation: int) -> Credentials | None:
        """Return what was found, if that can still be believed.

        Parameters
        ----------
        generation
            How many times sign-ins have ended or changed until now.
        """
        entry = self._entries.get(token_hash)
        if (
            entry is None
            or entry.generation != generation
            or time.monotonic() - entry.moment > BELIEVED_SECONDS
            or entry.expires <= now()
        ):
            return None
        return entry.credentials

    def keep(
        self, token_hash: bytes, credentials: Credentials, *, expires: str, generation: int
    ) -> None:
        """Remember what was found, as of the generation before it was looked for."""
        if len(self._entries) >= _MOST:
            self._entries.clear()
        self._entries[token_hash] = _Entry(credentials, expires, generation, time.monotonic())
