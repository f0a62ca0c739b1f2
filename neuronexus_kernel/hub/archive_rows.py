"""A project's rows in the database as the records of an archive, and the other way.

Both happen in one transaction.  What is left out is what has no meaning elsewhere: contributions
that wait to be measured, federations (addresses and keys of machines), sign-ins and events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from neuronexus_kernel.content import CID
from neuronexus_kernel.content.cid import DAG_CBOR
from neuronexus_kernel.errors import ConflictError, InvalidInputError
from neuronexus_kernel.hub import archive_checks, archived, schema, titles
from neuronexus_kernel.hub.archived import Archive, Content, record_of, row_of
from neuronexus_kernel.hub.database import Transaction, portions
from neuronexus_kernel.hub.records import FINAL_STATES, Sight
from neuronexus_kernel.ledger import format_nxs, parse_nxs
from neuronexus_kernel.storage.dag import Fetch

# -- out ------------------------------------------------------------------------------------------


def collect(tx: Transaction, project: sa.Row[Any], fetch: Fetch, *, sealed: bool) -> Archive:
    """Return all records of a project, as of one moment.

    Parameters
    ----------
    project
        Its row.
    fetch
        Returns a verified block of public or project content.
    sealed
        Whether sealed content shall come along; otherwise nothing of it is named.

    Raises
    ------
    InvalidInputError
        If a record cannot be written down.
    """
    try:
        archive = _records(tx, project, sealed=sealed)
    except msgspec.ValidationError as error:
        raise InvalidInputError(
            f"A record of the project {project.name} cannot be exported: {error}."
        ) from None
    names = [*archive_checks.named(archive), *archive_checks.architectures(archive, fetch)]
    links = archive_checks.links_below(archive)
    readable = _readable(tx, names, lambda cid: links(cid, fetch(cid)))
    contents = [*readable, *_sealed(tx, archive_checks.sealed(archive))]
    return msgspec.structs.replace(archive, contents=contents)


def _records(tx: Transaction, project: sa.Row[Any], *, sealed: bool) -> Archive:
    decided = (schema.contributions.c.project == project.id) & (
        schema.contributions.c.state.in_(FINAL_STATES)
    )
    contributions = _rows(tx, sa.select(schema.contributions).where(decided), "created", "id")
    shares = _rows(
        tx,
        sa.select(schema.shares)
        .join(schema.contributions, schema.shares.c.contribution == schema.contributions.c.id)
        .where(decided),
        "contribution",
        "account",
    )
    runs = _rows(tx, sa.select(schema.runs).where(schema.runs.c.project == project.id), "id")
    rounds = _rows(
        tx,
        sa.select(schema.rounds)
        .join(schema.runs, schema.rounds.c.run == schema.runs.c.id)
        .where(schema.runs.c.project == project.id),
        "run",
        "round",
    )
    versions = _rows(
        tx, sa.select(schema.versions).where(schema.versions.c.project == project.id), "number"
    )
    own = {
        **project._asdict(),
        "held_out": project.held_out if sealed else None,
        "commitment": archived.commitment(project.id, project.held_out),
    }
    return Archive(
        origin=hub_number(tx),
        sealed=sealed,
        project=record_of(archived.Project, own),
        versions=[record_of(archived.Version, row) for row in versions],
        runs=[record_of(archived.Run, _run(row, sealed=sealed)) for row in runs],
        rounds=[record_of(archived.Round, _round(row)) for row in rounds],
        contributions=[
            record_of(archived.Contribution, row if sealed else {**row, "sealed_receipt": None})
            for row in contributions
        ],
        shares=[
            record_of(archived.Share, {**row, "reward": format_nxs(row["reward"])})
            for row in shares
        ],
        payments=list(_payments(tx, project.id)),
        contents=[],
    )


def hub_number(tx: Transaction) -> str:
    """Return what tells this hub from others, as text: names of its accounts get it elsewhere."""
    counters = schema.counters.c
    return f"{int(tx.scalar(sa.select(counters.value).where(counters.name == 'hub'))):012x}"


def _rows(tx: Transaction, query: sa.Select[Any], *order: str) -> Iterator[dict[str, Any]]:
    columns = [query.selected_columns[name] for name in order]
    return (row._asdict() for row in tx.all(query.order_by(*columns)))


def _run(row: Mapping[str, Any], *, sealed: bool) -> dict[str, Any]:
    return {
        **row,
        "state": "interrupted" if row["state"] == "running" else row["state"],
        "plan": msgspec.json.encode(row["plan"], order="deterministic").decode(),
        "updates": row["updates"] if sealed else [],
    }


def _round(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "seconds": row["seconds"] if math.isfinite(row["seconds"]) else 0.0}


def _payments(tx: Transaction, project: str) -> Iterator[archived.Payment]:
    """Give the entries that paid for a project's contributions, those of earlier hubs first."""
    kept, events, ledger = schema.imported_payments, schema.events, schema.ledger
    for own in _rows(tx, sa.select(kept).where(kept.c.project == project), "number"):
        yield record_of(archived.Payment, {**own, "data": bytes(own["data"])})
    paid = sa.select(events.c.data).where(
        events.c.kind == "ledger.entry", events.c.project == project
    )
    indexes = [row.data["index"] for row in tx.all(paid.order_by(events.c.seq))]
    origin = hub_number(tx)
    for some in portions(indexes):
        query = sa.select(ledger.c.data).where(ledger.c.index.in_(some)).order_by(ledger.c.index)
        for row in tx.all(query):
            yield archived.Payment(origin=origin, data=bytes(row.data))


def _readable(
    tx: Transaction, names: Iterable[CID], links: Callable[[CID], list[CID]]
) -> Iterator[Content]:
    """Give what the records name, and what is recorded of all that documents name then.

    What the records name and nobody recorded is for signed-in accounts: it lies in the store of
    readable content, but nobody said that it is public.
    """
    level = list(dict.fromkeys(names))
    first, seen = set(level), set(level)
    while level:
        found = _recorded(tx, level, sealed=False)
        below: list[CID] = []
        for cid in level:
            entries = found.get(cid, [_unrecorded(cid, "project")] if cid in first else [])
            yield from entries
            if entries and cid.codec == DAG_CBOR:
                below += links(cid)
        level = [cid for cid in dict.fromkeys(below) if cid not in seen]
        seen.update(level)


def _sealed(tx: Transaction, names: Iterable[CID]) -> Iterator[Content]:
    level = list(dict.fromkeys(names))
    found = _recorded(tx, level, sealed=True)
    for cid in level:
        yield from found.get(cid, [_unrecorded(cid, "sealed")])


def _recorded(tx: Transaction, cids: Sequence[CID], *, sealed: bool) -> dict[CID, list[Content]]:
    """Return which of some roots are recorded, by CID, the public one first."""
    roots = schema.roots
    is_sealed = roots.c.visibility == "sealed"
    found: dict[CID, dict[str, Content]] = {}
    for some in portions(cids):
        query = titles.titled_roots().where(
            roots.c.cid.in_([str(cid) for cid in some]), is_sealed if sealed else ~is_sealed
        )
        for row in tx.all(query):
            entry = {**row._asdict(), "root": row.cid, "license": row.license or ""}
            by_sight = found.setdefault(CID.parse(row.cid), {})
            by_sight.setdefault(row.visibility, record_of(Content, entry))
    return {
        cid: [by_sight[sight] for sight in sorted(by_sight, reverse=True)]
        for cid, by_sight in found.items()
    }


def _unrecorded(cid: CID, visibility: Sight) -> Content:
    return Content(
        root=str(cid), visibility=visibility, name="", kind="", owner="nx:hub", license=""
    )


# -- in -------------------------------------------------------------------------------------------


def check_free(tx: Transaction, archive: Archive, name: str) -> None:
    """Refuse a project that is here, or would take the name or an id of another.

    Raises
    ------
    ConflictError
        If it is so; the message says what to do.
    """
    projects, own = schema.projects.c, archive.project
    query = sa.select(projects.id, projects.name)
    here = tx.first(query.where(sa.or_(projects.id == own.id, projects.name == own.id)))
    if here is not None:
        raise ConflictError(
            f"The project is on this hub already, as {here.name!r}: open it with "
            f"`wb.project({here.name!r})`. Importing never changes what is here."
        )
    if tx.first(query.where(projects.name == name)) is not None:
        raise ConflictError(
            f"There is another project {name!r} here: import it under another name, with `name=`."
        )
    for table in (schema.versions, schema.runs, schema.contributions):
        ids = [each.id for each in getattr(archive, table.name)]
        for some in portions(ids):
            taken = tx.first(sa.select(table.c.id).where(table.c.id.in_(some)))
            if taken is not None:
                raise ConflictError(
                    f"The archive's {table.name} have the id {taken.id}, which is that of another "
                    "project's here: it is not a true archive."
                )


def write(tx: Transaction, archive: Archive, *, name: str, owner: str, held_out: str) -> None:
    """Write all records of an archive; its content is still to be recorded.

    Parameters
    ----------
    archive
        Checked, and with accounts named as here.
    name, owner
        Of the project here.
    held_out
        CID of its held-out split.
    """
    project = archive.project
    own = {"name": name, "owner": owner, "held_out": held_out}
    here = {"project": project.id}
    decided = {"evaluator": None, "lease": 0}
    tables: dict[sa.Table, Iterable[Mapping[str, Any]]] = {
        schema.projects: [{**row_of(project), **own}],
        schema.versions: ({**row_of(each), **here} for each in archive.versions),
        schema.runs: (
            {**row_of(each), **here, "plan": archive_checks.plan_of(each)} for each in archive.runs
        ),
        schema.rounds: map(row_of, archive.rounds),
        schema.contributions: (
            {**row_of(each), **here, **decided} for each in archive.contributions
        ),
        schema.shares: (
            {**row_of(each), "reward": parse_nxs(each.reward)} for each in archive.shares
        ),
        schema.imported_payments: (
            {**row_of(each), **here, "number": number}
            for number, each in enumerate(archive.payments)
        ),
    }
    for table, rows in tables.items():
        known = {column.name for column in table.columns}
        tx.insert(table, [{k: v for k, v in row.items() if k in known} for row in rows])
    tx.emit(
        "project.created",
        project.id,
        project.id,
        name=name,
        owner=owner,
        metric=project.metric,
        origin=archive.origin,
    )
