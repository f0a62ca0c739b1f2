"""Garbage collection: removing the blocks that no pin needs and nobody uses.

A collection counts references.  From the pins and from what is being read it follows all links and
counts how often each block is needed (the mark); what it did not come by is garbage.  Then it
counts the references among the garbage, and removes a block when none is left that links to it
(the sweep), so that a root goes before what lies below it: what can still be asked for is whole,
also if the process is killed in between.

Adders and readers go on meanwhile.  The collection only takes what was complete when it began (see
the epochs of `locking.ContentLock`), and it sweeps in steps of a few hundredths of a second.  In
each it has the content to itself, and first spares what came into use since it marked: what new
pins and readers need, what an open batch relies on, and what a batch has placed again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from neuronexus_kernel.content.cid import CID, DAG_CBOR, RAW
from neuronexus_kernel.errors import ContentError, NeuroNexusError, StoreError
from neuronexus_kernel.storage import dag
from neuronexus_kernel.storage.blocks import BlockStore
from neuronexus_kernel.storage.files import explained
from neuronexus_kernel.storage.interface import Progress
from neuronexus_kernel.storage.locking import OwnedFolder, locked
from neuronexus_kernel.storage.pins import PinBook, Record

_STEP = 0.03
_PAUSE = 0.005
_RAW = "bafkrei"
"""How the names of raw blocks begin, which link to nothing and need not be parsed."""


@dataclass(frozen=True, slots=True)
class Collection:
    """What a collection did, or would do.

    Attributes
    ----------
    removed, freed
        Blocks that no pin needs and nobody uses, and their bytes.
    kept
        Blocks that are still here.
    in_use
        Those of them that no pin needed when it began, but somebody read or added meanwhile.
    references
        How many links, pins and readers lead to what was needed when it began.
    dry_run
        Whether nothing was really removed.
    seconds
        How long it took.
    """

    removed: int
    freed: int
    kept: int
    in_use: int
    references: int
    dry_run: bool
    seconds: float

    def __str__(self) -> str:
        what = "would be removed" if self.dry_run else "were removed"
        return (
            f"{self.removed:,} blocks ({self.freed:,} bytes) {what}; {self.kept:,} stay, "
            f"{self.in_use:,} of them only because they are in use."
        )


@dataclass(slots=True, eq=False)
class _Garbage:
    """A block that no pin needs.

    Attributes
    ----------
    name, size
        Of its file.
    below
        What it links to, where that is garbage too.
    references
        How many blocks of the garbage that are still here link to it.
    spared
        Whether it stays all the same.
    followed
        Whether all below it stays as well.
    """

    name: str
    size: int
    below: list[_Garbage] = field(default_factory=list)
    references: int = 0
    spared: bool = False
    followed: bool = False


def collect(
    blocks: BlockStore, pins: PinBook, *, dry_run: bool = False, progress: Progress | None = None
) -> Collection:
    """Remove what no pin needs and nobody uses; see `LocalStore.collect`."""
    with explained(blocks.root, "could not be collected"), locked(blocks.collector_lock):
        blocks.clean()
        with _in_sight(blocks):
            return _Collector(blocks, pins, dry_run, progress).run()


@contextmanager
def _in_sight(blocks: BlockStore) -> Iterator[None]:
    """Have others count the blocks anew if this process dies: they will find its folder."""
    try:
        owned = OwnedFolder(blocks.staging)
    except OSError:  # The disk is full: no time to refuse a collection.
        blocks.counter.forget()
        yield
        return
    try:
        yield
    finally:
        owned.remove()


class _Collector:
    """One collection."""

    def __init__(
        self, blocks: BlockStore, pins: PinBook, dry_run: bool, progress: Progress | None
    ) -> None:
        self._blocks = blocks
        self._pins = pins
        self._dry_run = dry_run
        self._progress = progress
        self._epoch = 0
        self._garbage: dict[str, _Garbage] = {}
        self._references: dict[str, int] = {}
        self._known: set[str] = set()
        self._removed = self._freed = 0

    def run(self) -> Collection:
        """Do all of it."""
        start = time.perf_counter()
        self._epoch = self._begin()
        present = self._list()
        self._mark()
        self._sweep(self._count_garbage())
        return Collection(
            removed=self._removed,
            freed=self._freed,
            kept=present - self._removed,
            in_use=sum(each.spared for each in self._garbage.values()),
            references=sum(self._references.values()),
            dry_run=self._dry_run,
            seconds=time.perf_counter() - start,
        )

    def _begin(self) -> int:
        if not self._dry_run:
            return self._blocks.lock.new_epoch()
        with self._blocks.lock.exclusive() as handle:
            return self._blocks.lock.next_epoch(handle)

    def _list(self) -> int:
        """Take all blocks of earlier epochs for garbage at first; return how many are here."""
        present = 0
        for file in self._blocks.files():
            present += 1
            if file.stamp < self._epoch:
                self._garbage[file.name] = _Garbage(file.name, file.size)
        return present

    # -- mark -------------------------------------------------------------------------------

    def _mark(self) -> None:
        """Count the references to what pins and readers need: that is no garbage."""
        directly: list[Record] = []
        for file in self._pins.names():
            record = self._pins.read(file)
            if record is not None:
                # Only what was read: a pin that is away for a moment must be seen when it is back.
                self._known.add(file)
                if record.pin.recursive:
                    forgiven = {self._blocks.name_of(cid) for cid in record.elsewhere}
                    self._follow(record.pin.cid, forgiven)
                else:
                    directly.append(record)
        for name in self._blocks.readers.roots():
            self._known.add(name)
            with suppress(ContentError):
                self._follow(CID.parse(name), None)
        for record in directly:
            self._spare(self._blocks.name_of(record.pin.cid), whole=False)

    def _follow(self, root: CID, forgiven: set[str] | None) -> None:
        """Count the references to a root and all below it.

        Parameters
        ----------
        root
            The root.
        forgiven
            Blocks that may be missing; None for any.

        Raises
        ------
        StoreError
            If a block is missing or corrupt, so that what lies below it cannot be known.
        """
        todo = [root]
        while todo:
            cid = todo.pop()
            name = self._blocks.name_of(cid)
            self._references[name] = count = self._references.get(name, 0) + 1
            self._garbage.pop(name, None)
            if count > 1 or cid.codec == RAW:
                continue
            try:
                todo.extend(dag.links_of(cid, self._blocks.get(cid)))
            except NeuroNexusError as error:
                if forgiven is not None and name not in forgiven:
                    raise StoreError(
                        f"Nothing was removed: of the pinned {root} the block {cid} cannot be "
                        "read, so that what it needs is not known. Repair the store with "
                        f"`verify(repair=[...])`, or unpin this root. ({error})"
                    ) from error

    # -- sweep ------------------------------------------------------------------------------

    def _count_garbage(self) -> deque[_Garbage]:
        """Count the references among the garbage; return what nothing links to."""
        for each in self._garbage.values():
            for name in self._links(each.name):
                below = self._garbage.get(name)
                if below is not None:
                    each.below.append(below)
                    # A pin of one block alone does not keep what it links to.
                    below.references += not each.spared
        return deque(each for each in self._garbage.values() if not each.references)

    def _links(self, name: str) -> list[str]:
        if name.startswith(_RAW):
            return []
        with suppress(NeuroNexusError):  # It is no block, or corrupt: then it keeps nothing.
            cid = CID.parse(name)
            if cid.codec != RAW:
                return [
                    self._blocks.name_of(link) for link in dag.links_of(cid, self._blocks.get(cid))
                ]
        return []

    def _sweep(self, ready: deque[_Garbage]) -> None:
        """Remove garbage that nothing links to, until there is none."""
        while ready:
            with self._blocks.lock.exclusive():
                self._spare_what_came_into_use()
                self._step(ready, time.monotonic() + _STEP)
            if ready:
                time.sleep(_PAUSE)  # For those who wait to add.

    def _step(self, ready: deque[_Garbage], end: float) -> None:
        with self._blocks.counter.tally() as tally:
            while ready and time.monotonic() < end:
                each = ready.popleft()
                if self._is_used(each):
                    continue
                if not self._dry_run:
                    self._blocks.remove(each.name, tally)
                del self._garbage[each.name]
                self._removed += 1
                self._freed += each.size
                if self._progress is not None:
                    self._progress(each.size)
                for below in each.below:
                    below.references -= 1
                    if not below.references:
                        ready.append(below)

    def _is_used(self, each: _Garbage) -> bool:
        """Tell whether a block is to stay, after looking at its file."""
        if not each.spared:
            file = self._blocks.about(each.name)
            if file is not None and (
                file.stamp >= self._epoch
                or (file.links > 1 and self._blocks.is_relied_on(each.name))
            ):
                self._spare(each.name, whole=True)
        return each.spared

    def _spare_what_came_into_use(self) -> None:
        for file in self._pins.names() - self._known:
            self._known.add(file)
            promise = self._pins.promise(file)
            if promise is not None:
                root, recursive = promise
                self._spare(self._blocks.name_of(root), whole=recursive)
        for name in self._blocks.readers.roots() - self._known:
            self._known.add(name)
            self._spare(name, whole=True)

    def _spare(self, name: str, *, whole: bool) -> None:
        """Let a block stay, and on demand all that lies below it.

        What is no garbage was marked, with all below it, or has appeared since the collection
        began.  Then the blocks that it consists of have appeared with it, but a document may name
        older ones.
        """
        todo = [name]
        seen: set[str] = set()
        while todo:
            name = todo.pop()
            each = self._garbage.get(name)
            if each is not None:
                each.spared = True
                if whole and not each.followed:
                    each.followed = True
                    todo.extend(below.name for below in each.below)
            elif whole and name not in self._references and name not in seen:
                seen.add(name)
                if _is_document(name):
                    todo.extend(self._links(name))


def _is_document(name: str) -> bool:
    with suppress(ContentError):
        return CID.parse(name).codec == DAG_CBOR
    return False
