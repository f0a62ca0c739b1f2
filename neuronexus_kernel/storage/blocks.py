"""Blocks on disk: one file per block, named by its CID, verified on every read.

A write is all or nothing.  Its blocks are first written and flushed in a staging folder of the
same file system; `Batch.commit` then renames them into place, links after what they link to, and
flushes the folders.  Whatever was acknowledged therefore survives a crash, and a write that
fails leaves nothing behind.  A staging folder is locked (``flock``) by the process that writes
it; the lock ends with the process, and the next `BlockStore` opened there removes the remains.

Layout, after Kubo's flatfs: ``blocks/<two characters of the CID>/<CID>``, ``staging/<random>/``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from neuronexus_kernel.content.cid import CID, SHA2_256
from neuronexus_kernel.errors import NotFoundError, StoreError

MAX_BLOCK = 2 * 1024 * 1024


class BlockStore:
    """A folder of blocks; safe for many threads and processes at once.

    Parameters
    ----------
    root
        The folder; made if there is none.

    Raises
    ------
    StoreError
        If the folder cannot be made or read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blocks = root / "blocks"
        self._staging = root / "staging"
        with explained(root):
            if not self._blocks.is_dir():
                self._blocks.mkdir(parents=True, exist_ok=True)
                _flush_folder(root)
                _flush_folder(root.parent)
            self._staging.mkdir(exist_ok=True)
            _remove_remains(self._staging)

    def path_of(self, cid: CID) -> Path:
        """Return the file of a block, whether it exists or not."""
        name = str(_normal(cid))
        # The last character carries only some bits, so the two before it spread evenly.
        return self._blocks / name[-3:-1] / name

    def has(self, cid: CID) -> bool:
        """Tell whether the block is here."""
        return cid.hash_code == SHA2_256 and self.path_of(cid).is_file()

    def get(self, cid: CID) -> bytes:
        """Return the bytes of a block after checking them against its CID.

        Raises
        ------
        NotFoundError
            If there is no such block.
        StoreError
            If the file does not hold the bytes that the CID names, or cannot be read.
        """
        path = self.path_of(cid)
        if cid.hash_code != SHA2_256:
            raise _missing(cid)
        with explained(path, "could not be read"):
            try:
                block = _read(path)
            except FileNotFoundError:
                raise _missing(cid) from None
        if block is None or not cid.matches(block):
            raise StoreError(
                f"Block {cid} is corrupt: the file {path} holds other bytes. Delete this file "
                "and add the original content again; the disk may be failing."
            )
        return block

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """Open a write of several blocks; they appear together when the ``with`` block ends.

        Raises
        ------
        StoreError
            If a block cannot be written, for example because the disk is full; then no block
            of the batch was added.
        """
        with explained(self.root):
            folder, lock = _new_staging_folder(self._staging)
        try:
            batch = Batch(self, folder)
            yield batch
            with explained(self.root):
                batch.commit()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


class Batch:
    """The blocks of one write, staged until `commit`."""

    def __init__(self, store: BlockStore, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._staged: dict[CID, Path | None] = {}

    def put(self, cid: CID, block: bytes | memoryview) -> None:
        """Stage a block, unless the store or this batch has it already.

        A file in the store that does not hold these bytes (it is corrupt) is written anew.
        """
        if cid in self._staged:
            return
        if len(block) > MAX_BLOCK:
            raise StoreError(
                f"A block of {len(block)} bytes is above the limit of {MAX_BLOCK}: no other IPFS "
                "node would take it. Add the bytes as a file and link to its CID instead."
            )
        if _holds(self._store.path_of(cid), block):
            self._staged[cid] = None
            return
        staged = self._folder / f"{len(self._staged):x}"
        with explained(self._store.root):
            _write(staged, block)
        self._staged[cid] = staged

    def commit(self) -> None:
        """Move the staged blocks into place; the last of them only when the others are safe."""
        cids = list(self._staged)
        self._move(cids[:-1])
        self._move(cids[-1:])

    def _move(self, cids: list[CID]) -> None:
        folders: set[Path] = set()
        for cid in cids:
            target = self._store.path_of(cid)
            staged = self._staged[cid]
            if staged is not None:
                target.parent.mkdir(exist_ok=True)
                os.replace(staged, target)
            # Also for a block that was there: who wrote it may not have come this far yet.
            folders.update((target.parent, target.parent.parent))
        for folder in sorted(folders):
            _flush_folder(folder)


@contextmanager
def explained(where: Path, what: str = "could not be written; nothing was added") -> Iterator[None]:
    """Turn errors of the operating system into a `StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "The disk is full. Free some space and try again"
        elif error.errno == errno.EFBIG:
            advice = "A file would be larger than this process may write (see ulimit -f)"
        else:
            advice = f"{error.strerror or error}. Check the folder and its permissions"
        raise StoreError(f"{where} {what}. {advice}.") from error


def _normal(cid: CID) -> CID:
    return CID(cid.codec, cid.digest, cid.hash_code) if cid.version == 0 else cid


def _missing(cid: CID) -> NotFoundError:
    return NotFoundError(
        f"There is no content {cid} in this store. Check the CID, or add the content first."
    )


def _read(path: Path) -> bytes | None:
    """Return what a file holds, or None where it is too large to be a block."""
    with path.open("rb", buffering=0) as file:
        too_large = os.fstat(file.fileno()).st_size > MAX_BLOCK
        return None if too_large else file.readall()


def _holds(path: Path, block: bytes | memoryview) -> bool:
    try:
        return _read(path) == block
    except OSError:
        return False


def _write(path: Path, block: bytes | memoryview) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _new_staging_folder(parent: Path) -> tuple[Path, int]:
    """Make a folder that this process holds the lock of; return it and the lock."""
    while True:
        folder = parent / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)  # Taken for remains between the two lines above: try again.


def _remove_remains(parent: Path) -> None:
    """Remove staging folders whose writer is dead: nobody holds their lock."""
    for folder in parent.iterdir():
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
