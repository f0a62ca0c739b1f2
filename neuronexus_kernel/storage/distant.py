"""Reading from places where every block takes a while, such as a gateway or an IPFS node.

All that such a store has to know is how to get one block.  Several are asked for at the same time,
and ahead of what needs them.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import NotFoundError
from neuronexus_kernel.storage import car, dag, exporter, folders, unixfs
from neuronexus_kernel.storage.ahead import fetching_ahead, list_ahead
from neuronexus_kernel.storage.interface import Address, Entry, Progress, Stat


class DistantStore(ABC):
    """What a `ContentStore` can tell and give, from single blocks.

    Parameters
    ----------
    parallel
        How many blocks are fetched at the same time.
    """

    def __init__(self, *, parallel: int) -> None:
        self._parallel = parallel

    # -- blocks -----------------------------------------------------------------------------

    @abstractmethod
    def block(self, cid: CID) -> bytes:
        """Return a verified block; see `BlockReader.block`."""

    @abstractmethod
    def has_block(self, cid: CID) -> bool:
        """Tell whether there is a block; see `BlockReader.has_block`."""

    # -- out --------------------------------------------------------------------------------

    def get(self, address: Address) -> bytes:
        """Return the whole content, verified; see `ContentStore.get`."""
        cid = self.resolve(address, follow=True)
        return unixfs.content(self.block, cid, ahead=self._parallel)

    def open(self, address: Address) -> BinaryIO:
        """Return a stream of a file, which fetches the blocks that are read and no others."""
        return io.BufferedReader(unixfs.FileReader(self.block, self.resolve(address, follow=True)))

    def get_node(self, address: Address) -> Node:
        """Return the document of a DAG-CBOR CID; see `ContentStore.get_node`."""
        return dag.document(self.block, self.resolve(address))

    def ls(self, address: Address) -> list[Entry]:
        """Return the entries of a folder, sorted by name; see `ContentStore.ls`."""
        return list_ahead(self.block, self.resolve(address, follow=True), self._parallel)

    def download(self, address: Address, target: Path, *, progress: Progress | None = None) -> Path:
        """Write a file or a folder to disk; see `ContentStore.download`."""
        cid = self.resolve(address, follow=True)
        with fetching_ahead(self.block, dag.parts_of, self._parallel) as fetch:
            return exporter.download(fetch, cid, target, progress=progress)

    def export_car(
        self,
        roots: Sequence[Address],
        stream: BinaryIO,
        *,
        version: int = 1,
        progress: Progress | None = None,
    ) -> int:
        """Write all blocks of some roots as a CAR file; see `ContentStore.export_car`."""
        cids = [self.resolve(root) for root in roots]
        with fetching_ahead(self.block, dag.links_of, self._parallel, once=True) as fetch:
            return car.write_car(fetch, cids, stream, version=version, progress=progress)

    # -- about ------------------------------------------------------------------------------

    def has(self, address: Address) -> bool:
        """Tell whether the root block is there; see `ContentStore.has`."""
        try:
            return self.has_block(self.resolve(address))
        except NotFoundError:
            return False

    def size(self, address: Address) -> int:
        """Return the bytes that `get` would give; see `ContentStore.size`."""
        return unixfs.size_of(self.block, self.resolve(address, follow=True))

    def stat(self, address: Address) -> Stat:
        """Return what the root block tells; see `ContentStore.stat`."""
        return folders.stat(self.block, self.resolve(address))

    def resolve(self, address: Address, *, follow: bool = False) -> CID:
        """Return the CID that an address leads to; see `ContentStore.resolve`."""
        return folders.resolve(self.block, address, follow=follow)
