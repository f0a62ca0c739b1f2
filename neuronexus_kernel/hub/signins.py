"""Sign-ins and tokens: made, found, renewed, listed and ended.

A token is 256 random bits, shown once; the database keeps its SHA-256 only, so that a stolen
database signs nobody in.  A sign-in (kind ``session``) ends at its time, or when it has not been
used for long enough, and gets a new token now and then and when what its account may do changes;
the old one is good for another minute, for requests that are under way.  A ``token`` lasts as
long as was asked for and may do what its scopes say.  A ``ticket`` is a dashboard kernel's and
ends with the sign-in it was made from.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.content.identifiers import new_id
from neuronexus_kernel.errors import AuthenticationError, NotFoundError, StoreError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.account_records import SignIn
from neuronexus_kernel.hub.audit import note
from neuronexus_kernel.hub.database import Database, Transaction, now
from neuronexus_kernel.hub.lookups import Lookups
from neuronexus_kernel.hub.permissions import SCOPES, Credentials, powers
from neuronexus_kernel.hub.records import Account, Scope, Session, SignInKind
from neuronexus_kernel.hub.times import later, older
from neuronexus_kernel.settings import AccountSettings

OWNER = Account(name="nx:owner", role="operator", created="")
"""Acts for whoever can read the hub's own folder."""

TICKET_LIFETIME = timedelta(hours=12)
SEEN_EVERY = timedelta(minutes=1)
GRACE = timedelta(minutes=1)
"""For so long the token that was replaced is still good."""

_table, _details = schema.sessions, schema.session_details
_ENDED = "The sign-in has ended; sign in again."


class SignIns:
    """The sign-ins and tokens of one hub.

    Parameters
    ----------
    database
        Where they are kept.
    settings
        How long they last.
    """

    def __init__(self, database: Database, settings: AccountSettings) -> None:
        self._database = database
        self._settings = settings
        self._listeners: list[Callable[[frozenset[str]], None]] = []
        self._lookups = Lookups()
        self.owner_token = secrets.token_urlsafe(32)
        self.generation = 0
        self._adopt()

    # -- making ----------------------------------------------------------------------------

    def session(self, tx: Transaction, account: Account, *, label: str, source: str) -> Session:
        """Make a sign-in."""
        lifetime = timedelta(hours=self._settings.session_hours)
        return self.issue(
            tx, account, "session", label=label, source=source, scopes=SCOPES, lifetime=lifetime
        )

    def issue(
        self,
        tx: Transaction,
        account: Account,
        kind: SignInKind,
        *,
        label: str,
        source: str,
        scopes: tuple[Scope, ...],
        lifetime: timedelta,
        parent: str = "",
    ) -> Session:
        """Make a token of any kind.

        Parameters
        ----------
        tx
            A transaction in which the account was found, and found open.
        parent
            The sign-in that it ends with.
        """
        tx.execute(_table.delete().where(_table.c.expires < tx.time))
        tx.execute(_details.delete().where(_details.c.token_hash.not_in(_all_hashes())))
        expires = later(tx.time, lifetime)
        details = {"id": new_id(), "scopes": list(scopes), "source": source, "parent": parent}
        token = _add(tx, account.name, kind, label[:200], tx.time, expires, details)
        return Session(token=token, account=account, expires=expires)

    def renew(self, signin: str) -> Session:
        """Give a sign-in a new token; the old one ends within a minute.

        Raises
        ------
        AuthenticationError
            If the sign-in has ended, or is of another kind.
        """
        return self._database.write(lambda tx: self.renewed(tx, signin))

    def renewed(self, tx: Transaction, signin: str) -> Session:
        """Give a sign-in a new token, inside a transaction; see `renew`."""
        row = tx.first(_found(_by_id(signin)))
        if row is None or row.kind != "session":
            raise AuthenticationError(_ENDED)
        soon = later(tx.time, GRACE)
        tx.execute(
            _table.update()
            .where(_table.c.token_hash == row.token_hash, _table.c.expires > soon)
            .values(expires=soon)
        )
        tx.execute(
            _details.update().where(_details.c.token_hash == row.token_hash).values(replaced=True)
        )
        details = {"id": row.id, "scopes": row.scopes, "source": row.source, "parent": row.parent}
        token = _add(tx, row.account, row.kind, row.label, row.created, row.expires, details)
        tx.after_commit.append(self._changed)
        return Session(token=token, account=_account(row), expires=row.expires)

    # -- finding ---------------------------------------------------------------------------

    def resolve(self, token: str) -> Credentials:
        """Return what a token stands for.

        Raises
        ------
        AuthenticationError
            If the token is unknown, ended or expired.
        """
        if secrets.compare_digest(token.encode(), self.owner_token.encode()):
            return Credentials(OWNER)
        # The generation first: a change that comes between is seen the next time.
        key, generation = _hash(token), self.generation
        credentials = self._lookups.find(key, generation)
        if credentials is None:
            row, credentials = self._look_up(_table.c.token_hash == key)
            self._lookups.keep(key, credentials, expires=row.expires, generation=generation)
        return credentials

    def recall(self, known: Credentials) -> Credentials:
        """Return what somebody's token stands for now, whether it was renewed or not.

        Raises
        ------
        AuthenticationError
            If the sign-in has ended.
        """
        return self._look_up(_by_id(known.id))[1] if known.id else known

    def _look_up(self, which: sa.ColumnElement[bool]) -> tuple[sa.Row[Any], Credentials]:
        row = self._database.read(lambda tx: tx.first(_found(which)))
        if row is None or self._is_idle(row):
            raise AuthenticationError(_ENDED)
        if older(row.seen, SEEN_EVERY) and not row.replaced:
            self._saw(row)
        account = _account(row)
        may = powers(row.kind, tuple(row.scopes), account.role)
        if account.role == "operator" and "admin" not in may:
            account = replace(account, role="member")
        due = not row.renewed or older(row.renewed, timedelta(hours=self._settings.renew_hours))
        return row, Credentials(account, row.id, row.kind, may, due and row.kind == "session")

    def all(
        self, account: str, kinds: Collection[SignInKind], *, current: str = ""
    ) -> list[SignIn]:
        """Return an account's sign-ins that are good, the newest first.

        Parameters
        ----------
        current
            Id of the one that asks.
        """
        query = (
            sa.select(_table, _details)
            .join(_details, _details.c.token_hash == _table.c.token_hash)
            .where(_table.c.account == account, _table.c.kind.in_(sorted(kinds)))
            .where(~_details.c.replaced, _table.c.expires > now())
            .order_by(_table.c.created.desc(), _details.c.id.desc())
        )
        rows = self._database.read(lambda tx: tx.all(query))
        return [
            SignIn(
                id=row.id,
                account=row.account,
                kind=row.kind,
                label=row.label,
                scopes=tuple(row.scopes),
                created=row.created,
                expires=row.expires,
                seen=row.seen,
                source=row.source,
                current=row.id == current,
            )
            for row in rows
            if not self._is_idle(row)
        ]

    # -- ending ----------------------------------------------------------------------------

    def revoke(self, actor: Account, signin: str, *, anybodys: bool, source: str) -> None:
        """End one sign-in or token; see `Hub.revoke`."""

        def change(tx: Transaction) -> None:
            row = tx.first(
                sa.select(_table, _details.c.id)
                .join(_details, _details.c.token_hash == _table.c.token_hash)
                .where(_details.c.id == signin)
            )
            if row is None or (row.account != actor.name and not anybodys):
                raise NotFoundError(f"There is no sign-in or token {signin!r}; it may have ended.")
            self.end(tx, [signin])
            note(
                tx,
                "token.revoked" if row.kind == "token" else "session.revoked",
                account=row.account,
                actor=actor.name,
                source=source,
                id=signin,
                label=row.label,
            )

        self._database.write(change)

    def leave(self, credentials: Credentials, source: str) -> None:
        """End the sign-in of somebody who signs out."""

        def change(tx: Transaction) -> None:
            self.end(tx, [credentials.id])
            if credentials.kind == "session":
                note(tx, "signout", account=credentials.account.name, source=source)

        self._database.write(change)

    def end(self, tx: Transaction, ids: Iterable[str]) -> None:
        """End sign-ins, and the tickets that were made from them."""
        gone = sorted(ids)
        if not gone:
            return
        of_these = sa.or_(_details.c.id.in_(gone), _details.c.parent.in_(gone))
        found = tx.all(sa.select(_details.c.token_hash, _details.c.id).where(of_these))
        hashes = [row.token_hash for row in found]
        tx.execute(_table.delete().where(_table.c.token_hash.in_(hashes)))
        tx.execute(_details.delete().where(_details.c.token_hash.in_(hashes)))
        ended = frozenset(row.id for row in found)
        tx.after_commit.append(lambda: self._ended(ended))

    def end_all(
        self, tx: Transaction, account: str, *, but: str = "", kinds: Collection[str] = ()
    ) -> None:
        """End an account's sign-ins, but one of them, of all kinds or some."""
        query = (
            sa.select(_details.c.id)
            .join(_table, _details.c.token_hash == _table.c.token_hash)
            .where(_table.c.account == account, _details.c.id != but)
            .where(_details.c.parent != but if but else sa.true())
        )
        if kinds:
            query = query.where(_table.c.kind.in_(sorted(kinds)))
        self.end(tx, {row.id for row in tx.all(query)})

    def make_due(self, tx: Transaction, account: str) -> None:
        """Have an account's sign-ins get new tokens: what it may do has changed."""
        its_own = sa.select(_table.c.token_hash).where(_table.c.account == account)
        ids = frozenset(
            row.id
            for row in tx.all(sa.select(_details.c.id).where(_details.c.token_hash.in_(its_own)))
        )
        tx.execute(_details.update().where(_details.c.token_hash.in_(its_own)).values(renewed=""))
        tx.after_commit.append(lambda: self._ended(ids))

    def on_end(self, listener: Callable[[frozenset[str]], None]) -> None:
        """Have `listener` called with the ids of sign-ins that end or may do something else now.

        It is called on the writer thread: it must be quick and must not raise.
        """
        self._listeners.append(listener)

    def _changed(self) -> None:
        # Views of the hub in this process look their token up again.
        self.generation += 1

    def _ended(self, ids: frozenset[str]) -> None:
        self._changed()
        for listener in self._listeners:
            listener(ids)

    # -- time ------------------------------------------------------------------------------

    def _is_idle(self, row: sa.Row[Any]) -> bool:
        idle = timedelta(hours=self._settings.idle_hours)
        return row.kind == "session" and older(row.seen, idle)

    def _saw(self, row: sa.Row[Any]) -> None:
        """Note that a sign-in was used; where that cannot be written, it is used all the same."""

        def change(tx: Transaction) -> None:
            tx.execute(
                _details.update()
                .where(_details.c.token_hash == row.token_hash)
                .values(seen=tx.time)
            )

        try:
            self._database.write(change)
        except StoreError:
            return

    def _adopt(self) -> None:
        """Give sign-ins and tokens of older versions the details that they have now."""
        orphans = sa.select(_table).where(
            _table.c.token_hash.not_in(sa.select(_details.c.token_hash))
        )
        if not self._database.read(lambda tx: tx.all(orphans)):
            return

        def change(tx: Transaction) -> None:
            for row in tx.all(orphans):
                details = {"id": new_id(), "scopes": list(SCOPES), "source": "", "parent": ""}
                _add_details(tx, row.token_hash, details)
            tx.execute(_table.update().where(_table.c.kind == "notebook").values(kind="token"))

        self._database.write(change)


def _by_id(signin: str) -> sa.ColumnElement[bool]:
    return sa.and_(_details.c.id == signin, ~_details.c.replaced)


def _found(which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    accounts = schema.accounts
    return (
        sa.select(
            _table,
            _details.c.id,
            _details.c.scopes,
            _details.c.source,
            _details.c.seen,
            _details.c.renewed,
            _details.c.replaced,
            _details.c.parent,
            accounts.c.name,
            accounts.c.role,
            accounts.c.created.label("account_created"),
        )
        .join(_details, _details.c.token_hash == _table.c.token_hash)
        .join(accounts, accounts.c.name == _table.c.account)
        .where(which, _table.c.expires > now())
    )


def _add(
    tx: Transaction,
    account: str,
    kind: str,
    label: str,
    created: str,
    expires: str,
    details: dict[str, Any],
) -> str:
    token = secrets.token_urlsafe(32)
    tx.execute(
        _table.insert().values(
            token_hash=_hash(token),
            account=account,
            kind=kind,
            label=label,
            created=created,
            expires=expires,
        )
    )
    _add_details(tx, _hash(token), details)
    return token


def _add_details(tx: Transaction, token_hash: bytes, details: dict[str, Any]) -> None:
    tx.execute(
        _details.insert().values(
            token_hash=token_hash, seen=tx.time, renewed=tx.time, replaced=False, **details
        )
    )


def _all_hashes() -> sa.Select[Any]:
    return sa.select(_table.c.token_hash)


def _account(row: sa.Row[Any]) -> Account:
    return Account(name=row.name, role=row.role, created=row.account_created)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
