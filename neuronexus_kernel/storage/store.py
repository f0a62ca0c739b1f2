"""The content store: give bytes, get their address; give the address, get the bytes.

`ContentStore` is the seam: code that keeps content asks for it and does not know whether the
bytes lie in a folder (`LocalStore`) or on an IPFS node.  Files follow the profile
``unixfs-v1-2025`` and documents are canonical DAG-CBOR, so the same content has the same CID in
every store.  A store knows nothing of visibility: whoever keeps sealed content keeps a second
store for it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.cid import CID, CODECS, DAG_CBOR
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.content.unixfs import build, chunks_from, chunks_of
from neuronexus_kernel.errors import (
    ContentError,
    InvalidInputError,
    NotFoundError,
    StoreError,
)
from neuronexus_kernel.storage import unixfs
from neuronexus_kernel.storage.blocks import BlockStore

Source: TypeAlias = "bytes | bytearray | memoryview | Path | BinaryIO"


class ContentStore(Protocol):
    """Where content lies.  Every implementation gives the same CID for the same content.

    All methods take a CID as a `CID` or as its text and raise `ContentError` for text that is
    none, `NotFoundError` for content that is not here, and `StoreError` for a block that is
    corrupt, malformed or cannot be written.  All may be called from several threads.
    """

    def add(self, data: Source) -> CID:
        """Keep a file; when this returns, it is safe on disk.

        Parameters
        ----------
        data
            Its bytes, its path, or a stream in binary mode, read to the end in constant memory.

        Returns
        -------
        CID
            Of a raw block for up to 1 MiB, else of the root of a DAG-PB tree.

        Raises
        ------
        StoreError
            If it cannot be written (a full disk, say); then nothing of it was kept.
        """
        ...

    def get(self, cid: CID | str) -> bytes:
        """Return the whole content, verified: a file, or the bytes of a DAG-CBOR block."""
        ...

    def open(self, cid: CID | str) -> BinaryIO:
        """Return a stream of the content with ``seek``; it reads and verifies block by block."""
        ...

    def put_node(self, node: Node) -> CID:
        """Keep a document as canonical DAG-CBOR; at most 2 MiB of it."""
        ...

    def get_node(self, cid: CID | str) -> Node:
        """Return the document of a DAG-CBOR CID."""
        ...

    def has(self, cid: CID | str) -> bool:
        """Tell whether the content is here: its root block is, and it is written last."""
        ...

    def size(self, cid: CID | str) -> int:
        """Return the bytes that `get` would give, reading only the root block."""
        ...


class LocalStore:
    """A `ContentStore` in a folder of this computer, for many threads and processes at once.

    Parameters
    ----------
    root
        The folder; made if there is none.  What a killed process left half-written in it is
        removed.

    Raises
    ------
    StoreError
        If the folder cannot be used.
    """

    def __init__(self, root: Path | str) -> None:
        self._blocks = BlockStore(Path(root))

    def __repr__(self) -> str:
        return f"LocalStore({str(self._blocks.root)!r})"

    @property
    def root(self) -> Path:
        """The folder that holds the store."""
        return self._blocks.root

    def add(self, data: Source) -> CID:
        """Keep a file; see `ContentStore.add`."""
        with _chunks(data) as chunks, self._blocks.batch() as batch:
            return build(chunks, batch.put)

    def get(self, cid: CID | str) -> bytes:
        """Return the whole content, verified; see `ContentStore.get`."""
        root = CID.parse(cid)
        pieces = unixfs.read(self._blocks.get, root)
        first = next(pieces, b"")
        second = next(pieces, None)
        if second is None:
            return first
        whole = io.BytesIO()
        whole.writelines((first, second))
        whole.writelines(pieces)
        return whole.getvalue()

    def open(self, cid: CID | str) -> BinaryIO:
        """Return a stream of the content; see `ContentStore.open`."""
        return io.BufferedReader(unixfs.FileReader(self._blocks.get, CID.parse(cid)))

    def put_node(self, node: Node) -> CID:
        """Keep a document; see `ContentStore.put_node`."""
        block = dagcbor.encode(node)
        cid = CID.of(block, DAG_CBOR)
        with self._blocks.batch() as batch:
            batch.put(cid, block)
        return cid

    def get_node(self, cid: CID | str) -> Node:
        """Return the document of a DAG-CBOR CID; see `ContentStore.get_node`."""
        root = CID.parse(cid)
        if root.codec != DAG_CBOR:
            kind = CODECS.get(root.codec, f"codec 0x{root.codec:x}")
            raise StoreError(f"{root} is no document but {kind}. Use get() for its bytes.")
        try:
            return dagcbor.decode(self._blocks.get(root))
        except ContentError as error:
            raise StoreError(f"Block {root} is no DAG-CBOR document: {error}") from None

    def has(self, cid: CID | str) -> bool:
        """Tell whether the content is here; see `ContentStore.has`."""
        return self._blocks.has(CID.parse(cid))

    def size(self, cid: CID | str) -> int:
        """Return the bytes that `get` would give; see `ContentStore.size`."""
        return unixfs.size_of(self._blocks.get, CID.parse(cid))


def cid_of(data: Source) -> CID:
    """Return the CID that `ContentStore.add` would give, without keeping anything.

    Parameters
    ----------
    data
        Bytes, a path, or a stream in binary mode.

    Raises
    ------
    NotFoundError
        If there is no file at the path.
    InvalidInputError
        If `data` is none of these, or the path is a folder.
    """
    with _chunks(data) as chunks:
        return build(chunks)


@contextmanager
def _chunks(data: Source) -> Iterator[Iterator[memoryview]]:
    if isinstance(data, (bytes, bytearray, memoryview)):
        yield chunks_of(data)
    elif isinstance(data, Path):
        with _opened(data) as stream:
            yield chunks_from(stream)
    elif hasattr(data, "read"):
        yield chunks_from(data)
    else:
        raise InvalidInputError(
            f"A store takes bytes, a pathlib.Path or a binary stream, not {type(data).__name__}."
        )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        stream = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.") from None
    except IsADirectoryError:
        raise InvalidInputError(f"{path} is a folder; add its files one by one.") from None
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}.") from None
    with stream:
        yield stream
