"""When to ask a hub again that did not answer, or that asked to be left alone for a moment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests

PAUSES = (0.1, 0.3, 0.6, 1.0, 1.0, 2.0, 2.0, 3.0)
"""Seconds to wait before each further attempt to reach a hub that was there before."""


def patiently(
    attempt: Callable[[], requests.Response],
    pauses: Sequence[float],
    *,
    seconds: float,
    repeat: bool,
) -> requests.Response:
    """Try until there is an answer.

    Parameters
    ----------
    attempt
        Sends the request.
    pauses
        Seconds before each further attempt; the hub may ask for other ones.
    seconds
        No attempt begins later than that after the first.
    repeat
        Whether to try again a request that may have arrived.

    Raises
    ------
    requests.RequestException
        What the last attempt raised.
    """
    import requests

    rest = iter(pauses)
    ends = time.monotonic() + seconds
    while True:
        pause = next(rest, None)
        try:
            response = attempt()
        except requests.ConnectionError as error:
            if pause is None or not (repeat or _never_left(error)):
                raise
        else:
            pause = _pause_before_asking_again(response, pause, repeat=repeat)
            if pause is None or time.monotonic() + pause > ends:
                return response
        # Not all at the same time, when a hub comes back that many wait for.
        time.sleep(pause * random.uniform(0.75, 1.25))


def _never_left(error: requests.ConnectionError) -> bool:
    """Tell whether a request failed before there was a connection."""
    from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError

    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    return isinstance(reason, (NewConnectionError, ConnectTimeoutError))


def _pause_before_asking_again(
    response: requests.Response, pause: float | None, *, repeat: bool
) -> float | None:
    """Return after how many seconds to send a request again, or None if this is its answer."""
    after = response.headers.get("Retry-After", "")
    asked = float(after) if after.isdecimal() else None
    if response.status_code == 429:
        return asked  # Nothing was done, and the hub said when to come again.
    if response.status_code not in (502, 503, 504) or not repeat:
        return None
    return asked if pause is None else max(pause, asked or 0.0)
