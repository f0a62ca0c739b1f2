"""What a notebook holds of accounts: one's own (`wb.account`), and an operator's (`wb.admin`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neuronexus_kernel.display import card, frame
from neuronexus_kernel.hub.account_records import OneTimeCode, SignIn
from neuronexus_kernel.hub.records import Account, Scope, Session

if TYPE_CHECKING:
    import pandas as pd

    from neuronexus_kernel.hub import Hub

_SIGNINS = ["label", "kind", "scopes", "created", "seen", "expires", "source", "current", "id"]
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Link:
    """A link that works once; hand it to the person it is for.

    Attributes
    ----------
    url
        The link.
    expires
        Until when it works.
    """

    url: str = field(repr=False)
    expires: str

    def __str__(self) -> str:
        return self.url

    def _repr_html_(self) -> str:
        return card("Works once", {"link": self.url, "until": self.expires})


class AccountView:
    """The signed-in account: its password, its sign-ins and its tokens.

    Parameters
    ----------
    hub
        The hub that one is signed in to.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def change_password(self, current: str, new: str) -> None:
        """Change the password; all other sign-ins of the account end.

        Raises
        ------
        ForbiddenError
            If `current` is not the password.
        InvalidInputError
            If the new one is weak.
        """
        self._hub.change_password(current, new)

    def sessions(self) -> pd.DataFrame:
        """Return where one is signed in, one row each, the newest first."""
        return _signins_frame(self._hub.sessions())

    def tokens(self) -> pd.DataFrame:
        """Return the tokens that are good, one row each, the newest first."""
        return _signins_frame(self._hub.tokens())

    def create_token(
        self, label: str, *, scopes: Iterable[Scope] = ("read", "contribute"), days: float = 90
    ) -> Session:
        """Make a token for a notebook or a script: its ``.token`` is shown this once.

        Parameters
        ----------
        label
            What it is for.
        scopes
            What it may do: ``read``, ``contribute``, ``maintain``, ``admin``.
        days
            How long it lasts, up to 365.

        Raises
        ------
        ForbiddenError
            If the scope ``admin`` is asked for by somebody who is no operator.
        InvalidInputError
            If a scope is unknown, or the days are out of range.
        """
        return self._hub.create_token(label, tuple(scopes), days)

    def revoke(self, id: str) -> None:
        """End a sign-in or a token by its id in `sessions` or `tokens`.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        self._hub.revoke(id)


class AdminView:
    """What operators do about the accounts of others.

    Parameters
    ----------
    hub
        The hub that one is signed in to as an operator.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def accounts(self) -> pd.DataFrame:
        """Return all accounts, one row each."""
        columns = ["name", "role", "disabled", "created"]
        rows = [{name: getattr(each, name) for name in columns} for each in self._hub.accounts()]
        return frame(rows, columns)

    def invite(self, note: str = "", *, days: float = 7) -> Link:
        """Make a link by which somebody can register once.

        Parameters
        ----------
        note
            For whom it is.
        days
            How long it works, up to 90.
        """
        return link_of(self._hub, self._hub.invite(days, note))

    def invitations(self) -> pd.DataFrame:
        """Return the invitations and who came by them, one row each, the newest first."""
        columns = ["note", "issuer", "account", "created", "expires", "id"]
        found = self._hub.invitations()
        return frame([{name: getattr(each, name) for name in columns} for each in found], columns)

    def withdraw(self, id: str) -> None:
        """Take an open invitation back by its id in `invitations`."""
        self._hub.withdraw(id)

    def reset_link(self, name: str) -> Link:
        """Make a link by which an account's password can be set once, within 24 hours."""
        return link_of(self._hub, self._hub.issue_reset(name))

    def sessions(self, name: str) -> pd.DataFrame:
        """Return an account's sign-ins and tokens, one row each; `revoke` ends one."""
        return _signins_frame([*self._hub.sessions(name), *self._hub.tokens(name)])

    def revoke(self, id: str) -> None:
        """End anybody's sign-in or token."""
        self._hub.revoke(id)

    def disable(self, name: str) -> Account:
        """Close an account: its sign-ins and tokens end at once."""
        return self._hub.disable(name)

    def enable(self, name: str) -> Account:
        """Open a closed account again."""
        return self._hub.enable(name)

    def add_operator(self, name: str) -> Account:
        """Make an account an operator."""
        return self._hub.add_operator(name)

    def remove_operator(self, name: str) -> Account:
        """Make an operator a member again."""
        return self._hub.remove_operator(name)

    def audit(
        self, account: str | None = None, *, kind: str | None = None, limit: int = 1000
    ) -> pd.DataFrame:
        """Return what happened to accounts, one row each, the newest first.

        Parameters
        ----------
        account
            Only what is about this account, or was done by it.
        kind
            Only this kind, such as ``"signin.failed"``.
        limit
            How many rows at most.
        """
        columns = ["seq", "time", "kind", "account", "actor", "source", "data"]
        rows: list[dict[str, object]] = []
        before: int | None = None
        while limit > len(rows):
            page = self._hub.audit(account, kind, before, min(_PAGE, limit - len(rows)))
            if not page:
                break
            rows += [{name: getattr(entry, name) for name in columns} for entry in page]
            before = page[-1].seq
        return frame(rows, columns).set_index("seq")


def link_of(hub: Hub, code: OneTimeCode) -> Link:
    """Return the whole link of a code, where the hub has an address on the web."""
    address = hub.address if hub.address.startswith("http") else ""
    return Link(address + code.path, code.expires)


def _signins_frame(signins: Iterable[SignIn]) -> pd.DataFrame:
    return frame([{name: getattr(each, name) for name in _SIGNINS} for each in signins], _SIGNINS)
