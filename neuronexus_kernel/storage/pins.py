"""Pins: the promises of a store to keep some content, one small file each.

A pin's file is named by the root, by whether all below it is kept too, and by a hash of the pin's
name: ``<CID>.r.<hash>`` or ``<CID>.d.<hash>``.  What a collector needs to know lies in the file's
name alone, so that a damaged file still keeps its promise.  Inside, as JSON: the CID as it was
given (version 0 or 1), the pin's name, when it was made, the profile that the root was made with,
and what its documents name that was never here.  Files appear whole, by renaming, and are never
changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.errors import ContentError, InvalidInputError
from neuronexus_kernel.storage.blocks import BlockStore
from neuronexus_kernel.storage.files import explained, flush
from neuronexus_kernel.storage.interface import Pin

MAX_NAME = 500
_NAME = re.compile(r"b[a-z2-7]+\.[rd]\.[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Record:
    """A pin and what lies beside it.

    Attributes
    ----------
    pin
        The promise.
    profile
        Of UnixFS, with which the root was made; None where that is not known.
    elsewhere
        What documents below the root link to and the store did not have when they came: that this
        is not here is no fault.
    damaged
        Whether its file cannot be read: then its name and time are not known.
    """

    pin: Pin
    profile: str | None = None
    elsewhere: frozenset[CID] = frozenset()
    damaged: bool = False


class PinBook:
    """All pins of a store.

    Parameters
    ----------
    root
        The store's folder.
    sync
        Whether to flush what is changed.
    """

    def __init__(self, root: Path, *, sync: bool = True) -> None:
        self.folder = root / "pins"
        self._sync = sync

    def entry(self, pin: Pin, *, profile: str | None, elsewhere: Iterable[CID] = ()) -> bytes:
        """Return the bytes of a pin's file."""
        fields = {
            "cid": str(pin.cid),
            "name": pin.name,
            "recursive": pin.recursive,
            "created": pin.created,
            "profile": profile,
            "elsewhere": sorted(map(str, elsewhere)),
        }
        return json.dumps(fields, ensure_ascii=False, indent=1).encode()

    def path_of(self, cid: CID, name: str, recursive: bool) -> Path:
        """Return the file of a pin, whether it exists or not."""
        return self.folder / f"{BlockStore.name_of(cid)}{_ending(name, recursive)}"

    def find(self, cid: CID, name: str) -> Record | None:
        """Return the pin of a root under one name, the recursive one if there are two."""
        for recursive in (True, False):
            record = self.read(self.path_of(cid, name, recursive).name)
            if record is not None:
                return record
        return None

    def of(self, cid: CID) -> list[Record]:
        """Return all pins of a root."""
        start = f"{BlockStore.name_of(cid)}."
        with explained(self.folder, "could not be read"):
            names = sorted(name for name in os.listdir(self.folder) if name.startswith(start))
        found = map(self.read, filter(_NAME.fullmatch, names))
        return [record for record in found if record is not None]

    def records(self) -> list[Record]:
        """Return all pins, the oldest first; a recursive one stands for a direct one."""
        names = self.names()
        weaker = {name.replace(".r.", ".d.") for name in names if ".r." in name}
        found = (self.read(name) for name in names - weaker)
        return sorted(
            (record for record in found if record is not None),
            key=lambda record: (record.pin.created, str(record.pin.cid), record.pin.name),
        )

    def remove(self, record: Record) -> None:
        """Take a promise back, both kinds of it."""
        with explained(self.folder, "could not be changed"):
            for name in self._names_of(record):
                with suppress(FileNotFoundError):
                    os.unlink(self.folder / name)
            if self._sync:
                flush(self.folder)

    def names(self) -> set[str]:
        """Return the names of all pins' files; that of a file that is no pin's is left out."""
        with explained(self.folder, "could not be read"):
            return set(filter(_NAME.fullmatch, os.listdir(self.folder)))

    def kept_whole(self, name: str) -> set[str]:
        """Return the roots that recursive pins of a name keep, as the names of their blocks."""
        ending = _ending(name, True)
        return {file.removesuffix(ending) for file in self.names() if file.endswith(ending)}

    def strays(self) -> Iterator[Path]:
        """Give files that lie among the pins and are none."""
        with explained(self.folder, "could not be read"):
            for name in os.listdir(self.folder):
                if not _NAME.fullmatch(name) or self.promise(name) is None:
                    yield self.folder / name

    @staticmethod
    def promise(name: str) -> tuple[CID, bool] | None:
        """Return the root that a pin's file keeps, and whether recursively; None for no pin."""
        root, kind, _ = name.split(".")
        with suppress(ContentError):
            return CID.parse(root), kind == "r"
        return None

    def _names_of(self, record: Record) -> Iterator[str]:
        pin = record.pin
        if not record.damaged:
            yield self.path_of(pin.cid, pin.name, True).name
            yield self.path_of(pin.cid, pin.name, False).name
            return
        start = f"{BlockStore.name_of(pin.cid)}.{'r' if pin.recursive else 'd'}."
        for name in self.names():
            found = self.read(name) if name.startswith(start) else None
            if found is not None and found.damaged:
                yield name

    def read(self, name: str) -> Record | None:
        """Return the pin of a file; None if there is none."""
        promise = self.promise(name)
        if promise is None:
            return None
        cid, recursive = promise
        record = None
        try:
            record = _decode((self.folder / name).read_bytes(), recursive)
        except FileNotFoundError:
            return None
        except OSError:
            pass  # A disk that cannot read its file: as good as a damaged one.
        if (
            record is not None
            and self.path_of(record.pin.cid, record.pin.name, recursive).name == name
        ):
            return record
        return Record(Pin(cid, "", recursive, ""), damaged=True)


def check_name(name: str) -> str:
    """Return the name of a pin if it may be one.

    Raises
    ------
    InvalidInputError
        If it is no text, or too long.
    """
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise InvalidInputError(f"The name of a pin is text of at most {MAX_NAME} characters.")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidInputError("The name of a pin has no UTF-8 form.") from None
    return name


def _ending(name: str, recursive: bool) -> str:
    """Return how the file of a pin with this name ends."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f".{'r' if recursive else 'd'}.{digest}"


def now() -> str:
    """Return the UTC time in ISO form."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _decode(data: bytes, recursive: bool) -> Record | None:
    try:
        fields = json.loads(data)
        pin = Pin(CID.parse(fields["cid"]), fields["name"], recursive, fields["created"])
        elsewhere = frozenset(CID.parse(each) for each in fields["elsewhere"])
        profile = fields["profile"]
        texts = (pin.name, pin.created, profile or "")
        if fields["recursive"] != recursive or not all(isinstance(text, str) for text in texts):
            return None
        return Record(pin, profile, elsewhere)
    except (ValueError, KeyError, TypeError, ContentError, RecursionError):
        return None
