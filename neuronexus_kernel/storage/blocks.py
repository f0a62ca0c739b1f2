"""Blocks on disk: one file per block, named by its CID, verified on every read.

Layout, after Kubo's flatfs: ``blocks/<two characters of the CID>/<CID>``.  Beside it lie
``staging/`` (what is being written, see `batch`), ``reading/`` (what is being read, see
`reading`), ``corrupt/`` (files that held other bytes than their name says; nothing removes them
but people) and ``locks/`` with the count of bytes.  CIDs of versions 0 and 1 name the same block;
those of the identity function hold their bytes themselves and need no file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from neuronexus_kernel.content.cid import CID, IDENTITY
from neuronexus_kernel.errors import ContentError, NotFoundError, StoreError
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage.batch import Batch
from neuronexus_kernel.storage.files import MAX_BLOCK, explained, flush, read_block
from neuronexus_kernel.storage.locking import (
    ContentLock,
    OwnedFolder,
    let_go,
    remove_remains,
)
from neuronexus_kernel.storage.reading import Readers
from neuronexus_kernel.storage.usage import Counter, Tally, Usage

__all__ = ["MAX_BLOCK", "Batch", "BlockFile", "BlockStore"]

_NAME = re.compile("b[a-z2-7]{32,}")


@dataclass(frozen=True, slots=True)
class BlockFile:
    """A block as its file shows it.

    Attributes
    ----------
    name
        The text of its CID.
    size
        In bytes.
    stamp
        When a batch last placed or needed it: a time in nanoseconds, see `locking.ContentLock`.
    links
        Names of the file; above one where an open batch relies on it.
    """

    name: str
    size: int
    stamp: int
    links: int


class BlockStore:
    """A folder of blocks; safe for many threads and processes at once.

    Parameters
    ----------
    root
        The folder; made if there is none.  What dead processes left half-written is removed.
    settings
        How carefully to write, and how much.

    Raises
    ------
    StoreError
        If the folder cannot be made or read.
    """

    def __init__(self, root: Path, settings: StorageSettings | None = None) -> None:
        settings = settings or StorageSettings()
        self.root = root
        self.sync = settings.fsync == "always"
        self.staging = root / "staging"
        self.set_aside_folder = root / "corrupt"
        self._blocks = str(root / "blocks")
        locks = root / "locks"
        self.lock = ContentLock(locks)
        self.collector_lock = locks / "collector"
        self.counter = Counter(
            locks / "count",
            self.staging,
            settings.quota,
            recount=self._count_files,
            clean=self.clean,
        )
        # Folders of blocks whose own names this process has flushed: once is enough.
        self._flushed: set[str] = set()
        with explained(root, "cannot be used as a store"):
            if not os.path.isdir(self._blocks):
                os.makedirs(self._blocks, exist_ok=True)
                if self.sync:
                    flush(root)
                    flush(root.parent)
            for folder in (self.staging, locks, root / "reading"):
                folder.mkdir(mode=0o700, exist_ok=True)
            self.lock.prepare()
            self.readers = Readers(root / "reading", self.lock)
            self.clean()

    # -- names ------------------------------------------------------------------------------

    @staticmethod
    def name_of(cid: CID) -> str:
        """Return the name of a block's file."""
        return str(CID(cid.codec, cid.digest, cid.hash_code) if cid.version == 0 else cid)

    def folder_of(self, name: str) -> str:
        """Return the folder of a block's file."""
        # The last character carries only some bits, so the two before it spread evenly.
        return f"{self._blocks}/{name[-3:-1]}"

    def file_of(self, name: str) -> str:
        """Return the path of a block's file."""
        return f"{self._blocks}/{name[-3:-1]}/{name}"

    def path_of(self, cid: CID) -> Path:
        """Return the file of a block, whether it exists or not."""
        return Path(self.file_of(self.name_of(cid)))

    # -- reading ----------------------------------------------------------------------------

    def has(self, cid: CID) -> bool:
        """Tell whether the block is here."""
        return cid.hash_code == IDENTITY or os.path.isfile(self.file_of(self.name_of(cid)))

    def get(self, cid: CID, staged: Path | None = None) -> bytes:
        """Return the bytes of a block after checking them against its CID.

        Parameters
        ----------
        cid
            Of the block.
        staged
            A staging folder in which it may lie instead.

        Raises
        ------
        NotFoundError
            If there is no such block.
        StoreError
            If the file does not hold the bytes that the CID names, or cannot be read.
        """
        if cid.hash_code == IDENTITY:
            return cid.digest
        name = self.name_of(cid)
        path = self.file_of(name)
        with explained(path, "could not be read"):
            try:
                block = read_block(path)
            except FileNotFoundError:
                if staged is None:
                    raise _missing(cid) from None
                try:
                    block = read_block(staged / name)
                except FileNotFoundError:
                    raise _missing(cid) from None
        if block is None or not _matches(cid, block):
            raise StoreError(
                f"Block {cid} is corrupt: the file {path} holds other bytes. Add the original "
                "content again, or repair the store from another one: `verify(repair=[...])`. "
                "The disk may be failing."
            )
        return block

    def files(self) -> Iterator[BlockFile]:
        """Give the files of all blocks, in no order; those that come or go meanwhile or not."""
        for entry in self._entries():
            if _is_block(entry):
                with suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    yield BlockFile(entry.name, found.st_size, found.st_mtime_ns, found.st_nlink)

    def strays(self) -> Iterator[Path]:
        """Give what lies among the blocks and is none."""
        return (Path(entry.path) for entry in self._entries() if not _is_block(entry))

    def about(self, name: str) -> BlockFile | None:
        """Return what the file of a block shows, or None if there is none."""
        try:
            found = os.stat(self.file_of(name), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return BlockFile(name, found.st_size, found.st_mtime_ns, found.st_nlink)

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        """Give what is in the folders of the blocks, and what lies beside these folders."""
        with explained(self.root, "could not be read"), os.scandir(self._blocks) as folders:
            for folder in folders:
                if len(folder.name) == 2 and folder.is_dir(follow_symlinks=False):
                    with os.scandir(folder.path) as listing:
                        yield from listing
                else:
                    yield folder

    # -- writing ----------------------------------------------------------------------------

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Open a write of several blocks; they appear together when the ``with`` block ends.

        Raises
        ------
        StoreError
            If a block cannot be written, for example because the disk is full; then nothing
            of the batch can be asked for.
        """
        with explained(self.root):
            owned = OwnedFolder(self.staging)
        batch = Batch(self, owned.path)
        try:
            yield batch
            with explained(self.root):
                batch.commit()
        finally:
            batch.end()
            owned.remove()

    def hold_equal(self, name: str, block: bytes | memoryview, staged: str) -> bool:
        """Give a block that is here a second name, if it holds these bytes; tell whether.

        A file with other bytes is set aside.
        """
        path = self.file_of(name)
        try:
            found = read_block(path)
        except FileNotFoundError:
            return False
        except OSError:
            found = None  # A disk that cannot read its file: as good as other bytes.
        # As bytes: views are compared one item at a time.
        if found != (block if isinstance(block, bytes) else bytes(block)):
            self.set_aside(name)
            return False
        return self.hold(name, staged)

    def hold(self, name: str, staged: str) -> bool:
        """Give a block a second name, so that no collector takes it; tell whether it worked.

        It does not where the block is gone or the file system knows no second names: then the
        batch must write it itself.
        """
        handle = self.lock.hold_shared()
        try:
            os.link(self.file_of(name), staged)
        except FileExistsError:
            return True
        except OSError:
            return False
        finally:
            let_go(handle)
        return True

    def flush(self, folders: set[str]) -> None:
        """Bring the names in some folders of blocks to the disk, and their own."""
        if not self.sync:
            return
        for folder in folders:
            flush(folder)
        if not folders <= self._flushed:
            flush(self._blocks)
            self._flushed |= folders

    # -- removing ---------------------------------------------------------------------------

    def remove(self, name: str, tally: Tally) -> None:
        """Remove a block; the caller holds the content lock alone, and the count."""
        path = self.file_of(name)
        with suppress(FileNotFoundError):
            size = os.stat(path).st_size
            os.unlink(path)
            tally.add(-size, -1)

    def is_relied_on(self, name: str) -> bool:
        """Tell whether an open batch has a second name for the block."""
        return any(os.path.lexists(folder / name) for folder in self.staging.iterdir())

    def set_aside(self, name: str) -> Path | None:
        """Move a corrupt file out of the way; return where, or None if it is right after all."""
        path = self.file_of(name)
        with explained(self.root, "could not be changed"), self.lock.exclusive():
            if self.is_right(name) is not False:
                return None
            size = os.stat(path).st_size
            self.set_aside_folder.mkdir(mode=0o700, exist_ok=True)
            target = next(
                place
                for number in count()
                if not (place := self.set_aside_folder / f"{name}.{number}").exists()
            )
            os.rename(path, target)
            with self.counter.tally() as tally:
                tally.add(-size, -1)
            self.flush({self.folder_of(name)})
            return target

    def is_right(self, name: str) -> bool | None:
        """Tell whether a file holds the bytes that its name says; None if there is none.

        A file that cannot be read, or whose name is no CID of a block, does not.
        """
        try:
            cid = CID.parse(name)
            block = read_block(self.file_of(name))
            return self.name_of(cid) == name and block is not None and _matches(cid, block)
        except FileNotFoundError:
            return None
        except (OSError, ContentError):
            return False

    def clean(self) -> None:
        """Remove what dead processes left, and forget a count that they may have left wrong."""
        remove_remains(self.staging, self.counter.forget)
        remove_remains(self.root / "reading")

    def usage(self) -> Usage:
        """Return how much is here."""
        with explained(self.root, "could not be counted"):
            return self.counter.usage()

    def _count_files(self) -> None:
        """Count all files while nobody can place or remove any."""
        with self.lock.exclusive():
            size = blocks = 0
            for file in self.files():
                size, blocks = size + file.size, blocks + 1
            with self.counter.tally() as tally:
                tally.known = (size, blocks)


def _missing(cid: CID) -> NotFoundError:
    return NotFoundError(
        f"There is no content {cid} in this store. Check the CID, or add the content first."
    )


def _is_block(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    return (
        _NAME.fullmatch(name) is not None
        and entry.path.endswith(f"/{name[-3:-1]}/{name}")
        and entry.is_file(follow_symlinks=False)
    )


def _matches(cid: CID, block: bytes) -> bool:
    try:
        return cid.matches(block)
    except ContentError:
        return False
