"""What a visitor of a hub elsewhere can do about accounts; the interface is `AccountsHub`.

The hub says when a sign-in wants a new token; it is fetched after the call that was told so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from neuronexus_kernel.errors import AuthenticationError, HubUnavailableError
from neuronexus_kernel.hub.account_records import AuditEntry, Invitation, OneTimeCode, SignIn
from neuronexus_kernel.hub.records import Account, Scope, Session
from neuronexus_kernel.hub.transport import Transport

T = TypeVar("T")


class RemoteAccounts(ABC):
    """The part of `RemoteHub` that is about accounts.

    Parameters
    ----------
    transport
        Carries the calls, and the visitor's token.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._renewing = Lock()

    @abstractmethod
    def _call(self, operation: str, returns: type[T], **parameters: object) -> T:
        """Carry out an operation of the API; see `RemoteHub`."""

    def register(self, name: str, password: str, invitation: str | None = None) -> Account:
        """See `AccountsHub.register`."""
        with self._as_a_stranger():
            return self._call(
                "register", Account, name=name, password=password, invitation=invitation
            )

    def login(self, name: str, password: str) -> Session:
        """See `AccountsHub.login`."""
        with self._as_a_stranger():
            session = self._call("login", Session, name=name, password=password)
        self._transport.token = session.token
        return session

    def logout(self) -> None:
        """See `AccountsHub.logout`."""
        try:
            if self._transport.token is not None:
                self._call("logout", type(None))
        except AuthenticationError:
            return  # it has ended already
        finally:
            self._transport.token = None

    def whoami(self) -> Account | None:
        """See `AccountsHub.whoami`."""
        return self._call("whoami", Account | None)  # type: ignore[arg-type]

    def renew(self) -> Session:
        """See `AccountsHub.renew`."""
        return self._took(self._call("renew", Session))

    def change_password(self, current: str, new: str) -> Session:
        """See `AccountsHub.change_password`."""
        return self._took(self._call("change_password", Session, current=current, new=new))

    def reset_password(self, code: str, password: str) -> Account:
        """See `AccountsHub.reset_password`."""
        with self._as_a_stranger():
            return self._call("reset_password", Account, code=code, password=password)

    def sessions(self, account: str | None = None) -> list[SignIn]:
        """See `AccountsHub.sessions`."""
        return self._call("sessions", list[SignIn], account=account)

    def tokens(self, account: str | None = None) -> list[SignIn]:
        """See `AccountsHub.tokens`."""
        return self._call("tokens", list[SignIn], account=account)

    def create_token(
        self,
        label: str,
        scopes: tuple[Scope, ...] = ("read", "contribute"),
        days: float = 90.0,
    ) -> Session:
        """See `AccountsHub.create_token`."""
        return self._call("create_token", Session, label=label, scopes=scopes, days=days)

    def revoke(self, signin: str) -> None:
        """See `AccountsHub.revoke`."""
        self._call("revoke", type(None), signin=signin)

    def accounts(self) -> list[Account]:
        """See `AccountsHub.accounts`."""
        return self._call("accounts", list[Account])

    def add_operator(self, name: str, password: str | None = None) -> Account:
        """See `AccountsHub.add_operator`."""
        return self._call("add_operator", Account, name=name, password=password)

    def remove_operator(self, name: str) -> Account:
        """See `AccountsHub.remove_operator`."""
        return self._call("remove_operator", Account, name=name)

    def disable(self, name: str) -> Account:
        """See `AccountsHub.disable`."""
        return self._call("disable", Account, name=name)

    def enable(self, name: str) -> Account:
        """See `AccountsHub.enable`."""
        return self._call("enable", Account, name=name)

    def issue_reset(self, name: str) -> OneTimeCode:
        """See `AccountsHub.issue_reset`."""
        return self._call("issue_reset", OneTimeCode, name=name)

    def invite(self, days: float = 7.0, note: str = "") -> OneTimeCode:
        """See `AccountsHub.invite`."""
        return self._call("invite", OneTimeCode, days=days, note=note)

    def invitations(self) -> list[Invitation]:
        """See `AccountsHub.invitations`."""
        return self._call("invitations", list[Invitation])

    def withdraw(self, invitation: str) -> None:
        """See `AccountsHub.withdraw`."""
        self._call("withdraw", type(None), invitation=invitation)

    def audit(
        self,
        account: str | None = None,
        kind: str | None = None,
        before: int | None = None,
        limit: int = 200,
    ) -> list[AuditEntry]:
        """See `AccountsHub.audit`."""
        return self._call(
            "audit", list[AuditEntry], account=account, kind=kind, before=before, limit=limit
        )

    def _took(self, session: Session) -> Session:
        self._transport.token = session.token
        self._transport.renewal_due = False
        return session

    def _renew_if_due(self) -> None:
        """Fetch a new token if the hub asked for it; where that fails, the old one still does."""
        if not self._transport.renewal_due or not self._renewing.acquire(blocking=False):
            return
        try:
            self._transport.renewal_due = False
            self.renew()
        except (AuthenticationError, HubUnavailableError):
            return
        finally:
            self._renewing.release()

    @contextmanager
    def _as_a_stranger(self) -> Iterator[None]:
        """Leave the token out, as one that has ended would be refused; keep it if this fails."""
        token, self._transport.token = self._transport.token, None
        try:
            yield
        finally:
            self._transport.token = token
