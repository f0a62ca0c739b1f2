"""Accounts of people for whom another server vouches, such as JupyterHub; they need no password."""

from __future__ import annotations

import re

import sqlalchemy as sa

from neuronexus_kernel.errors import ForbiddenError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.audit import note
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.identity import CLOSED, Identity, add_account, has_account
from neuronexus_kernel.hub.records import Session

_table = schema.external_logins


class ExternalLogins:
    """Who is who elsewhere.

    Parameters
    ----------
    database, identity
        Where that is kept, and who signs them in here.
    registration
        Whether accounts are made for people who are new here.
    """

    def __init__(self, database: Database, identity: Identity, *, registration: str) -> None:
        self._database = database
        self._identity = identity
        self._registration = registration

    def login(self, provider: str, subject: str, source: str) -> Session:
        """Sign in somebody for whom another server vouches.

        Their account is made at the first time, under their name there where that is free here,
        else under one like it: whoever has that name here is somebody else.

        Parameters
        ----------
        provider, subject
            Who vouches, and the name of the person there.

        Raises
        ------
        ForbiddenError
            If nobody can register on this hub, or an operator has closed the account.
        """
        mine = sa.and_(_table.c.provider == provider, _table.c.subject == subject)

        def change(tx: Transaction) -> str:
            row = tx.first(sa.select(_table.c.account).where(mine))
            if row is not None:
                return str(row.account)
            if self._registration == "closed":
                raise ForbiddenError(CLOSED)
            name = _free_name(tx, subject)
            add_account(tx, name, "member", None)
            tx.execute(
                _table.insert().values(
                    provider=provider, subject=subject, account=name, created=tx.time
                )
            )
            note(tx, "account.registered", account=name, source=source, by=provider)
            return name

        name = self._database.write(change)
        return self._identity.enter(name, source, None, known=None, by=provider)


def _free_name(tx: Transaction, subject: str) -> str:
    """Return a name that an account can have and nobody has, like that of somebody elsewhere."""
    stem = re.sub(r"[^a-z0-9_-]+", "-", subject.lower()).strip("-_")[:24] or "user"
    stem = stem if len(stem) > 1 else f"{stem}-1"
    number, name = 1, stem
    while has_account(tx, name):
        number += 1
        name = f"{stem}-{number}"
    return name
