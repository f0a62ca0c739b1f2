"""Large objects on their way to the hub: they arrive in parts, and a broken connection costs one.

An upload is a file in the hub's folder that grows at its end, beside a note of what it will be.
How far it has come is the file's size, which survives the end of the process: whoever sends asks
for it and goes on from there.  When all is here, the file streams into the content store, and the
note keeps the root that came of it, for a sender who did not hear the answer.  What nobody goes
on with is removed after a day.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from neuronexus_kernel.content import is_id, new_id
from neuronexus_kernel.errors import ConflictError, InvalidInputError, NotFoundError, QuotaError
from neuronexus_kernel.hub.records import Account, NewUpload, Root, Upload
from neuronexus_kernel.storage.files import explained

LIFETIME = 24 * 3600.0
"""Seconds after which an upload that nobody goes on with is removed."""

PER_ACCOUNT = 8
"""The most unfinished uploads of one account."""

IN_ALL = 64
"""The most unfinished uploads of all accounts: so many of the largest objects may wait on disk."""

Put = Callable[[BinaryIO, NewUpload], Root]
"""Stores a stream as it was announced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Note:
    """What is kept beside the bytes."""

    owner: str
    new: NewUpload
    root: Root | None = None


class Uploads:
    """The unfinished uploads of one hub.

    Parameters
    ----------
    folder
        Where they lie; made if there is none.
    limit
        Bytes of the largest object that the hub accepts.
    sync
        Whether what was taken survives a power failure.
    """

    def __init__(self, folder: Path, *, limit: int, sync: bool = True) -> None:
        self._folder = folder
        self._limit = limit
        self._sync = sync
        with explained(folder, "cannot be made"):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.sweep()

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._folder

    def begin(self, actor: Account, new: NewUpload) -> Upload:
        """Announce an object; see `Upload`.

        Raises
        ------
        QuotaError
            If it is larger than the hub accepts, or too many uploads are unfinished.
        """
        if new.size is not None and not 0 <= new.size <= self._limit:
            raise QuotaError(
                f"The object has {new.size:,} bytes; this hub accepts {self._limit:,} at most."
            )
        self.sweep()
        open_ones = [note for note in self._notes() if note.root is None]
        mine = sum(note.owner == actor.name for note in open_ones)
        if mine >= PER_ACCOUNT or len(open_ones) >= IN_ALL:
            raise QuotaError(
                f"You have {mine} unfinished uploads, and the hub has {len(open_ones)}; at most "
                f"{PER_ACCOUNT} and {IN_ALL} may be. Finish or cancel some; they end by themselves "
                f"after {LIFETIME / 3600:g} hours."
            )
        upload = new_id()
        with explained(self._folder):
            os.close(os.open(self._part(upload), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self._write(upload, _Note(owner=actor.name, new=new))
        return self.find(actor, upload)

    def find(self, actor: Account, upload: str) -> Upload:
        """Return how far an upload has come.

        Raises
        ------
        NotFoundError
            If the account has no such upload.
        """
        return self._record(upload, self._note(actor, upload))

    def append(self, actor: Account, upload: str, offset: int, data: bytes) -> Upload:
        """Add bytes at the end of an upload.

        Parameters
        ----------
        offset
            How many bytes there must be before these.

        Raises
        ------
        ConflictError
            If there are more or fewer; or all are here already; or another request adds some.
        QuotaError
            If it becomes larger than was announced, or than the hub accepts.
        """
        note = self._note(actor, upload)
        with self._alone(upload) as part:
            size = os.fstat(part).st_size
            if note.root is not None or offset != size:
                raise ConflictError(
                    f"The upload has {size} bytes, not {offset}; ask how far it is and go on there."
                )
            most = self._limit if note.new.size is None else note.new.size
            if size + len(data) > most:
                raise QuotaError(f"The upload would have more than its {most:,} bytes.")
            with explained(self._folder):
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(part, rest) :]
        return self._record(upload, note)

    def settle(self, actor: Account, upload: str) -> Upload:
        """Have what was added on disk, so that it outlives a power failure."""
        note = self._note(actor, upload)
        if self._sync and note.root is None:
            with self._alone(upload) as part, explained(self._folder):
                os.fsync(part)
        return self._record(upload, note)

    def finish(self, actor: Account, upload: str, put: Put) -> Root:
        """Store an upload that is complete; a second time returns the same root.

        Raises
        ------
        ConflictError
            If bytes are missing, or another request stores it just now.
        """
        note = self._note(actor, upload)
        if note.root is not None:
            return note.root
        with self._alone(upload) as part:
            size = os.fstat(part).st_size
            if note.new.size not in (None, size):
                raise ConflictError(
                    f"The upload has {size} of its {note.new.size} bytes; send the rest first."
                )
            with open(self._part(upload), "rb") as stream:
                root = put(stream, note.new)
            self._write(upload, replace(note, root=root))
            os.truncate(part, 0)
        return root

    def cancel(self, actor: Account, upload: str) -> None:
        """Remove an upload, finished or not; what was stored of it stays."""
        self._note(actor, upload)
        self._remove(upload)

    def sweep(self) -> None:
        """Remove what nobody goes on with."""
        oldest = time.time() - LIFETIME
        for path in self._folder.glob("*.json"):
            with suppress(OSError):
                if max(path.stat().st_mtime, self._part(path.stem).stat().st_mtime) < oldest:
                    self._remove(path.stem)
        for path in (*self._folder.glob("*.part"), *self._folder.glob("*.new")):
            # A process that was killed between the two files of one upload leaves one of them.
            with suppress(OSError):
                if path.stat().st_mtime < oldest and not path.with_suffix(".json").exists():
                    path.unlink()

    # -- files ------------------------------------------------------------------------------

    def _part(self, upload: str) -> Path:
        return self._folder / f"{upload}.part"

    def _notes(self) -> Iterator[_Note]:
        for path in self._folder.glob("*.json"):
            with suppress(OSError, msgspec.MsgspecError):
                yield msgspec.json.decode(path.read_bytes(), type=_Note)

    def _note(self, actor: Account, upload: str) -> _Note:
        # Only an id may become part of a path.
        with suppress(OSError, msgspec.MsgspecError):
            if is_id(upload):
                content = (self._folder / f"{upload}.json").read_bytes()
                note = msgspec.json.decode(content, type=_Note)
                if note.owner == actor.name:
                    return note
        raise NotFoundError(f"You have no upload {upload!r}; it may have ended. Begin again.")

    def _write(self, upload: str, note: _Note) -> None:
        new = self._folder / f"{upload}.new"
        new.write_bytes(msgspec.json.encode(note))
        new.replace(self._folder / f"{upload}.json")

    def _remove(self, upload: str) -> None:
        for name in (f"{upload}.json", f"{upload}.part"):
            (self._folder / name).unlink(missing_ok=True)

    def _record(self, upload: str, note: _Note) -> Upload:
        try:
            about = self._part(upload).stat()
        except OSError:
            raise NotFoundError(f"The upload {upload} has ended. Begin again.") from None
        expires = datetime.fromtimestamp(about.st_mtime + LIFETIME, UTC)
        return Upload(
            id=upload,
            offset=about.st_size if note.root is None else note.root.size,
            size=note.new.size,
            complete=note.root is not None,
            expires=expires.isoformat(timespec="seconds").replace("+00:00", "Z"),
        )

    @contextmanager
    def _alone(self, upload: str) -> Iterator[int]:
        """Open the bytes of an upload for one request, of any process, at a time."""
        try:
            part = os.open(self._part(upload), os.O_RDWR | os.O_APPEND)
        except OSError:
            raise NotFoundError(f"The upload {upload} has ended. Begin again.") from None
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield part
        except BlockingIOError:
            raise ConflictError(
                "Another request is at work on this upload; ask how far it is in a moment."
            ) from None
        finally:
            os.close(part)


class OwnUploads:
    """One account's uploads.

    Parameters
    ----------
    uploads
        Those of the hub.
    actor
        The account.
    put
        Stores a finished one for it.
    """

    def __init__(self, uploads: Uploads, actor: Account, put: Put) -> None:
        self._uploads = uploads
        self._actor = actor
        self._put = put

    def begin(self, new: NewUpload) -> Upload:
        """See `Uploads.begin`."""
        if new.codec not in ("file", "dag-cbor", "car"):
            raise InvalidInputError(f"codec is 'file', 'dag-cbor' or 'car', not {new.codec!r}.")
        return self._uploads.begin(self._actor, new)

    def find(self, upload: str) -> Upload:
        """See `Uploads.find`."""
        return self._uploads.find(self._actor, upload)

    def append(self, upload: str, offset: int, data: bytes) -> Upload:
        """See `Uploads.append`."""
        return self._uploads.append(self._actor, upload, offset, data)

    def settle(self, upload: str) -> Upload:
        """See `Uploads.settle`."""
        return self._uploads.settle(self._actor, upload)

    def finish(self, upload: str) -> Root:
        """See `Uploads.finish`."""
        return self._uploads.finish(self._actor, upload, self._put)

    def cancel(self, upload: str) -> None:
        """See `Uploads.cancel`."""
        self._uploads.cancel(self._actor, upload)
