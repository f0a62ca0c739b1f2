"""Who may do what: one table for the whole interface, and the one place that applies it.

`RULES` has a line for every method of `Hub`; a method without one cannot be part of a hub.  A line
says who may call it and which scope a token needs for that.  `enforced` puts the check before
every method of `LocalHub`, where all calls end, so that no handler and no service has to think of
it; what a server calls in place of such a method says so by `admit`.  What depends on a record (is
this the owner's project?) is decided by the service that reads the record, for the account that
passed here.

Scopes
------
``read``
    See what the account may see.  Every token has it.
``contribute``
    Store content, record runs, submit and confirm contributions, take part in federations.
``maintain``
    Make projects, and do what the owner of a project may do.
``admin``
    What operators may, if the account is one.  Without it, an operator's token acts as a member.

Passwords, sign-ins and tokens are managed by a person who has signed in, not by a token: one that
was stolen cannot make another that outlives it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from neuronexus_kernel.errors import AuthenticationError, ForbiddenError, InvalidInputError
from neuronexus_kernel.hub.hub import Hub
from neuronexus_kernel.hub.records import Account, Scope, SignInKind

Power = Literal["read", "contribute", "maintain", "admin", "account"]
T = TypeVar("T")

SCOPES: tuple[Scope, ...] = get_args(Scope)
TICKET_SCOPES: tuple[Scope, ...] = ("read", "contribute", "maintain")
_POWERS: frozenset[str] = frozenset(get_args(Power))


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call a method.

    Attributes
    ----------
    who
        ``"anyone"``, ``"account"`` for whoever is signed in, or ``"operator"``.
    power
        What a token needs besides, or None.
    overseen
        Whether ``admin`` will do in its place.
    ended
        Whether somebody may call it whose sign-in has ended.
    """

    who: Literal["anyone", "account", "operator"]
    power: Power | None = None
    overseen: bool = False
    ended: bool = False


_DOOR = Rule("anyone", ended=True)
_ANYONE = Rule("anyone")
_READ = Rule("account", "read")
_CONTRIBUTE = Rule("account", "contribute")
_MAINTAIN = Rule("account", "maintain")
_ACCOUNT = Rule("account", "account")
_OVERSEEN = Rule("account", "account", overseen=True)
_OPERATOR = Rule("operator", "admin")

RULES: dict[str, Rule] = {
    "register": _DOOR,
    "login": _DOOR,
    "logout": _DOOR,
    "reset_password": _DOOR,
    "whoami": _ANYONE,
    "accounts": _ANYONE,
    "renew": _ACCOUNT,
    "change_password": _ACCOUNT,
    "create_token": _ACCOUNT,
    "sessions": _OVERSEEN,
    "tokens": _OVERSEEN,
    "revoke": _OVERSEEN,
    "add_operator": _OPERATOR,
    "remove_operator": _OPERATOR,
    "disable": _OPERATOR,
    "enable": _OPERATOR,
    "issue_reset": _OPERATOR,
    "invite": _OPERATOR,
    "invitations": _OPERATOR,
    "withdraw": _OPERATOR,
    "audit": _OPERATOR,
    "check": _OPERATOR,
    "backup": _OPERATOR,
    "put": _CONTRIBUTE,
    "get": _ANYONE,
    "blocks": _ANYONE,
    "roots": _ANYONE,
    "history": _ANYONE,
    "keep": _CONTRIBUTE,
    "release": _CONTRIBUTE,
    "keepings": _READ,
    "create_project": _MAINTAIN,
    "export_project": _MAINTAIN,
    "import_project": _MAINTAIN,
    "project": _ANYONE,
    "projects": _ANYONE,
    "versions": _ANYONE,
    "maintainers": _ANYONE,
    "add_maintainer": _MAINTAIN,
    "remove_maintainer": _MAINTAIN,
    "start_run": _CONTRIBUTE,
    "record_round": _CONTRIBUTE,
    "finish_run": _CONTRIBUTE,
    "run": _ANYONE,
    "runs": _ANYONE,
    "start_federation": _MAINTAIN,
    "federation": _ANYONE,
    "federations": _ANYONE,
    "join_federation": _CONTRIBUTE,
    "stop_federation": _MAINTAIN,
    "resume_federation": _MAINTAIN,
    "submit": _CONTRIBUTE,
    "contribution": _ANYONE,
    "contributions": _ANYONE,
    "confirm": _CONTRIBUTE,
    "balances": _ANYONE,
    "balance": _ANYONE,
    "ledger_lines": _ANYONE,
    "verify_ledger": _ANYONE,
    "events": _ANYONE,
    "follow": _ANYONE,
    "network": _ANYONE,
}

NOT_CALLS = frozenset({"address", "close"})
"""What `Hub` has besides its methods for visitors: a server lets nobody call these."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a token was found to stand for.

    Attributes
    ----------
    account
        Whose it is, as a member where the scopes leave out ``admin``.
    id, kind
        Which sign-in it is.
    powers
        What it may do.
    due
        Whether it is time to renew the token.
    """

    account: Account
    id: str = ""
    kind: SignInKind = "session"
    powers: frozenset[str] = field(default=_POWERS)
    due: bool = False


def powers(kind: str, scopes: tuple[Scope, ...], role: str) -> frozenset[str]:
    """Return what a sign-in of a kind may do.

    Parameters
    ----------
    kind
        A session may do all that its account may.
    scopes
        Those of a token or a ticket.
    role
        The account's; only an operator has ``admin``.
    """
    if kind == "session":
        return _POWERS if role == "operator" else _POWERS - {"admin"}
    found = frozenset[str]({"read", *scopes})
    return found if role == "operator" else found - {"admin"}


def check(operation: str, credentials: Credentials | None) -> None:
    """Refuse a call that the table does not allow.

    Raises
    ------
    AuthenticationError
        If nobody is signed in and somebody has to be.
    ForbiddenError
        If the account is no operator, or the token lacks a scope.
    """
    rule = RULES[operation]
    if rule.who == "anyone":
        return
    if credentials is None:
        raise AuthenticationError(
            "Nobody is signed in; use `wb.login(name, password)`, or `wb.register(...)` first."
        )
    if rule.power is None or rule.power in credentials.powers:
        return
    if rule.overseen and "admin" in credentials.powers:
        return
    if rule.power == "account":
        raise ForbiddenError(
            "A token does not manage passwords, sign-ins and tokens: sign in with your password."
        )
    if rule.power == "admin" and credentials.kind == "session":
        raise ForbiddenError("Only an operator may do this.")
    raise ForbiddenError(
        f"This token may not do this: it lacks the scope {rule.power!r}"
        + (", or its account is no operator." if rule.power == "admin" else ".")
    )


def checked_scopes(scopes: object) -> tuple[Scope, ...]:
    """Return scopes in their order, with ``read``.

    Raises
    ------
    InvalidInputError
        If one is unknown; the message lists those there are.
    """
    given = set(scopes) if isinstance(scopes, (list, tuple, set, frozenset)) else {scopes}
    unknown = sorted(repr(each) for each in given - set(SCOPES))
    if unknown:
        raise InvalidInputError(
            f"There is no scope {', '.join(unknown)}; the scopes are {', '.join(SCOPES)}."
        )
    return tuple(each for each in SCOPES if each in given or each == "read")


def interface() -> frozenset[str]:
    """Return the names of all methods that a visitor can call."""
    return frozenset(name for name in dir(Hub) if not name.startswith("_")) - NOT_CALLS


def enforced(hub: type[T]) -> type[T]:
    """Put the check before every method of a hub; its `admit` is called with the method's name.

    Raises
    ------
    TypeError
        If the table and the interface differ.
    """
    if interface() != RULES.keys():
        raise TypeError(
            "hub/permissions.py must say who may call each method of Hub, and nothing else: "
            f"{sorted(interface() ^ RULES.keys())}"
        )
    for name in RULES:
        setattr(hub, name, _admitted(name, getattr(hub, name)))
    return hub


def _admitted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def admitted(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.admit(name)
        return method(self, *args, **kwargs)

    return admitted
