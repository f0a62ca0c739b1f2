"""The hub's content: two stores and a table of roots that says who may see what.

Sealed blocks (held-out rows, one participant's update) lie in a store of their own, which nothing
here reads on behalf of a visitor; only the evaluator does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import sqlalchemy as sa

from neuronexus_kernel.content import CID, Visibility, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR
from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.errors import (
    ContentError,
    InvalidInputError,
    NotFoundError,
    QuotaError,
    RecipeError,
)
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.records import Account, Codec, Root, Sight
from neuronexus_kernel.models import Architecture
from neuronexus_kernel.storage import ContentStore


class Contents:
    """Content by CID, with its visibility.

    Parameters
    ----------
    database
        Keeps the table of roots.
    content
        Store of public and project blocks.
    sealed
        Store of sealed blocks.
    limit
        Largest object accepted, in bytes.
    """

    def __init__(
        self, database: Database, content: ContentStore, sealed: ContentStore, *, limit: int
    ) -> None:
        self._database = database
        self._content = content
        self._sealed = sealed
        self._limit = limit

    def put(
        self, actor: Account, data: bytes, *, name: str, kind: str, visibility: Sight, codec: Codec
    ) -> Root:
        """Store bytes and record their root; see `Hub.put`."""
        if visibility not in set(Visibility):
            raise InvalidInputError(f"visibility is public, project or sealed, not {visibility!r}.")
        if len(data) > self._limit:
            raise QuotaError(
                f"The object has {len(data):,} bytes; this hub accepts {self._limit:,} at most."
            )
        store = self._sealed if visibility == "sealed" else self._content
        if codec == "dag-cbor":
            cid = store.put_node(dagcbor.decode(data))
        elif codec == "file":
            cid = store.add(data)
        else:
            raise InvalidInputError(f"codec is 'file' or 'dag-cbor', not {codec!r}.")
        root = Root(
            cid=str(cid),
            name=name[:200],
            kind=kind[:40],
            visibility=visibility,
            size=len(data),
            owner=actor.name,
            created="",
        )
        return self._database.write(lambda tx: self.record(tx, root))

    def record(self, tx: Transaction, root: Root) -> Root:
        """Record a root, unless it is there already; return it as recorded."""
        roots = schema.roots
        same = sa.select(roots).where(
            roots.c.cid == root.cid, roots.c.visibility == root.visibility
        )
        known = tx.first(same)
        if known is not None:
            # Who sealed these bytes before is nobody's business.
            sealed = root.visibility == "sealed"
            return replace(root, created=tx.time) if sealed else _root(known)
        tx.execute(
            roots.insert().values(
                cid=root.cid,
                visibility=root.visibility,
                name=root.name,
                kind=root.kind,
                size=root.size,
                owner=root.owner,
                created=tx.time,
            )
        )
        return _root(tx.all(same)[0])

    def get(self, actor: Account | None, cid: str) -> bytes:
        """Return the bytes of a root that the visitor may see; see `Hub.get`."""
        name = str(CID.parse(cid))
        roots = schema.roots
        sights = [Visibility.PUBLIC] if actor is None else [Visibility.PUBLIC, Visibility.PROJECT]
        query = sa.select(roots.c.cid).where(
            roots.c.cid == name, roots.c.visibility.in_([str(sight) for sight in sights])
        )
        if self._database.read(lambda tx: tx.first(query)) is None:
            raise NotFoundError(f"There is no content {name} here that you may read.")
        return self._content.get(name)

    def roots(self, actor: Account | None, kind: str | None) -> list[Root]:
        """Return the roots that the visitor may see, newest first."""
        roots = schema.roots
        query = sa.select(roots).where(roots.c.visibility != str(Visibility.SEALED))
        if actor is None:
            query = query.where(roots.c.visibility == str(Visibility.PUBLIC))
        if kind is not None:
            query = query.where(roots.c.kind == kind)
        query = query.order_by(roots.c.created.desc(), roots.c.cid)
        return [_root(row) for row in self._database.read(lambda tx: tx.all(query))]

    # -- for the hub's own services --------------------------------------------------------

    def bytes_of(self, cid: str, *, sealed: bool = False) -> bytes:
        """Return bytes for the hub itself, sealed or not."""
        return (self._sealed if sealed else self._content).get(cid)

    def add(self, data: bytes, *, sealed: bool = False) -> str:
        """Store a file for the hub itself; its root is still to be recorded."""
        return str((self._sealed if sealed else self._content).add(data))

    def put_node(self, node: dagcbor.Node, *, sealed: bool = False) -> str:
        """Store a DAG-CBOR document for the hub itself."""
        return str((self._sealed if sealed else self._content).put_node(node))

    def document(self, cid: str, *, sealed: bool = False) -> dict[str, dagcbor.Node]:
        """Return a DAG-CBOR document that is a map.

        Raises
        ------
        ContentError
            If the content is something else.
        """
        root = CID.parse(cid)
        store = self._sealed if sealed else self._content
        node = store.get_node(root) if root.codec == DAG_CBOR else None
        if not isinstance(node, dict):
            raise ContentError(f"{cid} is not a document with fields.")
        return cast("dict[str, dagcbor.Node]", node)

    def architecture(self, cid: str) -> Architecture:
        """Return the architecture stored under a CID."""
        return Architecture.from_dict(self.document(cid))

    def recipe(self, cid: str) -> Recipe:
        """Return the recipe stored under a CID, with its architecture."""
        document = self.document(cid)
        link = document.get("architecture")
        if not isinstance(link, CID):
            raise RecipeError(f"The recipe {cid} has no link to an architecture.")
        return Recipe.from_dict(document, self.architecture(str(link)))

    def dataset(self, cid: str, *, sealed: bool = False) -> Dataset:
        """Return the data set stored under a CID."""
        return Dataset.decode(self.bytes_of(cid, sealed=sealed))


def _root(row: sa.Row[Any]) -> Root:
    return Root(
        cid=row.cid,
        name=row.name,
        kind=row.kind,
        visibility=row.visibility,
        size=row.size,
        owner=row.owner,
        created=row.created,
    )
