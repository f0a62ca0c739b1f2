"""Who maintains a project: its owner, those whom the owner names, and the hub's operators.

A maintainer may do for the project what its owner may, but for naming maintainers.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.errors import ForbiddenError, NotFoundError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.audit import note
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.projects import find_project
from neuronexus_kernel.hub.records import Account

_table = schema.maintainers


class Maintainers:
    """The maintainers of one hub's projects.

    Parameters
    ----------
    database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, project: str) -> list[str]:
        """Return a project's maintainers by name, its owner first; see `Hub.maintainers`."""

        def query(tx: Transaction) -> list[str]:
            found = find_project(tx, project)
            named = sa.select(_table.c.account).where(_table.c.project == found.id)
            return [found.owner, *sorted(row.account for row in tx.all(named))]

        return self._database.read(query)

    def add(self, actor: Account, project: str, account: str, source: str) -> None:
        """Name a maintainer; see `Hub.add_maintainer`."""

        def change(tx: Transaction) -> None:
            found = find_project(tx, project)
            _check_owner(actor, found)
            accounts = schema.accounts
            if tx.first(sa.select(accounts.c.name).where(accounts.c.name == account)) is None:
                raise NotFoundError(f"There is no account {account!r}.")
            if account == found.owner or _is_named(tx, found.id, account):
                return
            tx.execute(
                _table.insert().values(
                    project=found.id, account=account, actor=actor.name, created=tx.time
                )
            )
            _note(tx, "given", actor, account, found, source)

        self._database.write(change)

    def remove(self, actor: Account, project: str, account: str, source: str) -> None:
        """Take the part back; see `Hub.remove_maintainer`."""

        def change(tx: Transaction) -> None:
            found = find_project(tx, project)
            if actor.name != account:
                _check_owner(actor, found)
            if not _is_named(tx, found.id, account):
                raise NotFoundError(f"{account!r} is not among the maintainers of {found.name}.")
            tx.execute(
                _table.delete().where(_table.c.project == found.id, _table.c.account == account)
            )
            _note(tx, "taken", actor, account, found, source)

        self._database.write(change)


def check_maintainer(tx: Transaction, actor: Account, project: sa.Row[Any], what: str) -> None:
    """Refuse whoever does not maintain a project.

    Parameters
    ----------
    what
        What they may not do, as in "may export it".

    Raises
    ------
    ForbiddenError
        If the actor is neither its owner, nor one of its maintainers, nor an operator.
    """
    if actor.role == "operator" or actor.name == project.owner:
        return
    if not _is_named(tx, project.id, actor.name):
        raise ForbiddenError(
            f"Only {project.owner}, who owns the project, its maintainers or an operator may "
            f"{what}."
        )


def _check_owner(actor: Account, project: sa.Row[Any]) -> None:
    if actor.role != "operator" and actor.name != project.owner:
        raise ForbiddenError(
            f"Only {project.owner}, who owns the project, or an operator names its maintainers."
        )


def _is_named(tx: Transaction, project: str, account: str) -> bool:
    mine = sa.and_(_table.c.project == project, _table.c.account == account)
    return tx.first(sa.select(_table.c.account).where(mine)) is not None


def _note(
    tx: Transaction, what: str, actor: Account, account: str, project: sa.Row[Any], source: str
) -> None:
    note(
        tx,
        f"role.{what}",
        account=account,
        actor=actor.name,
        source=source,
        role="maintainer",
        project=project.name,
    )
