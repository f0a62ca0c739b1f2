"""RemoteHub: the hub's interface over HTTP and WebSocket.

`ROUTES` says what the API is, `Transport` carries, and this module only joins them: a call names
an operation and its parameters, and gets back the record that the hub returned or the error that
the hub raised, so that a notebook cannot tell a hub elsewhere from one in its own process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import BinaryIO, TypeVar, get_origin
from urllib.parse import quote

import msgspec

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.hub.account_records import OneTimeCode
from neuronexus_kernel.hub.patience import PAUSES
from neuronexus_kernel.hub.records import (
    Backup,
    Balance,
    Codec,
    Contribution,
    Event,
    Federation,
    Keeping,
    LedgerLine,
    LedgerStatus,
    Membership,
    Network,
    NewContribution,
    NewFederation,
    NewProject,
    NewRun,
    Project,
    Root,
    Round,
    Run,
    RunResult,
    Session,
    Sight,
    Version,
)
from neuronexus_kernel.hub.remote_accounts import RemoteAccounts
from neuronexus_kernel.hub.remote_uploads import send_object
from neuronexus_kernel.hub.routes import API, ARCHIVE, ARCHIVES, BY_OPERATION, CONTENT
from neuronexus_kernel.hub.transport import Dropped, Transport
from neuronexus_kernel.storage.interface import BlockReader

T = TypeVar("T")

# Repeating these has the effect of doing them once, because the caller names what it makes: they
# need no idempotency key.
_REPEATABLE = frozenset(
    {
        "create_project",
        "start_run",
        "record_round",
        "finish_run",
        "start_federation",
        "join_federation",
        "resume_federation",
        "submit",
        "confirm",
        "add_maintainer",
        "disable",
    }
)
# What ends, or is good for one time only.
_ONCE = frozenset({"logout", "reset_password"})
# These hold credentials, which the hub does not keep to give them twice.
_SECRET = (Session, OneTimeCode)
# A stream that lasted this long was a good one: its end is the first failure again.
_SETTLED = 5.0


class RemoteHub(RemoteAccounts):
    """A hub behind an address; implements `Hub`.

    Parameters
    ----------
    address
        Where the hub answers, for example ``http://127.0.0.1:8765``.
    token
        Proves who the caller is; `login` sets it.
    timeout
        Seconds to wait for an answer before the hub counts as unavailable.

    Raises
    ------
    InvalidInputError
        If the address is not an ``http://`` or ``https://`` URL.
    """

    def __init__(self, address: str, token: str | None = None, *, timeout: float = 30.0) -> None:
        super().__init__(Transport(address, token, timeout=timeout))

    def __repr__(self) -> str:
        return f"RemoteHub({self.address!r})"

    @property
    def address(self) -> str:
        """The hub's URL, without a slash at its end."""
        return self._transport.address

    # -- content --------------------------------------------------------------------------

    def put(
        self,
        data: bytes | BinaryIO,
        *,
        name: str = "",
        kind: str = "file",
        visibility: Sight = "public",
        codec: Codec = "file",
        license: str = "",
    ) -> Root:
        """See `Hub.put`."""
        query = {
            "name": name,
            "kind": kind,
            "visibility": visibility,
            "codec": codec,
            "license": license,
        }
        return send_object(self._transport, data, query)

    def get(self, cid: str) -> bytes:
        """See `Hub.get`."""
        return self._transport.send("GET", f"{CONTENT}/{quote(cid, safe='')}", repeat=True)

    def blocks(self) -> BlockReader:
        """See `Hub.blocks`: over the hub's gateway, each block verified here."""
        from neuronexus_kernel.storage.gateway import GatewayStore

        return GatewayStore(self.address, token=self._transport.token)

    def history(self, name: str, *, owner: str | None = None) -> list[Root]:
        """See `Hub.history`."""
        return self._call("history", list[Root], name=name, owner=owner)

    def keep(self, cid: str, *, name: str = "") -> Keeping:
        """See `Hub.keep`."""
        return self._call("keep", Keeping, cid=cid, name=name)

    def release(self, cid: str) -> None:
        """See `Hub.release`."""
        self._call("release", type(None), cid=cid)

    def keepings(self) -> list[Keeping]:
        """See `Hub.keepings`."""
        return self._call("keepings", list[Keeping])

    def roots(
        self,
        *,
        kind: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        text: str | None = None,
    ) -> list[Root]:
        """See `Hub.roots`."""
        return self._call("roots", list[Root], kind=kind, name=name, owner=owner, text=text)

    # -- projects and versions ------------------------------------------------------------

    def create_project(self, project: NewProject) -> Project:
        """See `Hub.create_project`."""
        return self._call("create_project", Project, project=project)

    def project(self, name: str) -> Project:
        """See `Hub.project`."""
        return self._call("project", Project, name=name)

    def projects(self) -> list[Project]:
        """See `Hub.projects`."""
        return self._call("projects", list[Project])

    def versions(self, project: str) -> list[Version]:
        """See `Hub.versions`."""
        return self._call("versions", list[Version], project=project)

    def maintainers(self, project: str) -> list[str]:
        """See `Hub.maintainers`."""
        return self._call("maintainers", list[str], project=project)

    def add_maintainer(self, project: str, account: str) -> None:
        """See `Hub.add_maintainer`."""
        self._call("add_maintainer", type(None), project=project, account=account)

    def remove_maintainer(self, project: str, account: str) -> None:
        """See `Hub.remove_maintainer`."""
        self._call("remove_maintainer", type(None), project=project, account=account)

    def export_project(self, project: str, stream: BinaryIO, *, sealed: bool = False) -> int:
        """See `Hub.export_project`."""
        path = ARCHIVE.format(project=quote(_text(project, "project"), safe=""))
        return self._transport.download(path, stream, query={"sealed": str(sealed).lower()})

    def import_project(self, stream: BinaryIO, *, name: str = "") -> Project:
        """See `Hub.import_project`."""
        return self._transport.upload(ARCHIVES, stream, Project, query={"name": name})

    # -- training runs --------------------------------------------------------------------

    def start_run(self, run: NewRun) -> Run:
        """See `Hub.start_run`."""
        return self._call("start_run", Run, run=run)

    def record_round(self, run: str, report: Round) -> None:
        """See `Hub.record_round`."""
        self._call("record_round", type(None), run=run, report=report)

    def finish_run(self, run: str, result: RunResult) -> Run:
        """See `Hub.finish_run`."""
        return self._call("finish_run", Run, run=run, result=result)

    def run(self, run: str) -> Run:
        """See `Hub.run`."""
        return self._call("run", Run, run=run)

    def runs(self, project: str) -> list[Run]:
        """See `Hub.runs`."""
        return self._call("runs", list[Run], project=project)

    # -- federations over many machines ---------------------------------------------------

    def start_federation(self, federation: NewFederation) -> Federation:
        """See `Hub.start_federation`."""
        return self._call("start_federation", Federation, federation=federation)

    def federation(self, federation: str) -> Federation:
        """See `Hub.federation`."""
        return self._call("federation", Federation, federation=federation)

    def federations(self, project: str) -> list[Federation]:
        """See `Hub.federations`."""
        return self._call("federations", list[Federation], project=project)

    def join_federation(self, federation: str, public_key: str) -> Membership:
        """See `Hub.join_federation`."""
        return self._call(
            "join_federation", Membership, federation=federation, public_key=public_key
        )

    def stop_federation(self, federation: str) -> Federation:
        """See `Hub.stop_federation`."""
        return self._call("stop_federation", Federation, federation=federation)

    def resume_federation(self, federation: str) -> Federation:
        """See `Hub.resume_federation`."""
        return self._call("resume_federation", Federation, federation=federation)

    # -- contributions --------------------------------------------------------------------

    def submit(self, contribution: NewContribution) -> Contribution:
        """See `Hub.submit`."""
        return self._call("submit", Contribution, contribution=contribution)

    def contribution(self, contribution: str) -> Contribution:
        """See `Hub.contribution`."""
        return self._call("contribution", Contribution, contribution=contribution)

    def contributions(self, *, project: str | None = None) -> list[Contribution]:
        """See `Hub.contributions`."""
        return self._call("contributions", list[Contribution], project=project)

    def confirm(self, contribution: str) -> Contribution:
        """See `Hub.confirm`."""
        return self._call("confirm", Contribution, contribution=contribution)

    # -- tokens ---------------------------------------------------------------------------

    def balances(self) -> list[Balance]:
        """See `Hub.balances`."""
        return self._call("balances", list[Balance])

    def balance(self, account: str) -> Balance:
        """See `Hub.balance`."""
        return self._call("balance", Balance, account=account)

    def ledger_lines(self, *, account: str | None = None) -> list[LedgerLine]:
        """See `Hub.ledger_lines`."""
        return self._call("ledger_lines", list[LedgerLine], account=account)

    def verify_ledger(self) -> LedgerStatus:
        """See `Hub.verify_ledger`."""
        return self._call("verify_ledger", LedgerStatus)

    # -- looking --------------------------------------------------------------------------

    def backup(self, path: str) -> Backup:
        """See `Hub.backup`; it is waited for as long as `timeout` says."""
        return self._call("backup", Backup, path=path)

    def check(self) -> list[str]:
        """See `Hub.check`; it is waited for as long as `timeout` says."""
        return self._call("check", list[str])

    def events(
        self, since: int = 0, *, limit: int = 1000, project: str | None = None
    ) -> list[Event]:
        """See `Hub.events`."""
        return self._call("events", list[Event], since=since, limit=limit, project=project)

    def follow(self, since: int = 0, *, project: str | None = None) -> Iterator[Event]:
        """See `Hub.follow`.

        A dropped connection is taken up again where it broke off.

        Raises
        ------
        HubUnavailableError
            If the hub cannot be reached, at first or again.
        """
        last, failures = since, 0
        patience: tuple[float, ...] = PAUSES[:2]
        while not self._transport.is_closed():
            began = time.monotonic()
            try:
                for event in self._transport.stream(last, project):
                    if event.previous != last:
                        raise Dropped("the stream skipped an event")
                    last, failures, patience = event.seq, 0, PAUSES
                    yield event
            except Dropped as dropped:
                if self._transport.is_closed():
                    return
                if time.monotonic() - began > _SETTLED:
                    failures, patience = 0, PAUSES
                if failures == len(patience):
                    raise self._transport.unreachable(dropped) from dropped
                time.sleep(patience[failures])
                failures += 1

    def network(self) -> Network:
        """See `Hub.network`."""
        return self._call("network", Network)

    def close(self) -> None:
        """End every `follow` and let go of connections."""
        self._transport.close()

    def _call(self, operation: str, returns: type[T], **parameters: object) -> T:
        result = self._ask(operation, returns, **parameters)
        self._renew_if_due()
        return result

    def _ask(self, operation: str, returns: type[T], **parameters: object) -> T:
        route = BY_OPERATION[operation]
        given = {name: value for name, value in parameters.items() if value is not None}
        path = API + route.path
        for name in [name for name in given if f"{{{name}}}" in path]:
            path = path.replace(f"{{{name}}}", quote(_text(given.pop(name), name), safe=""))
        repeat = operation in _REPEATABLE
        is_keyed = not repeat and operation not in _ONCE and returns not in _SECRET
        if route.verb == "POST":
            return self._transport.ask(
                "POST",
                path,
                returns,
                body=msgspec.json.encode(given),
                repeat=repeat,
                keyed=is_keyed,
                json=True,
            )
        query = {name: str(value) for name, value in given.items()}
        if route.verb == "DELETE":
            return self._transport.ask("DELETE", path, returns, query=query, keyed=is_keyed)
        if get_origin(returns) is list and "limit" not in given:
            return self._transport.pages(path, returns, query)
        return self._transport.ask("GET", path, returns, query=query, repeat=True)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{name} must be a text that is not empty, not {value!r}.")
    return value
