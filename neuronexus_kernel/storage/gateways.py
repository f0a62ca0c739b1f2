"""Asking gateways for a block: which of them, for how long, and what came of it.

A gateway that fails rests for a while, longer after each failure: it is then asked only for what
no other one has, so that one that is down costs its time-out only now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.errors import NotFoundError, StoreError, StoreUnavailable
from neuronexus_kernel.storage.files import MAX_BLOCK
from neuronexus_kernel.storage.web import Answer, Web, WebError

_T = TypeVar("_T")

RAW_BLOCK = "application/vnd.ipld.raw"
_GONE = (404, 410)
_LATER = (408, 429, 500, 502, 503, 504)
_RESTS = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Seconds that a gateway is left alone after one failure, two in a row, and so on."""
_LONGEST_REST = 300.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where to ask.

    Attributes
    ----------
    address
        Its URL, without ``/ipfs``.
    token
        Of a hub, to read content of its projects; sent to this gateway alone.
    """

    address: str
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long gateways are waited for.

    Attributes
    ----------
    seconds
        For one block from one gateway, from the connection to the last byte.
    rounds
        How often all gateways are asked again where none could answer.
    pause
        Seconds before the second round; twice as many before each further one.
    """

    seconds: float = 30.0
    rounds: int = 2
    pause: float = 0.5


class Gateways:
    """Some gateways, the preferred one first.

    Parameters
    ----------
    gateways
        At least one.
    patience
        How long to wait.
    connections
        To each, at the same time.
    """

    def __init__(
        self, gateways: Sequence[Gateway], *, patience: Patience, connections: int
    ) -> None:
        self._places = [_Place(gateway, connections) for gateway in gateways]
        self._patience = patience

    @property
    def addresses(self) -> list[str]:
        """Where they are."""
        return [place.address for place in self._places]

    def block(self, cid: CID) -> bytes:
        """Return a block, checked against its CID.

        Raises
        ------
        NotFoundError
            If those that answer do not have it.
        StoreError
            If those that answer give something else.
        StoreUnavailable
            If none answers.
        """

        def fetch(place: _Place) -> bytes:
            body = place.ask("GET", cid, self._patience).body
            if not cid.matches(body):
                raise _Failure("it sent other bytes than the CID names", lied=True)
            return body

        return self._first(cid, fetch)

    def has_block(self, cid: CID) -> bool:
        """Tell whether one says that it has a block.

        Raises
        ------
        StoreUnavailable
            If none answers.
        """
        try:
            self._first(cid, lambda place: place.ask("HEAD", cid, self._patience))
        except NotFoundError:
            return False
        return True

    def close(self) -> None:
        """Let go of the connections."""
        for place in self._places:
            place.web.close()

    def _first(self, cid: CID, ask: Callable[[_Place], _T]) -> _T:
        """Return the first good answer of a gateway."""
        failures: dict[str, _Failure] = {}
        for number in range(self._patience.rounds):
            if number:
                time.sleep(self._patience.pause * 2 ** (number - 1))
            missing = False
            for place in self._in_order():
                try:
                    answer = ask(place)
                except _Missing:
                    missing = True
                    failures.pop(place.address, None)
                    place.answered()
                except _Failure as failure:
                    failures[place.address] = failure
                    place.failed(failure)
                else:
                    place.answered()
                    return answer
            if missing or not any(failure.passes for failure in failures.values()):
                break
        told = "; ".join(f"{address}: {failure}" for address, failure in failures.items())
        if missing:
            also = f" Others failed ({told})." if told else ""
            raise NotFoundError(f"No gateway that answered has {cid}.{also}")
        if any(failure.lied for failure in failures.values()):
            raise StoreError(f"No gateway gave the block {cid} ({told}). Ask another one.")
        raise StoreUnavailable(
            f"No gateway could be asked for {cid} ({told}). Check the addresses and the network, "
            "and try again later."
        )

    def _in_order(self) -> list[_Place]:
        """Return the gateways that do not rest, then those that do, the longest at it first."""
        moment = time.monotonic()
        return sorted(self._places, key=lambda place: max(0.0, place.rests_until - moment))


class _Place:
    """One gateway, and whether it has been answering."""

    def __init__(self, gateway: Gateway, connections: int) -> None:
        self.web = Web(gateway.address, token=gateway.token, connections=connections)
        self.address = self.web.address
        self.rests_until = 0.0
        self._failures = 0
        self._lock = threading.Lock()

    def ask(self, method: str, cid: CID, patience: Patience) -> Answer:
        """Ask for a block, and return the answer if it is one."""
        try:
            answer = self.web.ask(
                method,
                f"/ipfs/{cid}?format=raw",
                limit=MAX_BLOCK,
                seconds=patience.seconds,
                headers={"Accept": RAW_BLOCK},
            )
        except WebError as error:
            raise _Failure(str(error), passes=not error.unwanted, lied=error.unwanted) from None
        if answer.status == 200:
            return answer
        if answer.status in _GONE:
            raise _Missing
        if 300 <= answer.status < 400:
            raise _Failure("it sends us elsewhere, which is not followed")
        if answer.status in (401, 403):
            raise _Failure("it does not let us in; check the token")
        later = answer.status in _LATER
        rest = _seconds(answer.headers.get("retry-after")) if later else 0.0
        raise _Failure(f"it answered {answer.status}", passes=later, rest=rest)

    def answered(self) -> None:
        """Note a good answer."""
        with self._lock:
            self._failures, self.rests_until = 0, 0.0

    def failed(self, failure: _Failure) -> None:
        """Note a failure, and rest."""
        with self._lock:
            usual = _RESTS[min(self._failures, len(_RESTS) - 1)]
            self._failures += 1
            rest = max(usual, min(failure.rest, _LONGEST_REST))
            self.rests_until = max(self.rests_until, time.monotonic() + rest)


class _Missing(Exception):
    """The gateway says that it has no such block."""


class _Failure(Exception):
    """The gateway gave no answer that is one.

    Parameters
    ----------
    what
        In a few words.
    passes
        Whether it may be better in a moment.
    lied
        Whether it gave something else than was asked for.
    rest
        Seconds for which it asks to be left alone.
    """

    def __init__(
        self, what: str, *, passes: bool = False, lied: bool = False, rest: float = 0.0
    ) -> None:
        super().__init__(what)
        self.passes = passes
        self.lied = lied
        self.rest = rest


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0
