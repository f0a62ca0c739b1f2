"""The hub's content: two stores and a table of roots that says who may see what.

Sealed blocks (held-out rows, one participant's update) lie in a store of their own, which nothing
here reads on behalf of a visitor; only the evaluator does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO, cast

import sqlalchemy as sa

from neuronexus_kernel.content import CID, Visibility, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR, DAG_PB, RAW
from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.errors import (
    AuthenticationError,
    ContentError,
    InvalidInputError,
    MalformedError,
    NotFoundError,
    RecipeError,
    StoreError,
)
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.hub import pins, reach, schema, titles
from neuronexus_kernel.hub.counting import Counted, whole_of
from neuronexus_kernel.hub.database import Database, Transaction, portions
from neuronexus_kernel.hub.paging import Window, windowed
from neuronexus_kernel.hub.reach import Reach, VisibleBlocks
from neuronexus_kernel.hub.records import Account, Codec, Keeping, Root, Sight
from neuronexus_kernel.models import Architecture
from neuronexus_kernel.storage import ContentStore
from neuronexus_kernel.storage.car import encode_car
from neuronexus_kernel.storage.dag import Block
from neuronexus_kernel.storage.sending import stream_of


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
        self._reach = Reach(database, content)
        self._listeners: list[Callable[[CID], None]] = []

    def put(
        self,
        actor: Account,
        data: bytes | BinaryIO,
        *,
        name: str,
        kind: str,
        visibility: Sight,
        codec: Codec,
        license: str = "",
    ) -> Root:
        """Store bytes and record their root; see `Hub.put`."""
        if visibility not in set(Visibility):
            raise InvalidInputError(f"visibility is public, project or sealed, not {visibility!r}.")
        given = Counted(data, self._limit)
        store = self._sealed if visibility == "sealed" else self._content
        if codec == "dag-cbor":
            cid = store.put_node(dagcbor.decode(whole_of(given)), name=pins.OWN)
        elif codec == "file":
            cid = store.add(given.source, name=pins.OWN)
        elif codec == "car" and visibility == "sealed":
            # It may lean on blocks that are here, and so would tell whether guessed ones are.
            raise InvalidInputError("Sealed content comes as a file or a document, not as CAR.")
        elif codec == "car":
            cid = self._import_car(given.stream)
        else:
            raise InvalidInputError(f"codec is 'file', 'dag-cbor' or 'car', not {codec!r}.")
        root = Root(
            cid=str(cid),
            name=name[:200],
            kind=kind[:40],
            visibility=visibility,
            size=given.size,
            owner=actor.name,
            created="",
            license=license[:200],
        )

        def change(tx: Transaction) -> Root:
            known = self.record(tx, root)
            titles.entitle_all(tx, [root])
            return titles.described(tx, known)

        return self._database.write(change)

    def _import_car(self, stream: BinaryIO) -> CID:
        try:
            return _only_root(self._content.import_car(stream, name=pins.OWN))
        except StoreError as error:
            if isinstance(error.__cause__, OSError):
                raise  # The disk is full, or broken.
            raise MalformedError(str(error)) from None

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
            return replace(root, license="", created=tx.time) if sealed else _root(known)
        self._add_roots(tx, [root])
        return _root(tx.all(same)[0])

    def record_all(self, tx: Transaction, given: Sequence[Root]) -> None:
        """Record those of some roots that are not there yet, and the titles of all."""
        roots = schema.roots.c
        known: set[tuple[str, str]] = set()
        for some in portions([root.cid for root in given]):
            query = sa.select(roots.cid, roots.visibility).where(roots.cid.in_(some))
            known.update((row.cid, row.visibility) for row in tx.all(query))
        self._add_roots(tx, [each for each in given if (each.cid, each.visibility) not in known])
        titles.entitle_all(tx, given)

    def _add_roots(self, tx: Transaction, new: Sequence[Root]) -> None:
        names = ("cid", "visibility", "name", "kind", "size", "owner")
        rows = [{name: getattr(root, name) for name in names} for root in new]
        tx.insert(schema.roots, [{**row, "created": tx.time} for row in rows])
        for root in new:
            tx.notify(reach.TOPIC, f"{root.visibility} {root.cid}")
            if root.visibility == "public":
                for listener in self._listeners:
                    tx.after_commit.append(partial(listener, CID.parse(root.cid)))

    def get(self, actor: Account | None, cid: str) -> bytes:
        """Return the bytes of a root that the visitor may see; see `Hub.get`."""
        name = str(CID.parse(cid))
        self._check_visible(actor, name)
        return self._content.get(name)

    def open(self, actor: Account | None, cid: str) -> BinaryIO:
        """Return a stream of a root that the visitor may see, with ``seek``."""
        root = CID.parse(cid)
        self._check_visible(actor, str(root))
        # What is no file is one block.
        is_file = root.codec in (RAW, DAG_PB)
        return self._content.open(root) if is_file else io.BytesIO(self._content.get(root))

    def blocks(self, actor: Account | None) -> VisibleBlocks:
        """Return the single blocks that the visitor may read."""
        return self._reach.reader(actor)

    def roots(
        self,
        actor: Account | None,
        *,
        kind: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        text: str | None = None,
        window: Window | None = None,
    ) -> list[Root]:
        """Return the roots that the visitor may see, newest first; see `Hub.roots`."""
        roots = schema.roots
        query = titles.titled_roots().where(roots.c.visibility.in_(_sights(actor)))
        for column, wanted in ((roots.c.kind, kind), (roots.c.name, name), (roots.c.owner, owner)):
            if wanted is not None:
                query = query.where(column == wanted)
        if text is not None:
            columns = (roots.c.name, roots.c.kind, roots.c.owner, roots.c.cid)
            license = sa.func.coalesce(schema.titles.c.license, "")
            found = [column.icontains(text, autoescape=True) for column in (*columns, license)]
            query = query.where(sa.or_(*found))
        order = (roots.c.created, roots.c.cid, roots.c.visibility)
        query = windowed(query, window, *order, newest_first=True)
        return [
            replace(_root(row), number=row.number or 0, license=row.license or "")
            for row in self._database.read(lambda tx: tx.all(query))
        ]

    def history(self, actor: Account | None, name: str, owner: str | None) -> list[Root]:
        """Return the versions of a name that the visitor may see; see `Hub.history`."""
        if owner is None:
            if actor is None:
                raise AuthenticationError("Sign in, or say whose name it is: `owner=...`.")
            owner = actor.name
        query = titles.versions(owner, name).where(schema.titles.c.visibility.in_(_sights(actor)))
        rows = self._database.read(lambda tx: tx.all(query))
        if not rows:
            raise NotFoundError(f"{owner} has stored nothing that you may read as {name!r}.")
        return [replace(_root(row), number=row.number, license=row.license) for row in rows]

    # -- promises to keep ------------------------------------------------------------------

    def keep(self, actor: Account, cid: str, name: str) -> Keeping:
        """Keep a root for an account; see `Hub.keep`."""
        root = str(CID.parse(cid))
        self._check_visible(actor, root)
        self._content.pin(root, name=pins.of(actor.name))
        keepings = schema.keepings.c

        def change(tx: Transaction) -> Keeping:
            known = tx.first(
                sa.select(schema.keepings).where(
                    keepings.account == actor.name, keepings.cid == root
                )
            )
            if known is None:
                given = {"account": actor.name, "cid": root, "name": name[:200]}
                tx.execute(schema.keepings.insert().values(**given, created=tx.time))
                return Keeping(cid=root, name=name[:200], created=tx.time)
            return Keeping(cid=root, name=known.name, created=known.created)

        return self._database.write(change)

    def release(self, actor: Account, cid: str) -> None:
        """Take an account's promise back; see `Hub.release`."""
        root = str(CID.parse(cid))
        mine = (schema.keepings.c.account == actor.name) & (schema.keepings.c.cid == root)

        def change(tx: Transaction) -> None:
            if tx.first(sa.select(schema.keepings).where(mine)) is None:
                raise NotFoundError(f"You have not promised to keep {root}.")
            tx.execute(schema.keepings.delete().where(mine))

        self._database.write(change)
        with suppress(NotFoundError):  # an earlier call was interrupted between the two
            self._content.unpin(root, name=pins.of(actor.name))

    def keepings(self, actor: Account) -> list[Keeping]:
        """Return an account's promises; see `Hub.keepings`."""
        keepings = schema.keepings
        query = (
            sa.select(keepings)
            .where(keepings.c.account == actor.name)
            .order_by(keepings.c.created, keepings.c.cid)
        )
        rows = self._database.read(lambda tx: tx.all(query))
        return [Keeping(cid=row.cid, name=row.name, created=row.created) for row in rows]

    def _check_visible(self, actor: Account | None, cid: str) -> None:
        roots = schema.roots
        query = sa.select(roots.c.cid).where(
            roots.c.cid == cid, roots.c.visibility.in_(_sights(actor))
        )
        if self._database.read(lambda tx: tx.first(query)) is None:
            raise NotFoundError(f"There is no content {cid} here that you may read.")

    # -- for the hub's own services --------------------------------------------------------

    def recorded(self, *sights: Visibility) -> list[CID]:
        """Return all roots with one of these visibilities, each once."""
        roots = schema.roots.c
        query = sa.select(roots.cid).where(roots.visibility.in_(map(str, sights))).distinct()
        return [CID.parse(row.cid) for row in self._database.read(lambda tx: tx.all(query))]

    def when_public(self, listener: Callable[[CID], None]) -> None:
        """Call back with each root that is public from now on, on the writer thread."""
        self._listeners.append(listener)

    def bytes_of(self, cid: str, *, sealed: bool = False) -> bytes:
        """Return bytes for the hub itself, sealed or not."""
        return (self._sealed if sealed else self._content).get(cid)

    def add(self, data: bytes, *, sealed: bool = False) -> str:
        """Store a file for the hub itself; its root is still to be recorded."""
        store = self._sealed if sealed else self._content
        return str(store.add(data, name=pins.OWN))

    def put_node(self, node: dagcbor.Node, *, sealed: bool = False, pin: bool = True) -> str:
        """Store a DAG-CBOR document for the hub itself."""
        store = self._sealed if sealed else self._content
        return str(store.put_node(node, name=pins.OWN, pin=pin))

    def take(self, roots: Sequence[CID], blocks: Iterable[Block], *, sealed: bool) -> None:
        """Store files and folders from elsewhere, all blocks of them; nothing keeps them yet."""
        store = self._sealed if sealed else self._content
        store.import_car(stream_of(encode_car(roots, blocks)), pin=False)

    def keep_whole(self, cid: CID, *, sealed: bool) -> None:
        """Keep for the hub what was stored and not kept; it is to be recorded at once."""
        store = self._sealed if sealed else self._content
        if cid.codec == DAG_CBOR:
            store.put_node(store.get_node(cid), name=pins.OWN)
        else:
            store.pin(cid, name=pins.OWN)

    def block(self, cid: CID, *, sealed: bool = False) -> bytes:
        """Return a verified block for the hub itself, sealed or not."""
        return (self._sealed if sealed else self._content).block(cid)

    def size(self, cid: CID, *, sealed: bool = False) -> int:
        """Return how many bytes some content has, sealed or not."""
        return (self._sealed if sealed else self._content).size(cid)

    @property
    def limit(self) -> int:
        """Bytes of the largest object that is accepted."""
        return self._limit

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


def _sights(actor: Account | None) -> list[str]:
    """Return the visibilities that a visitor may read."""
    sights = [Visibility.PUBLIC] if actor is None else [Visibility.PUBLIC, Visibility.PROJECT]
    return [str(sight) for sight in sights]


def _only_root(roots: list[CID]) -> CID:
    if len(roots) != 1:
        raise InvalidInputError(f"The CAR file has {len(roots)} roots; give one for each root.")
    return roots[0]


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
