"""Archives of projects as files: for a notebook, and for the command line."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from neuronexus_kernel.storage.files import appearing, opened

if TYPE_CHECKING:
    from neuronexus_kernel.hub import Hub, records
    from neuronexus_kernel.storage.interface import Progress


def export_project(
    hub: Hub,
    project: str,
    path: Path,
    *,
    sealed: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a whole project into a new file, which appears whole or not at all.

    Parameters
    ----------
    sealed
        With sealed content; the file is for its owner alone then.
    progress
        Told of the bytes that were written.
    """
    with appearing(path, private=sealed) as stream:
        hub.export_project(project, _told(stream, progress), sealed=sealed)
    return path


def import_project(
    hub: Hub, path: Path, *, name: str = "", progress: Progress | None = None
) -> records.Project:
    """Make a project of a file that `export_project` wrote.

    Raises
    ------
    NotFoundError, InvalidInputError
        If there is no file there, or it cannot be read.
    """
    with opened(path) as stream:
        return hub.import_project(_told(stream, progress), name=name)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def _told(stream: BinaryIO, progress: Progress | None) -> BinaryIO:
    return stream if progress is None else _Told(stream, progress)  # type: ignore[return-value]


class _Told(io.BufferedIOBase):
    """A file that tells how far it has come; what is read again does not count."""

    def __init__(self, stream: BinaryIO, progress: Progress) -> None:
        self._stream = stream
        self._progress = progress
        self._furthest = 0

    def read(self, size: int | None = -1) -> bytes:
        data = self._stream.read(-1 if size is None else size)
        self._tell()
        return data

    def write(self, data: bytes) -> int:  # type: ignore[override]
        count = self._stream.write(data)
        self._tell()
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return self._stream.seekable()

    def _tell(self) -> None:
        place = self._stream.tell()
        if place > self._furthest:
            self._progress(place - self._furthest)
            self._furthest = place
