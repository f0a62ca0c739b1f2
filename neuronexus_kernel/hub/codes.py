"""One-time codes: invitations to register, and links to set a new password.

An operator makes one and hands it over.  It works once, until it expires; the database keeps its
hash only.  Whether a code was used, is too old or never was is one answer.  The code travels
behind the ``#`` of a link, which no browser sends: the page takes it from there into its form.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Any, Literal

import sqlalchemy as sa

from neuronexus_kernel.content.identifiers import new_id
from neuronexus_kernel.errors import ForbiddenError, InvalidInputError, NotFoundError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.account_records import Invitation, OneTimeCode
from neuronexus_kernel.hub.audit import note as audit
from neuronexus_kernel.hub.database import Database, Transaction, now
from neuronexus_kernel.hub.records import Account
from neuronexus_kernel.hub.times import later

Kind = Literal["invitation", "reset"]

INVITATION_PATH = "/neuronexus/auth?mode=register"
RESET_PATH = "/neuronexus/reset"
RESET_LIFETIME = timedelta(hours=24)
MAX_DAYS = 90

_table = schema.one_time_codes


class Codes:
    """The one-time codes of one hub.

    Parameters
    ----------
    database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def invite(self, actor: Account, days: float, note: str, source: str) -> OneTimeCode:
        """Make an invitation; see `Hub.invite`."""
        if not 0 < days <= MAX_DAYS:
            raise InvalidInputError(f"An invitation lasts up to {MAX_DAYS} days, not {days!r}.")

        def change(tx: Transaction) -> OneTimeCode:
            audit(tx, "invitation.made", actor=actor.name, source=source, note=note[:200])
            return _issue(
                tx, "invitation", issuer=actor.name, lifetime=timedelta(days=days), note=note
            )

        return self._database.write(change)

    def reset(self, tx: Transaction, actor: Account, account: str, source: str) -> OneTimeCode:
        """Make a code to set an account's password; earlier ones are worth nothing then."""
        tx.execute(
            _table.delete().where(
                _table.c.kind == "reset", _table.c.account == account, _table.c.used.is_(None)
            )
        )
        audit(tx, "reset.issued", account=account, actor=actor.name, source=source)
        return _issue(tx, "reset", issuer=actor.name, lifetime=RESET_LIFETIME, account=account)

    def check(self, kind: Kind, code: str) -> sa.Row[Any]:
        """Return the code's row if it is good now, before time is spent on what it is for.

        Raises
        ------
        ForbiddenError
            If it is not.
        """
        return self._database.read(lambda tx: _good(tx, kind, code))

    def use(self, tx: Transaction, kind: Kind, code: str, *, account: str) -> None:
        """Use a code up, for an account.

        Raises
        ------
        ForbiddenError
            If it is not good, or no longer.
        """
        row = _good(tx, kind, code)
        tx.execute(
            _table.update()
            .where(_table.c.code_hash == row.code_hash)
            .values(used=tx.time, account=account)
        )

    def invitations(self) -> list[Invitation]:
        """Return the invitations, the newest first; see `Hub.invitations`."""
        query = (
            sa.select(_table)
            .where(_table.c.kind == "invitation")
            .order_by(_table.c.created.desc(), _table.c.id.desc())
        )
        return [
            Invitation(
                id=row.id,
                note=row.note,
                issuer=row.issuer,
                created=row.created,
                expires=row.expires,
                account=row.account,
            )
            for row in self._database.read(lambda tx: tx.all(query))
        ]

    def withdraw(self, actor: Account, invitation: str, source: str) -> None:
        """Take an open invitation back; see `Hub.withdraw`."""
        mine = sa.and_(
            _table.c.id == invitation, _table.c.kind == "invitation", _table.c.used.is_(None)
        )

        def change(tx: Transaction) -> None:
            if tx.first(sa.select(_table.c.id).where(mine)) is None:
                raise NotFoundError(f"There is no open invitation {invitation!r}.")
            tx.execute(_table.delete().where(mine))
            audit(tx, "invitation.withdrawn", actor=actor.name, source=source, id=invitation)

        self._database.write(change)


def _issue(
    tx: Transaction,
    kind: Kind,
    *,
    issuer: str,
    lifetime: timedelta,
    account: str = "",
    note: str = "",
) -> OneTimeCode:
    code, id = secrets.token_urlsafe(24), new_id()
    expires = later(tx.time, lifetime)
    tx.execute(
        _table.insert().values(
            code_hash=_hash(code),
            id=id,
            kind=kind,
            account=account,
            note=note[:200],
            issuer=issuer,
            created=tx.time,
            expires=expires,
        )
    )
    path = RESET_PATH if kind == "reset" else INVITATION_PATH
    return OneTimeCode(id=id, code=code, path=f"{path}#{code}", expires=expires)


def _good(tx: Transaction, kind: Kind, code: object) -> sa.Row[Any]:
    row = None
    if isinstance(code, str):
        row = tx.first(
            sa.select(_table).where(
                _table.c.code_hash == _hash(code.strip()),
                _table.c.kind == kind,
                _table.c.used.is_(None),
                _table.c.expires > now(),
            )
        )
    if row is None:
        what = "invitation" if kind == "invitation" else "link"
        raise ForbiddenError(
            f"This {what} is not valid: it was used, it is too old, or it is not whole. Ask an "
            "operator of the hub for another one."
        )
    return row


def _hash(code: str) -> bytes:
    return hashlib.sha256(code.encode(errors="replace")).digest()
