"""Who the visitor of a `LocalHub` is, and what they can do about accounts.

A view looks its sign-in up again when one of the hub has ended or changed, and every few seconds:
what was taken away is gone at the next call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import AuthenticationError, ForbiddenError
from neuronexus_kernel.hub.account_records import AuditEntry, Invitation, OneTimeCode, SignIn
from neuronexus_kernel.hub.lookups import BELIEVED_SECONDS
from neuronexus_kernel.hub.permissions import RULES, TICKET_SCOPES, Credentials, check
from neuronexus_kernel.hub.records import Account, Scope, Session
from neuronexus_kernel.hub.secret import derive
from neuronexus_kernel.hub.signins import TICKET_LIFETIME

if TYPE_CHECKING:
    from neuronexus_kernel.hub.local import Services


class LocalAccounts:
    """The part of `LocalHub` that is about accounts; the interface is `AccountsHub`.

    Parameters
    ----------
    services
        The hub.
    token
        The visitor's token, or None.
    source
        The address that the visitor comes from.

    Raises
    ------
    AuthenticationError
        If the token is not valid.
    """

    def __init__(self, services: Services, token: str | None, source: str) -> None:
        self._services = services
        self._source = source
        self._found: Credentials | None = None
        if token is not None:
            self._look_up(token)
            self.touch()

    # -- what a server needs beside the interface ------------------------------------------

    @property
    def owner_token(self) -> str:
        """Token of whoever owns the hub's folder; random for each opening."""
        return self._services.signins.owner_token

    @property
    def registration(self) -> str:
        """Who may register: ``"open"``, ``"invited"`` or ``"closed"``."""
        return self._services.settings.accounts.registration

    def secret(self, purpose: str) -> bytes:
        """Return the hub's key for one purpose of a server, such as signing cookies."""
        return derive(self._services.secret, purpose)

    def on_end(self, listener: Callable[[frozenset[str]], None]) -> None:
        """Have `listener` called with the ids of sign-ins that end or may do something else now.

        It is called on the writer thread: it must be quick and must not raise.
        """
        self._services.signins.on_end(listener)

    @property
    def credentials(self) -> Credentials | None:
        """What the visitor's token stands for.

        Raises
        ------
        AuthenticationError
            If it has ended.
        """
        if self._found is not None:
            stale = time.monotonic() - self._looked_up > BELIEVED_SECONDS
            if stale or self._generation != self._services.signins.generation:
                self._look_up()
        return self._found

    def admit(self, operation: str) -> None:
        """Refuse a call of the interface that this visitor may not make.

        Raises
        ------
        AuthenticationError, ForbiddenError
            If ``permissions.py`` does not allow it.
        """
        if not RULES[operation].ended:
            check(operation, self.credentials)

    def touch(self) -> None:
        """Mark the visitor as present.

        Raises
        ------
        AuthenticationError
            If the sign-in has ended.
        """
        viewer = self._viewer()
        if viewer is not None:
            self._services.presence.touch(viewer.name)

    def ticket(self) -> Session:
        """Issue a short-lived token for the visitor's own dashboard kernel."""
        account, credentials = self._actor(), self._signed_in()
        return self._services.database.write(
            lambda tx: self._services.signins.issue(
                tx,
                account,
                "ticket",
                label="dashboard",
                source=self._source,
                scopes=TICKET_SCOPES,
                lifetime=TICKET_LIFETIME,
                parent=credentials.id,
            )
        )

    def login_by(self, provider: str, subject: str) -> Session:
        """Sign in somebody for whom another server vouches; see `ExternalLogins.login`."""
        return self._enter(self._services.external.login(provider, subject, self._source))

    def _look_up(self, token: str | None = None) -> None:
        signins = self._services.signins
        # The generation first: a change that comes between is seen the next time.
        generation, moment = signins.generation, time.monotonic()
        if token is not None:
            self._found = signins.resolve(token)
        elif self._found is not None:
            self._found = signins.recall(self._found)
        # Last of all: what has ended is looked up, and refused, each time.
        self._generation, self._looked_up = generation, moment

    def _enter(self, session: Session) -> Session:
        self._look_up(session.token)
        self.touch()
        return session

    def _viewer(self) -> Account | None:
        credentials = self.credentials
        return None if credentials is None else credentials.account

    def _signed_in(self) -> Credentials:
        credentials = self.credentials
        if credentials is None:
            raise AuthenticationError(
                "Nobody is signed in; use `wb.login(name, password)`, or `wb.register(...)` first."
            )
        return credentials

    def _actor(self) -> Account:
        return self._signed_in().account

    # -- the interface ---------------------------------------------------------------------

    def register(self, name: str, password: str, invitation: str | None = None) -> Account:
        """See `AccountsHub.register`."""
        return self._services.identity.register(name, password, invitation, self._source)

    def login(self, name: str, password: str) -> Session:
        """See `AccountsHub.login`."""
        return self._enter(self._services.identity.login(name, password, self._source))

    def logout(self) -> None:
        """See `AccountsHub.logout`."""
        try:
            credentials = self.credentials
        except AuthenticationError:
            credentials = None
        if credentials is not None:
            self._services.presence.leave(credentials.account.name)
            if credentials.id and credentials.kind != "token":
                self._services.signins.leave(credentials, self._source)
        self._found = None

    def whoami(self) -> Account | None:
        """See `AccountsHub.whoami`."""
        return self._viewer()

    def renew(self) -> Session:
        """See `AccountsHub.renew`."""
        return self._enter(self._services.signins.renew(self._own_signin().id))

    def change_password(self, current: str, new: str) -> Session:
        """See `AccountsHub.change_password`."""
        return self._enter(
            self._services.identity.change_password(self._own_signin(), current, new, self._source)
        )

    def reset_password(self, code: str, password: str) -> Account:
        """See `AccountsHub.reset_password`."""
        return self._services.identity.reset_password(code, password, self._source)

    def sessions(self, account: str | None = None) -> list[SignIn]:
        """See `AccountsHub.sessions`."""
        name, current = self._whose(account)
        return self._services.signins.all(name, {"session", "ticket"}, current=current)

    def tokens(self, account: str | None = None) -> list[SignIn]:
        """See `AccountsHub.tokens`."""
        name, current = self._whose(account)
        return self._services.signins.all(name, {"token"}, current=current)

    def create_token(
        self,
        label: str,
        scopes: tuple[Scope, ...] = ("read", "contribute"),
        days: float = 90.0,
    ) -> Session:
        """See `AccountsHub.create_token`."""
        return self._services.identity.create_token(
            self._own_signin(), label, scopes, days, self._source
        )

    def revoke(self, signin: str) -> None:
        """See `AccountsHub.revoke`."""
        credentials = self._signed_in()
        self._services.signins.revoke(
            credentials.account,
            signin,
            anybodys="admin" in credentials.powers,
            source=self._source,
        )

    def accounts(self) -> list[Account]:
        """See `AccountsHub.accounts`."""
        return self._services.identity.accounts(self._viewer())

    def add_operator(self, name: str, password: str | None = None) -> Account:
        """See `AccountsHub.add_operator`."""
        return self._services.identity.add_operator(self._actor(), name, password, self._source)

    def remove_operator(self, name: str) -> Account:
        """See `AccountsHub.remove_operator`."""
        return self._services.identity.remove_operator(self._actor(), name, self._source)

    def disable(self, name: str) -> Account:
        """See `AccountsHub.disable`."""
        return self._services.identity.disable(self._actor(), name, self._source)

    def enable(self, name: str) -> Account:
        """See `AccountsHub.enable`."""
        return self._services.identity.enable(self._actor(), name, self._source)

    def issue_reset(self, name: str) -> OneTimeCode:
        """See `AccountsHub.issue_reset`."""
        return self._services.identity.issue_reset(self._actor(), name, self._source)

    def invite(self, days: float = 7.0, note: str = "") -> OneTimeCode:
        """See `AccountsHub.invite`."""
        return self._services.codes.invite(self._actor(), days, note, self._source)

    def invitations(self) -> list[Invitation]:
        """See `AccountsHub.invitations`."""
        return self._services.codes.invitations()

    def withdraw(self, invitation: str) -> None:
        """See `AccountsHub.withdraw`."""
        self._services.codes.withdraw(self._actor(), invitation, self._source)

    def audit(
        self,
        account: str | None = None,
        kind: str | None = None,
        before: int | None = None,
        limit: int = 200,
    ) -> list[AuditEntry]:
        """See `AccountsHub.audit`."""
        return self._services.audit.entries(account=account, kind=kind, before=before, limit=limit)

    def _whose(self, account: str | None) -> tuple[str, str]:
        """Return whose sign-ins are asked for, and the id of the one that asks."""
        credentials = self._signed_in()
        name = credentials.account.name
        if account not in (None, name) and "admin" not in credentials.powers:
            raise ForbiddenError("Only an operator sees the sign-ins and tokens of others.")
        return account or name, credentials.id

    def _own_signin(self) -> Credentials:
        """Return the sign-in of an account; the owner of the folder has none."""
        credentials = self._signed_in()
        if not credentials.id:
            raise AuthenticationError("Sign in with a name and a password to do this.")
        return credentials
