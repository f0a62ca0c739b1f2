"""Writing content to disk, as carefully as one unpacks an archive of a stranger.

Everything is first written into a staging folder beside the target, and moved to its place when it
is whole: a file or a folder appears entirely or not at all, and never over something that exists.
The staging folder is locked (``flock``) by the process that writes it; if that is killed, the
lock ends with it, and the next download beside it removes the remains.

Nothing can lead out of the target.  Names are checked on reading (`folders`), every entry is made
new, relative to the open folder that it belongs in, and none is opened through a symlink.  A
symlink that leads outside is refused, as the ``data`` filter of Python's tarfile refuses it
(PEP 706): whoever reads the folder later would follow it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from neuronexus_kernel.content.cid import CID, CODECS
from neuronexus_kernel.content.directory import check_name
from neuronexus_kernel.errors import StoreError
from neuronexus_kernel.storage import folders, unixfs
from neuronexus_kernel.storage.files import check_free, publish
from neuronexus_kernel.storage.importer import MAX_DEPTH
from neuronexus_kernel.storage.interface import Kind, Progress
from neuronexus_kernel.storage.threads import SharedThreads
from neuronexus_kernel.storage.unixfs import Fetch

_STAGING = re.compile(r"\.neuronexus-download-[0-9a-f]{16}")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a download may write: a few small blocks can declare any number of files.

    Attributes
    ----------
    entries
        Files, folders and symlinks.
    size
        Bytes of all files; apart from this, no file is begun that the disk has no room for.
    depth
        Folders within folders.
    """

    entries: int = 1_000_000
    size: int = 1 << 40
    depth: int = MAX_DEPTH


def download(
    fetch: Fetch,
    cid: CID,
    target: Path,
    *,
    name: str = "",
    outside: bool = False,
    limits: Limits | None = None,
    ahead: int | SharedThreads = 0,
    progress: Progress | None = None,
) -> Path:
    """Write a file or a folder to disk.

    Parameters
    ----------
    fetch
        Returns a verified block.
    cid
        What to write; a document becomes a file of its bytes.
    target
        Where it shall lie.  If there is a folder already, it will lie in that folder, under `name`.
        Folders above it are made.
    name
        In a folder that exists; by default the CID.
    outside
        Whether symlinks that lead out of the target are written too.
    limits
        How much to write at most.
    ahead
        As in `unixfs.read`, for each file.
    progress
        Told of the bytes that were written.

    Returns
    -------
    Path
        Where it lies.

    Raises
    ------
    ConflictError
        If something lies there already.
    NotFoundError
        If the content is missing.
    StoreError
        If it is incomplete or malformed, a limit is passed, a symlink leads outside, or something
        cannot be written; then nothing was.
    """
    if target.is_dir() and not target.is_symlink():
        target = target / check_name(name or str(cid))
    check_free(target)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_remains(target.parent)
    with _staging(target) as staging:
        handle = os.open(staging, _FOLDER)
        try:
            one = _Download(fetch, cid, target, outside, limits or Limits(), ahead, progress)
            one.write(cid, handle)
        finally:
            os.close(handle)
        _publish(staging / _NAME, target)
    return target


_NAME = "content"


class _Download:
    """One download: how much of it was written, and where."""

    def __init__(
        self,
        fetch: Fetch,
        root: CID,
        target: Path,
        outside: bool,
        limits: Limits,
        ahead: int | SharedThreads,
        progress: Progress | None,
    ) -> None:
        self._fetch = fetch
        self._root = root
        self._target = target
        self._outside = outside
        self._limits = limits
        self._ahead = ahead
        self._progress = progress
        self._entries = 0
        self._bytes = 0

    def write(self, cid: CID, folder: int, name: str = _NAME, depth: int = 0) -> None:
        """Write content under a name into an open folder."""
        self._entries += 1
        if self._entries > self._limits.entries:
            raise StoreError(f"This content has more than {self._limits.entries:,} entries.")
        if cid.codec not in CODECS:
            raise unixfs.unsupported(cid)
        # The root block says what it is; then it need not be fetched and verified again.
        block = unixfs.fetch_block(self._fetch, cid, self._root)
        fetch = unixfs.remembering(self._fetch, cid, block)
        about = folders.stat(fetch, cid)
        if about.kind == Kind.FOLDER:
            self._write_folder(fetch, cid, folder, name, depth)
        elif about.kind == Kind.SYMLINK:
            self._write_symlink(folders.target_of(fetch, cid), folder, name, depth)
        else:
            self._write_file(fetch, cid, about.size, folder, name)

    def _write_folder(self, fetch: Fetch, cid: CID, folder: int, name: str, depth: int) -> None:
        if depth == self._limits.depth:
            raise StoreError(f"This content has more than {depth} folders within folders.")
        with _explained(self._target):
            os.mkdir(name, dir_fd=folder)
            handle = os.open(name, _FOLDER, dir_fd=folder)
        try:
            for link in folders.links(fetch, cid, limit=self._limits.entries):
                self.write(link.cid, handle, link.name or "", depth + 1)
        finally:
            os.close(handle)

    def _write_file(self, fetch: Fetch, cid: CID, size: int, folder: int, name: str) -> None:
        self._bytes += size
        if self._bytes > self._limits.size:
            raise StoreError(f"This content has more than {self._limits.size:,} bytes of files.")
        with _explained(self._target):
            room = os.fstatvfs(folder)
            if size > room.f_bavail * room.f_frsize:
                raise OSError(errno.ENOSPC, "The disk is full")
            handle = os.open(name, _NEW, 0o666, dir_fd=folder)
        try:
            for piece in unixfs.read(fetch, cid, ahead=self._ahead):
                with _explained(self._target):
                    _write_all(handle, piece)
                if self._progress:
                    self._progress(len(piece))
        finally:
            os.close(handle)

    def _write_symlink(self, target: bytes, folder: int, name: str, depth: int) -> None:
        if not self._outside and not _stays_inside(target, depth):
            raise StoreError(
                f"The symlink {name!r} leads to {os.fsdecode(target)!r}, which lies outside what "
                "is downloaded, or may; nothing was written."
            )
        with _explained(self._target):
            os.symlink(target, os.fsencode(name), dir_fd=folder)


def _stays_inside(target: bytes, depth: int) -> bool:
    """Tell whether a symlink that lies so many folders below the top leads to nothing above it.

    ``..`` is allowed at the beginning only: behind the name of another symlink it would lead up
    from wherever that leads.
    """
    steps = [step for step in target.split(b"/") if step not in (b"", b".")]
    up = next((at for at, step in enumerate(steps) if step != b".."), len(steps))
    return not target.startswith(b"/") and up < depth and b".." not in steps[up:]


def _write_all(handle: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _publish(made: Path, target: Path) -> None:
    """Move what was made to its place, unless something appeared there meanwhile."""
    with _explained(target):
        if made.is_dir() and not made.is_symlink():
            check_free(target)
            os.rename(made, target)
            return
        publish(made, target)


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """Make a locked folder beside the target, and remove it in the end with all that is in it."""
    with _explained(target):
        staging, lock = _new_staging_folder(target.parent)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def _new_staging_folder(parent: Path) -> tuple[Path, int]:
    """Make a folder that this process holds the lock of; return it and the lock."""
    while True:
        staging = parent / f".neuronexus-download-{secrets.token_hex(8)}"
        staging.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            lock = os.open(staging, _FOLDER)
            with suppress(OSError):  # Not every file system has locks.
                fcntl.flock(lock, fcntl.LOCK_EX)
            if staging.exists():
                return staging, lock
            os.close(lock)  # Taken for remains between the lines above: try again.


def _remove_remains(parent: Path) -> None:
    """Remove the staging folders of processes that were killed: nobody holds their lock."""
    for name in filter(_STAGING.fullmatch, os.listdir(parent)):
        with suppress(OSError):
            lock = os.open(parent / name, _FOLDER)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(parent / name, ignore_errors=True)
            finally:
                os.close(lock)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn errors of the operating system into a `StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "The disk has no room for it. Free some space and try again"
        elif error.errno == errno.ENAMETOOLONG:
            advice = "A name in it is longer than this file system allows"
        elif error.errno == errno.EEXIST:
            advice = "A file is in the way, or the file system takes two names for the same"
        else:
            advice = f"{error.strerror or error}. Check the folder and its permissions"
        raise StoreError(f"{target} could not be written; nothing was. {advice}.") from error
