"""The records about accounts: sign-ins, one-time codes, invitations and the audit trail.

They are as those in ``records.py``: plain frozen values that travel as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from neuronexus_kernel.hub.records import JSON, Scope, SignInKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """A sign-in or a token as its owner sees it; what proves it is shown once, when it is made.

    Attributes
    ----------
    kind
        ``"session"`` for a sign-in with a password, ``"token"`` for one made by `create_token`,
        ``"ticket"`` for the kernel of a dashboard.
    scopes
        What it may do; a session may do all that its account may.
    seen
        When it was last used, to the minute.
    source
        The address it was made from; empty where that was in the hub's own process.
    current
        Whether it is the one that asks.
    """

    id: str
    account: str
    kind: SignInKind
    label: str
    scopes: tuple[Scope, ...]
    created: str
    expires: str
    seen: str
    source: str
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OneTimeCode:
    """A code that works once, until `expires`; the hub keeps its hash only.

    Attributes
    ----------
    path
        Where it is used, below the address of the hub.  The code stands behind the ``#``, which
        a browser does not send: no log of a server or a proxy holds it.
    """

    id: str
    code: str = field(repr=False)
    path: str = field(repr=False)
    expires: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """An invitation to register, as operators see it.

    Attributes
    ----------
    account
        Who registered with it; empty while it is open.
    """

    id: str
    note: str
    issuer: str
    created: str
    expires: str
    account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One security event: what happened, to which account, by whom and from where.

    Attributes
    ----------
    account
        The account it is about; empty where a name that was typed is nobody's.
    actor
        Who did it.
    source
        The address it came from; empty where that was in the hub's own process.
    """

    seq: int
    time: str
    kind: str
    account: str
    actor: str
    source: str
    data: dict[str, JSON]
