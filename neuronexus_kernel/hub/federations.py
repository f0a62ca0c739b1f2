"""Federations that a hub serves: who may, who takes part, and what came of it.

A maintainer asks; the hub starts a SuperLink as a child process and registers nodes by public
key, each under the account that brought it, so that every update has an owner.  When all are
connected, a training run like any other is recorded: its rounds, the sealed updates of those who
took part, and the weights as a model version.  What remains of it in files is removed then.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from neuronexus_kernel.content import check_id, new_id
from neuronexus_kernel.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NeuroNexusError,
    NotFoundError,
)
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.contents import Contents
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.identity import OWNER
from neuronexus_kernel.hub.projects import find_project
from neuronexus_kernel.hub.records import (
    Account,
    Federation,
    Membership,
    NewFederation,
    NewRun,
    Round,
    RunResult,
)
from neuronexus_kernel.hub.runs import MAX_PARTICIPANTS, Runs
from neuronexus_kernel.models import weights as weights_format
from neuronexus_kernel.settings import FederationSettings

if TYPE_CHECKING:
    import numpy as np

    from neuronexus_kernel.federation.deployment.serving import Assignment, Serving
    from neuronexus_kernel.federation.result import RoundReport

ACTIVE = ("waiting", "training")

_EVERYWHERE = ("0.0.0.0", "::")


class Federations:
    """The federations of one hub.

    Parameters
    ----------
    database, contents, runs
        Where records, content and training runs are kept.
    folder
        For the files of those that are active.
    settings
        Where they listen, and how many there may be.
    """

    def __init__(
        self,
        database: Database,
        contents: Contents,
        runs: Runs,
        *,
        folder: Path,
        settings: FederationSettings,
    ) -> None:
        self._database = database
        self._contents = contents
        self._runs = runs
        self._folder = folder
        self._settings = settings
        self._serving: dict[str, Serving] = {}
        self._starting = threading.Lock()
        self._recover()

    @property
    def active(self) -> bool:
        """Whether one is served now."""
        return any(serving.state in ACTIVE for serving in list(self._serving.values()))

    def start(self, actor: Account, new: NewFederation) -> Federation:
        """Start a federation; see `Hub.start_federation`."""
        check_id(new.id)
        with self._starting:
            known = self._database.read(lambda tx: _find(tx, new.id))
            if known is not None:
                return self.get(new.id)
            project = self._database.read(lambda tx: find_project(tx, new.project))
            _check_maintainer(actor, project)
            self._check_free(project.id)
            assignment = self._assignment(new, project)
            address, name = self._address(actor, new)
            audience = _Audience(self, self._runs, self._contents, actor, new)
            serving = self._serve(new.id, assignment, audience, address, name)
            port = serving.address.rpartition(":")[2]
            reached = f"{name}:{port}" if name else serving.address

            def change(tx: Transaction) -> None:
                tx.execute(
                    schema.federations.insert().values(
                        id=new.id,
                        project=project.id,
                        author=actor.name,
                        recipe=new.recipe,
                        rounds=new.rounds,
                        nodes=new.nodes,
                        address=reached,
                        app=serving.bundle.sha256,
                        state="waiting",
                        run=None,
                        problem=None,
                        created=tx.time,
                    )
                )
                tx.emit("federation.started", new.id, project.id, nodes=new.nodes)

            self._serving[new.id] = serving
            try:
                self._database.write(change)
            except BaseException:
                serving.stop()
                raise
            if serving.state not in ACTIVE:  # it ended before there was a record to say so in
                self.ended(new.id, serving.state, serving.problem)
        return self.get(new.id)

    def join(self, actor: Account, federation: str, public_key: str) -> Membership:
        """Register a node of an account; see `Hub.join_federation`."""
        from neuronexus_kernel.federation.deployment.tls import check_public_key

        if actor.name == OWNER.name:
            raise AuthenticationError(
                "Sign in with an account of your own: updates need an owner who can be paid."
            )
        key = check_public_key(public_key.encode())
        record = self.get(federation)
        serving = self._serving.get(federation)
        if serving is None or record.state not in ACTIVE:
            raise ConflictError(f"The federation {federation} is over: it is {record.state}.")
        serving.admit(key, actor.name)

        def change(tx: Transaction) -> None:
            keys = schema.node_keys
            mine = sa.and_(keys.c.federation == federation, keys.c.account == actor.name)
            if tx.first(sa.select(keys).where(mine)) is None:
                tx.execute(
                    keys.insert().values(
                        federation=federation,
                        account=actor.name,
                        public_key=key.decode(),
                        created=tx.time,
                    )
                )
                tx.emit("federation.joined", federation, record.project, account=actor.name)

        self._database.write(change)
        return Membership(
            federation=self.get(federation),
            account=actor.name,
            authority=serving.authority.decode(),
        )

    def stop(self, actor: Account, federation: str) -> Federation:
        """End a federation; see `Hub.stop_federation`."""
        record = self.get(federation)
        project = self._database.read(lambda tx: find_project(tx, record.project))
        if actor.name != record.author:
            _check_maintainer(actor, project)
        serving = self._serving.get(federation)
        if serving is not None:
            serving.stop()
        return self.get(federation)

    def get(self, federation: str) -> Federation:
        """Return a federation by id.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        return self._record(self._database.read(lambda tx: find_federation(tx, federation)))

    def all(self, project: str) -> list[Federation]:
        """Return a project's federations, oldest first."""
        table = schema.federations

        def query(tx: Transaction) -> list[sa.Row[Any]]:
            found = find_project(tx, project).id
            own = sa.select(table).where(table.c.project == found).order_by(table.c.created)
            return list(tx.all(own))

        return [self._record(row) for row in self._database.read(query)]

    def close(self) -> None:
        """End all of them after their last full rounds."""
        for serving in list(self._serving.values()):
            serving.stop()

    # -- told by the audience ---------------------------------------------------------------

    def began(self, federation: str, run: str) -> None:
        """Record that training has begun."""
        self._change(federation, "federation.training", state="training", run=run)

    def ended(self, federation: str, state: str, problem: str) -> None:
        """Record how a federation ended, and remove its files."""
        self._change(federation, "federation.ended", state=state, problem=problem or None)
        self._serving.pop(federation, None)
        shutil.rmtree(self._folder / federation, ignore_errors=True)

    def _change(self, federation: str, event: str, **values: str | None) -> None:
        table = schema.federations

        def change(tx: Transaction) -> None:
            row = _find(tx, federation)
            if row is None:
                return  # it ended before it was recorded
            tx.execute(table.update().where(table.c.id == federation).values(**values))
            tx.emit(event, federation, row.project, state=values["state"])

        self._database.write(change)

    # -- parts of starting one --------------------------------------------------------------

    def _serve(
        self, federation: str, assignment: Assignment, audience: _Audience, address: str, name: str
    ) -> Serving:
        from neuronexus_kernel.federation.deployment.serving import Serving

        return Serving(
            self._folder / federation,
            assignment,
            audience,
            address=address,
            names=(name,) if name else (),
        )

    def _assignment(self, new: NewFederation, project: sa.Row[Any]) -> Assignment:
        from neuronexus_kernel.federation.deployment.serving import Assignment

        recipe = self._contents.recipe(new.recipe)
        weights = weights_format.deserialize(
            self._contents.bytes_of(new.weights), recipe.architecture.parameter_shapes
        )
        return Assignment(
            recipe=recipe,
            weights=weights,
            rounds=new.rounds,
            nodes=new.nodes,
            seed=new.seed,
            cohort=new.clients_per_round,
            validation=self._contents.dataset(project.validation),
            keep_updates=new.nodes <= MAX_PARTICIPANTS,
            patience=new.patience,
        )

    def _address(self, actor: Account, new: NewFederation) -> tuple[str, str]:
        """Return where to listen, and the name under which others reach it, if it differs."""
        from neuronexus_kernel.federation.deployment.superlink import split_address

        if new.address and actor.role != "operator":
            raise ForbiddenError(
                "Only an operator chooses where a federation listens; leave the address out."
            )
        address = new.address or self._settings.address
        host, _ = split_address(address)
        if host in _EVERYWHERE and not self._settings.name:
            raise InvalidInputError(
                f"At {address} other machines need a name to reach this one: set "
                "NEURONEXUS_FEDERATION_NAME for the hub."
            )
        return address, self._settings.name if host in _EVERYWHERE else ""

    def _check_free(self, project: str) -> None:
        table = schema.federations
        query = sa.select(table.c.id, table.c.project).where(table.c.state.in_(ACTIVE))
        active = self._database.read(lambda tx: tx.all(query))
        same = [row.id for row in active if row.project == project]
        if same:
            raise ConflictError(f"The project has a federation already, {same[0]}: stop it first.")
        if len(active) >= self._settings.most:
            raise ConflictError(f"This hub serves {len(active)} federations, as many as it can.")

    def _record(self, row: sa.Row[Any]) -> Federation:
        keys = schema.node_keys
        accounts = self._database.read(
            lambda tx: tx.all(sa.select(keys.c.account).where(keys.c.federation == row.id))
        )
        serving = self._serving.get(row.id)
        return Federation(
            id=row.id,
            project=row.project,
            author=row.author,
            recipe=row.recipe,
            rounds=row.rounds,
            nodes=row.nodes,
            address=row.address,
            app=row.app,
            state=row.state,
            accounts=tuple(sorted(entry.account for entry in accounts)),
            connected=() if serving is None else serving.connected,
            run=row.run,
            problem=row.problem,
            created=row.created,
        )

    def _recover(self) -> None:
        """Close the books on what a hub that ended at once has left behind."""
        table = schema.federations
        query = sa.select(table).where(table.c.state.in_(ACTIVE))
        for row in self._database.read(lambda tx: tx.all(query)):
            if row.run is not None:
                author = Account(name=row.author, role="member", created="")
                self._runs.finish(author, row.run, RunResult(state="interrupted", weights=None))
            self.ended(row.id, "interrupted", "")


class _Audience:
    """Records what happens in a federation as the run of whoever started it."""

    def __init__(
        self,
        federations: Federations,
        runs: Runs,
        contents: Contents,
        actor: Account,
        new: NewFederation,
    ) -> None:
        self._federations = federations
        self._runs = runs
        self._contents = contents
        self._actor = actor
        self._new = new
        self._run: str | None = None
        self._updates: list[str] = []

    def started(self, names: tuple[str, ...]) -> None:
        """Record the run."""
        new = self._new
        run = self._runs.start(
            self._actor,
            NewRun(
                id=new_id(),
                project=new.project,
                recipe=new.recipe,
                rounds=new.rounds,
                clients=new.nodes,
                clients_per_round=new.clients_per_round or new.nodes,
                participants=names if len(names) <= MAX_PARTICIPANTS else (),
                seed=new.seed,
            ),
        )
        self._run = run.id
        self._federations.began(new.id, run.id)

    def round(self, report: RoundReport, updates: bytes | None) -> None:
        """Record a round, and seal what the labs sent."""
        if self._run is None:
            return
        if updates is not None:
            self._updates.append(self._put(updates, kind="update", sealed=True))
        self._runs.record_round(
            self._actor,
            self._run,
            Round(
                round=report.round,
                loss=report.loss,
                accuracy=report.accuracy,
                seconds=report.seconds,
                clients=report.clients,
            ),
        )

    def ended(self, state: str, problem: str, weights: dict[str, np.ndarray] | None) -> None:
        """Record the end, and the weights as a model version."""
        try:
            if self._run is not None:
                self._finish(self._run, state, weights)
        except NeuroNexusError as error:
            state, problem = "failed", str(error)
        self._federations.ended(self._new.id, state, problem)

    def _finish(self, run: str, state: str, weights: dict[str, np.ndarray] | None) -> None:
        cid = None
        if weights is not None:
            cid = self._put(weights_format.serialize(weights), kind="weights", sealed=False)
        self._runs.finish(
            self._actor,
            run,
            RunResult(
                state="finished" if state == "finished" else "interrupted",
                weights=cid,
                updates=tuple(self._updates),
                plan={"executor": "federation", "federation": self._new.id},
            ),
        )

    def _put(self, data: bytes, *, kind: str, sealed: bool) -> str:
        root = self._contents.put(
            self._actor,
            data,
            name=kind,
            kind=kind,
            visibility="sealed" if sealed else "public",
            codec="file",
        )
        return root.cid


def find_federation(tx: Transaction, federation: str) -> sa.Row[Any]:
    """Return a federation's row by id.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    row = _find(tx, federation)
    if row is None:
        raise NotFoundError(f"There is no federation {federation!r}.")
    return row


def _find(tx: Transaction, federation: str) -> sa.Row[Any] | None:
    table = schema.federations
    return tx.first(sa.select(table).where(table.c.id == federation))


def _check_maintainer(actor: Account, project: sa.Row[Any]) -> None:
    if actor.role != "operator" and actor.name != project.owner:
        raise ForbiddenError(
            f"Only {project.owner}, who owns the project, or an operator may serve it to others."
        )
