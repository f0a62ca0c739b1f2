"""The part of the hub's interface that is about people: accounts, sign-ins, tokens, roles.

Who may call what, and with which token, stands in ``permissions.py``.
"""

from __future__ import annotations

from typing import Protocol

from neuronexus_kernel.hub.account_records import AuditEntry, Invitation, OneTimeCode, SignIn
from neuronexus_kernel.hub.records import Account, Scope, Session


class AccountsHub(Protocol):
    """What a visitor can do about accounts."""

    # -- coming and going -----------------------------------------------------------------

    def register(self, name: str, password: str, invitation: str | None = None) -> Account:
        """Make an account.

        Parameters
        ----------
        invitation
            The code that an operator gave, where the hub asks for one.

        Raises
        ------
        InvalidInputError
            If the name is not 2 to 32 of ``a-z 0-9 - _``, or the password is weak.
        ConflictError
            If the name is taken.
        ForbiddenError
            If the hub asks for an invitation and this one is not valid, or lets nobody register.
        """

    def login(self, name: str, password: str) -> Session:
        """Sign in; this hub object then acts as that account.

        Raises
        ------
        AuthenticationError
            If the name and the password do not match.
        ForbiddenError
            If an operator has closed the account.
        QuotaError
            If there were too many failed attempts; the message says how long to wait.
        """

    def logout(self) -> None:
        """End the sign-in; its token is worth nothing afterwards.

        A token made by `create_token` is let go of, and stays valid; see `revoke`.
        """

    def whoami(self) -> Account | None:
        """Return the signed-in account, or None."""

    # -- one's own account ----------------------------------------------------------------

    def renew(self) -> Session:
        """Exchange the sign-in's token for a new one; the old one ends within a minute.

        Raises
        ------
        AuthenticationError
            If this is no sign-in with a password.
        """

    def change_password(self, current: str, new: str) -> Session:
        """Change one's password: all other sign-ins end, and this one gets a new token.

        Raises
        ------
        ForbiddenError
            If `current` is not the password.
        InvalidInputError
            If the new one is weak.
        """

    def reset_password(self, code: str, password: str) -> Account:
        """Set a new password by the one-time code of an operator.

        All sign-ins and tokens of the account end.

        Raises
        ------
        ForbiddenError
            If the code was used, is too old, or never was one.
        InvalidInputError
            If the password is weak; the code is still good then.
        """

    def sessions(self, account: str | None = None) -> list[SignIn]:
        """Return the sign-ins that have not ended, the newest first.

        Parameters
        ----------
        account
            Whose; by default one's own.  Only an operator sees those of others.
        """

    def tokens(self, account: str | None = None) -> list[SignIn]:
        """Return the tokens made by `create_token` that are good, the newest first."""

    def create_token(
        self,
        label: str,
        scopes: tuple[Scope, ...] = ("read", "contribute"),
        days: float = 90.0,
    ) -> Session:
        """Make a token for a notebook or a script; it is shown this once.

        Parameters
        ----------
        scopes
            What it may do: ``read``, ``contribute``, ``maintain`` (projects and federations),
            ``admin`` (operators only).  Every token may read.
        days
            How long it lasts, up to 365.

        Raises
        ------
        ForbiddenError
            If the scope ``admin`` is asked for by somebody who is no operator.
        InvalidInputError
            If a scope is unknown, or the days are out of range.
        """

    def revoke(self, signin: str) -> None:
        """End a sign-in or a token by its id: one's own, or as an operator anybody's.

        Raises
        ------
        NotFoundError
            If there is none of that id that is one's own.
        """

    def accounts(self) -> list[Account]:
        """Return all accounts by name."""

    # -- for operators --------------------------------------------------------------------

    def add_operator(self, name: str, password: str | None = None) -> Account:
        """Give an account the operator role, making the account if a password is given.

        Only an operator may, or the person who owns the hub's folder.
        """

    def remove_operator(self, name: str) -> Account:
        """Make an operator a member again."""

    def disable(self, name: str) -> Account:
        """Close an account: its sign-ins and tokens end at once, and nobody can sign in to it."""

    def enable(self, name: str) -> Account:
        """Open a closed account again."""

    def issue_reset(self, name: str) -> OneTimeCode:
        """Make a code by which an account's password can be set once, within 24 hours."""

    def invite(self, days: float = 7.0, note: str = "") -> OneTimeCode:
        """Make a code by which somebody can register once.

        Parameters
        ----------
        days
            How long it is good, up to 90.
        note
            For whom it is; operators see it in `invitations`.
        """

    def invitations(self) -> list[Invitation]:
        """Return the invitations and who came by them, the newest first."""

    def withdraw(self, invitation: str) -> None:
        """Take an open invitation back by its id.

        Raises
        ------
        NotFoundError
            If there is none that is open.
        """

    def audit(
        self,
        account: str | None = None,
        kind: str | None = None,
        before: int | None = None,
        limit: int = 200,
    ) -> list[AuditEntry]:
        """Return what happened to accounts, the newest first.

        Parameters
        ----------
        account
            Only what is about this account, or was done by it.
        kind
            Only this kind, such as ``"signin.failed"``.
        before
            Only entries with a number below this, for the next page.
        limit
            How many, up to 1,000.
        """
