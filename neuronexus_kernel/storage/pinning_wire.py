"""How one speaks to a pinning service: its messages, its refusals, and trying again.

See `pinning` for what can be asked.  A request that failed on the way is sent again, after the time
that the service names or a growing pause.  Whether the first one arrived after all is found out
before, so that nothing is pinned, and paid for, twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TypeVar

import msgspec

from neuronexus_kernel.errors import (
    InvalidInputError,
    NeuroNexusError,
    NotFoundError,
    QuotaError,
    StoreError,
    StoreUnavailable,
)
from neuronexus_kernel.storage.endpoints import Endpoint

T = TypeVar("T")

_LONGEST_ANSWER = 64 * 1024 * 1024
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before something is asked again, the first time and after many."""


class Status(StrEnum):
    """How far a service is with a request."""

    QUEUED = "queued"
    PINNING = "pinning"
    """It looks for the content, or fetches it."""
    PINNED = "pinned"
    FAILED = "failed"


class PinObject(msgspec.Struct, omit_defaults=True):
    """What is asked for: ``Pin`` in the specification."""

    cid: str
    name: str | None = None
    origins: list[str] | None = None
    meta: dict[str, str] | None = None


class PinStatus(msgspec.Struct):
    """A request, and how far it is: ``PinStatus`` in the specification."""

    requestid: str
    status: Status
    created: str
    pin: PinObject
    delegates: list[str] = []
    info: dict[str, str] | None = None


class PinResults(msgspec.Struct):
    """One page of a list: ``PinResults`` in the specification."""

    count: int
    results: list[PinStatus]


class _Failure(msgspec.Struct):
    reason: str
    details: str = ""


class _Problem(msgspec.Struct):
    error: _Failure


class Wire:
    """Exchanges with one service.

    Parameters
    ----------
    service
        Its address, and the token.
    seconds
        How long an exchange may take.
    patience
        For how many seconds a request is tried again.
    sleep
        Waits for some seconds.

    Raises
    ------
    InvalidInputError
        If there is no token.
    """

    def __init__(
        self,
        service: Endpoint,
        *,
        seconds: float,
        patience: float,
        sleep: Callable[[float], object],
    ) -> None:
        from neuronexus_kernel.storage.web import Web

        if service.credentials is None or service.credentials.name:
            raise InvalidInputError(f"The pinning service at {service} needs a token.")
        self._service = service
        self._web = Web(service.url, token=service.credentials.secret)
        self._seconds = seconds
        self._patience = patience
        self._sleep = sleep

    def close(self) -> None:
        """Break off what is under way, and let go of the connections."""
        self._web.close()

    def ask(
        self,
        verb: str,
        path: str,
        returns: type[T],
        *,
        body: msgspec.Struct | None = None,
        settled: Callable[[], T | None] | None = None,
    ) -> T:
        """Send a request until it is answered; return the answer.

        Parameters
        ----------
        verb, path, body
            What is sent.
        returns
            What the answer is.
        settled
            Returns the answer after all, if an attempt that seemed to fail has arrived.

        Raises
        ------
        InvalidInputError, NotFoundError, QuotaError, StoreError
            What the service refuses, and why.
        StoreUnavailable
            If it cannot be reached, stays busy, or does not take the token.
        """
        deadline = time.monotonic() + self._patience
        pause = FIRST_PAUSE
        while True:
            try:
                return self.once(verb, path, returns, body=body)
            except Again as again:
                wait = pause * random.uniform(1.0, 1.25) if again.after is None else again.after
                if time.monotonic() + wait > deadline:
                    raise StoreUnavailable(str(again)) from None
                has_arrived = again.may_have_arrived
            self._sleep(wait)
            pause = min(2 * pause, LONGEST_PAUSE)
            if has_arrived and settled is not None:
                answer = settled()
                if answer is not None:
                    return answer

    def once(
        self, verb: str, path: str, returns: type[T], *, body: msgspec.Struct | None = None
    ) -> T:
        """Send a request; return the answer.

        Raises
        ------
        Again
            If it failed in a way that may pass.
        """
        from neuronexus_kernel.storage.web import WebError

        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = self._web.ask(
                verb,
                path,
                limit=_LONGEST_ANSWER,
                seconds=self._seconds,
                headers=headers,
                data=None if body is None else msgspec.json.encode(body),
            )
        except WebError as error:
            how = self._service.hide(str(error)).rstrip(".")
            raise Again(
                f"The pinning service at {self._service} does not answer: {how}. Check "
                "NEURONEXUS_PINNING, or try again later.",
                may_have_arrived=True,
            ) from None
        if not 200 <= answer.status < 300:
            raise self._problem(answer.status, answer.body, answer.headers.get("retry-after"))
        if returns is type(None):
            return returns()
        try:
            return msgspec.json.decode(answer.body, type=returns)
        except (msgspec.MsgspecError, RecursionError):
            raise self.nonsense() from None

    def nonsense(self) -> StoreError:
        """Return the error for an answer that is none."""
        return StoreError(
            f"{self._service} answers otherwise than a pinning service would. Check "
            "NEURONEXUS_PINNING."
        )

    def _problem(self, status: int, body: bytes, retry_after: str | None) -> Exception:
        """Return what an answer that is no success means."""
        service = self._service
        if status == 429 or status >= 500:
            return Again(
                f"The pinning service at {service} is busy (it answered {status}). Try again "
                "later.",
                after=_after(retry_after),
                may_have_arrived=status >= 500,
            )
        try:
            told = msgspec.json.decode(body, type=_Problem).error
            reason = service.hide(f"{told.reason} {told.details}".strip()) or str(status)
        except (msgspec.MsgspecError, RecursionError):
            reason = f"it answered {status}"
        if status in (401, 403):
            return StoreUnavailable(
                f"The pinning service at {service} does not let us in ({reason}). Check "
                "NEURONEXUS_PINNING_TOKEN."
            )
        kinds: dict[int, type[NeuroNexusError]] = {
            400: InvalidInputError,
            404: NotFoundError,
            409: QuotaError,
        }
        kind = kinds.get(status, StoreError)
        return kind(f"The pinning service at {service} refused: {reason}.")


class Again(Exception):
    """A request failed in a way that may pass.

    Parameters
    ----------
    message
        For people.
    after
        Seconds after which the service wants to be asked again, if it said so.
    may_have_arrived
        Whether the service may have done what was asked all the same.
    """

    def __init__(
        self, message: str, *, after: float | None = None, may_have_arrived: bool = False
    ) -> None:
        super().__init__(message)
        self.after = after
        self.may_have_arrived = may_have_arrived


def seconds_before(text: str, moment: datetime) -> float:
    """Return how long before a moment some time in ISO form was; negative if it is after it."""
    when = datetime.fromisoformat(text)
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return (moment - when).total_seconds()


def _after(header: str | None) -> float | None:
    """Read ``Retry-After``: seconds or a date (RFC 9110)."""
    if header is None:
        return None
    try:
        if header.strip().isdecimal():
            return float(header)
        date = parsedate_to_datetime(header).isoformat()
        return max(0.0, -seconds_before(date, datetime.now(UTC)))
    except (ValueError, TypeError, OverflowError):
        return None
