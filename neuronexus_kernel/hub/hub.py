"""The hub: what every notebook, panel and command talks to, wherever it runs.

`Hub` is the one interface of the shared place.  `LocalHub` (``local.py``) owns a database, a
content store and a ledger; `RemoteHub` (``remote.py``) is the same interface over HTTP and
WebSocket.  One contract suite runs against both.  A hub object is one visitor's view: it holds
that visitor's sign-in and nothing else.

Every method may raise `AuthenticationError` (nobody is signed in, and the call needs somebody),
`ForbiddenError`, and `HubUnavailableError`.  Reading public records and content needs no sign-in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol

from neuronexus_kernel.hub.hub_accounts import AccountsHub
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
    Sight,
    Version,
)
from neuronexus_kernel.storage.interface import BlockReader


class Hub(AccountsHub, Protocol):
    """One visitor's view of the shared place; its accounts are in `AccountsHub`."""

    @property
    def address(self) -> str:
        """Where the hub is: a URL, or the folder of a hub in this process."""

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
        """Store bytes under their CID.

        Parameters
        ----------
        data
            The bytes, or a stream of them in binary mode, which may be larger than memory: a
            file (profile ``unixfs-v1-2025``); one canonical DAG-CBOR document when `codec` is
            ``"dag-cbor"``; or a CAR file with one root, such as a folder, when it is ``"car"``.
        name
            Other content under the same name of the same account is a new version of it; see
            `history`.
        visibility
            ``sealed`` content can be written by everyone and read back by nobody.
        license
            Under which others may use it.

        Raises
        ------
        ContentError
            If the DAG-CBOR document is not canonical.
        StoreError
            If the CAR file is malformed or incomplete, or a block does not match its CID.
        QuotaError
            If the object is larger than the hub accepts.
        """

    def get(self, cid: str) -> bytes:
        """Return the bytes of a public or project root.

        Raises
        ------
        NotFoundError
            If there is no such root, or it is sealed.
        """

    def blocks(self) -> BlockReader:
        """Return the single blocks that the visitor may read: those below roots they may read."""

    def roots(
        self,
        *,
        kind: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        text: str | None = None,
    ) -> list[Root]:
        """Return the public and project roots, newest first.

        Parameters
        ----------
        kind, name, owner
            Only those of this kind, name or owner.
        text
            Only those in whose name, kind, owner, license or CID it occurs, in any case.
        """

    def history(self, name: str, *, owner: str | None = None) -> list[Root]:
        """Return what has been stored under a name, oldest first: the versions do not change.

        Parameters
        ----------
        owner
            Whose name it is; by default the visitor's own.

        Raises
        ------
        NotFoundError
            If nothing that the visitor may read has that name.
        """

    def keep(self, cid: str, *, name: str = "") -> Keeping:
        """Promise to keep content that the visitor may read, whole.

        The hub keeps by itself what its records name.  A promise keeps content beyond that.

        Raises
        ------
        NotFoundError
            If there is no such root.
        """

    def release(self, cid: str) -> None:
        """Take the visitor's promises to keep a root back.

        Raises
        ------
        NotFoundError
            If there is none.
        """

    def keepings(self) -> list[Keeping]:
        """Return the visitor's promises, the oldest first."""

    # -- projects and versions ------------------------------------------------------------

    def create_project(self, project: NewProject) -> Project:
        """Make a project.

        Raises
        ------
        ConflictError
            If the name is taken by another project.
        InvalidInputError, RecipeError, ArchitectureError, DatasetError
            If a part does not fit the task.
        """

    def project(self, name: str) -> Project:
        """Return a project by name or id."""

    def projects(self) -> list[Project]:
        """Return all projects, oldest first."""

    def versions(self, project: str) -> list[Version]:
        """Return a project's model versions, oldest first."""

    def maintainers(self, project: str) -> list[str]:
        """Return who maintains a project, by name: its owner first, then whom the owner named."""

    def add_maintainer(self, project: str, account: str) -> None:
        """Name a maintainer: the account may then do for the project what its owner may.

        Only naming further maintainers stays with the owner, and with operators.

        Raises
        ------
        ForbiddenError
            If the visitor is neither the project's owner nor an operator.
        NotFoundError
            If there is no such account.
        """

    def remove_maintainer(self, project: str, account: str) -> None:
        """Take the part of a maintainer back; one may also lay down one's own.

        Raises
        ------
        ForbiddenError
            If the visitor is neither the project's owner, nor an operator, nor that account.
        NotFoundError
            If the account is not among the maintainers.
        """

    def export_project(self, project: str, stream: BinaryIO, *, sealed: bool = False) -> int:
        """Write a whole project, records and content, as one CAR file; return how many bytes.

        The same project gives the same bytes.  Contributions that wait to be measured and
        federations are left out.

        Parameters
        ----------
        project
            Its name or id.
        stream
            Takes the file, in binary mode.  If an error is raised, what it took is worth nothing.
        sealed
            Whether sealed content comes along too: the held-out split, the updates of
            participants, and sealed receipts.

        Raises
        ------
        ForbiddenError
            If the visitor does not maintain the project and is no operator; sealed content is for
            operators alone.
        StoreError
            If content of it is missing.
        """

    def import_project(self, stream: BinaryIO, *, name: str = "") -> Project:
        """Make a project of what `export_project` wrote; the visitor will own it.

        It has the id, the versions, the runs and the decided contributions that it had.  Accounts
        of the other hub are named ``name@origin`` here, and what they earned there is no part of
        this hub's ledger.  What the archive says of them nobody has proved.

        Parameters
        ----------
        stream
            The file, in binary mode.
        name
            Of the project here; by default the one that it had.

        Raises
        ------
        ConflictError
            If the project is here already, or its name is taken by another.
        NotFoundError
            If the held-out split is neither in the file nor sealed on this hub.
        ForbiddenError
            If there is sealed content in it, and the visitor is no operator.
        StoreError, InvalidInputError, RecipeError, ArchitectureError, DatasetError, QuotaError
            If the file is malformed, something in it does not fit together or not the task, or
            something is too large.  No part of the project is here then.
        """

    # -- training runs --------------------------------------------------------------------

    def start_run(self, run: NewRun) -> Run:
        """Record that a training run begins.

        Started again under its id, a run that has made no model version goes on, with as many
        rounds as are asked for now: its process may have been killed, or it was interrupted.
        All else stays as it was, and so does a run that is over.

        Raises
        ------
        InvalidInputError
            If the run has more rounds already than are asked for.
        ForbiddenError
            If the run belongs to another account.
        """

    def record_round(self, run: str, report: Round) -> None:
        """Record one round of a running run; recording the same round twice has one effect."""

    def finish_run(self, run: str, result: RunResult) -> Run:
        """Record how a run ended; with weights it becomes a model version (not yet the head)."""

    def run(self, run: str) -> Run:
        """Return a run by id."""

    def runs(self, project: str) -> list[Run]:
        """Return a project's runs, oldest first."""

    # -- federations over many machines ---------------------------------------------------

    def start_federation(self, federation: NewFederation) -> Federation:
        """Start a SuperLink for a project and wait for nodes; its maintainers may.

        Raises
        ------
        ForbiddenError
            If the visitor does not maintain the project and is no operator.
        ConflictError
            If the project has a federation already, or the hub serves as many as it can.
        """

    def federation(self, federation: str) -> Federation:
        """Return a federation by id."""

    def federations(self, project: str) -> list[Federation]:
        """Return a project's federations, oldest first."""

    def join_federation(self, federation: str, public_key: str) -> Membership:
        """Register the signed-in account's node by its public key (PEM).

        What that node sends is the account's from then on.

        Raises
        ------
        ConflictError
            If the account has another node there, somebody else has the key, or there is no
            seat left.
        """

    def stop_federation(self, federation: str) -> Federation:
        """End a federation after its last full round; it can be resumed."""

    def resume_federation(self, federation: str) -> Federation:
        """Go on with a federation that ended before its last round; its maintainers may.

        It waits for the nodes that took part, then trains on after the last round that was
        saved, as a new run that has the earlier rounds too, and ends with the weights of one
        that was never interrupted.  Resuming one that is served has no effect.

        Raises
        ------
        ForbiddenError
            If the visitor does not maintain the project and is no operator.
        ConflictError
            If it is finished, its files are gone, the project has another federation, or the
            hub serves as many as it can.
        """

    # -- contributions --------------------------------------------------------------------

    def submit(self, contribution: NewContribution) -> Contribution:
        """Submit a contribution and queue its evaluation.

        Raises
        ------
        QuotaError
            If the account has used up its evaluations of the day.
        ConflictError
            If the same content was submitted to this project before.
        RecipeError, ArchitectureError, DatasetError, NotFoundError
            If the payload does not fit the project.
        """

    def contribution(self, contribution: str) -> Contribution:
        """Return a contribution by id."""

    def contributions(self, *, project: str | None = None) -> list[Contribution]:
        """Return contributions, oldest first."""

    def confirm(self, contribution: str) -> Contribution:
        """Confirm the signed-in account's part in a compute contribution."""

    # -- tokens ---------------------------------------------------------------------------

    def balances(self) -> list[Balance]:
        """Return the balances of all accounts that ever held NXS."""

    def balance(self, account: str) -> Balance:
        """Return one account's balance.

        Raises
        ------
        NotFoundError
            If nobody has that name.
        """

    def ledger_lines(self, *, account: str | None = None) -> list[LedgerLine]:
        """Return the ledger's postings, all or one account's, oldest first.

        Raises
        ------
        NotFoundError
            If nobody has that name.
        """

    def verify_ledger(self) -> LedgerStatus:
        """Recompute every hash, sum and root of the ledger."""

    # -- upkeep ---------------------------------------------------------------------------

    def backup(self, path: str) -> Backup:
        """Write a backup of the hub to a new folder of the computer that it runs on.

        Only who owns the hub's folder may; others go on using the hub meanwhile.

        Raises
        ------
        ConflictError
            If there is something already.
        StoreError
            If it cannot be written; then there is none.
        """

    def check(self) -> list[str]:
        """Look through the ledger, the stores and the records; return what is wrong, in words.

        Only an operator may.
        """

    # -- looking --------------------------------------------------------------------------

    def events(
        self, since: int = 0, *, limit: int = 1000, project: str | None = None
    ) -> list[Event]:
        """Return events with a number above `since`, oldest first."""

    def follow(self, since: int = 0, *, project: str | None = None) -> Iterator[Event]:
        """Yield events above `since` and then new ones as they happen, until closed.

        The iterator is a generator: close it (or the hub) to stop.
        """

    def network(self) -> Network:
        """Return the hub and its members as they are now."""

    def close(self) -> None:
        """Let go of connections; a `LocalHub` that was opened also closes its database."""
