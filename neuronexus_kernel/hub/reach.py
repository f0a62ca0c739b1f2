"""Which blocks may be read by whom, so that a gateway can give them one by one.

A root is recorded with its visibility, and what it consists of has the same: the chunks of a file
and the entries of a folder, all that links of dag-pb lead to.  A document (dag-cbor) only names
other content.  A contribution that everybody may read names a data set that is for the project,
a receipt names what was compared; so what a document links to is read by whoever may read that
itself, and never because the document is public.

A block that belongs to several roots may be read through any of them.  Sealed roots are not looked
at, and their blocks lie in another store: whether some bytes are sealed somewhere changes no
answer.

For each visibility the digests of all its blocks are kept in memory, about a hundred bytes each.
They are found when they are first needed, from the nodes of files and folders alone, and then kept
up with what is recorded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

import sqlalchemy as sa

from neuronexus_kernel.content import CID, Visibility
from neuronexus_kernel.content.cid import DAG_PB, IDENTITY
from neuronexus_kernel.errors import NotFoundError, StoreError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Database
from neuronexus_kernel.hub.records import Account
from neuronexus_kernel.storage.dag import parts_of
from neuronexus_kernel.storage.interface import BlockReader

TOPIC = "roots"
"""Told of each root that is recorded: its visibility and CID."""

_PATIENCE = 30.0  # seconds until a block that could not be read is tried again


class Reach:
    """The blocks of a hub by who may read them.

    Parameters
    ----------
    database
        Keeps the table of roots.
    content
        Store of public and project blocks.
    """

    def __init__(self, database: Database, content: BlockReader) -> None:
        self._content = content
        self._public = _Region(database, content, Visibility.PUBLIC)
        self._project = _Region(database, content, Visibility.PROJECT)
        database.listen(TOPIC, self._hear)

    def _hear(self, text: str | None) -> None:
        """Take up a root that was just recorded, by this hub or another."""
        visibility, _, cid = (text or "").partition(" ")
        for region in (self._public, self._project):
            if text is None:
                region.read_anew()
            elif visibility == region.visibility:
                region.note(cid)

    def reader(self, account: Account | None) -> VisibleBlocks:
        """Return the blocks that an account may read, or a visitor who is not signed in."""
        regions = [self._public] if account is None else [self._public, self._project]
        return VisibleBlocks(self._content, regions)


class VisibleBlocks:
    """The blocks that one visitor may read: a `BlockReader` that knows of no others.

    Parameters
    ----------
    content
        Where the blocks are.
    regions
        What may be read; the first one is public.
    """

    def __init__(self, content: BlockReader, regions: Sequence[_Region]) -> None:
        self._content = content
        self._regions = regions

    def block(self, cid: CID) -> bytes:
        """Return a verified block that the visitor may read; see `BlockReader.block`.

        Raises
        ------
        NotFoundError
            If there is none; what the visitor may not read is told in the same words.
        """
        if cid.hash_code == IDENTITY:
            return cid.digest
        if self._may_read(cid):
            try:
                return self._content.block(cid)
            except NotFoundError:
                pass
        raise NotFoundError(f"There is no content {cid} here that you may read.")

    def has_block(self, cid: CID) -> bool:
        """Tell whether there is such a block that the visitor may read."""
        if cid.hash_code == IDENTITY:
            return True
        return self._may_read(cid) and self._content.has_block(cid)

    def is_public(self, cid: CID) -> bool:
        """Tell whether everybody may read a block."""
        return cid.hash_code == IDENTITY or cid in self._regions[0]

    def _may_read(self, cid: CID) -> bool:
        return any(cid in region for region in self._regions)


class _Region:
    """The blocks of all roots of one visibility."""

    def __init__(self, database: Database, content: BlockReader, visibility: Visibility) -> None:
        self.visibility = visibility
        self._database = database
        self._content = content
        self._lock = threading.Lock()
        self._new: deque[str] = deque()
        self._is_loaded = False
        self._digests: set[bytes] = set()
        self._opened: set[bytes] = set()
        self._unread: set[CID] = set()
        self._next_try = 0.0

    def note(self, cid: str) -> None:
        """Take up a root; what belongs to it is found when somebody asks."""
        self._new.append(cid)

    def read_anew(self) -> None:
        """Look at all roots again when somebody asks, as some may have been missed."""
        self._is_loaded = False

    def __contains__(self, cid: CID) -> bool:
        if cid.digest in self._digests:
            return True
        self._catch_up()
        return cid.digest in self._digests

    def _catch_up(self) -> None:
        with self._lock:
            if not self._is_loaded:
                # What is recorded meanwhile is noted, so that nothing falls in between.
                self._is_loaded = True
                try:
                    self._load()
                except BaseException:
                    self._is_loaded = False
                    raise
            while self._new:
                self._extend(CID.parse(self._new.popleft()))
            if self._unread and time.monotonic() >= self._next_try:
                self._next_try = time.monotonic() + _PATIENCE
                unread, self._unread = self._unread, set()
                for cid in unread:
                    self._extend(cid)

    def _load(self) -> None:
        roots = schema.roots
        query = sa.select(roots.c.cid).where(roots.c.visibility == str(self.visibility))
        for row in self._database.read(lambda tx: tx.all(query)):
            self._extend(CID.parse(row.cid))

    def _extend(self, root: CID) -> None:
        """Add a root and all that it consists of."""
        todo = [root]
        while todo:
            cid = todo.pop()
            if cid.codec != DAG_PB or cid.digest in self._opened:
                self._digests.add(cid.digest)
                continue
            try:
                parts = parts_of(cid, self._block(cid))
            except (NotFoundError, StoreError):
                # Missing or damaged; what is below cannot be told until that is repaired.
                self._unread.add(cid)
                self._next_try = max(self._next_try, time.monotonic() + _PATIENCE)
                continue
            self._digests.add(cid.digest)
            self._opened.add(cid.digest)
            todo += [p for p in parts if p.codec == DAG_PB or p.digest not in self._digests]

    def _block(self, cid: CID) -> bytes:
        return cid.digest if cid.hash_code == IDENTITY else self._content.block(cid)
