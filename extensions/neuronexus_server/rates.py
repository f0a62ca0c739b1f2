"""How many requests one visitor may make: a bucket of tokens for each, filled at a steady rate.

Who is signed in is counted by account, wherever they ask from: all dashboards on the hub's own
machine come from one address.  Who is not is counted by address.  Whoever owns the hub's folder is
not counted.  The limit stops a program that has run wild and is far above what a person, a
dashboard or a training run asks for.

The headers are those of draft-ietf-httpapi-ratelimit-headers.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from neuronexus_kernel.settings import RequestSettings

_MOST_VISITORS = 20_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one visitor may still ask for.

    Attributes
    ----------
    remaining
        Requests at once.
    wait
        Seconds until the next one is answered; 0 for now.
    """

    remaining: int
    wait: float


class Rates:
    """The buckets of one server.

    Parameters
    ----------
    settings
        How fast they fill, and how much they hold.
    """

    def __init__(self, settings: RequestSettings) -> None:
        self._rate = settings.per_second
        self._full = max(1.0, (settings.per_second or 0) * settings.burst)
        self._window = settings.burst
        # The visitors who came last are last: who is forgotten had the time to fill a bucket.
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    @property
    def policy(self) -> str:
        """The limit, as the header ``RateLimit-Policy`` tells it."""
        return f'"requests";q={int(self._full)};w={math.ceil(self._window)}'

    def take(self, visitor: str) -> Allowance | None:
        """Count a request; return what is left, or None where nothing is counted."""
        if self._rate is None:
            return None
        now = time.monotonic()
        bucket = self._buckets.get(visitor)
        if bucket is None:
            bucket = self._buckets[visitor] = _Bucket(self._full, now)
            if len(self._buckets) > _MOST_VISITORS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(visitor)
        bucket.tokens = min(self._full, bucket.tokens + (now - bucket.filled) * self._rate)
        bucket.filled = now
        if bucket.tokens < 1.0:
            return Allowance(0, (1.0 - bucket.tokens) / self._rate)
        bucket.tokens -= 1.0
        return Allowance(int(bucket.tokens), 0.0)


def told(allowance: Allowance) -> str:
    """Return what is left, as the header ``RateLimit`` tells it."""
    return f'"requests";r={allowance.remaining};t={math.ceil(allowance.wait)}'
