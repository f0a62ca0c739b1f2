"""The records of an archive as documents of DAG-CBOR, and read from them.

The root document holds the project itself and links to documents with the rows of each table, a
list of maps each, so that no document is larger than a block.  The same records give the same
bytes.  What is read is trusted in nothing: each field is checked here, and what must hold between
records by ``archive_checks``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import msgspec

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import ContentError, InvalidInputError, NotFoundError, StoreError
from neuronexus_kernel.hub.archived import TABLES, Archive, Project, Record
from neuronexus_kernel.storage.dag import Block, Fetch
from neuronexus_kernel.storage.files import MAX_BLOCK

FORMAT = "neuronexus/project@1"

MOST_ROWS = 500_000
"""Rows of all tables together that an archive may hold."""

_PAGE = 1 << 20  # bytes of rows in one document, unless a single row is larger


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
