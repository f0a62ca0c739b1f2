"""Content in a store of this computer and on a node: written to both, read from the nearest.

What is added is safe here when that returns, and is pushed to the node: at once if that answers,
else later, and until then it waits in an `Outbox`.  So work goes on when the node is down, and
nothing is forgotten.  What is read and not here comes from the node and stays here, so that it is
near the next time; what is corrupt or missing here is fetched again.

A store tells by its root block whether it has some content, as that is written last.  So of what is
read in parts only blocks without parts are kept, and roots only when all below them is here.

What travels to the node is there for whoever asks.  A store that also holds what is not for
everybody, such as that of a hub, sends only what is added to it as a file or a folder; what a hub
itself brings to a node is decided by `hub.sharing`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.cid import CID, DAG_CBOR
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import (
    ContentError,
    ForbiddenError,
    NotFoundError,
    QuotaError,
    StoreError,
    StoreUnavailable,
)
from neuronexus_kernel.storage import car, dag
from neuronexus_kernel.storage.ahead import fetching_ahead
from neuronexus_kernel.storage.dag import Fetch, Links, key_of
from neuronexus_kernel.storage.distant import DistantStore
from neuronexus_kernel.storage.interface import (
    Address,
    ContentStore,
    Entry,
    Pin,
    Progress,
    Source,
)
from neuronexus_kernel.storage.kubo import KuboStore
from neuronexus_kernel.storage.outbox import Action, Outbox, Pushed, Task
from neuronexus_kernel.storage.sending import stream_of
from neuronexus_kernel.storage.store import LocalStore

T = TypeVar("T")

_SILENCE = 5.0
"""Seconds for which a node that did not answer is not asked for content again."""


class Remote(ContentStore, Protocol):
    """A store elsewhere that takes content from here, such as a `KuboStore`."""

    def push(
        self, fetch: Fetch, root: CID, *, pin: bool = True, name: str = "", follow: bool = True
    ) -> None:
        """Take some content, whose blocks `fetch` returns; see `KuboStore.push`."""
        ...


class ReplicatedStore(DistantStore):
    """A `ContentStore` here whose content is also brought to a node.

    Parameters
    ----------
    local
        The store of this computer.
    node
        Where the content is brought to, and where what is not here is looked for.
    outbox
        What waits to be brought there.
    push
        Whether to push when something was added; otherwise somebody calls `push` now and then.
    only_added
        Whether only files and folders that are added travel to the node, and not what is pinned
        or imported here, nor what documents link to: for a store with content that is not public.
    parallel
        How many blocks are fetched at the same time.
    """

    def __init__(
        self,
        local: ContentStore,
        node: Remote,
        outbox: Outbox,
        *,
        push: bool = True,
        only_added: bool = False,
        parallel: int = 8,
    ) -> None:
        super().__init__(parallel=parallel)
        self._local = local
        self._node = node
        self._outbox = outbox
        self._pushes = push
        self._only_added = only_added
        self._silent_until = 0.0
        self._silence = ""

    def __repr__(self) -> str:
        return f"ReplicatedStore({self._local!r}, {self._node!r})"

    @property
    def local(self) -> ContentStore:
        """The store of this computer."""
        return self._local

    @property
    def node(self) -> Remote:
        """The node."""
        return self._node

    # -- blocks -----------------------------------------------------------------------------

    def block(self, cid: CID) -> bytes:
        """Return a verified block, of here or else of the node; see `BlockReader.block`."""
        block = self._near(cid)
        if block is None:
            block = self._ask(lambda node: node.block(cid))
            self._keep(cid, block)
        return block

    def has_block(self, cid: CID) -> bool:
        """Tell whether a block is here or on the node, as far as that answers."""
        if self._local.has_block(cid):
            return True
        try:
            return self._ask(lambda node: node.has_block(cid))
        except StoreUnavailable:
            return False

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
        """Keep a file or a folder here, and bring it to the node; see `ContentStore.add`."""
        root = self._local.add(
            data, profile=profile, name=name, pin=pin, hidden=hidden, progress=progress
        )
        self._send([root], pin=pin, name=name, is_added=True)
        return root

    def put_node(self, node: Node, *, name: str = "", pin: bool = True) -> CID:
        """Keep a document here, and bring it to the node; see `ContentStore.put_node`."""
        root = self._local.put_node(node, name=name, pin=pin)
        self._send([root], pin=pin, name=name)
        return root

    def import_car(
        self,
        stream: BinaryIO,
        *,
        name: str = "",
        pin: bool = True,
        progress: Progress | None = None,
    ) -> list[CID]:
        """Take in a CAR file, and bring its roots to the node; see `ContentStore.import_car`."""
        roots = self._local.import_car(stream, name=name, pin=pin, progress=progress)
        self._send(roots, pin=pin, name=name)
        return roots

    # -- out --------------------------------------------------------------------------------

    def get(self, address: Address) -> bytes:
        """Return the whole content, verified; see `ContentStore.get`."""
        root = self.resolve(address, follow=True)
        return self._whole(root, lambda store: store.get(root), dag.parts_of)

    def open(self, address: Address) -> BinaryIO:
        """Return a stream of a file; see `ContentStore.open`.

        Of a file that is not here, only those blocks are fetched that are read.
        """
        root = self.resolve(address, follow=True)
        return self._local.open(root) if self._local.has(root) else super().open(root)

    def get_node(self, address: Address) -> Node:
        """Return the document of a DAG-CBOR CID; see `ContentStore.get_node`."""
        root = self.resolve(address)
        if root.codec != DAG_CBOR or self._near(root) is not None:
            return self._local.get_node(root)
        return super().get_node(root)

    def ls(self, address: Address) -> list[Entry]:
        """Return the entries of a folder, sorted by name; see `ContentStore.ls`."""
        root = self.resolve(address, follow=True)
        try:
            return self._local.ls(root)
        except (NotFoundError, StoreError):
            return super().ls(root)

    def download(self, address: Address, target: Path, *, progress: Progress | None = None) -> Path:
        """Write a file or a folder to disk; see `ContentStore.download`."""
        root = self.resolve(address, follow=True)
        return self._whole(
            root, lambda store: store.download(root, target, progress=progress), dag.parts_of
        )

    # -- about ------------------------------------------------------------------------------

    def has(self, address: Address) -> bool:
        """Tell whether the content is here or on the node, as far as that answers."""
        try:
            return self.has_block(self.resolve(address))
        except (NotFoundError, StoreUnavailable):
            return False

    # -- pins -------------------------------------------------------------------------------

    def pin(self, address: Address, *, name: str = "", recursive: bool = True) -> Pin:
        """Promise to keep content, here and on the node; what is not here is fetched.

        A promise to keep one block alone is made here only.
        """
        root = self.resolve(address)
        try:
            pin = self._local.pin(root, name=name, recursive=recursive)
        except (NotFoundError, StoreError):
            self._bring(root, dag.links_of if recursive else _nothing)
            pin = self._local.pin(root, name=name, recursive=recursive)
        if recursive:
            self._send([root], pin=True, name=name)
        return pin

    def unpin(self, address: Address, *, name: str | None = None) -> None:
        """Take a promise back, here and, with the last one of a root, on the node."""
        root = self.resolve(address)
        self._local.unpin(root, name=name)
        left = self._pins_of(root)
        if left:
            self._send([root], pin=True, name=left[-1].name)
        else:
            self._outbox.put(root, Action.DROP)
            self._push_what_is_due()

    def pins(self) -> Iterator[Pin]:
        """Give all pins, the oldest first; see `ContentStore.pins`."""
        return self._local.pins()

    # -- the node ---------------------------------------------------------------------------

    def push(self, *, due: bool = False) -> Pushed:
        """Bring to the node what waits for it.

        Parameters
        ----------
        due
            Only try what does not rest after an attempt that failed; for whoever does this
            regularly.
        """
        return self._outbox.push(self._deliver, due=due)

    def waiting(self) -> list[Task]:
        """Return what waits to be brought to the node, the oldest first."""
        return self._outbox.waiting()

    def reconcile(self) -> int:
        """Compare the pins here with those of the node, and queue what it lacks.

        For a node that is new, or has lost something.

        Returns
        -------
        int
            How many roots were queued; `push` brings them there.

        Raises
        ------
        ForbiddenError
            If only what is added travels to the node: the pins do not tell what that was.
        """
        if self._only_added:
            raise ForbiddenError(
                "Not all that is pinned here may go to the node. Add what is yours once more."
            )
        there = {key_of(pin.cid) for pin in self._node.pins()}
        lacking = {
            key_of(pin.cid): pin
            for pin in self._local.pins()
            if pin.recursive and key_of(pin.cid) not in there
        }
        for pin in lacking.values():
            self._outbox.put(pin.cid, Action.KEEP, name=pin.name)
        return len(lacking)

    # -- to the node ------------------------------------------------------------------------

    def _send(
        self, roots: Sequence[CID], *, pin: bool, name: str = "", is_added: bool = False
    ) -> None:
        if self._only_added and not is_added:
            return
        for root in roots:
            self._outbox.put(root, Action.KEEP if pin else Action.SEND, name=name)
        self._push_what_is_due()

    def _push_what_is_due(self) -> None:
        if self._pushes:
            self.push(due=True)

    def _deliver(self, task: Task) -> None:
        """Carry out a task; see `Outbox.push` for what it raises."""
        if task.action == Action.DROP:
            if not self._pins_of(task.root):  # It may have been pinned again meanwhile.
                with suppress(NotFoundError):
                    self._node.unpin(task.root)
            return
        if not self._local.has_block(task.root):
            raise NotFoundError(
                f"{task.root} is not here any more, so that it is not brought to the node."
            )
        try:
            self._node.push(
                self._local.block,
                task.root,
                pin=task.action == Action.KEEP,
                name=task.name,
                follow=not self._only_added,
            )
        except NotFoundError as error:
            raise StoreError(str(error)) from None

    def _pins_of(self, root: CID) -> list[Pin]:
        return [pin for pin in self._local.pins() if key_of(pin.cid) == key_of(root)]

    # -- from the node ----------------------------------------------------------------------

    def _near(self, cid: CID) -> bytes | None:
        """Return a block that is here and right."""
        try:
            return self._local.block(cid)
        except (NotFoundError, StoreError):
            return None

    def _ask(self, question: Callable[[Remote], T]) -> T:
        """Ask the node, unless it did not answer just now."""
        if time.monotonic() < self._silent_until:
            raise StoreUnavailable(self._silence)
        try:
            answer = question(self._node)
        except StoreUnavailable as error:
            self._silence = str(error)
            self._silent_until = time.monotonic() + _SILENCE
            raise
        except NotFoundError:
            self._outbox.awake()  # It has answered.
            raise
        self._outbox.awake()
        return answer

    def _whole(self, root: CID, read: Callable[[ContentStore], T], links: Links) -> T:
        """Read content from here, after it was brought here if need be."""
        try:
            return read(self._local)
        except (NotFoundError, StoreError) as error:
            here = error
        try:
            self._bring(root, links)
        except (StoreUnavailable, NotFoundError):
            if isinstance(here, StoreError):
                raise here from None  # It is corrupt here, and nowhere else.
            raise
        except (StoreError, QuotaError):
            return self._ask(read)  # It cannot be kept here, but perhaps be read.
        return read(self._local)

    def _bring(self, root: CID, links: Links) -> None:
        """Fetch all blocks of some content that are not here, and keep them together."""
        fetched: set[bytes] = set()

        def fetch(cid: CID) -> bytes:
            block = self._near(cid)
            if block is None:
                block = self._ask(lambda node: node.block(cid))
                fetched.add(key_of(cid))
            return block

        if root.codec == DAG_CBOR and links is not dag.links_of:
            self._keep(root, fetch(root))
            return

        def follow(cid: CID, block: bytes) -> list[tuple[CID, dag.Follow]]:
            return [(link, follow) for link in links(cid, block)]

        with fetching_ahead(fetch, links, self._parallel, once=True) as ahead:
            walk = dag.Walk(ahead).blocks(root, follow)
            missing = (each for each in walk if key_of(each[0]) in fetched)
            self._local.import_car(stream_of(car.encode_car([root], missing)), pin=False)

    def _keep(self, cid: CID, block: bytes) -> None:
        """Keep a block from the node, if it has no parts that might be missing here."""
        # What cannot be kept, as the disk is full, say, has been read all the same.
        with suppress(StoreError, QuotaError, ContentError):
            if cid.codec == DAG_CBOR:
                self._local.put_node(dagcbor.decode(block), pin=False)
            elif not dag.links_of(cid, block):
                self._local.import_car(stream_of(car.encode_car([cid], [(cid, block)])), pin=False)


def with_node(
    local: LocalStore,
    *,
    only_added: bool = False,
    environment: Mapping[str, str] | None = None,
) -> LocalStore | ReplicatedStore:
    """Return a store together with the node that the environment names, if it names one.

    Parameters
    ----------
    local
        The store of this computer.
    only_added
        See `ReplicatedStore`.
    environment
        See `Endpoint.of_node`.
    """
    node = KuboStore.configured(environment)
    if node is None:
        return local
    return ReplicatedStore(local, node, Outbox(local.root / "outbox"), only_added=only_added)


def _nothing(cid: CID, block: bytes) -> list[CID]:
    return []
