"""Who is who: accounts, their passwords and roles, and signing in.

Each change is one transaction that also writes the audit trail.  How often somebody may try a
password is `Throttle`'s matter, what proves a sign-in afterwards `SignIns`'.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from neuronexus_kernel.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.account_records import OneTimeCode
from neuronexus_kernel.hub.audit import note
from neuronexus_kernel.hub.codes import Codes
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.passwords import Passwords, check_password
from neuronexus_kernel.hub.permissions import Credentials, checked_scopes
from neuronexus_kernel.hub.records import Account, Role, Scope, Session
from neuronexus_kernel.hub.signins import SignIns
from neuronexus_kernel.hub.throttle import Attempt, Throttle
from neuronexus_kernel.settings import AccountSettings

MAX_TOKEN_DAYS = 365
CLOSED = "Nobody can register on this hub: ask an operator to make you an account."
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{1,31}")

_accounts, _disabled = schema.accounts, schema.disabled_accounts


class Identity:
    """Accounts of one hub.

    Parameters
    ----------
    database
        Where they are kept.
    settings
        Who may register.
    signins, codes, throttle
        What proves a sign-in, what an operator handed out, and who has to wait.
    """

    def __init__(
        self,
        database: Database,
        settings: AccountSettings,
        signins: SignIns,
        codes: Codes,
        throttle: Throttle,
    ) -> None:
        self._database = database
        self._settings = settings
        self._signins = signins
        self._codes = codes
        self._throttle = throttle
        self._passwords = Passwords()

    # -- accounts --------------------------------------------------------------------------

    def register(self, name: str, password: str, invitation: str | None, source: str) -> Account:
        """Make an account; see `Hub.register`."""
        if self._settings.registration == "closed":
            raise ForbiddenError(CLOSED)
        check_name(name)
        # An invitation is used up where the hub is open, too: whoever made it sees who came.
        if invitation or self._settings.registration == "invited":
            if not invitation:
                raise ForbiddenError(
                    "One registers on this hub by invitation: ask an operator for one."
                )
            self._codes.check("invitation", invitation)
        password_hash = self._passwords.hash(password, name)

        def change(tx: Transaction) -> Account:
            account = add_account(tx, name, "member", password_hash)
            if invitation:
                self._codes.use(tx, "invitation", invitation, account=name)
            note(tx, "account.registered", account=name, source=source, invited=bool(invitation))
            return account

        return self._database.write(change)

    def accounts(self, viewer: Account | None) -> list[Account]:
        """Return all accounts by name; which are closed is told to operators."""
        sees = viewer is not None and viewer.role == "operator"

        def query(tx: Transaction) -> list[Account]:
            closed = {row.account for row in tx.all(sa.select(_disabled))} if sees else set()
            rows = tx.all(sa.select(_accounts).order_by(_accounts.c.name))
            return [replace(account_record(row), disabled=row.name in closed) for row in rows]

        return self._database.read(query)

    def disable(self, actor: Account, name: str, source: str) -> Account:
        """Close an account and end its sign-ins; see `Hub.disable`."""
        if actor.name == name:
            raise ForbiddenError("Nobody closes their own account: ask another operator.")

        def change(tx: Transaction) -> Account:
            account = find_account(tx, name)
            if not is_disabled(tx, name):
                tx.execute(
                    _disabled.insert().values(account=name, actor=actor.name, created=tx.time)
                )
                note(tx, "account.disabled", account=name, actor=actor.name, source=source)
            self._signins.end_all(tx, name)
            return replace(account, disabled=True)

        return self._database.write(change)

    def enable(self, actor: Account, name: str, source: str) -> Account:
        """Open an account again; see `Hub.enable`."""

        def change(tx: Transaction) -> Account:
            account = find_account(tx, name)
            if is_disabled(tx, name):
                tx.execute(_disabled.delete().where(_disabled.c.account == name))
                note(tx, "account.enabled", account=name, actor=actor.name, source=source)
            return account

        return self._database.write(change)

    # -- roles -----------------------------------------------------------------------------

    def add_operator(self, actor: Account, name: str, password: str | None, source: str) -> Account:
        """Give the operator role; see `Hub.add_operator`."""
        if password is not None:
            check_name(name)
        password_hash = None if password is None else self._passwords.hash(password, name)

        def change(tx: Transaction) -> Account:
            if password_hash is not None:
                add_account(tx, name, "member", password_hash)
            return self._set_role(tx, actor, name, "operator", source)

        return self._database.write(change)

    def remove_operator(self, actor: Account, name: str, source: str) -> Account:
        """Take the operator role; see `Hub.remove_operator`."""
        return self._database.write(lambda tx: self._set_role(tx, actor, name, "member", source))

    def _set_role(
        self, tx: Transaction, actor: Account, name: str, role: Role, source: str
    ) -> Account:
        account = find_account(tx, name)
        if account.role != role:
            tx.execute(_accounts.update().where(_accounts.c.name == name).values(role=role))
            self._signins.make_due(tx, name)
            what = "role.given" if role == "operator" else "role.taken"
            note(tx, what, account=name, actor=actor.name, source=source, role="operator")
        return replace(account, role=role)

    # -- signing in ------------------------------------------------------------------------

    def login(self, name: str, password: str, source: str) -> Session:
        """Check a password and make a sign-in; see `Hub.login`."""
        name = name if isinstance(name, str) else ""
        attempt = self._throttle.admit(name, source)
        row = self._database.read(lambda tx: _find(tx, name))
        known = None if row is None else row.password_hash
        if not self._passwords.matches(known, password):
            self._failed("" if row is None else name, source)
            raise AuthenticationError("The name and the password do not match.")
        return self.enter(name, source, attempt, known=known)

    def enter(
        self, name: str, source: str, attempt: Attempt | None, *, known: str | None, by: str = ""
    ) -> Session:
        """Sign in an account that has proved who it is.

        Parameters
        ----------
        attempt
            The attempt that was counted, or None where no password was checked.
        known
            The hash that the password was compared with: it may have been changed meanwhile.
        by
            Who vouches for the account, where that was not its password.
        """

        def change(tx: Transaction) -> Session | None:
            row = _find(tx, name)
            if row is None or (row.password_hash != known and not by):
                raise AuthenticationError("The name and the password do not match.")
            if attempt is not None:
                self._throttle.succeeded(tx, attempt)
            if is_disabled(tx, name):
                note(tx, "signin.refused", account=name, source=source, disabled=True)
                return None
            note(tx, "signin.ok", account=name, source=source, **({"by": by} if by else {}))
            label = f"sign-in by {by}" if by else "sign-in"
            return self._signins.session(tx, account_record(row), label=label, source=source)

        session = self._database.write(change)
        if session is None:
            raise ForbiddenError("This account is closed. Ask an operator of the hub why.")
        return session

    def change_password(self, actor: Credentials, current: str, new: str, source: str) -> Session:
        """Change a password, end the other sign-ins, renew this one; see `Hub.change_password`."""
        name = actor.account.name
        check_password(new, name)
        # Counted apart from the sign-ins: whoever guesses there does not keep the person out here.
        attempt = self._throttle.admit(f"{name}\0{actor.id}", "")
        row = self._database.read(lambda tx: _find(tx, name))
        if row is None or not self._passwords.matches(row.password_hash, current):
            self._failed(name, source, "password.refused")
            raise ForbiddenError("The current password is not right; nothing was changed.")
        password_hash = self._passwords.hash(new, name)

        def change(tx: Transaction) -> Session:
            session = self._signins.renewed(tx, actor.id)
            self._throttle.succeeded(tx, attempt)
            self._set_password(tx, name, password_hash)
            self._signins.end_all(tx, name, but=actor.id, kinds=("session", "ticket"))
            note(tx, "password.changed", account=name, source=source)
            return session

        return self._database.write(change)

    def issue_reset(self, actor: Account, name: str, source: str) -> OneTimeCode:
        """Make a link to set a new password; see `Hub.issue_reset`."""

        def change(tx: Transaction) -> OneTimeCode:
            find_account(tx, name)
            return self._codes.reset(tx, actor, name, source)

        return self._database.write(change)

    def reset_password(self, code: str, password: str, source: str) -> Account:
        """Set a password by a one-time code; see `Hub.reset_password`."""
        name: str = self._codes.check("reset", code).account
        password_hash = self._passwords.hash(password, name)

        def change(tx: Transaction) -> Account:
            account = find_account(tx, name)
            self._codes.use(tx, "reset", code, account=name)
            self._set_password(tx, name, password_hash)
            self._signins.end_all(tx, name)
            note(tx, "password.reset", account=name, source=source)
            return account

        return self._database.write(change)

    def create_token(
        self,
        actor: Credentials,
        label: str,
        scopes: Sequence[Scope],
        days: float,
        source: str,
    ) -> Session:
        """Make a token; see `Hub.create_token`."""
        if not isinstance(days, (int, float)) or not 0 < days <= MAX_TOKEN_DAYS:
            raise InvalidInputError(f"A token lasts up to {MAX_TOKEN_DAYS} days, not {days!r}.")
        granted = checked_scopes(scopes)
        if "admin" in granted and "admin" not in actor.powers:
            raise ForbiddenError("Only an operator makes a token with the scope 'admin'.")
        account = actor.account

        def change(tx: Transaction) -> Session:
            session = self._signins.issue(
                tx,
                account,
                "token",
                label=label,
                source=source,
                scopes=granted,
                lifetime=timedelta(days=days),
            )
            note(
                tx,
                "token.made",
                account=account.name,
                source=source,
                label=label[:200],
                scopes=list(granted),
                expires=session.expires,
            )
            return session

        return self._database.write(change)

    def _set_password(self, tx: Transaction, name: str, password_hash: str) -> None:
        tx.execute(
            _accounts.update().where(_accounts.c.name == name).values(password_hash=password_hash)
        )

    def _failed(self, account: str, source: str, kind: str = "signin.failed") -> None:
        self._database.write(lambda tx: note(tx, kind, account=account, source=source))


def check_name(name: object) -> None:
    """Refuse a name that no account can have.

    Raises
    ------
    InvalidInputError
        If it is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!r} is not an account name: use 2 to 32 of a-z, 0-9, '-' and '_', "
            "beginning with a letter or digit."
        )


def add_account(tx: Transaction, name: str, role: Role, password_hash: str | None) -> Account:
    """Add an account.

    Raises
    ------
    ConflictError
        If the name is taken.
    """
    if _find(tx, name) is not None:
        raise ConflictError(f"The name {name!r} is taken; choose another, or sign in.")
    tx.execute(
        _accounts.insert().values(
            name=name, role=role, created=tx.time, password_hash=password_hash
        )
    )
    tx.emit("account.registered", name)
    return Account(name=name, role=role, created=tx.time)


def find_account(tx: Transaction, name: str) -> Account:
    """Return an account.

    Raises
    ------
    NotFoundError
        If there is none of that name.
    """
    row = _find(tx, name)
    if row is None:
        raise NotFoundError(f"There is no account {name!r}.")
    return account_record(row)


def has_account(tx: Transaction, name: str) -> bool:
    """Return whether somebody has a name."""
    return _find(tx, name) is not None


def is_disabled(tx: Transaction, name: str) -> bool:
    """Return whether an operator has closed an account."""
    return tx.first(sa.select(_disabled).where(_disabled.c.account == name)) is not None


def account_record(row: sa.Row[Any]) -> Account:
    """Return the record of an account's row."""
    return Account(name=row.name, role=row.role, created=row.created)


def _find(tx: Transaction, name: str) -> sa.Row[Any] | None:
    return tx.first(sa.select(_accounts).where(_accounts.c.name == name))
