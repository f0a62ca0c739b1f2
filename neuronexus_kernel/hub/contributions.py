"""Contributions: what is taken in, what was decided, and whom it pays.

A contribution is checked when it is submitted, so that a mistake is told at once; what it is
worth is decided later, by measurement (``evaluation.py``).  A decision, its receipt, the head it
moves and the entries it earns are one transaction: all of it happens, or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.content import check_id, dagcbor
from neuronexus_kernel.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    QuotaError,
)
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.contents import Contents
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.payloads import Payloads
from neuronexus_kernel.hub.projects import find_project
from neuronexus_kernel.hub.records import Account, Contribution, NewContribution, Share
from neuronexus_kernel.hub.runs import find_run
from neuronexus_kernel.hub.tokens import Tokens
from neuronexus_kernel.ledger import format_nxs, reward, split

PARTS = 10**9
"""Shares of a contribution are counted in parts per 10^9."""

_OPEN = ("submitted", "evaluating")
_PAID = ("accepted", "rewarded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an evaluation found.

    Attributes
    ----------
    value_nano
        Lower confidence bound of the improvement, in integer 10^-9.
    reason
        Why nothing is paid, in words; None when something is.
    receipt, sealed_receipt
        CIDs of the receipt's two parts.
    parts
        Parts per 10^9 by account; the author's alone when empty.
    """

    value_nano: int
    reason: str | None
    receipt: str
    sealed_receipt: str
    parts: Mapping[str, int] = field(default_factory=dict)


class Contributions:
    """The contributions of one hub.

    Parameters
    ----------
    database, contents, tokens
        Where records, content and the ledger are kept.
    per_day
        Contributions that one account may submit within 24 hours.
    """

    def __init__(
        self, database: Database, contents: Contents, tokens: Tokens, *, per_day: int
    ) -> None:
        self._database = database
        self._contents = contents
        self._payloads = Payloads(database, contents)
        self._tokens = tokens
        self._per_day = per_day

    # -- taking in -------------------------------------------------------------------------

    def submit(self, actor: Account, new: NewContribution) -> Contribution:
        """Check a contribution and queue it; see `Hub.submit`."""
        check_id(new.id)
        payload = self._contents.document(new.payload)
        project = self._database.read(lambda tx: find_project(tx, new.project))
        content = self._payloads.check(actor, new, payload, project)

        def change(tx: Transaction) -> Contribution:
            contributions = schema.contributions
            known = tx.first(sa.select(contributions).where(contributions.c.id == new.id))
            if known is not None:
                if known.author != actor.name:
                    raise ConflictError(f"The id {new.id} is of another contribution.")
                return self._record(tx, known)
            self._check_quota(tx, actor)
            _check_new(tx, find_project(tx, project.id), content)
            tx.execute(
                contributions.insert().values(
                    id=new.id,
                    project=project.id,
                    kind=new.kind,
                    author=actor.name,
                    note=new.note[:2000],
                    payload=new.payload,
                    content=content,
                    state="submitted",
                    attempts=0,
                    lease=0,
                    created=tx.time,
                )
            )
            for account in self._sharers(tx, new, payload, actor):
                tx.execute(
                    schema.shares.insert().values(
                        contribution=new.id,
                        account=account,
                        weight=0,
                        reward=0,
                        confirmed=account == actor.name,
                        minted=False,
                    )
                )
            row = find_contribution(tx, new.id)
            self._tell(tx, row)
            return self._record(tx, row)

        return self._database.write(change)

    def confirm(self, actor: Account, contribution: str) -> Contribution:
        """Confirm the actor's share and mint it if it is earned; see `Hub.confirm`."""
        shares = schema.shares

        def change(tx: Transaction) -> Contribution:
            row = find_contribution(tx, contribution)
            mine = sa.and_(shares.c.contribution == row.id, shares.c.account == actor.name)
            share = tx.first(sa.select(shares).where(mine))
            if share is None:
                raise ForbiddenError(
                    f"{actor.name} has no part in this contribution; only its participants "
                    "confirm it, each from their own session."
                )
            if not share.confirmed:
                tx.execute(shares.update().where(mine).values(confirmed=True))
                tx.emit("contribution.confirmed", row.id, row.project, account=actor.name)
                if row.state in _PAID:
                    self._mint(tx, row)
            return self._record(tx, find_contribution(tx, contribution))

        return self._database.write(change)

    # -- looking ---------------------------------------------------------------------------

    def get(self, contribution: str) -> Contribution:
        """Return a contribution by id."""
        return self._database.read(lambda tx: self._record(tx, find_contribution(tx, contribution)))

    def all(self, project: str | None) -> list[Contribution]:
        """Return contributions, oldest first."""
        contributions = schema.contributions

        def query(tx: Transaction) -> list[Contribution]:
            rows = sa.select(contributions).order_by(contributions.c.created, contributions.c.id)
            if project is not None:
                rows = rows.where(contributions.c.project == find_project(tx, project).id)
            return [self._record(tx, row) for row in tx.all(rows)]

        return self._database.read(query)

    # -- deciding (called by the evaluator) ------------------------------------------------

    def set_state(
        self, tx: Transaction, row: sa.Row[Any], state: str, **values: object
    ) -> sa.Row[Any]:
        """Change a contribution's state, with further columns, and tell; return the new row."""
        contributions = schema.contributions
        tx.execute(
            contributions.update().where(contributions.c.id == row.id).values(state=state, **values)
        )
        changed = find_contribution(tx, row.id)
        self._tell(tx, changed)
        return changed

    def reject(self, tx: Transaction, row: sa.Row[Any], verdict: Verdict, *, against: str) -> None:
        """Record that nothing was improved on the head `against`."""
        self.set_state(tx, row, "rejected", against=against, **_measured(tx, verdict))

    def accept(self, tx: Transaction, row: sa.Row[Any], verdict: Verdict, *, against: str) -> None:
        """Record an improvement, fix everyone's share, and mint the confirmed ones."""
        parts = dict(verdict.parts) or {row.author: PARTS}
        total = reward(verdict.value_nano, minted=self._tokens.minted(tx) + _promised(tx))
        earned = [name for name, weight in parts.items() if weight > 0]
        amounts = dict(
            zip(earned, split(total, [parts[name] for name in earned]), strict=True)
            if earned
            else ()
        )
        shares = schema.shares
        for name, weight in parts.items():
            tx.execute(
                shares.update()
                .where(shares.c.contribution == row.id, shares.c.account == name)
                .values(weight=weight, reward=amounts.get(name, 0))
            )
        row = self.set_state(tx, row, "accepted", against=against, **_measured(tx, verdict))
        self._mint(tx, row)

    def _mint(self, tx: Transaction, row: sa.Row[Any]) -> None:
        shares = schema.shares
        due = tx.all(
            sa.select(shares).where(
                shares.c.contribution == row.id,
                shares.c.confirmed,
                sa.not_(shares.c.minted),
                shares.c.reward > 0,
            )
        )
        if not due:
            return
        self._tokens.mint(
            tx,
            {share.account: share.reward for share in due},
            contribution=row.id,
            receipt=row.receipt,
            project=row.project,
        )
        tx.execute(
            shares.update()
            .where(
                shares.c.contribution == row.id,
                shares.c.account.in_([share.account for share in due]),
            )
            .values(minted=True)
        )
        self.set_state(tx, row, "rewarded")

    # -- checks ----------------------------------------------------------------------------

    def _check_quota(self, tx: Transaction, actor: Account) -> None:
        contributions = schema.contributions
        day_ago = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        used = tx.scalar(
            sa.select(sa.func.count())
            .select_from(contributions)
            .where(contributions.c.author == actor.name, contributions.c.created > day_ago)
        )
        if int(used) >= self._per_day:
            raise QuotaError(
                f"{actor.name} has used the {self._per_day} evaluations of 24 hours; try again "
                "tomorrow, or ask the operator for more (NEURONEXUS_EVALUATIONS_PER_DAY)."
            )

    def _sharers(
        self,
        tx: Transaction,
        new: NewContribution,
        payload: Mapping[str, dagcbor.Node],
        actor: Account,
    ) -> list[str]:
        if new.kind == "compute":
            return list(find_run(tx, str(payload["run"])).participants) or [actor.name]
        return [actor.name]

    # -- records ---------------------------------------------------------------------------

    def _tell(self, tx: Transaction, row: sa.Row[Any]) -> None:
        record = self._record(tx, row)
        tx.emit(
            f"contribution.{record.state}",
            record.id,
            record.project,
            kind=record.kind,
            author=record.author,
            note=record.note,
            value=record.value,
            reward=record.reward,
            reason=record.reason,
        )

    def _record(self, tx: Transaction, row: sa.Row[Any]) -> Contribution:
        shares = schema.shares
        parts = tx.all(
            sa.select(shares)
            .where(shares.c.contribution == row.id)
            .order_by(shares.c.weight.desc(), shares.c.account)
        )
        return Contribution(
            id=row.id,
            project=row.project,
            kind=row.kind,
            author=row.author,
            note=row.note,
            payload=row.payload,
            state=row.state,
            value=row.value,
            reward=format_nxs(sum(share.reward for share in parts if share.minted)),
            reason=row.reason,
            receipt=row.receipt,
            shares=tuple(_share(share) for share in parts),
            created=row.created,
            decided=row.decided,
        )


def find_contribution(tx: Transaction, contribution: str) -> sa.Row[Any]:
    """Return a contribution's row by id.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    contributions = schema.contributions
    row = tx.first(sa.select(contributions).where(contributions.c.id == contribution))
    if row is None:
        raise NotFoundError(f"There is no contribution {contribution!r}.")
    return row


def head_key(project: sa.Row[Any]) -> str:
    """Return what a contribution to a project is compared with now, as text."""
    return f"{project.recipe} {project.public} {project.head}"


def _check_new(tx: Transaction, project: sa.Row[Any], content: str) -> None:
    """Refuse what is being measured, was accepted, or lost against this very head."""
    contributions = schema.contributions
    head = head_key(project)
    earlier = tx.all(
        sa.select(contributions).where(
            contributions.c.project == project.id, contributions.c.content == content
        )
    )
    for row in earlier:
        if row.state in _OPEN + _PAID or (row.state == "rejected" and row.against == head):
            raise ConflictError(
                f"{row.author} submitted the same before (contribution {row.id}, {row.state}); "
                "it is measured and paid once."
            )


def _promised(tx: Transaction) -> int:
    """Return the units that were earned here and wait to be confirmed; they count as spent."""
    shares = schema.shares
    query = sa.select(sa.func.sum(shares.c.reward, type_=schema.Amount()))
    earned_here = shares.c.account.not_like("%@%")  # others are accounts of other hubs
    return int(tx.scalar(query.where(sa.not_(shares.c.minted), earned_here)) or 0)


def _measured(tx: Transaction, verdict: Verdict) -> dict[str, object]:
    return {
        "value": round(verdict.value_nano / 1e9, 4),
        "reason": verdict.reason,
        "receipt": verdict.receipt,
        "sealed_receipt": verdict.sealed_receipt,
        "decided": tx.time,
    }


def _share(row: sa.Row[Any]) -> Share:
    return Share(
        account=row.account,
        fraction=row.weight / PARTS,
        reward=format_nxs(row.reward),
        confirmed=row.confirmed,
        minted=row.minted,
    )
