"""What an archive of a project says: its records as documents of DAG-CBOR.

The root document holds the project itself and links to documents with the rows of each table, a
list of maps each, so that no document is larger than a block.  A record holds what its row in the
database holds: content as links, amounts as decimal text, times as RFC 3339 text, the plan of a
run as JSON text, because such a plan may hold numbers that DAG-CBOR does not.  Accounts are named
as on the hub that wrote the archive, whose number is its `origin`; those it had from elsewhere
carry theirs already, as in ``ada@0123456789ab``.

Records are checked field by field when they are read; what must hold between them is checked by
``archive_checks``.  The same records give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar, cast

import msgspec
from msgspec import Meta

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import ContentError, InvalidInputError, NotFoundError, StoreError
from neuronexus_kernel.hub.records import Kind, Sight
from neuronexus_kernel.storage.dag import Block, Fetch
from neuronexus_kernel.storage.files import MAX_BLOCK

FORMAT = "neuronexus/project@1"

MOST_ROWS = 500_000
"""Rows of all tables together that an archive may hold."""

_PAGE = 1 << 20  # bytes of rows in one document, unless a single row is larger

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


# -- documents ------------------------------------------------------------------------------------


def encode(archive: Archive) -> list[Block]:
    """Return an archive's documents, its root first.

    Raises
    ------
    StoreError
        If a single record is larger than a block.
    """
    pages: list[Block] = []
    root: dict[str, Node] = {
        "format": FORMAT,
        "origin": archive.origin,
        "sealed": archive.sealed,
        "project": _node_of(archive.project),
    }
    for name in TABLES:
        rows: Iterable[Record] = getattr(archive, name)
        made = [_block(page) for page in _pages(rows)]
        root[name] = [cid for cid, _ in made]
        pages += made
    first = _block(root)
    return [first, *{cid: (cid, block) for cid, block in pages if cid != first[0]}.values()]


def decode(root: CID, fetch: Fetch) -> tuple[Archive, list[CID]]:
    """Read an archive's documents; return its records and the CIDs of the documents.

    Parameters
    ----------
    root
        The CAR file's.
    fetch
        Returns a verified block.

    Raises
    ------
    InvalidInputError
        If it is no archive of a project, or a record is malformed; the message names it.
    StoreError
        If a document is missing.
    """
    document = _read(root, fetch)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InvalidInputError(
            f"The CAR file is no archive of a project ({FORMAT}). Content alone is taken in with "
            "`neuronexus import FILE.car`."
        )
    rest = {name: value for name, value in document.items() if name != "format"}
    rest["project"] = _row_of(Project, rest.get("project"))
    documents, rows = [root], 0
    for name, kind in TABLES.items():
        pages = rest.get(name)
        if not isinstance(pages, list):
            raise InvalidInputError(f"The archive's {name} is no list of links.")
        table: list[Node] = []
        for link in pages:
            page = _read(link, fetch)
            if not isinstance(page, list):
                raise InvalidInputError(f"The archive's document {link} is no list of records.")
            rows += len(page)
            if rows > MOST_ROWS:
                raise InvalidInputError(f"The archive has more than {MOST_ROWS:,} records.")
            table += [_row_of(kind, node) for node in page]
            documents.append(cast(CID, link))
        rest[name] = table
    try:
        return msgspec.convert(rest, Archive), documents
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"A record of the archive is malformed: {error}.") from None


def _node_of(record: Record) -> Node:
    """Return a record as a document has it."""
    return {
        name: _linked(value) if name in record.links else value
        for name, value in msgspec.structs.asdict(record).items()
    }


def _linked(value: Any) -> Node:
    if isinstance(value, list):
        return [_linked(each) for each in value]
    return None if value is None else CID.parse(value)


def _row_of(kind: type[Record], node: Node) -> Node:
    """Return what a document has as a record with text for its links."""
    if not isinstance(node, dict):
        raise InvalidInputError(f"A record of the archive's is no map but {type(node).__name__}.")
    return {n: _text(n, value) if n in kind.links else value for n, value in node.items()}


def _text(name: str, value: Node) -> Node:
    if isinstance(value, list):
        return [_text(name, each) for each in value]
    if value is not None and not isinstance(value, CID):
        raise InvalidInputError(f"A record of the archive is malformed: its {name} is no link.")
    return None if value is None else str(value)


def _pages(rows: Iterable[Record]) -> Iterator[list[Node]]:
    page: list[Node] = []
    size = 0
    for row in rows:
        node = _node_of(row)
        more = len(dagcbor.encode(node))
        if page and size + more > _PAGE:
            yield page
            page, size = [], 0
        page.append(node)
        size += more
    if page:
        yield page


def _block(node: Node) -> Block:
    block = dagcbor.encode(node)
    if len(block) > MAX_BLOCK:
        raise StoreError(
            f"A record of the project has {len(block):,} bytes; an archive takes up to "
            f"{MAX_BLOCK:,}. Shorten the description, or the plan of the run."
        )
    return CID.of(block, DAG_CBOR), block


def _read(cid: Node, fetch: Fetch) -> Node:
    if not isinstance(cid, CID) or cid.codec != DAG_CBOR:
        raise InvalidInputError(f"The archive's {cid!r} is no link to a document.")
    try:
        return dagcbor.decode(fetch(cid))
    except NotFoundError:
        raise StoreError(f"The archive is incomplete: its document {cid} is missing.") from None
    except ContentError as error:
        raise StoreError(f"The archive's document {cid} is malformed: {error}") from None


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
