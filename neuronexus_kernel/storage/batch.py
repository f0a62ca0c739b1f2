"""A write of several blocks: they appear together, or not at all.

The blocks are first written and flushed in a staging folder of the same file system, each under
the name of its CID.  `Batch.commit` then renames them into place, what others may ask for (the
roots) after everything else, and what says that they are pinned last of all; between these steps
the folders are flushed.  Whatever was acknowledged therefore survives a crash, and a write that
fails leaves nothing that anybody could ask for.

A block that the store has already is not written again, but the batch must be able to rely on it:
it makes a second name (a hard link) for the file in its staging folder.  A collector sees that
name and leaves the block alone.  In the commit all blocks, new or not, are stamped with a time
that no collection under way takes for old (see `locking.ContentLock`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from neuronexus_kernel.content.cid import CID, IDENTITY, SHA2_256, SHA2_512
from neuronexus_kernel.errors import StoreError
from neuronexus_kernel.storage.files import MAX_BLOCK, Flusher, create, explained, flush

if TYPE_CHECKING:
    from neuronexus_kernel.storage.blocks import BlockStore

_GROUP = 1000


@dataclass(slots=True)
class _Note:
    """A small file that appears after all blocks."""

    path: Path
    data: bytes
    staged: str
    written: bool = False


class Batch:
    """The blocks of one write, staged until `commit`; `BlockStore.batch` makes and ends it.

    Parameters
    ----------
    store
        Where the blocks will be.
    folder
        The batch's own, to stage them in.
    """

    def __init__(self, store: BlockStore, folder: Path) -> None:
        self._store = store
        self._folder = str(folder)
        self._flusher = Flusher(sync=store.sync)
        self._reservation = store.counter.reservation(folder)
        self._last: str | None = None
        self._roots: set[str] = set()
        self._notes: list[_Note] = []
        self._away = ExitStack()

    def put(self, cid: CID, block: bytes | memoryview) -> None:
        """Stage a block, unless the store or this batch has it already.

        The caller answers for it that the bytes are those that the CID names.  A file in the
        store that does not hold these bytes (it is corrupt) is set aside, and the block is
        written anew.

        Raises
        ------
        StoreError
            If the block is above the limit, its hash function is none that is verified here, or
            it cannot be written.
        QuotaError
            If the store would become too large.
        """
        if len(block) > MAX_BLOCK:
            raise StoreError(
                f"A block of {len(block)} bytes is above the limit of {MAX_BLOCK}: no other IPFS "
                "node would take it. Add the bytes as a file and link to its CID instead."
            )
        if cid.hash_code == IDENTITY:
            return  # The CID itself holds the bytes.
        if cid.hash_code not in (SHA2_256, SHA2_512):
            raise StoreError(f"The hash function 0x{cid.hash_code:x} of {cid} cannot be verified.")
        name = self._store.name_of(cid)
        self._last = name
        staged = f"{self._folder}/{name}"
        if os.path.lexists(staged):
            return
        with explained(self._store.root):
            if self._store.hold_equal(name, block, staged):
                return
            self._reservation.take(len(block))
            with suppress(FileExistsError):  # Another thread of this batch was faster.
                create(staged, block)
                self._flusher.take(staged, len(block))

    def keep(self, cid: CID) -> bool:
        """Rely on a block that is here or in this batch; tell whether it is."""
        if cid.hash_code == IDENTITY:
            return True
        name = self._store.name_of(cid)
        staged = f"{self._folder}/{name}"
        if os.path.lexists(staged):
            return True
        with explained(self._store.root):
            if self._store.hold(name, staged):
                return True
            if not self._store.has(cid):
                return False
        last = self._last
        self.put(cid, self._store.get(cid))  # This file system knows no second names.
        self._last = last
        return True

    def get(self, cid: CID) -> bytes:
        """Return a block of the store or of this batch, verified."""
        return self._store.get(cid, Path(self._folder))

    def make_roots(self, cids: Iterable[CID]) -> None:
        """Say what others will ask for; the block that was put last, unless this says so."""
        self._roots.update(self._store.name_of(cid) for cid in cids if cid.hash_code != IDENTITY)

    def note(self, path: Path, data: bytes) -> None:
        """Have a small file appear after all blocks, unless it is there already."""
        self._notes.append(_Note(path, data, f"{self._folder}/.note-{len(self._notes)}"))

    def commit(self) -> None:
        """Move everything into place."""
        for note in self._notes:
            if not note.path.exists():
                self._stage(note)
        self._flusher.finish()
        roots = self._roots or ({self._last} if self._last else set())
        with self._store.lock.shared() as stamp:
            self._place(self._staged_except(roots), stamp)
            self._place(iter(sorted(roots)), stamp)
            self._place_notes()

    def keep_collectors_away(self) -> None:
        """Have no collector remove anything from now on until the batch ends; call it late."""
        with explained(self._store.root):
            self._away.enter_context(self._store.lock.shared())

    def end(self) -> None:
        """Let go of everything."""
        self._flusher.abandon()
        self._away.close()

    def _staged_except(self, roots: set[str]) -> Iterator[str]:
        # Names that are moved away while a folder is listed must not make others be left out:
        # the folder is listed until nothing is found.
        while True:
            found = False
            with os.scandir(self._folder) as listing:
                for entry in listing:
                    if entry.name not in roots and not entry.name.startswith("."):
                        found = True
                        yield entry.name
            if not found:
                return

    def _place(self, names: Iterator[str], stamp: int) -> None:
        """Move blocks into place, count them, and flush the folders that they are in now."""
        folders: set[str] = set()
        while group := list(islice(names, _GROUP)):
            placed: list[int] = []
            with self._store.counter.tally() as tally:
                try:
                    for name in group:
                        size = self._move(name, stamp)
                        if size is not None:
                            placed.append(size)
                finally:
                    self._reservation.placed(tally, sum(placed), len(placed))
            # Also for blocks that were there: who wrote them may not have come this far.
            folders.update(self._store.folder_of(name) for name in group)
        self._store.flush(folders)

    def _move(self, name: str, stamp: int) -> int | None:
        """Move one block; return its size, or None if it was there already."""
        staged, target = f"{self._folder}/{name}", self._store.file_of(name)
        try:
            os.utime(target, ns=(stamp, stamp))
        except FileNotFoundError:
            os.utime(staged, ns=(stamp, stamp))
            size = os.stat(staged).st_size
            try:
                os.rename(staged, target)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.rename(staged, target)
            return size
        with suppress(FileNotFoundError):
            os.unlink(staged)
        return None

    def _stage(self, note: _Note) -> None:
        create(note.staged, note.data)
        self._flusher.take(note.staged, len(note.data))
        note.written = True

    def _place_notes(self) -> None:
        folders = set()
        for note in self._notes:
            folders.add(note.path.parent)
            if note.path.exists():
                continue
            if not note.written:  # It was there a moment ago.
                self._stage(note)
                self._flusher.finish()
            os.rename(note.staged, note.path)
        if self._store.sync:
            for folder in folders:
                flush(folder)
