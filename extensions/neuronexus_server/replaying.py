"""Requests that carry an ``Idempotency-Key`` are carried out once, however often they come.

The header is that of draft-ietf-httpapi-idempotency-key-header.  A repetition that comes while the
first is still at work waits for it; afterwards it gets the answer of the first, marked by
``Idempotency-Replayed``.  What is kept is the hub's business (`hub.replays`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import NeuroNexusError
from neuronexus_kernel.hub.replays import Fingerprint, Outcome, Replays

if TYPE_CHECKING:
    from neuronexus_server.context import HubContext

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"


class Replaying:
    """The keyed requests of one server.

    Parameters
    ----------
    context
        Runs what blocks.
    replays
        The outcomes that are kept.
    """

    def __init__(self, context: HubContext, replays: Replays) -> None:
        self._context = context
        self._replays = replays
        self._at_work: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def once(
        self,
        account: str,
        fingerprint: Fingerprint,
        act: Callable[[], Awaitable[Outcome]],
        *,
        secret: bool = False,
    ) -> tuple[Outcome, bool]:
        """Carry a request out, unless that was done; return its outcome and whether it was.

        Parameters
        ----------
        fingerprint
            Of the request, whole.
        act
            Carries it out.
        secret
            Whether its answer holds a credential.
        """
        key, digest = fingerprint.key, fingerprint.digest()
        place = (account, key)
        while (first := self._at_work.get(place)) is not None:
            await asyncio.wait([first])
        done = self._at_work[place] = asyncio.get_running_loop().create_future()
        try:
            known = await self._context.call(self._replays.find, account, key, digest)
            if known is not None:
                return known, True
            outcome = await act()
            try:
                await self._context.call(
                    self._replays.keep, account, key, digest, outcome, secret=secret
                )
            except NeuroNexusError:
                # It happened, whether or not that could be noted.
                logging.getLogger(__name__).exception("The outcome of a request was not kept")
            return outcome, False
        finally:
            del self._at_work[place]
            done.set_result(None)


def key_in(header: str | None) -> str | None:
    """Return the key in the header, with or without the quotes of a structured field."""
    if header is None:
        return None
    text = header.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
