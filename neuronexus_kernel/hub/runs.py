"""Training runs as they happen: who trains, each round's result, and the version they end in."""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.content import Visibility, check_id
from neuronexus_kernel.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from neuronexus_kernel.federation.weights import check_loss
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.contents import Contents
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.paging import Window, windowed
from neuronexus_kernel.hub.projects import add_version, find_project, find_version
from neuronexus_kernel.hub.records import Account, NewRun, Round, Run, RunResult
from neuronexus_kernel.models import weights as weights_format

MAX_PARTICIPANTS = 12
"""Exact Shapley values need every coalition of the participants: 4,096 of them at 12."""


class Runs:
    """The training runs of one hub.

    Parameters
    ----------
    database, contents
        Where records and content are kept.
    """

    def __init__(self, database: Database, contents: Contents) -> None:
        self._database = database
        self._contents = contents

    def start(self, actor: Account, new: NewRun) -> Run:
        """Record that a run begins; see `Hub.start_run`."""
        check_id(new.id)
        if new.rounds < 1 or new.clients < 1 or not 1 <= new.clients_per_round <= new.clients:
            raise InvalidInputError(
                "A run has at least one round and one client, and no more clients a round than "
                f"there are; got rounds={new.rounds}, clients={new.clients}, "
                f"clients_per_round={new.clients_per_round}."
            )
        if len(new.participants) > MAX_PARTICIPANTS:
            raise InvalidInputError(
                f"A run values up to {MAX_PARTICIPANTS} named participants, "
                f"not {len(new.participants)}."
            )
        recipe = self._contents.recipe(new.recipe)

        def change(tx: Transaction) -> Run:
            known = tx.first(sa.select(schema.runs).where(schema.runs.c.id == new.id))
            if known is not None:
                return self._record(tx, _go_on(tx, _own(known, actor), new.rounds))
            project = find_project(tx, new.project)
            recipe.architecture.check_task(tuple(project.input_shape), tuple(project.output_shape))
            check_loss(recipe, project.kind)
            _check_accounts(tx, new.participants)
            tx.execute(
                schema.runs.insert().values(
                    id=new.id,
                    project=project.id,
                    author=actor.name,
                    recipe=new.recipe,
                    rounds=new.rounds,
                    clients=new.clients,
                    clients_per_round=new.clients_per_round,
                    participants=list(new.participants),
                    seed=new.seed,
                    state="running",
                    plan={},
                    updates=[],
                    version=None,
                    created=tx.time,
                )
            )
            tx.emit(
                "run.started",
                new.id,
                project.id,
                author=actor.name,
                rounds=new.rounds,
                participants=list(new.participants),
                clients=new.clients,
                clients_per_round=new.clients_per_round,
            )
            return self._record(tx, find_run(tx, new.id))

        return self._database.write(change)

    def record_round(self, actor: Account, run: str, report: Round) -> None:
        """Record one round; see `Hub.record_round`."""
        rounds = schema.rounds

        def change(tx: Transaction) -> None:
            row = _own(find_run(tx, run), actor)
            same = sa.select(rounds).where(rounds.c.run == run, rounds.c.round == report.round)
            if tx.first(same) is not None:
                return
            if row.state != "running":
                raise ConflictError(f"The run {run} is {row.state}; it takes no more rounds.")
            if not 0 <= report.round <= row.rounds:
                raise InvalidInputError(
                    f"The run {run} has rounds 0 to {row.rounds}, not {report.round}."
                )
            tx.execute(
                rounds.insert().values(
                    run=run,
                    round=report.round,
                    loss=_finite(report.loss),
                    accuracy=_finite(report.accuracy),
                    seconds=report.seconds,
                    clients=list(report.clients),
                )
            )
            tx.emit(
                "run.round",
                run,
                row.project,
                round=report.round,
                loss=_finite(report.loss),
                accuracy=_finite(report.accuracy),
                seconds=report.seconds,
                clients=list(report.clients),
            )

        self._database.write(change)

    def finish(self, actor: Account, run: str, result: RunResult) -> Run:
        """Record how a run ended; see `Hub.finish_run`."""
        row = self._database.read(lambda tx: _own(find_run(tx, run), actor))
        if result.state not in ("finished", "interrupted"):
            raise InvalidInputError(f"A run ends finished or interrupted, not {result.state!r}.")
        if result.weights is not None:
            shapes = self._contents.recipe(row.recipe).architecture.parameter_shapes
            weights_format.deserialize(self._contents.bytes_of(result.weights), shapes)

        def change(tx: Transaction) -> Run:
            row = find_run(tx, run)
            if row.state != "running":
                return self._record(tx, row)
            version = number = None
            _check_updates(tx, result.updates)
            if result.weights is not None:
                _check_own_weights(tx, row, result.weights)
                version = self._add_version(tx, row, result.weights)
                number = find_version(tx, version, head="").number
            tx.execute(
                schema.runs.update()
                .where(schema.runs.c.id == run)
                .values(
                    state=result.state,
                    plan=result.plan,
                    updates=list(result.updates),
                    version=version,
                )
            )
            tx.emit("run.finished", run, row.project, state=result.state, version=number)
            return self._record(tx, find_run(tx, run))

        return self._database.write(change)

    def get(self, run: str) -> Run:
        """Return a run by id."""
        return self._database.read(lambda tx: self._record(tx, find_run(tx, run)))

    def all(self, project: str, window: Window | None = None) -> list[Run]:
        """Return a project's runs, oldest first."""
        runs = schema.runs

        def query(tx: Transaction) -> list[Run]:
            found = sa.select(runs).where(runs.c.project == find_project(tx, project).id)
            rows = tx.all(windowed(found, window, runs.c.created, runs.c.id))
            return [self._record(tx, row) for row in rows]

        return self._database.read(query)

    def _add_version(self, tx: Transaction, run: sa.Row[Any], weights: str) -> str:
        rounds = schema.rounds
        last = tx.first(
            sa.select(rounds).where(rounds.c.run == run.id).order_by(rounds.c.round.desc())
        )
        measured = {} if last is None else {"accuracy": last.accuracy, "loss": last.loss}
        return add_version(
            tx,
            project=run.project,
            weights=weights,
            recipe=run.recipe,
            parent=find_project(tx, run.project).head,
            author=run.author,
            run=run.id,
            metrics={name: value for name, value in measured.items() if value is not None},
        )

    def _record(self, tx: Transaction, row: sa.Row[Any]) -> Run:
        rounds = schema.rounds
        history = tx.all(sa.select(rounds).where(rounds.c.run == row.id).order_by(rounds.c.round))
        project = find_project(tx, row.project)
        version = None
        if row.version is not None:
            version = find_version(tx, row.version, head=project.head)
        return Run(
            id=row.id,
            project=row.project,
            author=row.author,
            recipe=row.recipe,
            rounds=row.rounds,
            clients=row.clients,
            clients_per_round=row.clients_per_round,
            participants=tuple(row.participants),
            seed=row.seed,
            state=row.state,
            history=tuple(_round(entry) for entry in history),
            plan=row.plan,
            version=version,
            created=row.created,
            metric=project.metric,
        )


def find_run(tx: Transaction, run: str) -> sa.Row[Any]:
    """Return a run's row by id.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    row = tx.first(sa.select(schema.runs).where(schema.runs.c.id == run))
    if row is None:
        raise NotFoundError(f"There is no training run {run!r}.")
    return row


def _go_on(tx: Transaction, row: sa.Row[Any], rounds: int) -> sa.Row[Any]:
    """Take up a run again unless it is over, with another number of rounds perhaps."""
    runs, recorded = schema.runs, schema.rounds.c
    over = row.state == "finished" or row.version is not None
    if over or (row.state, row.rounds) == ("running", rounds):
        return row
    done = tx.scalar(sa.select(sa.func.max(recorded.round)).where(recorded.run == row.id)) or 0
    if done > rounds:
        raise InvalidInputError(
            f"The run {row.id} has {done} rounds already; ask for as many or more, not {rounds}."
        )
    tx.execute(runs.update().where(runs.c.id == row.id).values(state="running", rounds=rounds))
    tx.emit(
        "run.resumed",
        row.id,
        row.project,
        author=row.author,
        rounds=rounds,
        participants=row.participants,
        was=row.state,
    )
    return find_run(tx, row.id)


def _own(row: sa.Row[Any], actor: Account) -> sa.Row[Any]:
    if row.author != actor.name:
        raise ForbiddenError(f"The run {row.id} belongs to {row.author}.")
    return row


def _check_accounts(tx: Transaction, names: tuple[str, ...]) -> None:
    if len(set(names)) != len(names):
        raise InvalidInputError("A participant is named twice; each account trains once a run.")
    accounts = schema.accounts
    known = {
        row.name for row in tx.all(sa.select(accounts.c.name).where(accounts.c.name.in_(names)))
    }
    missing = [name for name in names if name not in known]
    if missing:
        raise NotFoundError(
            f"There is no account {', '.join(missing)}: participants are named by their accounts "
            "on this hub, so that their part can be paid."
        )


def _check_own_weights(tx: Transaction, run: sa.Row[Any], weights: str) -> None:
    """Refuse weights that somebody else has made: a copy earns nothing."""
    versions = schema.versions
    copied = tx.first(
        sa.select(versions).where(
            versions.c.project == run.project,
            versions.c.weights == weights,
            versions.c.author != run.author,
        )
    )
    if copied is not None:
        raise ConflictError(f"These weights are version {copied.number} by {copied.author}.")


def _check_updates(tx: Transaction, updates: tuple[str, ...]) -> None:
    roots = schema.roots
    query = sa.select(roots.c.cid).where(
        roots.c.cid.in_(updates), roots.c.visibility == Visibility.SEALED.value
    )
    missing = set(updates) - {row.cid for row in tx.all(query)}
    if missing:
        raise NotFoundError(f"The update {min(missing)} was not stored; put it sealed first.")


def _round(row: sa.Row[Any]) -> Round:
    return Round(
        round=row.round,
        loss=row.loss,
        accuracy=row.accuracy,
        seconds=row.seconds,
        clients=tuple(row.clients),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
