"""From files, folders and streams to blocks, and to the CID that Kubo would give them.

A folder is read as Kubo reads it: entries sorted by the bytes of their names, those whose names
begin with a dot left out unless they are asked for, empty folders kept, symlinks kept as symlinks.
A path that is named itself is followed if it is a symlink, as `open` does; below it nothing is:
every entry is opened relative to the folder it was listed in and never through a symlink, so a
tree that is changed meanwhile cannot lead out of itself.  A file that changes while it is read is
noticed.  Files are read in constant memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from neuronexus_kernel.content import dagpb
from neuronexus_kernel.content.chunks import Bytes, chunks_from, chunks_of
from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.content.directory import build_folder, symlink
from neuronexus_kernel.content.unixfs import (
    V1,
    Built,
    Profile,
    build_file,
    build_leaf,
    profile_named,
)
from neuronexus_kernel.errors import ConflictError, InvalidInputError, NotFoundError
from neuronexus_kernel.storage.interface import Progress, Put, Source

MAX_DEPTH = 128
"""Folders within folders, as many as `exporter` writes."""

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_BELOW = _READ | os.O_NOFOLLOW


def cid_of(data: Source, *, profile: str = V1.name, hidden: bool = False) -> CID:
    """Return the CID that `ContentStore.add` would give, without keeping anything.

    Parameters
    ----------
    data
        Bytes, the path of a file or folder, or a stream in binary mode.
    profile
        ``"unixfs-v1-2025"`` or ``"unixfs-v0-2015"``.
    hidden
        Whether a folder's entries whose names begin with a dot count too.

    Raises
    ------
    NotFoundError
        If there is nothing at the path.
    InvalidInputError
        If `data` is none of these, or holds something that is neither file, folder nor symlink.
    ConflictError
        If a file changed while it was read.
    """
    return add_tree(data, None, profile=profile, hidden=hidden)


def add_tree(
    data: Source,
    put: Put | None,
    *,
    profile: str = V1.name,
    hidden: bool = False,
    progress: Progress | None = None,
) -> CID:
    """Make the blocks of some content.

    Parameters
    ----------
    data, profile, hidden
        As in `cid_of`.
    put
        Called with every block, links after what they link to and the root last; None only
        computes the CID.
    progress
        Told of the bytes that were read.

    Raises
    ------
    NotFoundError, InvalidInputError, ConflictError
        As in `cid_of`.
    """
    tree = _Tree(put, profile_named(profile), hidden, progress)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return tree.file(chunks_of(data, tree.profile.chunk)).cid
    if isinstance(data, Path):
        return tree.path(data).cid
    if hasattr(data, "read"):
        return tree.file(chunks_from(data, tree.profile.chunk)).cid
    raise InvalidInputError(
        f"A store takes bytes, a pathlib.Path or a binary stream, not {type(data).__name__}."
    )


class _Tree:
    """One import: where the blocks go, and how they are made."""

    def __init__(
        self, put: Put | None, profile: Profile, hidden: bool, progress: Progress | None
    ) -> None:
        self.profile = profile
        self._put = put
        self._hidden = hidden
        self._progress = progress

    def file(self, chunks: Iterator[Bytes]) -> Built:
        """Build a file of its chunks."""
        told = chunks if self._progress is None else self._telling(chunks, self._progress)
        return build_file(told, self._put, self.profile)

    def path(self, path: Path) -> Built:
        """Build the file or folder at a path."""
        with _Readable(path):
            handle = os.open(path, _READ)
        return self._opened(handle, path, "", 0)

    def _folder(self, handle: int, path: Path, depth: int) -> Built:
        if depth == MAX_DEPTH:
            raise InvalidInputError(f"{path} lies deeper than {MAX_DEPTH} folders; move it up.")
        with _Readable(path), os.scandir(handle) as listing:
            found = [one for one in listing if self._hidden or not one.name.startswith(".")]
        found.sort(key=_name_of)
        return build_folder(
            [self._entry(one, handle, path, depth) for one in found], self._put, self.profile
        )

    def _entry(self, entry: os.DirEntry[str], folder: int, path: Path, depth: int) -> dagpb.Link:
        """Build one entry of an open folder, and return the link to it."""
        name = entry.name
        if not name.isascii():
            _check_text(path, name)
        if entry.is_symlink():
            with _Readable(path, name):
                target = os.readlink(name, dir_fd=folder)
            return symlink(os.fsencode(target), self._put, self.profile).link(name)
        if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
            raise _special(path / name)
        with _Readable(path, name):
            handle = os.open(name, _BELOW, dir_fd=folder)
        return self._opened(handle, path, name, depth + 1).link(name)

    def _opened(self, handle: int, path: Path, name: str, depth: int) -> Built:
        """Build what was opened, and close it."""
        try:
            about = os.fstat(handle)
            if stat.S_ISREG(about.st_mode):
                return self._opened_file(handle, path, name, about)
            if stat.S_ISDIR(about.st_mode):
                return self._folder(handle, path / name, depth)
        finally:
            os.close(handle)
        raise _special(path / name)

    def _opened_file(self, handle: int, path: Path, name: str, before: os.stat_result) -> Built:
        size = before.st_size
        if size <= self.profile.chunk:
            with _Readable(path, name):
                # A byte more than there should be: what comes then was not there before.
                whole = os.read(handle, size + 1)
            built = build_leaf(whole[: self.profile.chunk], self._put, self.profile)
            read = len(whole)
            if self._progress:
                self._progress(read)
        else:
            built = self.file(self._chunks(handle, path, name))
            read = built.size
        after = os.fstat(handle)
        if not read == size == after.st_size or after.st_mtime_ns != before.st_mtime_ns:
            raise ConflictError(
                f"{path / name} changed while it was read. Add it again when nobody writes to it."
            )
        return built

    def _chunks(self, handle: int, path: Path, name: str) -> Iterator[memoryview]:
        with open(handle, "rb", buffering=0, closefd=False) as stream:
            chunks = chunks_from(stream, self.profile.chunk)
            while True:
                with _Readable(path, name):
                    chunk = next(chunks, None)
                if chunk is None:
                    return
                yield chunk

    @staticmethod
    def _telling(chunks: Iterator[Bytes], progress: Progress) -> Iterator[Bytes]:
        for chunk in chunks:
            yield chunk
            progress(len(chunk))


class _Readable:
    """Explains errors of the operating system that come while something is read.

    A class, as it stands around every file of a folder, and those can be many and small.

    Parameters
    ----------
    path
        Of a file or folder.
    name
        Of an entry of the folder at `path`, which was listed just now, and so was there.
    """

    __slots__ = ("name", "path")

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        path = self.path / self.name
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise InvalidInputError(f"{path} cannot be read: {error.strerror or error}.") from error
        if self.name:
            raise ConflictError(f"{path} went away while its folder was read. Try again.") from None
        raise NotFoundError(f"There is no file or folder {path}.") from None


def _check_text(path: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(
            f"The name {os.fsencode(name)!r} in {path} is not UTF-8. Rename it first."
        ) from None


def _special(path: Path) -> InvalidInputError:
    return InvalidInputError(
        f"{path} is neither a file, a folder nor a symlink; only these can be added."
    )


def _name_of(entry: os.DirEntry[str]) -> str:
    return entry.name
