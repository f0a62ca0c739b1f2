"""Evaluation: contributions are measured one after another, and paid by what was measured.

For each the hub writes down what is compared with what (a job description of CIDs), has a child
process carry it out, and decides in one transaction.  A decision is compare-and-swap: it counts
only if the head that was compared with is still the head; otherwise the contribution goes back
into the queue.  The queue is the table of contributions itself, so that it survives a crash.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import sqlalchemy as sa

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import (
    EvaluationError,
    HubUnavailableError,
    NeuroNexusError,
    NotFoundError,
    StoreError,
)
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.contents import Contents
from neuronexus_kernel.hub.contributions import Contributions, Verdict, find_contribution, head_key
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.payloads import changed_recipe_fields, check_new_rows, linked
from neuronexus_kernel.hub.projects import find_project, find_version
from neuronexus_kernel.hub.records import Event, Root
from neuronexus_kernel.hub.runs import find_run
from neuronexus_kernel.valuation import jobs, receipt

SEEDS = 5
"""Trainings of each side; more narrow the bound, and cost time."""

CLIENTS = 4
"""Clients among whom the public training split is dealt when the hub re-trains."""

PASSES = 80
MOST_EXAMPLES = 60_000
"""Budget of one training: this many passes over the public split, but no more examples."""

MOST_ATTEMPTS = 5
"""Evaluations during which the head may move before a contribution is given up."""

LEASE_SECONDS = 30.0
RENEWAL_SECONDS = 5.0
"""A hub that measures says so again and again; when it is silent for long, another takes over."""

RETRY_SECONDS = 30.0
"""Pause of the queue when nothing can be written, as when the disk is full."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One comparison: what is measured, and what moves if it is won.

    Attributes
    ----------
    description
        The job, with CIDs in place of contents.
    head
        The values of the project's columns that must not have changed when it is decided.
    moves
        The project's columns that change if it is won, with their new values.
    rows
        How many rows would join the public split.
    """

    description: Mapping[str, Node]
    head: Mapping[str, str]
    moves: Mapping[str, str]
    rows: int = 0


class Evaluator:
    """Measures what is submitted, one contribution at a time.

    Parameters
    ----------
    database, contents, contributions
        Where records and content are kept.
    executor
        Runs `jobs.perform`: child processes here, a cluster elsewhere.
    hub
        Name of this hub among those that share the database.
    """

    PRELOAD: ClassVar[tuple[str, ...]] = (
        "torch",
        "neuronexus_kernel.federation.training",
        "neuronexus_kernel.valuation.jobs",
    )

    def __init__(
        self,
        database: Database,
        contents: Contents,
        contributions: Contributions,
        executor: Executor,
        *,
        hub: str = "",
    ) -> None:
        self._database = database
        self._contents = contents
        self._contributions = contributions
        self._executor = executor
        self._hub = hub
        self._seen: dict[tuple[str, str, int], float] = {}
        self._news = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a contribution waits or is being measured."""
        state = schema.contributions.c.state
        query = sa.select(state).where(state.in_(["submitted", "evaluating"])).limit(1)
        return self._database.read(lambda tx: tx.first(query)) is not None

    def start(self) -> None:
        """Begin to work; what a crash left half-measured is measured again."""
        if self._thread is not None:
            return
        self._database.subscribe(self._hear)
        self._thread = threading.Thread(target=self._work, name="nx-evaluator", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look at the queue now."""
        self._news.set()

    def stop(self) -> None:
        """End the work; what is being measured stays in the queue."""
        self._stopping = True
        self._news.set()
        self._executor.shutdown()
        if self._thread is not None:
            self._thread.join()

    def _hear(self, events: Sequence[Event]) -> None:
        if any(event.kind == "contribution.submitted" for event in events):
            self.wake()

    def _work(self) -> None:
        while not self._stopping:
            self._news.clear()
            try:
                row = self._database.write(self._take)
                if row is None:
                    # Somebody else's evaluation may be given up without a word.
                    self._news.wait(RENEWAL_SECONDS if self._database.is_shared else None)
                else:
                    self._measure(row)
            except NeuroNexusError as error:
                # Nothing is decided while nothing can be written; the queue keeps its place.
                _log.error("The evaluation queue pauses: %s", error)
                self._news.wait(RETRY_SECONDS)

    def _take(self, tx: Transaction) -> sa.Row[Any] | None:
        contributions = schema.contributions
        waiting = tx.all(
            sa.select(contributions)
            .where(contributions.c.state.in_(["submitted", "evaluating"]))
            .order_by(contributions.c.created, contributions.c.id)
            .limit(100)
        )
        row = next((row for row in waiting if not self._is_taken(row)), None)
        if row is None:
            return None
        return self._contributions.set_state(
            tx, row, "evaluating", evaluator=self._hub, lease=row.lease + 1
        )

    def _is_taken(self, row: sa.Row[Any]) -> bool:
        """Tell whether another hub is measuring a contribution.

        It renews its lease all the time.  Clocks need not agree: a lease has ended when this hub
        has seen it unchanged for `LEASE_SECONDS`.
        """
        # Nothing is being measured here now: what says so was left by a crash or a full disk.
        if row.state == "submitted" or row.evaluator in (None, self._hub):
            return False
        if not self._database.is_shared:
            return False
        here = time.monotonic()
        since = self._seen.setdefault((row.id, row.evaluator, row.lease), here)
        return here - since < LEASE_SECONDS

    def _renew(self, row: sa.Row[Any]) -> None:
        table = schema.contributions
        mine = (table.c.id == row.id) & (table.c.evaluator == self._hub)
        renewed = table.update().where(mine).values(lease=table.c.lease + 1)
        try:
            self._database.write(lambda tx: tx.execute(renewed))
        except NeuroNexusError as error:  # it is seen when all is decided whether it was in vain
            _log.error("The lease on contribution %s is not renewed: %s", row.id, error)

    def _result(self, row: sa.Row[Any], job: Any) -> bytes:
        """Have a job carried out, and renew the lease meanwhile."""
        future = self._executor.submit(jobs.perform, job)
        turn = RENEWAL_SECONDS if self._database.is_shared else None
        while True:
            try:
                return future.result(timeout=turn)
            except TimeoutError:
                if future.done():
                    raise
                self._renew(row)

    def _measure(self, row: sa.Row[Any]) -> None:
        try:
            evaluation = self._describe(row)
            job = jobs.resolve(evaluation.description, self._load)
            result = self._result(row, job)
            decide = self._decision(row, evaluation, result)
        except HubUnavailableError:
            raise
        except NeuroNexusError as error:
            if isinstance(error, StoreError) and isinstance(error.__cause__, OSError):
                raise  # the disk's fault, not the contribution's
            decide = self._failure(row, str(error))
        except Exception as error:
            decide = self._mistake(row, error)
        try:
            self._database.write(decide)
        except (StoreError, HubUnavailableError):
            raise
        except Exception as error:
            self._database.write(self._mistake(row, error))

    def _failure(self, row: sa.Row[Any], reason: str) -> Callable[[Transaction], None]:
        def change(tx: Transaction) -> None:
            # Else it was we who ended the measuring.
            if not self._stopping and self._is_mine(tx, row):
                self._contributions.set_state(tx, row, "failed", reason=reason, decided=tx.time)

        return change

    def _is_mine(self, tx: Transaction, row: sa.Row[Any]) -> bool:
        """Tell whether it is still this hub that is to decide."""
        now = find_contribution(tx, row.id)
        return (now.state, now.evaluator) == ("evaluating", self._hub)

    def _mistake(self, row: sa.Row[Any], error: Exception) -> Callable[[Transaction], None]:
        """Let a mistake of ours neither stop the queue nor be silent."""
        if not self._stopping:
            _log.error("The evaluation of contribution %s failed.", row.id, exc_info=error)
        reason = f"The hub made a mistake ({type(error).__name__}); its log says more."
        return self._failure(row, reason)

    # -- describing ------------------------------------------------------------------------

    def _describe(self, row: sa.Row[Any]) -> Evaluation:
        payload = self._contents.document(row.payload)
        project = self._database.read(lambda tx: find_project(tx, row.project))
        if row.kind == "compute":
            return self._describe_weights(row, payload, project)
        return self._describe_recipes(row, payload, project)

    def _describe_recipes(
        self, row: sa.Row[Any], payload: Mapping[str, Node], project: sa.Row[Any]
    ) -> Evaluation:
        recipe, public = project.recipe, project.public
        data = self._contents.dataset(public)
        moves: dict[str, str]
        extra = 0
        if row.kind == "data":
            more = self._contents.dataset(linked(payload, "dataset"))
            # Rows that became public since it was submitted were paid to somebody else.
            check_new_rows(more, data)
            extra = len(more)
            joined = data.concat(more)
            moves = {"public": self._contents.add(joined.encode())}
        else:
            moves = {"recipe": self._change(recipe, row.kind, payload)}
        after = {"recipe": recipe, "public": public, **moves}
        description: dict[str, Node] = {
            "kind": "recipes",
            "baseline": self._recipe_side(recipe, public),
            "candidate": self._recipe_side(after["recipe"], after["public"]),
            "held_out": CID.parse(project.held_out),
            "seeds": [secrets.randbelow(2**31) for _ in range(SEEDS)],
            "budget": min(PASSES * len(data), MOST_EXAMPLES),
            "clients": CLIENTS,
        }
        return Evaluation(description, {"recipe": recipe, "public": public}, moves, extra)

    def _recipe_side(self, recipe: str, data: str) -> dict[str, Node]:
        architecture = self._contents.document(recipe)["architecture"]
        return {
            "recipe": CID.parse(recipe),
            "architecture": architecture,
            "data": CID.parse(data),
        }

    def _change(self, head: str, kind: str, payload: Mapping[str, Node]) -> str:
        """Store the head recipe with a contribution's change, and return its CID."""
        recipe = self._contents.recipe(head)
        changed = recipe.with_changes(**changed_recipe_fields(self._contents, kind, payload))
        return self._contents.put_node(changed.to_dict())

    def _describe_weights(
        self, row: sa.Row[Any], payload: Mapping[str, Node], project: sa.Row[Any]
    ) -> Evaluation:
        def query(tx: Transaction) -> tuple[Any, Any, Any]:
            run = find_run(tx, str(payload["run"]))
            candidate = find_version(tx, run.version, head=project.head)
            return run, candidate, find_version(tx, project.head, head=project.head)

        run, candidate, head = self._database.read(query)
        participants: Node = None
        if run.participants:
            participants = {
                "rounds": [CID.parse(cid) for cid in run.updates],
                "validation": CID.parse(project.validation),
            }
        description: dict[str, Node] = {
            "kind": "weights",
            "baseline": self._weights_side(head.recipe, head.weights),
            "candidate": self._weights_side(candidate.recipe, candidate.weights),
            "held_out": CID.parse(project.held_out),
            "public": CID.parse(project.public),
            "participants": participants,
        }
        return Evaluation(description, {"head": project.head}, {"head": candidate.id})

    def _weights_side(self, recipe: str, weights: str) -> dict[str, Node]:
        architecture = self._contents.document(recipe)["architecture"]
        return {"architecture": architecture, "weights": CID.parse(weights)}

    def _load(self, cid: CID) -> bytes:
        try:
            return self._contents.bytes_of(str(cid))
        except NotFoundError:
            pass
        try:
            return self._contents.bytes_of(str(cid), sealed=True)
        except (NotFoundError, StoreError) as error:
            # A reason is for all to read, and must not name what is sealed.
            _log.error("Sealed content cannot be read: %s", error)
            raise EvaluationError(
                "Sealed content that it needs is missing or corrupt; the hub's log names it. "
                "Ask the hub's operator to restore it, then submit again."
            ) from None

    # -- deciding --------------------------------------------------------------------------

    def _decision(
        self, row: sa.Row[Any], evaluation: Evaluation, result: bytes
    ) -> Callable[[Transaction], None]:
        """Write the receipt, and return the change that decides by it."""
        public, sealed = receipt.make_receipt(
            evaluation.description, result, contribution=row.id, contribution_kind=row.kind
        )
        outcome = cast("dict[str, Any]", dagcbor.decode(result))
        verdict = Verdict(
            value_nano=cast(int, public["value_nano"]),
            reason=_reason(outcome, cast(int, public["value_nano"])),
            receipt=self._contents.put_node(public),
            sealed_receipt=self._contents.put_node(sealed, sealed=True),
            parts=outcome.get("shares") or {},
        )

        def change(tx: Transaction) -> None:
            if not self._is_mine(tx, row):
                return
            current = find_contribution(tx, row.id)
            project = find_project(tx, row.project)
            if any(getattr(project, name) != value for name, value in evaluation.head.items()):
                self._again(tx, current)
                return
            self._record_receipt(tx, verdict.receipt)
            against = head_key(project)
            if verdict.value_nano > 0:
                self._move(tx, current, project, evaluation, outcome)
                self._contributions.accept(tx, current, verdict, against=against)
            else:
                self._contributions.reject(tx, current, verdict, against=against)

        return change

    def _again(self, tx: Transaction, row: sa.Row[Any]) -> None:
        """Put a contribution back because the head moved while it was measured."""
        attempts = row.attempts + 1
        if attempts >= MOST_ATTEMPTS:
            self._contributions.set_state(
                tx,
                row,
                "failed",
                reason=f"The head moved during each of {attempts} evaluations; submit again.",
                attempts=attempts,
                decided=tx.time,
            )
        else:
            self._contributions.set_state(tx, row, "submitted", attempts=attempts)

    def _move(
        self,
        tx: Transaction,
        row: sa.Row[Any],
        project: sa.Row[Any],
        evaluation: Evaluation,
        outcome: Mapping[str, Any],
    ) -> None:
        """Move the project's head to what won, and tell."""
        projects = schema.projects
        tx.execute(projects.update().where(projects.c.id == project.id).values(**evaluation.moves))
        if "recipe" in evaluation.moves:
            recipe = evaluation.moves["recipe"]
            self._record_root(tx, recipe, kind="recipe", owner=row.author)
            tx.emit(
                "recipe.changed",
                project.id,
                project.id,
                recipe=recipe,
                by=row.author,
                contribution=row.id,
            )
        elif "public" in evaluation.moves:
            public = evaluation.moves["public"]
            self._record_root(tx, public, kind="dataset", owner=row.author)
            tx.emit("data.joined", project.id, project.id, rows=evaluation.rows, by=row.author)
        else:
            self._move_head(tx, project, evaluation.moves["head"], outcome)

    def _move_head(
        self, tx: Transaction, project: sa.Row[Any], version: str, outcome: Mapping[str, Any]
    ) -> None:
        held_out = round(float(outcome["accuracies"]["candidate"][0]), 4)
        versions = schema.versions
        record = find_version(tx, version, head=version)
        tx.execute(
            versions.update()
            .where(versions.c.id == version)
            .values(metrics={**record.metrics, "held_out_accuracy": held_out})
        )
        tx.emit(
            "head.changed",
            version,
            project.id,
            number=record.number,
            accuracy=held_out,
        )

    def _record_receipt(self, tx: Transaction, cid: str) -> None:
        self._record_root(tx, cid, kind="receipt", owner="nx:hub")

    def _record_root(self, tx: Transaction, cid: str, *, kind: str, owner: str) -> None:
        size = len(self._contents.bytes_of(cid))
        self._contents.record(
            tx,
            Root(
                cid=cid,
                name="",
                kind=kind,
                visibility="public",
                size=size,
                owner=owner,
                created=tx.time,
            ),
        )


def _reason(outcome: Mapping[str, Any], value_nano: int) -> str | None:
    """Say in words why nothing is paid, or return None."""
    if value_nano > 0:
        return None
    # Coarse on purpose: an exact mean would tell whether a single row is held out.
    mean, lower = float(outcome["bound"]["mean"]), value_nano / 1e9
    if outcome.get("metric", "accuracy") == "accuracy":
        about, above = f"{100 * mean:+.1f} percentage points", f"{100 * lower:+.2f}"
    else:
        about, above = f"{mean:+.3f} of {outcome['metric']}", f"{lower:+.4f}"
    return (
        f"No sure improvement: about {about} on held-out data, but with "
        f"90 % confidence only that it is above {above}."
    )
