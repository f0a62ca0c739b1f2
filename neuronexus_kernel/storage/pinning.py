"""Having content kept by a pinning service, which may lay it on Filecoin in turn.

A client of the IPFS Pinning Service API 1.0.0 (https://ipfs.github.io/pinning-services-api-spec/).
A service is told a CID and fetches the content from the network itself: so there must be a node
that has it and that the service can reach (``origins``).  A service takes its time; `wait` looks at
it now and then until it has done what it was asked for.  The token goes to the service over an
encrypted line and appears nowhere else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

import msgspec

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.errors import (
    ContentError,
    InvalidInputError,
    NotFoundError,
    StoreError,
    StoreUnavailable,
)
from neuronexus_kernel.storage.dag import key_of
from neuronexus_kernel.storage.endpoints import Credentials, Endpoint
from neuronexus_kernel.storage.pinning_wire import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Again,
    PinObject,
    PinResults,
    PinStatus,
    Status,
    Wire,
    seconds_before,
)

__all__ = ["PinningService", "RemotePin", "Status"]

_PAGE = 1000
_MOST_CIDS = 10
_LONGEST_NAME = 255
_UNDER_WAY = (Status.QUEUED, Status.PINNING, Status.PINNED)
_CLOCKS_APART = 300.0


@dataclass(frozen=True, slots=True)
class RemotePin:
    """A request to a pinning service, and how far that is.

    Attributes
    ----------
    id
        Of the request; one CID may be pinned by several.
    status
        How far the service is.
    cid, name, origins, meta
        What was asked for; see `PinningService.add`.
    created
        When the service took the request: UTC time in ISO form.
    delegates
        Nodes of the service to which a connection helps.
    info
        What the service tells besides.
    """

    id: str
    status: Status
    cid: CID
    name: str
    created: str
    origins: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    delegates: tuple[str, ...] = ()
    info: Mapping[str, str] = field(default_factory=dict)


class PinningService:
    """One account at a pinning service.

    Parameters
    ----------
    service
        Its address, such as ``https://api.example.com/psa``, and the token of the account.
    seconds
        How long an exchange may take.
    patience
        For how many seconds a request is tried again while the service is busy or does not answer.
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
        seconds: float = 30.0,
        patience: float = 120.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._service = service
        self._wire = Wire(service, seconds=seconds, patience=patience, sleep=sleep)
        self._sleep = sleep

    @classmethod
    def configured(
        cls, environment: Mapping[str, str] | None = None, *, patience: float = 120.0
    ) -> PinningService | None:
        """Return the service that the environment names, or None if it names none.

        Parameters
        ----------
        environment
            Where ``NEURONEXUS_PINNING`` (the address) and ``NEURONEXUS_PINNING_TOKEN`` are looked
            up; by default the process's.
        patience
            As above.
        """
        environment = os.environ if environment is None else environment
        address = environment.get("NEURONEXUS_PINNING", "")
        token = environment.get("NEURONEXUS_PINNING_TOKEN", "")
        if not address:
            return None
        if not token:
            raise InvalidInputError("NEURONEXUS_PINNING_TOKEN is not set; the service needs it.")
        return cls(Endpoint.parse(address, Credentials(token)), patience=patience)

    def __repr__(self) -> str:
        return f"PinningService({self._service.url!r})"

    def close(self) -> None:
        """Break off what is under way, and let go of the connections."""
        self._wire.close()

    # -- what can be asked ------------------------------------------------------------------

    def add(
        self,
        cid: CID | str,
        *,
        name: str = "",
        origins: Iterable[str] = (),
        meta: Mapping[str, str] | None = None,
    ) -> RemotePin:
        """Ask the service to keep some content; it does so later, see `wait`.

        Parameters
        ----------
        cid
            The root; all below it is kept too.
        name
            For people, at most 255 characters.
        origins
            Addresses of nodes that have the content, with their ids
            (``/dns4/example.org/tcp/4001/p2p/12D3...``); at most 20.
        meta
            More to know it by.

        Raises
        ------
        InvalidInputError
            If the service says that something of this is wrong.
        QuotaError
            If the account's means are used up.
        StoreError
            If the service refuses, or answers otherwise than the API says.
        StoreUnavailable
            If it cannot be reached, stays busy, or does not take the token.
        """
        return self._change("/pins", _wanted(cid, name, origins, meta))

    def get(self, id: str) -> RemotePin:
        """Return how far the service is with a request.

        Raises
        ------
        NotFoundError
            If it knows of none such.
        """
        return self._read(self._wire.ask("GET", _path(id), PinStatus))

    def pins(
        self,
        *,
        cids: Iterable[CID | str] = (),
        name: str = "",
        match: str = "exact",
        statuses: Iterable[Status] = tuple(Status),
        before: str = "",
        after: str = "",
        meta: Mapping[str, str] | None = None,
        page: int = _PAGE,
    ) -> Iterator[RemotePin]:
        """Give the requests of this account, the youngest first.

        Parameters
        ----------
        cids
            Only those for these roots.
        name, match
            Only those with this name; ``match`` is ``exact``, ``iexact``, ``partial`` or
            ``ipartial``, where ``i`` ignores case.
        statuses
            Only those that are as far as this.
        before, after
            Only those that were made before or after this time in ISO form.
        meta
            Only those that have this in their meta.
        page
            How many the service is asked for at once.
        """
        roots = [CID.parse(cid) for cid in cids]
        query = _query(name, match, statuses, after, meta, page)
        for some in [roots[at : at + _MOST_CIDS] for at in range(0, len(roots), _MOST_CIDS)] or [
            []
        ]:
            asked = {**query, "cid": ",".join(map(str, some))} if some else query
            yield from self._pages(asked, before)

    def count(self, *, statuses: Iterable[Status] = (Status.PINNED,)) -> int:
        """Return how many requests of this account are as far as this."""
        query = _query("", "exact", statuses, "", None, 1)
        return self._wire.ask("GET", f"/pins?{urlencode(query)}", PinResults).count

    def replace(
        self,
        id: str,
        cid: CID | str,
        *,
        name: str = "",
        origins: Iterable[str] = (),
        meta: Mapping[str, str] | None = None,
    ) -> RemotePin:
        """Ask for other content in the place of a request; the answer has another id.

        The service need not fetch again what is in both.  The rest is as in `add`.
        """
        return self._change(_path(id), _wanted(cid, name, origins, meta))

    def remove(self, id: str) -> None:
        """Take a request back.

        Raises
        ------
        NotFoundError
            If the service knows of none such.
        """
        tries = 0

        def settled() -> None:
            nonlocal tries
            tries += 1

        try:
            self._wire.ask("DELETE", _path(id), type(None), settled=settled)
        except NotFoundError:
            if not tries:  # Else an attempt that seemed to fail has arrived.
                raise

    def wait(
        self,
        pin: RemotePin | str,
        *,
        timeout: float = 3600.0,
        progress: Callable[[RemotePin], object] | None = None,
    ) -> RemotePin:
        """Wait until the service keeps the content.

        Parameters
        ----------
        pin
            The request, or its id.
        timeout
            Seconds.
        progress
            Told how far the service is, each time that it was asked.

        Raises
        ------
        StoreError
            If the service gave up.
        StoreUnavailable
            If it is not done in time; the request stands, and may be waited for again.
        """
        id = pin if isinstance(pin, str) else pin.id
        deadline = time.monotonic() + timeout
        pause = FIRST_PAUSE
        while True:
            known = self.get(id)
            if progress is not None:
                progress(known)
            if known.status == Status.PINNED:
                return known
            if known.status == Status.FAILED:
                details = "; ".join(f"{key}: {value}" for key, value in known.info.items())
                raise StoreError(
                    f"The service at {self._service} could not pin {known.cid}"
                    f"{': ' + self._service.hide(details) if details else ''}. Is there a node "
                    "that has the content and that the service can reach?"
                )
            if time.monotonic() + pause > deadline:
                raise StoreUnavailable(
                    f"The service at {self._service} is not done with {known.cid} after "
                    f"{timeout:g} seconds ({known.status}). Wait for {id} again later."
                )
            self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    # -- exchanges --------------------------------------------------------------------------

    def _change(self, path: str, wanted: PinObject) -> RemotePin:
        """Send what shall be pinned; if that went wrong on the way, see first if it arrived."""
        started = datetime.now(UTC)

        def settled() -> PinStatus | None:
            query = _query(wanted.name or "", "exact", _UNDER_WAY, "", None, _MOST_CIDS)
            asked = f"/pins?{urlencode({**query, 'cid': wanted.cid})}"
            try:
                found = self._wire.once("GET", asked, PinResults).results
            except Again:
                return None
            # The service's clock may be behind ours.
            new = (each for each in found if seconds_before(each.created, started) < _CLOCKS_APART)
            return next(new, None)

        pin = self._read(self._wire.ask("POST", path, PinStatus, body=wanted, settled=settled))
        if key_of(pin.cid) != key_of(CID.parse(wanted.cid)):
            raise StoreError(
                f"The service at {self._service} was asked for {wanted.cid} and pins {pin.cid}."
            )
        return pin

    def _pages(self, query: dict[str, str], before: str) -> Iterator[RemotePin]:
        """Give all results: where one page ends, the next one, of what is older, begins."""
        seen: set[str] = set()
        while True:
            asked = {**query, "before": before} if before else query
            page = self._wire.ask("GET", f"/pins?{urlencode(asked)}", PinResults)
            new = [pin for pin in map(self._read, page.results) if pin.id not in seen]
            yield from new
            if page.count <= len(page.results) or not new:
                return
            before = new[-1].created
            seen.update(pin.id for pin in new)

    def _read(self, told: PinStatus) -> RemotePin:
        try:
            cid = CID.parse(told.pin.cid)
            datetime.fromisoformat(told.created)
        except (ContentError, ValueError):
            raise self._wire.nonsense() from None
        return RemotePin(
            id=told.requestid,
            status=told.status,
            cid=cid,
            name=told.pin.name or "",
            created=told.created,
            origins=tuple(told.pin.origins or ()),
            meta=told.pin.meta or {},
            delegates=tuple(told.delegates),
            info=told.info or {},
        )


def _wanted(
    cid: CID | str, name: str, origins: Iterable[str], meta: Mapping[str, str] | None
) -> PinObject:
    if len(name) > _LONGEST_NAME:
        raise InvalidInputError(f"The name of a pin has at most {_LONGEST_NAME} characters.")
    root = str(CID.parse(cid))
    return PinObject(root, name or None, list(origins) or None, dict(meta or {}) or None)


def _query(
    name: str,
    match: str,
    statuses: Iterable[Status],
    after: str,
    meta: Mapping[str, str] | None,
    page: int,
) -> dict[str, str]:
    # A service that is not told the statuses gives what is pinned alone.
    query = {"status": ",".join(statuses), "limit": str(max(1, min(page, _PAGE)))}
    if name:
        query |= {"name": name, "match": match}
    if after:
        query["after"] = after
    if meta:
        query["meta"] = msgspec.json.encode(dict(meta)).decode()
    return query


def _path(id: str) -> str:
    if not isinstance(id, str) or not id.strip(".") or len(id) > _LONGEST_NAME:
        raise InvalidInputError(f"{id!r:.80} is not the id of a request to a pinning service.")
    return f"/pins/{quote(id, safe='')}"
