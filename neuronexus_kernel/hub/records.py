"""The nouns that a hub keeps, as plain frozen values.

What goes in is named ``New...``; its ``id`` is a UUIDv7 made by the caller and serves as the
idempotency key.  What comes out is a record.  Both travel as JSON unchanged, so that a notebook
cannot tell a hub in its own process from one behind HTTP.  Times are RFC 3339 text in UTC,
amounts are exact decimal text in NXS, content is named by CID.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

JSON: TypeAlias = Any
"""A JSON value.  msgspec, which reads these records, knows no recursive types; it does check it."""

Role = Literal["member", "operator"]
Scope = Literal["read", "contribute", "maintain", "admin"]
SignInKind = Literal["session", "token", "ticket"]
Kind = Literal["code", "compute", "data", "hyperparameters"]
State = Literal["submitted", "evaluating", "accepted", "rejected", "failed", "rewarded"]
RunState = Literal["running", "finished", "interrupted"]
FederationState = Literal["waiting", "training", "finished", "interrupted", "failed"]
Sight = Literal["public", "project", "sealed"]
Codec = Literal["file", "dag-cbor", "car"]

FINAL_STATES: frozenset[str] = frozenset({"accepted", "rejected", "failed", "rewarded"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A person or machine with a name on the hub.

    Attributes
    ----------
    role
        What the account may do on the whole hub; a token without the scope ``admin`` acts as a
        member even for an operator.
    disabled
        Whether an operator has closed the account; told to operators only.
    """

    name: str
    role: Role
    created: str
    disabled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A sign-in: `token` proves it until `expires`.  Only its hash is stored on the hub."""

    token: str = field(repr=False)
    account: Account
    expires: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """One object in the content store, under the CID of its root block.

    Attributes
    ----------
    number
        Which of the versions under its owner's name this is, from 1; 0 without a name.
    license
        Under which others may use it, such as ``"CC-BY-4.0"``; empty where nothing was said.
    """

    cid: str
    name: str
    kind: str
    visibility: Sight
    size: int
    owner: str
    created: str
    number: int = 0
    license: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """An object that will arrive in parts; see `Hub.put` for what it says of it.

    Attributes
    ----------
    size
        How many bytes it has; None where that is not known yet.
    """

    size: int | None = None
    name: str = ""
    kind: str = "file"
    visibility: Sight = "public"
    codec: Codec = "file"
    license: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """How far an upload has come.

    Attributes
    ----------
    offset
        How many bytes are here; the next part begins there.
    complete
        Whether it was stored.
    expires
        When it is removed, unless somebody goes on with it.
    """

    id: str
    offset: int
    size: int | None
    complete: bool
    expires: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """An account's promise to keep content on the hub."""

    cid: str
    name: str
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProject:
    """A project to be made.

    Attributes
    ----------
    public, validation
        CIDs of the public training split and the public validation split.
    held_out
        CID of the sealed held-out split; it is never shown again.
    recipe, weights
        CIDs of the head recipe and of the first weights.
    kind
        What a label is: a class, a quantity or the token that follows; see `Dataset`.
    classes
        How many classes or tokens there are; 0 for quantities.
    output_shape
        What a model answers to one example; by default a score for each class.
    """

    id: str
    name: str
    description: str = ""
    input_shape: tuple[int, ...]
    classes: int
    metric: str = "accuracy"
    public: str
    validation: str
    held_out: str
    recipe: str
    weights: str
    kind: str = "classification"
    output_shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A model version: weights made by a recipe, with its parent and its metrics.

    Attributes
    ----------
    metrics
        ``"accuracy"`` and ``"loss"`` on the validation split, ``"held_out_accuracy"`` on the
        held-out one; what is called accuracy is what the project measures.
    """

    id: str
    project: str
    number: int
    weights: str
    recipe: str
    parent: str | None
    author: str
    run: str | None
    metrics: dict[str, float]
    head: bool
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A model under co-development."""

    id: str
    name: str
    description: str
    owner: str
    input_shape: tuple[int, ...]
    classes: int
    metric: str
    public: str
    validation: str
    recipe: str
    head: Version
    created: str
    kind: str = "classification"
    output_shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A training run that begins.

    Attributes
    ----------
    participants
        Accounts that train with their own data; empty when the clients are anonymous.
    clients
        Number of clients in all.
    """

    id: str
    project: str
    recipe: str
    rounds: int
    clients: int
    clients_per_round: int
    participants: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of a run.

    Attributes
    ----------
    accuracy
        What the project measures, which is accuracy or another metric; None if not measured.
    seconds
        Of training and aggregation, evaluation apart.
    """

    round: int
    loss: float | None
    accuracy: float | None
    seconds: float
    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended: its weights, the sealed updates of its participants, what the plan chose."""

    state: RunState
    weights: str | None
    updates: tuple[str, ...] = ()
    plan: dict[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run as recorded; `metric` is what its project measures of each round."""

    id: str
    project: str
    author: str
    recipe: str
    rounds: int
    clients: int
    clients_per_round: int
    participants: tuple[str, ...]
    seed: int
    state: RunState
    history: tuple[Round, ...]
    plan: dict[str, JSON]
    version: Version | None
    created: str
    metric: str = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFederation:
    """A federation to be served: a SuperLink that waits for nodes, then trains.

    Attributes
    ----------
    recipe, weights
        CIDs of how to train and of where to begin.
    nodes
        How many accounts take part, each with one node; training begins when all are connected.
    clients_per_round
        Nodes that train in a round; 0 for all.
    patience
        Seconds to wait for the updates of a round.
    address
        ``HOST:PORT`` to listen on; empty for the hub's own choice, which only an operator may
        overrule.
    """

    id: str
    project: str
    recipe: str
    weights: str
    rounds: int
    nodes: int
    clients_per_round: int = 0
    seed: int = 0
    patience: float = 3600.0
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """A federation as recorded.

    Attributes
    ----------
    address
        Where its SuperLink listens, or listened.
    app
        SHA-256 of the one app that its nodes run.
    accounts
        Who has registered a node, sorted.
    connected
        Whose nodes are connected now.
    resumable
        Whether it ended early and can go on.
    run
        Id of its training run; None before training begins.  When it is resumed, training goes
        on as a new run that has the rounds of the earlier one too.
    problem
        Why it failed.
    """

    id: str
    project: str
    author: str
    recipe: str
    rounds: int
    nodes: int
    address: str
    app: str
    state: FederationState
    accounts: tuple[str, ...]
    connected: tuple[str, ...]
    resumable: bool
    run: str | None
    problem: str | None
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What a node needs to take part: `authority` is the certificate, PEM, that it trusts."""

    federation: Federation
    account: str
    authority: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewContribution:
    """A contribution to be measured.

    Attributes
    ----------
    payload
        CID of the DAG-CBOR document that says what is contributed; by kind it holds
        ``{"architecture": link}`` (code), ``{"changes": {...}}`` (hyperparameters),
        ``{"dataset": link}`` (data) or ``{"run": id}`` (compute).
    """

    id: str
    project: str
    kind: Kind
    payload: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One account's part of a contribution's reward; minted once the account confirms it."""

    account: str
    fraction: float
    reward: str
    confirmed: bool
    minted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """A contribution, its state, and what came of it.

    Attributes
    ----------
    value
        Lower 90 % confidence bound of the measured improvement on the held-out split, rounded
        to 10^-4; None before the evaluation.
    reward
        NXS minted for it so far, as exact decimal text.
    reason
        Why it was rejected or failed.
    receipt
        CID of the public part of its receipt.
    """

    id: str
    project: str
    kind: Kind
    author: str
    note: str
    payload: str
    state: State
    value: float | None
    reward: str
    reason: str | None
    receipt: str | None
    shares: tuple[Share, ...]
    created: str
    decided: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """How many NXS an account holds."""

    account: str
    balance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """One posting of the ledger, with the entry it belongs to."""

    index: int
    time: str
    kind: str
    account: str
    amount: str
    contribution: str | None
    leaf: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStatus:
    """The outcome of verifying the whole ledger."""

    ok: bool
    entries: int
    root: str
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup that was made.

    Attributes
    ----------
    path
        Its folder.
    events
        Number of the last event that is in it.
    rows, blocks
        Rows of all tables; blocks of content, sealed ones too.
    missing
        Content that the records name and the hub does not have, by CID.
    """

    path: str
    created: str
    events: int
    rows: int
    blocks: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, numbered without gaps.

    `previous` is the number of the event delivered before this one under the reader's filter (0
    for none): a reader who always finds its own last number there has missed nothing.
    """

    seq: int
    previous: int
    time: str
    kind: str
    project: str | None
    subject: str
    data: dict[str, JSON]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkNode:
    """A member of the network: what it has contributed, holds, and whether it is here now."""

    name: str
    role: Role
    online: bool
    training: bool
    contributions: int
    rewarded: int
    balance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The hub and its members at one moment."""

    version: str
    seq: int
    nodes: tuple[NetworkNode, ...]
    projects: int
    runs: int
    active_runs: int
    versions: int
    contributions: int
    minted: str
