"""The seams of the content store: what every place that keeps content can do.

Code that keeps content asks for a `ContentStore` and does not know whether the bytes lie in a
folder (`LocalStore`), on an IPFS node (`KuboStore`) or behind a gateway (`GatewayStore`, which only
reads).  Below it lies one smaller seam: `BlockReader` and `Put`, a source and a sink of verified
blocks.  UnixFS, CAR files and the walk through a DAG are functions over that seam, so that they are
written once for all stores.

A store knows nothing of visibility: whoever keeps sealed content keeps a second store for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.content.dagcbor import Node

Address: TypeAlias = "CID | str"
"""A CID, its text, or its text and a path below it: ``bafy.../folder/file.txt``."""

Source: TypeAlias = "bytes | bytearray | memoryview | Path | BinaryIO"
"""What can be added: bytes, a file or folder by its path, or a stream in binary mode."""

Put: TypeAlias = Callable[[CID, "bytes | memoryview"], None]
"""Takes a block, after all blocks that it links to; it may not keep the memory itself."""

Progress: TypeAlias = Callable[[int], object]
"""Told how many bytes of content were done since the last call."""


class Kind(StrEnum):
    """What lies at an address."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"
    DOCUMENT = "document"
    """A DAG-CBOR document."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a folder.

    Attributes
    ----------
    name
        Within the folder.
    cid, kind
        What it is.
    size
        Bytes of a file or document, of a symlink's target; of a folder those of all its blocks.
    """

    name: str
    cid: CID
    kind: Kind
    size: int


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of an address from its root block alone.

    Attributes
    ----------
    cid, kind
        What it is.
    size
        As in `Entry`.
    total
        Bytes of its blocks, its own included; a block that occurs twice counts twice.
    """

    cid: CID
    kind: Kind
    size: int
    total: int


@dataclass(frozen=True, slots=True)
class Pin:
    """A promise to keep content.

    Attributes
    ----------
    cid
        The root.
    name
        For people; one root may be pinned under several names.
    recursive
        Whether all that lies below the root is kept too.
    created
        UTC time in ISO form.
    """

    cid: CID
    name: str
    recursive: bool
    created: str


class BlockReader(Protocol):
    """A source of blocks."""

    def block(self, cid: CID) -> bytes:
        """Return the bytes of a block, checked against its CID.

        Raises
        ------
        NotFoundError
            If it is not here.
        StoreError
            If what is here is something else, or larger than a block may be.
        StoreUnavailable
            If the place cannot be asked.
        """
        ...

    def has_block(self, cid: CID) -> bool:
        """Tell whether a block is here, without reading it."""
        ...


class ContentStore(BlockReader, Protocol):
    """Where content lies.  Every implementation gives the same CID for the same content.

    All methods raise `ContentError` for text that is no CID, `NotFoundError` for content that is
    not here, `StoreError` for a block that is corrupt, malformed or cannot be written, and
    `StoreUnavailable` if the place cannot be reached.  All may be called from several threads.
    """

    # -- in ---------------------------------------------------------------------------------

    def add(
        self,
        data: Source,
        *,
        profile: str = "unixfs-v1-2025",
        name: str = "",
        pin: bool = True,
        hidden: bool = False,
        progress: Progress | None = None,
    ) -> CID:
        """Keep a file or a folder; when this returns, it is safe.

        Parameters
        ----------
        data
            Bytes, the path of a file or folder, or a stream, read to the end in constant memory.
        profile
            ``"unixfs-v1-2025"`` or ``"unixfs-v0-2015"`` of IPIP-499: decides the CID.
        name
            Name of the pin.
        pin
            Whether to pin the root, recursively.
        hidden
            Whether a folder's entries whose names begin with a dot are added too.
        progress
            Told of the bytes that were read.

        Raises
        ------
        StoreError, QuotaError
            If it cannot be written (a full disk, say); then nothing of it was kept.
        NotFoundError
            If there is nothing at the path.
        InvalidInputError
            If it cannot be read, or holds something that is neither file, folder nor symlink.
        ConflictError
            If a file changed while it was read.
        """
        ...

    def put_node(self, node: Node, *, name: str = "", pin: bool = True) -> CID:
        """Keep a document as canonical DAG-CBOR, at most 2 MiB of it; `name` is that of the pin."""
        ...

    def import_car(
        self,
        stream: BinaryIO,
        *,
        name: str = "",
        pin: bool = True,
        progress: Progress | None = None,
    ) -> list[CID]:
        """Take in a CAR file (version 1 or 2), every block verified; return its roots.

        Parameters
        ----------
        stream
            The file.
        name
            Name of the pins.
        pin
            Whether to pin each root, recursively.
        progress
            Told of the bytes that were read.

        Raises
        ------
        StoreError
            If it is malformed, a block does not match its CID, or a root is incomplete; then
            nothing of it was kept.
        """
        ...

    # -- out --------------------------------------------------------------------------------

    def get(self, address: Address) -> bytes:
        """Return the whole content, verified: a file, or the bytes of a DAG-CBOR block."""
        ...

    def open(self, address: Address) -> BinaryIO:
        """Return a stream of a file with ``seek``; it reads and verifies block by block."""
        ...

    def get_node(self, address: Address) -> Node:
        """Return the document of a DAG-CBOR CID."""
        ...

    def ls(self, address: Address) -> list[Entry]:
        """Return the entries of a folder, sharded or not, sorted by name."""
        ...

    def download(self, address: Address, target: Path, *, progress: Progress | None = None) -> Path:
        """Write a file or a folder to disk; return where.

        Nothing is written outside `target`, through no symlink, and nothing that exists is
        overwritten.  A file appears whole or not at all.
        """
        ...

    def export_car(
        self,
        roots: Sequence[Address],
        stream: BinaryIO,
        *,
        version: int = 1,
        progress: Progress | None = None,
    ) -> int:
        """Write all blocks of some roots as a CAR file; return how many bytes."""
        ...

    # -- about ------------------------------------------------------------------------------

    def has(self, address: Address) -> bool:
        """Tell whether the content is here: its root block is, and it is written last."""
        ...

    def size(self, address: Address) -> int:
        """Return the bytes that `get` would give, reading only the root block."""
        ...

    def stat(self, address: Address) -> Stat:
        """Return what is known of the content from its root block."""
        ...

    def resolve(self, address: Address, *, follow: bool = False) -> CID:
        """Return the CID that an address with a path leads to.

        Symlinks on the path are followed while they stay below the root; the last name is if
        `follow` says so, as `get`, `open`, `size`, `ls` and `download` do.
        """
        ...

    # -- pins -------------------------------------------------------------------------------

    def pin(self, address: Address, *, name: str = "", recursive: bool = True) -> Pin:
        """Promise to keep content that is here, whole; pinning it again changes nothing."""
        ...

    def unpin(self, address: Address, *, name: str | None = None) -> None:
        """Take a promise back: that of one name, or all of the root's.

        Raises
        ------
        NotFoundError
            If there is no such pin.
        """
        ...

    def pins(self) -> Iterator[Pin]:
        """Give all pins, the oldest first."""
        ...
