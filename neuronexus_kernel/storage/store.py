"""`LocalStore`: a content store in a folder of this computer.

Here the parts are put together: blocks on disk (`blocks`, `batch`), pins (`pins`), what is being
read (`reading`), garbage collection (`collect`) and looking through it all (`verify`).  Files and
folders, documents and CAR files are functions over blocks, the same for every store.  The
interface is `interface.ContentStore`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.cid import CID, DAG_CBOR, DAG_PB, RAW
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.content.unixfs import V1
from neuronexus_kernel.errors import NotFoundError, StoreError
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import car, dag, exporter, folders, importer, unixfs, upgrade
from neuronexus_kernel.storage.blocks import Batch, BlockStore
from neuronexus_kernel.storage.collect import Collection, collect
from neuronexus_kernel.storage.copying import copy_store
from neuronexus_kernel.storage.files import explained
from neuronexus_kernel.storage.interface import (
    Address,
    BlockReader,
    Entry,
    Pin,
    Progress,
    Source,
    Stat,
)
from neuronexus_kernel.storage.pins import PinBook, check_name, now
from neuronexus_kernel.storage.reading import Hold
from neuronexus_kernel.storage.threads import shared_threads
from neuronexus_kernel.storage.usage import Usage
from neuronexus_kernel.storage.verify import Verification, verify


class LocalStore:
    """A `ContentStore` in a folder of this computer, for many threads and processes at once.

    Parameters
    ----------
    root
        The folder; made if there is none.  What a killed process left half-written in it is
        removed.  All that is in a store of an earlier version, which had no pins, is pinned.
    settings
        How carefully to write, and how much.

    Raises
    ------
    StoreError
        If the folder cannot be used.
    """

    def __init__(self, root: Path | str, settings: StorageSettings | None = None) -> None:
        root = Path(root)
        with explained(root, "cannot be used as a store"):
            if not (root / "blocks").is_dir():
                # Before the first block, so that this is never taken for an earlier version.
                (root / "pins").mkdir(parents=True, mode=0o700, exist_ok=True)
        self._blocks = BlockStore(root, settings)
        self._ahead = shared_threads() or 0
        self._pins = PinBook(root, sync=self._blocks.sync)
        if not self._pins.folder.is_dir():
            upgrade.adopt(self._blocks, self._pins)

    def __repr__(self) -> str:
        return f"LocalStore({str(self._blocks.root)!r})"

    @property
    def root(self) -> Path:
        """The folder that holds the store."""
        return self._blocks.root

    # -- blocks -----------------------------------------------------------------------------

    def block(self, cid: CID) -> bytes:
        """Return a verified block; see `BlockReader.block`."""
        return self._blocks.get(cid)

    def has_block(self, cid: CID) -> bool:
        """Tell whether a block is here; see `BlockReader.has_block`."""
        return self._blocks.has(cid)

    # -- in ---------------------------------------------------------------------------------

    def add(
        self,
        data: Source,
        *,
        profile: str = V1.name,
        name: str = "",
        pin: bool = True,
        hidden: bool = False,
        progress: Progress | None = None,
    ) -> CID:
        """Keep a file or a folder; see `ContentStore.add`.

        The profile is recorded with the pin; see `profile_of`.
        """
        check_name(name)
        with self._blocks.batch() as batch:
            cid = importer.add_tree(
                data, batch.put, profile=profile, hidden=hidden, progress=progress
            )
            batch.make_roots([cid])
            if pin:
                self._note(batch, cid, name=name, profile=profile)
        return cid

    def put_node(self, node: Node, *, name: str = "", pin: bool = True) -> CID:
        """Keep a document; see `ContentStore.put_node`.

        What it links to and is here, is kept with it.  What is not here may lie elsewhere (a
        receipt names sealed content): it is no fault of this store that it is missing, and the
        pin says so.
        """
        check_name(name)
        block = dagcbor.encode(node)
        cid = CID.of(block, DAG_CBOR)
        with self._blocks.batch() as batch:
            batch.put(cid, block)
            if pin:
                # None may come between looking for the links and pinning the document.
                batch.keep_collectors_away()
                elsewhere = self._elsewhere(dag.links_of(cid, block), name)
                self._note(batch, cid, name=name, elsewhere=frozenset(elsewhere))
        return cid

    def import_car(
        self,
        stream: BinaryIO,
        *,
        name: str = "",
        pin: bool = True,
        progress: Progress | None = None,
    ) -> list[CID]:
        """Take in a CAR file; see `ContentStore.import_car`."""
        check_name(name)
        with self._blocks.batch() as batch:
            roots = car.import_car(stream, batch.put, reader=_Within(batch), progress=progress)
            batch.make_roots(roots)
            if pin:
                for root in dict.fromkeys(roots):
                    self._note(batch, root, name=name)
        return roots

    # -- out --------------------------------------------------------------------------------

    def get(self, address: Address) -> bytes:
        """Return the whole content, verified; see `ContentStore.get`."""
        cid = self.resolve(address, follow=True)
        with self._using(cid):
            return unixfs.content(self._blocks.get, cid, ahead=self._ahead)

    def open(self, address: Address) -> BinaryIO:
        """Return a stream of a file; see `ContentStore.open`.

        Until it is closed, nothing of the file is collected.
        """
        cid = self.resolve(address, follow=True)
        hold = self._blocks.readers.hold(self._blocks.name_of(cid))
        try:
            reader = unixfs.FileReader(self._blocks.get, cid, ahead=self._ahead)
            return _Stream(reader, hold)
        except BaseException:
            hold.release()
            raise

    def get_node(self, address: Address) -> Node:
        """Return the document of a DAG-CBOR CID; see `ContentStore.get_node`."""
        return dag.document(self._blocks.get, self.resolve(address))

    def ls(self, address: Address) -> list[Entry]:
        """Return the entries of a folder, sorted by name; see `ContentStore.ls`."""
        cid = self.resolve(address, follow=True)
        with self._using(cid):
            return list(folders.entries(self._blocks.get, cid))

    def download(self, address: Address, target: Path, *, progress: Progress | None = None) -> Path:
        """Write a file or a folder to disk; see `ContentStore.download`."""
        cid = self.resolve(address, follow=True)
        with self._using(cid):
            return exporter.download(
                self._blocks.get, cid, target, ahead=self._ahead, progress=progress
            )

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
        with ExitStack() as stack:
            for cid in cids:
                stack.enter_context(self._using(cid))
            return car.write_car(self._blocks.get, cids, stream, version=version, progress=progress)

    # -- about ------------------------------------------------------------------------------

    def has(self, address: Address) -> bool:
        """Tell whether the content is here; see `ContentStore.has`."""
        try:
            return self._blocks.has(self.resolve(address))
        except NotFoundError:
            return False

    def size(self, address: Address) -> int:
        """Return the bytes that `get` would give; see `ContentStore.size`."""
        return unixfs.size_of(self._blocks.get, self.resolve(address, follow=True))

    def stat(self, address: Address) -> Stat:
        """Return what is known from the root block; see `ContentStore.stat`."""
        return folders.stat(self._blocks.get, self.resolve(address))

    def resolve(self, address: Address, *, follow: bool = False) -> CID:
        """Return the CID that an address leads to; see `ContentStore.resolve`."""
        root, names = folders.parse(address)
        if not names:
            return root
        with self._using(root):
            return folders.resolve(self._blocks.get, address, follow=follow)

    def profile_of(self, address: Address) -> str | None:
        """Return the UnixFS profile that a pinned root was added with.

        Returns
        -------
        str or None
            None where that is not known: it is not pinned, it is a document, or it came in a CAR
            file or with an earlier version.
        """
        profiles = (record.profile for record in self._pins.of(self.resolve(address)))
        return next(filter(None, profiles), None)

    # -- pins -------------------------------------------------------------------------------

    def pin(self, address: Address, *, name: str = "", recursive: bool = True) -> Pin:
        """Promise to keep content that is here, whole; see `ContentStore.pin`.

        Raises
        ------
        StoreError
            If a block of it is missing, or one that has links is corrupt.
        """
        check_name(name)
        cid = self.resolve(address)
        with self._using(cid, always=True):
            known = self._pins.find(cid, name)
            if known is not None and (known.pin.recursive or not recursive):
                return known.pin
            others = self._pins.of(cid)
            elsewhere = frozenset().union(*(record.elsewhere for record in others))
            self._check_whole(cid, recursive, elsewhere)
            with self._blocks.batch() as batch:
                profile = next((record.profile for record in others if record.profile), None)
                return self._note(
                    batch, cid, name=name, recursive=recursive, profile=profile, elsewhere=elsewhere
                )

    def keep(self, roots: Iterable[CID], *, name: str) -> list[CID]:
        """Pin some roots under a name, unless they are already; return what is not here whole.

        For whoever records roots elsewhere, such as a hub: what it knows of must stay, also if
        somebody took the pins back meanwhile.  As in `put_node`, it is no fault of a document
        that what it links to is not here.
        """
        kept = self._pins.kept_whole(name)
        new = [cid for cid in roots if self._blocks.name_of(cid) not in kept]
        missing = []
        for cid in self._keep_as_well(new, name):
            try:
                self._keep(cid, name)
            except (NotFoundError, StoreError):
                missing.append(cid)
        return missing

    def unpin(self, address: Address, *, name: str | None = None) -> None:
        """Take a promise back; see `ContentStore.unpin`.

        Nothing is removed by that: `collect` does, unless another pin needs it.
        """
        cid = self.resolve(address)
        found = self._pins.of(cid)
        if name is not None:
            found = [record for record in found if record.pin.name == name]
        if not found:
            called = "" if name is None else f" under the name {name!r}"
            raise NotFoundError(f"{cid} is not pinned{called}. `pins()` gives all pins.")
        for record in found:
            self._pins.remove(record)

    def pins(self) -> Iterator[Pin]:
        """Give all pins, the oldest first; see `ContentStore.pins`."""
        return (record.pin for record in self._pins.records())

    # -- housekeeping -----------------------------------------------------------------------

    def collect(self, *, dry_run: bool = False, progress: Progress | None = None) -> Collection:
        """Remove all blocks that no pin needs and nobody uses.

        Others may add and read meanwhile, in this process or another: what is being added or
        read stays.  So does what an ``add(..., pin=False)`` brought after the collection began.

        Parameters
        ----------
        dry_run
            Only tell what would be removed.
        progress
            Told of the bytes that were removed.

        Raises
        ------
        StoreError
            If a pinned root is incomplete or corrupt, so that what it needs is not known; then
            nothing was removed.
        """
        return collect(self._blocks, self._pins, dry_run=dry_run, progress=progress)

    def verify(
        self,
        *,
        repair: Sequence[BlockReader] | None = None,
        progress: Progress | None = None,
    ) -> Verification:
        """Read and hash every block, and see that every pinned root is whole.

        Parameters
        ----------
        repair
            Places to fetch blocks from that are corrupt or missing here, the preferred one first.
            Corrupt files are then moved into the folder ``corrupt``, also where there is no such
            place (an empty list).  None changes nothing.
        progress
            Told of the bytes that were read.
        """
        return verify(self._blocks, self._pins, repair=repair, progress=progress)

    def copy_to(self, other: LocalStore) -> int:
        """Copy all blocks and pins into another, empty store; return how many blocks.

        Others may use this one meanwhile.

        Raises
        ------
        StoreError
            If a block is corrupt, or something cannot be read or written.
        """
        return copy_store(self._blocks, self._pins, other._blocks, other._pins)

    def usage(self) -> Usage:
        """Return how many bytes and blocks are here, and what the quota is."""
        return self._blocks.usage()

    # -- its parts --------------------------------------------------------------------------

    def _keep_as_well(self, roots: Sequence[CID], name: str) -> list[CID]:
        """Pin under a name, all at once, what is pinned without one; return the other roots."""
        others = []
        with self._blocks.batch() as batch:
            batch.keep_collectors_away()
            for cid in roots:
                known = self._pins.find(cid, "")
                if known is None or known.damaged or not known.pin.recursive:
                    others.append(cid)
                else:
                    profile, elsewhere = known.profile, known.elsewhere
                    self._note(batch, cid, name=name, profile=profile, elsewhere=elsewhere)
        return others

    def _keep(self, cid: CID, name: str) -> None:
        try:
            self.pin(cid, name=name)
        except StoreError:
            if cid.codec != DAG_CBOR:
                raise
            self.put_node(self.get_node(cid), name=name)

    @contextmanager
    def _using(self, cid: CID, *, always: bool = False) -> Iterator[None]:
        """Keep what is below a root from being collected; a single block is read at once."""
        if cid.codec != DAG_PB and not always:
            yield
        else:
            with self._blocks.readers.holding(self._blocks.name_of(cid)):
                yield

    def _note(
        self,
        batch: Batch,
        cid: CID,
        *,
        name: str = "",
        recursive: bool = True,
        profile: str | None = None,
        elsewhere: frozenset[CID] = frozenset(),
    ) -> Pin:
        """Have a pin appear with a batch."""
        pin = Pin(cid, name, recursive, now())
        data = self._pins.entry(pin, profile=profile, elsewhere=elsewhere)
        batch.note(self._pins.path_of(cid, name, recursive), data)
        return pin

    def _check_whole(self, root: CID, recursive: bool, elsewhere: frozenset[CID]) -> None:
        """Read all blocks with links below a root, and see that the others are here."""
        todo, seen = [root], set(elsewhere)
        while todo:
            cid = todo.pop()
            if cid in seen:
                continue
            seen.add(cid)
            if not self._blocks.has(cid):
                if cid == root:
                    raise NotFoundError(f"There is no content {cid} in this store to be pinned.")
                raise StoreError(
                    f"{root} is incomplete: its block {cid} is missing. Add the content again, "
                    "or pin the one block with `recursive=False`."
                )
            if recursive and cid.codec != RAW:
                todo.extend(dag.links_of(cid, self._blocks.get(cid)))

    def _elsewhere(self, links: Sequence[CID], name: str) -> set[CID]:
        """Return what is not here of all that documents name, from some links on.

        Where a pin of that name has looked below a document already, it is believed.
        """
        found: set[CID] = set()
        todo, seen = list(links), set()
        while todo:
            cid = todo.pop()
            if cid in seen:
                continue
            seen.add(cid)
            if not self._blocks.has(cid):
                found.add(cid)
            elif cid.codec == DAG_CBOR:
                known = self._pins.find(cid, name)
                if known is not None and known.pin.recursive:
                    found.update(known.elsewhere)  # Its pin has looked below it.
                else:
                    todo.extend(dag.links_of(cid, self._blocks.get(cid)))
        return found


class _Within:
    """The blocks that are here, seen by a batch that relies on those it asks for."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def block(self, cid: CID) -> bytes:
        """Return a verified block."""
        return self._batch.get(cid)

    def has_block(self, cid: CID) -> bool:
        """Tell whether a block is here, and keep it from being collected."""
        return self._batch.keep(cid)


class _Stream(io.BufferedReader):
    """A stream that lets go of what it reads when it is closed."""

    def __init__(self, raw: io.RawIOBase, hold: Hold) -> None:
        super().__init__(raw)
        self._hold = hold

    def close(self) -> None:
        """Close it; a second time does nothing."""
        try:
            super().close()
        finally:
            self._hold.release()
