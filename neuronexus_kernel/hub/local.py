"""`LocalHub`: the hub itself, in this process; here all rooms are put together.

One process owns the database and the stores and holds one set of services.  A `LocalHub` object
is one visitor's view of them: opening gives the first, `visitor` gives others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from neuronexus_kernel.content import Visibility
from neuronexus_kernel.errors import ForbiddenError, InvalidInputError
from neuronexus_kernel.hub import pins
from neuronexus_kernel.hub.archive import Archives
from neuronexus_kernel.hub.audit import AuditTrail
from neuronexus_kernel.hub.backup import back_up
from neuronexus_kernel.hub.checking import problems
from neuronexus_kernel.hub.codes import Codes
from neuronexus_kernel.hub.contents import Contents
from neuronexus_kernel.hub.contributions import Contributions
from neuronexus_kernel.hub.database import open_database
from neuronexus_kernel.hub.evaluation import Evaluator
from neuronexus_kernel.hub.events import EventLog
from neuronexus_kernel.hub.external import ExternalLogins
from neuronexus_kernel.hub.federations import Federations
from neuronexus_kernel.hub.home import Home
from neuronexus_kernel.hub.identity import Identity
from neuronexus_kernel.hub.local_accounts import LocalAccounts
from neuronexus_kernel.hub.maintainers import Maintainers
from neuronexus_kernel.hub.network import Presence, describe
from neuronexus_kernel.hub.paging import Window
from neuronexus_kernel.hub.permissions import enforced
from neuronexus_kernel.hub.projects import Projects
from neuronexus_kernel.hub.reach import VisibleBlocks
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
    NewUpload,
    Project,
    Root,
    Round,
    Run,
    RunResult,
    Sight,
    Version,
)
from neuronexus_kernel.hub.replays import Replays
from neuronexus_kernel.hub.runs import Runs
from neuronexus_kernel.hub.secret import derive, session_secret
from neuronexus_kernel.hub.sharing import Sharing
from neuronexus_kernel.hub.signins import OWNER, SignIns
from neuronexus_kernel.hub.throttle import Throttle
from neuronexus_kernel.hub.tokens import Tokens
from neuronexus_kernel.hub.uploads import OwnUploads, Uploads
from neuronexus_kernel.hub.workers import ChildProcessExecutor
from neuronexus_kernel.settings import Settings
from neuronexus_kernel.storage import LocalStore
from neuronexus_kernel.storage.car import write_all


class Services:
    """Everything one hub is made of.

    Parameters
    ----------
    settings
        Where the hub's folder is, and its limits.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._is_closed = False
        self._home = Home(settings.home)
        try:
            self.database = open_database(settings, self._home.name)
        except BaseException:
            self._home.release()
            raise
        try:
            self._compose(settings)
        except BaseException:
            self.database.close()
            self._home.release()
            raise

    def _compose(self, settings: Settings) -> None:
        stores = settings.storage.folder or settings.home
        self.content = content = LocalStore(stores / "content", settings.storage)
        self.sealed = sealed = LocalStore(stores / "sealed", settings.storage)
        self.contents = Contents(self.database, content, sealed, limit=settings.upload_limit)
        # What is added is pinned; but the folders are open to others too, and earlier versions
        # pinned under no name.
        open_to_some = self.contents.recorded(Visibility.PUBLIC, Visibility.PROJECT)
        content.keep(open_to_some, name=pins.OWN)
        sealed.keep(self.contents.recorded(Visibility.SEALED), name=pins.OWN)
        self.sharing = Sharing.configured(
            settings.home,
            partial(self.contents.recorded, Visibility.PUBLIC),
            self.contents.blocks(None),
            sync=settings.storage.fsync == "always",
        )
        self.contents.when_public(self.sharing.note)
        self.uploads = Uploads(
            stores / "uploads",
            limit=settings.upload_limit,
            sync=settings.storage.fsync == "always",
        )
        self.replays = Replays(self.database)
        self._compose_accounts(settings.home, settings)
        self.tokens = Tokens(self.database)
        self.projects = Projects(self.database, self.contents)
        self.archives = Archives(
            self.database, self.contents, self.projects, limit=settings.archive_limit
        )
        self.runs = Runs(self.database, self.contents)
        self.contributions = Contributions(
            self.database, self.contents, self.tokens, per_day=settings.evaluation.per_day
        )
        self.federations = Federations(
            self.database,
            self.contents,
            self.runs,
            hub=self._home.name,
            folder=settings.home / "federations",
            settings=settings.federation,
        )
        self.events = EventLog(self.database)
        self.presence = Presence()
        self.evaluator = Evaluator(
            self.database,
            self.contents,
            self.contributions,
            ChildProcessExecutor(settings.evaluation, preload=Evaluator.PRELOAD),
            hub=self._home.name,
        )

    def _compose_accounts(self, home: Path, settings: Settings) -> None:
        self.secret = session_secret(home, settings.accounts.secret)
        self.signins = SignIns(self.database, settings.accounts)
        self.codes = Codes(self.database)
        self.identity = Identity(
            self.database,
            settings.accounts,
            self.signins,
            self.codes,
            Throttle(self.database, derive(self.secret, "throttle")),
        )
        self.external = ExternalLogins(
            self.database, self.identity, registration=settings.accounts.registration
        )
        self.audit = AuditTrail(self.database)
        self.maintainers = Maintainers(self.database)

    def close(self) -> None:
        """End the federations, the evaluator and the couriers, and let go of the database."""
        self.federations.close()
        self.evaluator.stop()
        self.sharing.close()
        self.events.close()
        self.database.close()
        if not self._is_closed:
            self._is_closed = True
            self._home.release()


@enforced
class LocalHub(LocalAccounts):
    """One visitor's view of a hub in this process; the interface is `Hub`.

    Parameters
    ----------
    services
        The hub.
    token
        The visitor's token, or None for a visitor who is not signed in.
    source
        The address that the visitor comes from; empty for this process.

    Raises
    ------
    AuthenticationError
        If the token is not valid.
    """

    def __init__(self, services: Services, token: str | None = None, source: str = "") -> None:
        super().__init__(services, token, source)

    @classmethod
    def open(cls, settings: Settings | Path | str | None = None) -> LocalHub:
        """Open the hub of a folder, making it when it does not exist.

        Parameters
        ----------
        settings
            The settings, or the folder alone; by default as the environment says.

        Raises
        ------
        HubUnavailableError
            If another process holds its database.
        """
        if not isinstance(settings, Settings):
            settings = Settings.load(settings)
        return cls(Services(settings))

    # -- what a server needs beside the interface ------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether an evaluation runs or waits, a federation is served, or content is on its way."""
        services = self._services
        return services.evaluator.busy or services.federations.active or services.sharing.at_work

    def visitor(self, token: str | None = None, *, source: str = "") -> LocalHub:
        """Return another visitor's view of the same hub.

        Raises
        ------
        AuthenticationError
            If the token is not valid.
        """
        return LocalHub(self._services, token, source)

    def blocks(self) -> VisibleBlocks:
        """Return the single blocks that the visitor may read, for a gateway."""
        return self._services.contents.blocks(self._viewer())

    def stream(self, cid: str) -> BinaryIO:
        """Return what `get` gives as a stream, for a download."""
        self.admit("get")
        return self._services.contents.open(self._viewer(), cid)

    @property
    def spool(self) -> Path:
        """Folder for what is arriving, on the disk where it will stay."""
        return self._services.uploads.folder

    @property
    def replays(self) -> Replays:
        """What requests that may be repeated came to."""
        return self._services.replays

    def uploads(self) -> OwnUploads:
        """Return the visitor's uploads that arrive in parts; they amount to a `put`."""
        self.admit("put")

        def put(stream: BinaryIO, new: NewUpload) -> Root:
            return self.put(
                stream,
                name=new.name,
                kind=new.kind,
                visibility=new.visibility,
                codec=new.codec,
                license=new.license,
            )

        return OwnUploads(self._services.uploads, self._actor(), put)

    def archive(self, project: str, *, sealed: bool = False) -> Iterator[bytes]:
        """Give what `export_project` writes piece by piece, for a download."""
        self.admit("export_project")
        return self._services.archives.export(self._actor(), project, sealed=sealed)

    def subscribe(self, callback: Callable[[Sequence[Event]], None]) -> Callable[[], None]:
        """Call back after each commit with its events, on the writer thread."""
        return self._services.database.subscribe(callback)

    def start_evaluator(self) -> None:
        """Evaluate what is submitted, in child processes, until the hub is closed."""
        self._services.evaluator.start()

    def start_sharing(self) -> None:
        """Bring public content to the IPFS node that the environment names, until it is closed."""
        self._services.sharing.start()

    # -- the interface ---------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The hub's folder."""
        return str(self._services.settings.home)

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
        return self._services.contents.put(
            self._actor(),
            data,
            name=name,
            kind=kind,
            visibility=visibility,
            codec=codec,
            license=license,
        )

    def get(self, cid: str) -> bytes:
        """See `Hub.get`."""
        return self._services.contents.get(self._viewer(), cid)

    def roots(
        self,
        *,
        kind: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        text: str | None = None,
        window: Window | None = None,
    ) -> list[Root]:
        """See `Hub.roots`."""
        return self._services.contents.roots(
            self._viewer(), kind=kind, name=name, owner=owner, text=text, window=window
        )

    def history(self, name: str, *, owner: str | None = None) -> list[Root]:
        """See `Hub.history`."""
        return self._services.contents.history(self._viewer(), name, owner)

    def keep(self, cid: str, *, name: str = "") -> Keeping:
        """See `Hub.keep`."""
        return self._services.contents.keep(self._actor(), cid, name)

    def release(self, cid: str) -> None:
        """See `Hub.release`."""
        self._services.contents.release(self._actor(), cid)

    def keepings(self) -> list[Keeping]:
        """See `Hub.keepings`."""
        return self._services.contents.keepings(self._actor())

    def create_project(self, project: NewProject) -> Project:
        """See `Hub.create_project`."""
        return self._services.projects.create(self._actor(), project)

    def project(self, name: str) -> Project:
        """See `Hub.project`."""
        return self._services.projects.get(name)

    def projects(self) -> list[Project]:
        """See `Hub.projects`."""
        return self._services.projects.all()

    def versions(self, project: str, *, window: Window | None = None) -> list[Version]:
        """See `Hub.versions`."""
        return self._services.projects.versions(project, window)

    def maintainers(self, project: str) -> list[str]:
        """See `Hub.maintainers`."""
        return self._services.maintainers.all(project)

    def add_maintainer(self, project: str, account: str) -> None:
        """See `Hub.add_maintainer`."""
        self._services.maintainers.add(self._actor(), project, account, self._source)

    def remove_maintainer(self, project: str, account: str) -> None:
        """See `Hub.remove_maintainer`."""
        self._services.maintainers.remove(self._actor(), project, account, self._source)

    def export_project(self, project: str, stream: BinaryIO, *, sealed: bool = False) -> int:
        """See `Hub.export_project`."""
        return write_all(stream, self.archive(project, sealed=sealed))

    def import_project(self, stream: BinaryIO, *, name: str = "") -> Project:
        """See `Hub.import_project`."""
        return self._services.archives.take_in(self._actor(), stream, name=name)

    def start_run(self, run: NewRun) -> Run:
        """See `Hub.start_run`."""
        return self._services.runs.start(self._actor(), run)

    def record_round(self, run: str, report: Round) -> None:
        """See `Hub.record_round`."""
        self._services.runs.record_round(self._actor(), run, report)

    def finish_run(self, run: str, result: RunResult) -> Run:
        """See `Hub.finish_run`."""
        return self._services.runs.finish(self._actor(), run, result)

    def run(self, run: str) -> Run:
        """See `Hub.run`."""
        return self._services.runs.get(run)

    def runs(self, project: str, *, window: Window | None = None) -> list[Run]:
        """See `Hub.runs`."""
        return self._services.runs.all(project, window)

    def start_federation(self, federation: NewFederation) -> Federation:
        """See `Hub.start_federation`."""
        return self._services.federations.start(self._actor(), federation)

    def federation(self, federation: str) -> Federation:
        """See `Hub.federation`."""
        return self._services.federations.get(federation)

    def federations(self, project: str) -> list[Federation]:
        """See `Hub.federations`."""
        return self._services.federations.all(project)

    def join_federation(self, federation: str, public_key: str) -> Membership:
        """See `Hub.join_federation`."""
        return self._services.federations.join(self._actor(), federation, public_key)

    def stop_federation(self, federation: str) -> Federation:
        """See `Hub.stop_federation`."""
        return self._services.federations.stop(self._actor(), federation)

    def resume_federation(self, federation: str) -> Federation:
        """See `Hub.resume_federation`."""
        return self._services.federations.resume(self._actor(), federation)

    def submit(self, contribution: NewContribution) -> Contribution:
        """See `Hub.submit`."""
        return self._services.contributions.submit(self._actor(), contribution)

    def contribution(self, contribution: str) -> Contribution:
        """See `Hub.contribution`."""
        return self._services.contributions.get(contribution)

    def contributions(
        self, *, project: str | None = None, window: Window | None = None
    ) -> list[Contribution]:
        """See `Hub.contributions`."""
        return self._services.contributions.all(project, window)

    def confirm(self, contribution: str) -> Contribution:
        """See `Hub.confirm`."""
        return self._services.contributions.confirm(self._actor(), contribution)

    def balances(self) -> list[Balance]:
        """See `Hub.balances`."""
        return self._services.tokens.balances()

    def balance(self, account: str) -> Balance:
        """See `Hub.balance`."""
        return self._services.tokens.balance(account)

    def ledger_lines(
        self, *, account: str | None = None, window: Window | None = None
    ) -> list[LedgerLine]:
        """See `Hub.ledger_lines`."""
        return self._services.tokens.lines(account, window)

    def verify_ledger(self) -> LedgerStatus:
        """See `Hub.verify_ledger`."""
        return self._services.tokens.verify()

    def backup(self, path: str) -> Backup:
        """See `Hub.backup`."""
        if self._actor().name != OWNER.name:
            raise ForbiddenError(
                "Only who owns the hub's folder makes backups: `neuronexus hub backup` there."
            )
        services = self._services
        target = Path(path)
        if not target.is_absolute():
            raise InvalidInputError(f"A backup needs an absolute path, not {path!r}.")
        return back_up(services.database, services.content, services.sealed, target)

    def check(self) -> list[str]:
        """See `Hub.check`."""
        services = self._services
        return problems(services.database, services.tokens, services.content, services.sealed)

    def events(
        self, since: int = 0, *, limit: int = 1000, project: str | None = None
    ) -> list[Event]:
        """See `Hub.events`."""
        return self._services.events.page(since, limit=limit, project=project)

    def follow(self, since: int = 0, *, project: str | None = None) -> Iterator[Event]:
        """See `Hub.follow`."""
        return self._services.events.follow(since, project=project)

    def network(self) -> Network:
        """See `Hub.network`."""
        services = self._services
        return services.database.read(lambda tx: describe(tx, services.tokens, services.presence))

    def close(self) -> None:
        """See `Hub.close`."""
        self._services.close()
