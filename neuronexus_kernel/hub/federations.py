"""Federations that a hub serves: who may, who takes part, and what came of it.

A maintainer asks; the hub starts a SuperLink as a child process and registers nodes by public
key, each under the account that brought it, so that every update has an owner.  When all are
connected, a training run like any other is recorded: its rounds, the sealed updates of those who
took part, and the weights as a model version.

The files of one that finished are removed.  Those of one that ended early stay, so that it can be
resumed: until it is, until its project is served anew, or for `KEPT_DAYS`.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
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
from neuronexus_kernel.hub.maintainers import check_maintainer
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
from neuronexus_kernel.hub.signins import OWNER
from neuronexus_kernel.models import weights as weights_format
from neuronexus_kernel.settings import FederationSettings

if TYPE_CHECKING:
    import numpy as np

    from neuronexus_kernel.federation.deployment.order import Assignment
    from neuronexus_kernel.federation.deployment.serving import Serving
    from neuronexus_kernel.federation.result import RoundReport

ACTIVE = ("waiting", "training")
ENDED_EARLY = ("interrupted", "failed")

KEPT_DAYS = 30.0
"""For so long a federation that ended early can be resumed."""

_EVERYWHERE = ("0.0.0.0", "::")


class Federations:
    """The federations of one hub.

    Parameters
    ----------
    database, contents, runs
        Where records, content and training runs are kept.
    hub
        Name of this hub among those that share the database; each serves its own.
    folder
        For the files of those that are active, or may be again.
    settings
        Where they listen, and how many there may be.
    """

    def __init__(
        self,
        database: Database,
        contents: Contents,
        runs: Runs,
        *,
        hub: str,
        folder: Path,
        settings: FederationSettings,
    ) -> None:
        self._database = database
        self._hub = hub
        self._contents = contents
        self._runs = runs
        self._folder = folder
        self._settings = settings
        self._serving: dict[str, Serving] = {}
        self._starting = threading.Lock()
        self._recover()
        self._sweep()

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
            self._check_maintainer(actor, project.id)
            self._database.read(lambda tx: self._check_free(tx, project.id))
            assignment = self._assignment(new, project)
            address, name = self._address(actor, new)
            audience = self._audience(new.id, project.id, new.recipe, actor.name)
            try:
                self._prepare(new.id, assignment, address, name)
                serving = self._serve(new.id, audience)
            except BaseException:
                self._remove(new.id)
                raise

            def change(tx: Transaction) -> None:
                self._check_free(tx, project.id)
                tx.execute(
                    schema.federations.insert().values(
                        id=new.id,
                        project=project.id,
                        author=actor.name,
                        recipe=new.recipe,
                        rounds=new.rounds,
                        nodes=new.nodes,
                        address=serving.reached,
                        app=serving.bundle.sha256,
                        hub=self._hub,
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
                self._remove(new.id)
                raise
            if serving.state not in ACTIVE:  # it ended before there was a record to say so in
                self.ended(new.id, serving.state, serving.problem)
            self._sweep(instead_of=new.id)
        return self.get(new.id)

    def resume(self, actor: Account, federation: str) -> Federation:
        """Go on with a federation that ended early; see `Hub.resume_federation`."""
        with self._starting:
            row = self._database.read(lambda tx: find_federation(tx, federation))
            self._check_maintainer(actor, row.project)
            if row.state in ACTIVE:
                return self.get(federation)
            self._check_resumable(row)

            def change(tx: Transaction) -> None:
                self._check_free(tx, row.project)
                self._set(tx, row, state="waiting", problem=None)
                tx.emit("federation.resumed", row.id, row.project, nodes=row.nodes)

            self._database.write(change)
            try:
                self._go_on(row)
            except BaseException as error:
                self.ended(row.id, "failed", str(error))
                raise
        return self.get(federation)

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
        if record.state not in ACTIVE:
            raise ConflictError(f"The federation {federation} is over: it is {record.state}.")
        if serving is None:
            self._check_here(federation)
            raise ConflictError("The federation is just being resumed: join it in a moment.")
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
        row = self._database.read(lambda tx: find_federation(tx, federation))
        self._check_maintainer(actor, row.project)
        serving = self._serving.get(federation)
        if serving is not None:
            serving.stop()
        else:
            self._check_here(federation)
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
        """End all of them after their last full rounds; nodes wait a while for the next hub."""
        for serving in list(self._serving.values()):
            serving.stop(farewell=False)

    # -- told by the audience ---------------------------------------------------------------

    def began(self, federation: str, run: str) -> None:
        """Record that training has begun."""
        self._change(federation, "federation.training", state="training", run=run)

    def ended(self, federation: str, state: str, problem: str) -> None:
        """Record how a federation ended, and remove its files if nothing is left to do."""
        self._change(federation, "federation.ended", state=state, problem=problem or None)
        self._serving.pop(federation, None)
        if state == "finished":
            self._remove(federation)

    def _change(self, federation: str, event: str, **values: str | None) -> None:
        def change(tx: Transaction) -> None:
            row = _find(tx, federation)
            if row is None:
                return  # it ended before it was recorded
            self._set(tx, row, **values)
            tx.emit(event, federation, row.project, state=values["state"])

        self._database.write(change)

    def _set(self, tx: Transaction, row: sa.Row[Any], **values: str | None) -> None:
        table = schema.federations
        tx.execute(table.update().where(table.c.id == row.id).values(**values))

    # -- parts of starting one --------------------------------------------------------------

    def _audience(
        self, federation: str, project: str, recipe: str, author: str, run: str | None = None
    ) -> _Audience:
        return _Audience(
            self,
            self._runs,
            self._contents,
            Account(name=author, role="member", created=""),
            federation=federation,
            folder=self._folder / federation,
            project=project,
            recipe=recipe,
            run=run,
        )

    def _prepare(self, federation: str, assignment: Assignment, address: str, name: str) -> None:
        from neuronexus_kernel.federation.deployment.serving import prepare

        names = (name,) if name else ()
        prepare(self._folder / federation, assignment, address=address, names=names)

    def _serve(self, federation: str, audience: _Audience) -> Serving:
        from neuronexus_kernel.federation.deployment.serving import Serving

        return Serving(self._folder / federation, audience)

    def _go_on(self, row: sa.Row[Any]) -> None:
        """Serve a federation from its folder, and admit the nodes that were admitted before."""
        audience = self._audience(row.id, row.project, row.recipe, row.author)
        serving = self._serve(row.id, audience)
        self._serving[row.id] = serving
        try:
            for entry in self._keys(row.id):
                serving.admit(entry.public_key.encode(), entry.account)
            values = {"address": serving.reached, "app": serving.bundle.sha256}
            self._database.write(lambda tx: self._set(tx, row, **values))
        except BaseException:
            serving.stop()
            raise

    def _assignment(self, new: NewFederation, project: sa.Row[Any]) -> Assignment:
        from neuronexus_kernel.federation.deployment.order import Assignment

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

    def _check_maintainer(self, actor: Account, project: str) -> None:
        self._database.read(
            lambda tx: check_maintainer(tx, actor, find_project(tx, project), "serve it to others")
        )

    def _check_resumable(self, row: sa.Row[Any]) -> None:
        if row.state not in ENDED_EARLY:
            raise ConflictError(f"The federation is {row.state}: there is nothing to go on with.")
        if not self._is_resumable(row):
            raise ConflictError(
                "The federation can no longer be resumed: its files are removed when its project "
                f"is served anew, and after {KEPT_DAYS:g} days. Serve the project anew."
            )

    def _is_resumable(self, row: sa.Row[Any]) -> bool:
        return row.state in ENDED_EARLY and (self._folder / row.id).exists()

    def _check_here(self, federation: str) -> None:
        """Refuse what only the hub that serves a federation can do."""
        row = self._database.read(lambda tx: find_federation(tx, federation))
        if row.state in ACTIVE and row.hub != self._hub:
            raise ConflictError(
                f"The federation {federation} is served by another hub on the same database; ask "
                "that one."
            )

    def _check_free(self, tx: Transaction, project: str) -> None:
        table = schema.federations
        active = tx.all(sa.select(table).where(table.c.state.in_(ACTIVE)))
        same = [row.id for row in active if row.project == project]
        if same:
            raise ConflictError(f"The project has a federation already, {same[0]}: stop it first.")
        here = sum(row.hub == self._hub for row in active)
        if here >= self._settings.most:
            raise ConflictError(f"This hub serves {here} federations, as many as it can.")

    def _keys(self, federation: str) -> Sequence[sa.Row[Any]]:
        keys = schema.node_keys
        query = sa.select(keys).where(keys.c.federation == federation).order_by(keys.c.account)
        return self._database.read(lambda tx: tx.all(query))

    def _record(self, row: sa.Row[Any]) -> Federation:
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
            accounts=tuple(entry.account for entry in self._keys(row.id)),
            connected=() if serving is None else serving.connected,
            resumable=self._is_resumable(row),
            run=row.run,
            problem=row.problem,
            created=row.created,
        )

    # -- what is left behind ----------------------------------------------------------------

    def _recover(self) -> None:
        """Close the books on what this hub, if it ended at once, has left behind.

        What is nobody's comes from before hubs had names, or from a backup.
        """
        table = schema.federations
        mine = table.c.hub.in_([self._hub, ""])
        query = sa.select(table).where(table.c.state.in_(ACTIVE), mine)
        for row in self._database.read(lambda tx: tx.all(query)):
            self._close_books(row)

    def _close_books(self, row: sa.Row[Any]) -> None:
        """Record what was saved of a federation that nobody serves any more."""
        from neuronexus_kernel.federation.deployment.order import read_updates, saved_in
        from neuronexus_kernel.federation.deployment.serving import order_folder

        audience = self._audience(row.id, row.project, row.recipe, row.author, row.run)
        folder = order_folder(self._folder / row.id)
        state, problem, weights = "interrupted", "", None
        try:
            saved = saved_in(folder)
            for report in () if saved is None else saved.reports:
                audience.round(report, read_updates(folder, report.round))
            if saved is not None and saved.round > 0:
                weights = saved.weights
                state = "finished" if saved.round == row.rounds else "interrupted"
        except (NeuroNexusError, OSError) as error:
            state, problem = "failed", f"What was saved could not be read: {error}"
        audience.ended(state, problem, weights)

    def _sweep(self, instead_of: str | None = None) -> None:
        """Remove the files of federations that will not go on.

        Parameters
        ----------
        instead_of
            A federation that has just begun: its project's earlier ones are given up for it.
        """
        table = schema.federations
        rows = {row.id: row for row in self._database.read(lambda tx: tx.all(sa.select(table)))}
        taken = rows[instead_of].project if instead_of is not None else None
        long_ago = time.time() - KEPT_DAYS * 24 * 3600
        for folder in self._folder.iterdir() if self._folder.exists() else ():
            row = rows.get(folder.name)
            if (
                row is None
                or row.state == "finished"
                or (row.state in ENDED_EARLY and row.project == taken)
                or (row.state in ENDED_EARLY and folder.stat().st_mtime < long_ago)
            ):
                self._remove(folder.name)

    def _remove(self, federation: str) -> None:
        shutil.rmtree(self._folder / federation, ignore_errors=True)


class _Audience:
    """Records what happens in a federation as the run of whoever started it."""

    def __init__(
        self,
        federations: Federations,
        runs: Runs,
        contents: Contents,
        author: Account,
        *,
        federation: str,
        folder: Path,
        project: str,
        recipe: str,
        run: str | None,
    ) -> None:
        self._federations = federations
        self._runs = runs
        self._contents = contents
        self._author = author
        self._federation = federation
        self._folder = folder
        self._project = project
        self._recipe = recipe
        self._run = run
        self._updates: list[str] = []

    def started(self, names: tuple[str, ...]) -> None:
        """Record the run.

        One that was interrupted has made its version, and does not change any more: what goes on
        is a new run with all its rounds.
        """
        self._run = self._runs.start(self._author, self._new_run(names)).id
        self._federations.began(self._federation, self._run)

    def _new_run(self, names: tuple[str, ...]) -> NewRun:
        from neuronexus_kernel.federation.deployment.order import Assignment
        from neuronexus_kernel.federation.deployment.serving import order_folder

        given = Assignment.read(order_folder(self._folder))
        return NewRun(
            id=new_id(),
            project=self._project,
            recipe=self._recipe,
            rounds=given.rounds,
            clients=given.nodes,
            clients_per_round=given.cohort or given.nodes,
            participants=names if len(names) <= MAX_PARTICIPANTS else (),
            seed=given.seed,
        )

    def round(self, report: RoundReport, updates: bytes | None) -> None:
        """Record a round, and seal what the labs sent."""
        if self._run is None:
            return
        if updates is not None:
            self._updates.append(self._put(updates, kind="update", sealed=True))
        self._runs.record_round(
            self._author,
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
            self._finish(state, weights)
        except NeuroNexusError as error:  # weights that the records do not take
            state, problem = "failed", str(error)
            self._finish(state, None)
        self._federations.ended(self._federation, state, problem)

    def _finish(self, state: str, weights: dict[str, np.ndarray] | None) -> None:
        if self._run is None:
            return
        cid = None
        if weights is not None:
            cid = self._put(weights_format.serialize(weights), kind="weights", sealed=False)
        self._runs.finish(
            self._author,
            self._run,
            RunResult(
                state="finished" if state == "finished" else "interrupted",
                weights=cid,
                updates=tuple(self._updates),
                plan={"executor": "federation", "federation": self._federation},
            ),
        )

    def _put(self, data: bytes, *, kind: str, sealed: bool) -> str:
        root = self._contents.put(
            self._author,
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
