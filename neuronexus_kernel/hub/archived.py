"""What an archive of a project says: the records that travel from hub to hub.

A record holds what its row in the database holds: content by CID, amounts as decimal text, times
as RFC 3339 text, the plan of a run as JSON text, because such a plan may hold numbers that
DAG-CBOR does not.  Accounts are named as on the hub that wrote the archive, whose number is its
`origin`; those it had from elsewhere carry theirs already, as in ``ada@0123456789ab``.
``archive_documents`` writes and reads them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta

from neuronexus_kernel.content import CID
from neuronexus_kernel.hub.records import Kind, Sight

T = TypeVar("T", bound=msgspec.Struct)

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_ACCOUNT = r"(nx:)?[a-z0-9][a-z0-9_-]{1,31}(@[0-9a-f]{12})?"
_TIME = r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]\.[0-9]{6}Z"

Id = Annotated[str, Meta(pattern=rf"\A{_UUID}\Z")]
Name = Annotated[str, Meta(pattern=rf"\A{_ACCOUNT}\Z")]
Origin = Annotated[str, Meta(pattern=r"\A[0-9a-f]{12}\Z")]
Time = Annotated[str, Meta(pattern=rf"\A{_TIME}\Z")]
Label = Annotated[str, Meta(max_length=200)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record of an archive.

    Attributes
    ----------
    links
        Fields that name content: CIDs as text here, and links in a document.
    """

    links: ClassVar[frozenset[str]] = frozenset()


class Project(Record, frozen=True, kw_only=True):
    """The project.

    Attributes
    ----------
    held_out
        CID of the held-out split; None where no sealed content is in the archive.
    commitment
        What tells the held-out split to whoever has it; see `commitment`.
    head
        Id of the head version.
    """

    links = frozenset({"public", "validation", "held_out", "recipe"})

    id: Id
    name: Label
    description: str
    owner: Name
    input_shape: list[Count]
    classes: Count
    metric: Label
    kind: Label
    output_shape: list[Count]
    public: str
    validation: str
    held_out: str | None
    commitment: Annotated[bytes, Meta(min_length=32, max_length=32)]
    recipe: str
    head: Id
    created: Time


class Version(Record, frozen=True, kw_only=True):
    """A model version."""

    links = frozenset({"weights", "recipe"})

    id: Id
    number: Count
    weights: str
    recipe: str
    parent: Id | None
    author: Name
    run: Id | None
    metrics: dict[str, float]
    created: Time


class Run(Record, frozen=True, kw_only=True):
    """A training run; `updates` are CIDs of sealed content, and none without it."""

    links = frozenset({"recipe", "updates"})

    id: Id
    author: Name
    recipe: str
    rounds: Positive
    clients: Positive
    clients_per_round: Positive
    participants: list[Name]
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    state: Annotated[str, Meta(pattern=r"\A(finished|interrupted)\Z")]
    plan: str
    updates: list[str]
    version: Id | None
    created: Time


class Round(Record, frozen=True, kw_only=True):
    """One round of a run."""

    run: Id
    round: Count
    loss: float | None
    accuracy: float | None
    seconds: float
    clients: list[str]


class Contribution(Record, frozen=True, kw_only=True):
    """A contribution that was decided; `sealed_receipt` is None without sealed content."""

    links = frozenset({"payload", "receipt", "sealed_receipt"})

    id: Id
    kind: Kind
    author: Name
    note: Annotated[str, Meta(max_length=2000)]
    payload: str
    content: str
    state: Annotated[str, Meta(pattern=r"\A(accepted|rejected|failed|rewarded)\Z")]
    value: float | None
    reason: str | None
    receipt: str | None
    sealed_receipt: str | None
    against: str | None
    attempts: Count
    created: Time
    decided: Time | None


class Share(Record, frozen=True, kw_only=True):
    """One account's part of a contribution; `reward` in NXS."""

    contribution: Id
    account: Name
    weight: Annotated[int, Meta(ge=0, le=10**9)]
    reward: Annotated[str, Meta(max_length=60)]
    confirmed: bool
    minted: bool


class Payment(Record, frozen=True, kw_only=True):
    """An entry of a ledger that paid for a contribution: its canonical bytes, for information."""

    origin: Origin
    data: bytes


class Content(Record, frozen=True, kw_only=True):
    """A root that comes along, as the hub recorded it."""

    links = frozenset({"root"})

    root: str
    visibility: Sight
    name: Label
    kind: Annotated[str, Meta(max_length=40)]
    owner: Name
    license: Label


class Archive(Record, frozen=True, kw_only=True):
    """All records of an archive; see the module."""

    origin: Origin
    sealed: bool
    project: Project
    versions: list[Version]
    runs: list[Run]
    rounds: list[Round]
    contributions: list[Contribution]
    shares: list[Share]
    payments: list[Payment]
    contents: list[Content]


TABLES: dict[str, type[Record]] = {
    "versions": Version,
    "runs": Run,
    "rounds": Round,
    "contributions": Contribution,
    "shares": Share,
    "payments": Payment,
    "contents": Content,
}


def commitment(project: str, held_out: str) -> bytes:
    """Return what tells a held-out split to whoever has it, and does not name it to others.

    Its CID is known to nobody but those who have the split: it would be enough to make a project
    that is measured on the same rows, and so to find them out by and by.
    """
    named = b"neuronexus/held-out\0" + project.encode() + bytes(CID.parse(held_out))
    return hashlib.sha256(named).digest()


# -- rows and records -----------------------------------------------------------------------------


def record_of(kind: type[T], row: Mapping[str, Any]) -> T:
    """Return a row of the database as a record; it has more columns perhaps.

    Raises
    ------
    msgspec.ValidationError
        If it does not fit.
    """
    return msgspec.convert({name: row[name] for name in kind.__struct_fields__}, kind)


def row_of(record: Record) -> dict[str, Any]:
    """Return a record's fields by name."""
    return msgspec.structs.asdict(record)


# -- names ----------------------------------------------------------------------------------------


def is_foreign(account: str) -> bool:
    """Tell whether a name is that of an account of another hub: those here have no ``@``."""
    return "@" in account


def foreign(account: str, origin: str) -> str:
    """Return the name under which an account of another hub is known here."""
    return account if is_foreign(account) else f"{account}@{origin}"


def adopted(archive: Archive) -> Archive:
    """Return an archive's records with all accounts as those of the hub that wrote it."""

    def here(name: str) -> str:
        return foreign(name, archive.origin)

    people = {run.id: set(run.participants) for run in archive.runs}
    replace = msgspec.structs.replace
    return replace(
        archive,
        project=replace(archive.project, owner=here(archive.project.owner)),
        versions=[replace(each, author=here(each.author)) for each in archive.versions],
        runs=[
            replace(
                each, author=here(each.author), participants=[here(n) for n in each.participants]
            )
            for each in archive.runs
        ],
        rounds=[
            replace(each, clients=_renamed(each.clients, people.get(each.run, set()), here))
            for each in archive.rounds
        ],
        contributions=[replace(each, author=here(each.author)) for each in archive.contributions],
        shares=[replace(each, account=here(each.account)) for each in archive.shares],
        contents=[replace(each, owner=here(each.owner)) for each in archive.contents],
    )


def _renamed(clients: Sequence[str], people: set[str], here: Callable[[str], str]) -> list[str]:
    """Rename those clients of a round that are accounts."""
    return [here(name) if name in people else name for name in clients]
