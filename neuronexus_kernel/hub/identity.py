"""Who is who: accounts, passwords, and the tokens that prove a sign-in.

Passwords are hashed by Argon2id (RFC 9106) with argon2-cffi's defaults.  A token is 256 random
bits, shown once; the database keeps its SHA-256 only, so that a stolen database signs nobody in.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from neuronexus_kernel.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Database, Transaction, now
from neuronexus_kernel.hub.records import Account, Role, Session

OWNER = Account(name="nx:owner", role="operator", created="")
"""Acts for whoever can read the hub's own folder."""

LIFETIMES = {
    "session": timedelta(days=7),
    "notebook": timedelta(days=90),
    "ticket": timedelta(hours=12),
}
MIN_PASSWORD = 10
MAX_PASSWORD = 1024

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{1,31}")
_COMMON = ("password", "123456", "qwerty", "letmein", "iloveyou", "welcome", "abc123", "admin")


class Identity:
    """Accounts and sign-ins of one hub.

    Parameters
    ----------
    database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._hasher = PasswordHasher()
        # Verified against when a name is unknown, so that the answer takes as long.
        self._decoy = self._hasher.hash(secrets.token_urlsafe())
        self.owner_token = secrets.token_urlsafe(32)

    def register(self, name: str, password: str, role: Role = "member") -> Account:
        """Make an account; see `Hub.register`."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"{name!r} is not an account name: use 2 to 32 of a-z, 0-9, '-' and '_', "
                "beginning with a letter or digit."
            )
        check_password(password, name)
        password_hash = self._hasher.hash(password)

        def change(tx: Transaction) -> Account:
            if tx.first(sa.select(schema.accounts).where(schema.accounts.c.name == name)):
                raise ConflictError(f"The name {name!r} is taken; choose another, or sign in.")
            account = Account(name=name, role=role, created=tx.time)
            tx.execute(
                schema.accounts.insert().values(
                    name=name, role=role, created=tx.time, password_hash=password_hash
                )
            )
            tx.emit("account.registered", name)
            return account

        return self._database.write(change)

    def login(self, name: str, password: str) -> Session:
        """Check a password and issue a session; see `Hub.login`."""
        row = self._database.read(
            lambda tx: tx.first(sa.select(schema.accounts).where(schema.accounts.c.name == name))
        )
        known = row.password_hash if row is not None and row.password_hash else self._decoy
        try:
            self._hasher.verify(known, password if isinstance(password, str) else "")
            matches = row is not None and known is not self._decoy
        except (Argon2Error, InvalidHashError):
            matches = False
        if row is None or not matches:
            raise AuthenticationError("The name and the password do not match.")
        return self.issue(_account(row), "session", "sign-in")

    def issue(self, account: Account, kind: str, label: str) -> Session:
        """Issue a token of a kind named in `LIFETIMES` for an account."""
        token = secrets.token_urlsafe(32)
        expires = datetime.now(UTC) + LIFETIMES[kind]
        until = expires.isoformat(timespec="seconds").replace("+00:00", "Z")

        def change(tx: Transaction) -> None:
            tx.execute(schema.sessions.delete().where(schema.sessions.c.expires < tx.time))
            tx.execute(
                schema.sessions.insert().values(
                    token_hash=_hash(token),
                    account=account.name,
                    kind=kind,
                    label=label[:200],
                    created=tx.time,
                    expires=until,
                )
            )

        self._database.write(change)
        return Session(token=token, account=account, expires=until)

    def resolve(self, token: str) -> Account:
        """Return the account that a token stands for.

        Raises
        ------
        AuthenticationError
            If the token is unknown, ended or expired.
        """
        if secrets.compare_digest(token.encode(), self.owner_token.encode()):
            return OWNER
        sessions, accounts = schema.sessions, schema.accounts
        row = self._database.read(
            lambda tx: tx.first(
                sa.select(accounts)
                .join(sessions, sessions.c.account == accounts.c.name)
                .where(sessions.c.token_hash == _hash(token), sessions.c.expires > now())
            )
        )
        if row is None:
            raise AuthenticationError("The sign-in has ended; sign in again.")
        return _account(row)

    def revoke(self, token: str) -> None:
        """End the sign-in that a token stands for."""
        sessions = schema.sessions
        self._database.write(
            lambda tx: tx.execute(sessions.delete().where(sessions.c.token_hash == _hash(token)))
        )

    def add_operator(self, actor: Account, name: str, password: str | None) -> Account:
        """Give the operator role; see `Hub.add_operator`."""
        if actor.role != "operator":
            raise ForbiddenError("Only an operator may make another operator.")
        if password is not None:
            return self.register(name, password, role="operator")
        accounts = schema.accounts

        def change(tx: Transaction) -> Account:
            tx.execute(accounts.update().where(accounts.c.name == name).values(role="operator"))
            row = tx.first(sa.select(accounts).where(accounts.c.name == name))
            if row is None:
                raise NotFoundError(f"There is no account {name!r}; give a password to make it.")
            return _account(row)

        return self._database.write(change)

    def accounts(self) -> list[Account]:
        """Return all accounts by name."""
        query = sa.select(schema.accounts).order_by(schema.accounts.c.name)
        return [_account(row) for row in self._database.read(lambda tx: tx.all(query))]


def check_password(password: str, name: str) -> None:
    """Refuse a weak password.

    Raises
    ------
    InvalidInputError
        If it is shorter than 10 characters or longer than 1,024, has fewer than 5 different
        ones, or is built from the account's name or one of the most guessed words.
    """
    if isinstance(password, str) and len(password) > MAX_PASSWORD:
        raise InvalidInputError(f"The password is too long: {MAX_PASSWORD} characters at most.")
    if not isinstance(password, str) or len(password) < MIN_PASSWORD:
        raise InvalidInputError(
            f"The password is too short: use at least {MIN_PASSWORD} characters, for example "
            "three or four unrelated words."
        )
    rest = password.lower()
    for word in (name, *_COMMON):
        rest = rest.replace(word, "")
    if len(set(password)) < 5 or len(rest) < MIN_PASSWORD // 2:
        raise InvalidInputError(
            "The password is too easy to guess: use three or four unrelated words."
        )


def _account(row: sa.Row[Any]) -> Account:
    return Account(name=row.name, role=row.role, created=row.created)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
