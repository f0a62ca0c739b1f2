"""Getting a public file once, whole, from whichever mirror has it.

What arrives is kept in a ``.part`` file of its mirror, so a cut download goes on where it
stopped, today or tomorrow; the file gets its name only after its content matched its SHA-256.
The digest is that of the unzipped content, because mirrors compress the same file differently.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from neuronexus_kernel.errors import DatasetError

if TYPE_CHECKING:
    import requests

ATTEMPTS = 3
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces
_PIECE = 64 * 1024
_SLACK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A gzip file that mirrors offer.

    Attributes
    ----------
    name
        File name, the same on every mirror.
    sha256
        Digest of the unzipped content, in hex.
    size
        Bytes of the unzipped content.
    """

    name: str
    sha256: str
    size: int


class _Interrupted(Exception):
    """A mirror stopped in the middle; asking again may help."""


class _Refused(Exception):
    """A mirror does not have the file, or has another one."""


def load(file: RemoteFile, folder: Path, *, mirrors: Sequence[str], progress: bool = True) -> bytes:
    """Return the unzipped content of a file in `folder`, downloading it first if it is missing.

    Raises
    ------
    DatasetError
        If the file there holds something else, no mirror gives it, or it cannot be written.
    """
    path = folder / file.name
    if path.exists():
        return _content_of(path, file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            # Another process may have brought it while we waited for the lock.
            if not path.exists():
                return _download(file, folder, mirrors, progress)
    except OSError as error:
        raise DatasetError(
            f"{file.name} could not be written to {folder}: {error.strerror or error}. Make room "
            "there, or set NEURONEXUS_DATA to a folder that can be written to."
        ) from error
    return _content_of(path, file)


def _content_of(path: Path, file: RemoteFile) -> bytes:
    try:
        content = _unzip(path, file)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}.") from error
    if content is None:
        raise DatasetError(
            f"{path} is damaged or another file: its content does not have the SHA-256 "
            f"{file.sha256}. Delete it, and it will be downloaded anew."
        )
    return content


def _unzip(path: Path, file: RemoteFile) -> bytes | None:
    """Return the content, or None if it is not that of `file`; unzips no more than its size."""
    unzip = zlib.decompressobj(wbits=31)
    try:
        content = unzip.decompress(path.read_bytes(), file.size + 1)
    except zlib.error:
        return None
    matches = len(content) == file.size and hashlib.sha256(content).hexdigest() == file.sha256
    return content if matches else None


def _download(file: RemoteFile, folder: Path, mirrors: Sequence[str], progress: bool) -> bytes:
    problems: list[str] = []
    for mirror in mirrors:
        url = mirror.rstrip("/") + "/" + file.name
        part = folder / f"{file.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"
        try:
            content = _from_mirror(url, file, part, progress)
        except (_Interrupted, _Refused) as problem:
            problems.append(f"{url}: {problem}")
            if isinstance(problem, _Refused) or part.stat().st_size == 0:
                part.unlink()
            continue
        os.replace(part, folder / file.name)
        for other in folder.glob(f"{file.name}.*.part"):
            other.unlink()
        return content
    tried = "; ".join(problems) or "no mirror was given"
    raise DatasetError(
        f"{file.name} could not be downloaded ({tried}). Check the connection and try again, "
        f"which goes on where it stopped, or put the file into {folder} yourself."
    )


def _from_mirror(url: str, file: RemoteFile, part: Path, progress: bool) -> bytes:
    """Bring the part file to completion, with a few attempts; return the checked content."""
    with part.open("a+b") as target:
        for attempt in range(1, ATTEMPTS + 1):
            resumed = target.seek(0, os.SEEK_END)
            try:
                _receive(url, file, target, progress)
            except _Interrupted:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(0.2 * attempt)
                continue
            content = _unzip(part, file)
            if content is not None:
                return content
            target.truncate(0)
            if not resumed:
                break
            # The beginning came from an earlier try and may be what is wrong: once more, whole.
    raise _Refused("it gives another file (wrong SHA-256)")


def _receive(url: str, file: RemoteFile, target: BinaryIO, progress: bool) -> None:
    """Append to `target` what it lacks of the file."""
    import requests

    have = target.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # There is no more of it: what we have is whole, or wrong.
            if response.status_code >= 400:
                kind = _Interrupted if response.status_code >= 500 else _Refused
                raise kind(f"it answers {response.status_code} {response.reason}")
            if not _continues(response, have):
                have = 0
                target.truncate(0)
            _copy(response, file, target, have=have, progress=progress)
    except requests.RequestException as error:
        raise _Interrupted(f"{type(error).__name__}: {error}") from None
    finally:
        target.flush()


def _continues(response: requests.Response, have: int) -> bool:
    """Tell whether the answer is the part that was asked for, not the whole file."""
    told = response.headers.get("Content-Range", "")
    return response.status_code == 206 and told.startswith(f"bytes {have}-")


def _copy(
    response: requests.Response, file: RemoteFile, target: BinaryIO, *, have: int, progress: bool
) -> None:
    import urllib3
    from tqdm.auto import tqdm

    length = response.headers.get("Content-Length", "")
    total = have + int(length) if length.isdigit() else None
    bar = tqdm(
        desc=file.name, initial=have, total=total, unit="B", unit_scale=True, disable=not progress
    )
    with bar:
        try:
            for piece in response.raw.stream(_PIECE, decode_content=False):
                have += len(piece)
                if have > file.size + _SLACK:
                    raise _Refused("it gives more bytes than the file has")
                target.write(piece)
                bar.update(len(piece))
        except urllib3.exceptions.HTTPError:
            raise _Interrupted(f"the connection was cut after {have} bytes") from None
    if total is not None and have < total:
        raise _Interrupted(f"the connection was cut after {have} bytes")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time download into the folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
