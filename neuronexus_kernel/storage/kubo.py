"""Content on an IPFS node: Kubo, or whatever speaks its RPC, on this computer or hosted.

Files are cut into blocks here and sent as a CAR file, leaves first: so a CID depends neither on the
node's settings nor on its version, and a cut connection leaves no root behind.  A node that takes
no CAR files, as some hosted ones do not, is given one block at a time.  All that is read is checked
block by block.  What the node does not have it looks for in its network, for as long as it is told
to; `has_block` asks for what is on the node alone.

A node keeps less about pins than a `LocalStore`: one name for each root (from Kubo 0.27 on), and
not when they were made.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any, BinaryIO

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.cid import CID, CODECS, DAG_CBOR, IDENTITY, SHA2_256, SHA2_512
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import NotFoundError, StoreError
from neuronexus_kernel.storage import car, dag, importer
from neuronexus_kernel.storage.dag import Fetch, key_of
from neuronexus_kernel.storage.distant import DistantStore
from neuronexus_kernel.storage.endpoints import Endpoint
from neuronexus_kernel.storage.files import MAX_BLOCK
from neuronexus_kernel.storage.interface import (
    Address,
    Pin,
    Progress,
    Source,
)
from neuronexus_kernel.storage.node_answers import (
    Identity,
    Peer,
    Repository,
    identity_in,
    key_in,
    peers_in,
    pins_in,
    repository_in,
    root_in,
)
from neuronexus_kernel.storage.rpc import Message, Rpc
from neuronexus_kernel.storage.sending import Spool, leaves_first

__all__ = ["Identity", "KuboStore", "Peer", "Repository"]

_LONGEST_NAME = 255
_HASHES = {SHA2_256: "sha2-256", SHA2_512: "sha2-512"}


class KuboStore(DistantStore):
    """A `ContentStore` on an IPFS node.

    Parameters
    ----------
    node
        Where its RPC answers: a URL or multiaddr, or an `Endpoint` with credentials.
    seconds
        How long a command may take, and how long the node may be silent while content travels.
    search
        How many seconds the node may look in its network for a block that it does not have.
    parallel
        How many blocks are fetched at the same time.
    """

    def __init__(
        self,
        node: Endpoint | str,
        *,
        seconds: float = 60.0,
        search: float = 10.0,
        parallel: int = 8,
    ) -> None:
        super().__init__(parallel=parallel)
        self._endpoint = node if isinstance(node, Endpoint) else Endpoint.parse(node)
        self._rpc = Rpc(self._endpoint, seconds=seconds)
        self._seconds = seconds
        self._search = search
        self._takes_cars: bool | None = None

    @classmethod
    def configured(cls, environment: Mapping[str, str] | None = None) -> KuboStore | None:
        """Return the node that the environment names, or None if it names none.

        Parameters
        ----------
        environment
            See `Endpoint.of_node`.
        """
        endpoint = Endpoint.of_node(environment=environment)
        return cls(endpoint) if endpoint else None

    def __repr__(self) -> str:
        return f"KuboStore({self._endpoint.url!r})"

    def close(self) -> None:
        """Break off what is under way, and let go of the connections."""
        self._rpc.close()

    # -- blocks -----------------------------------------------------------------------------

    def block(self, cid: CID) -> bytes:
        """Return a verified block, of the node or of its network; see `BlockReader.block`."""
        if cid.hash_code == IDENTITY:
            return cid.digest
        if cid.hash_code not in _HASHES:
            raise StoreError(f"The hash function 0x{cid.hash_code:x} of {cid} cannot be verified.")
        try:
            block = self._rpc.read("block/get", str(cid), limit=MAX_BLOCK, search=self._search)
        except NotFoundError:
            raise self._absent(cid) from None
        if not cid.matches(block):
            raise StoreError(
                f"The node at {self._endpoint} gave other bytes for {cid}; they were thrown away."
            )
        return block

    def has_block(self, cid: CID) -> bool:
        """Tell whether the node itself has a block; see `BlockReader.has_block`."""
        if cid.hash_code == IDENTITY:
            return True
        try:
            self._rpc.ask("block/stat", str(cid), search=self._search, offline="true")
        except NotFoundError:
            return False
        return True

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
        """Keep a file or a folder on the node; see `ContentStore.add`."""
        with Spool() as spool:
            root = importer.add_tree(
                data, spool.put, profile=profile, hidden=hidden, progress=progress
            )
            self.push(spool.block, root, pin=pin, name=name)
        return root

    def put_node(self, node: Node, *, name: str = "", pin: bool = True) -> CID:
        """Keep a document; see `ContentStore.put_node`.

        It is pinned with all that it links to if that is on the node, else alone.
        """
        block = dagcbor.encode(node)
        cid = CID.of(block, DAG_CBOR)
        with Spool() as spool:
            spool.put(cid, block)
            self.push(spool.block, cid, pin=pin, name=name)
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
        with Spool() as spool:
            roots = car.import_car(stream, spool.put, reader=self, progress=progress)
            for root in roots:
                self.push(_either(spool, self), root, pin=pin, name=name)
        return roots

    def push(
        self, fetch: Fetch, root: CID, *, pin: bool = True, name: str = "", follow: bool = True
    ) -> None:
        """Send content that lies elsewhere; what the node has and keeps already is not sent.

        Parameters
        ----------
        fetch
            Returns a verified block.
        root
            What to send.
        pin, name
            As in `add`.
        follow
            Whether what documents link to is sent as well, as far as `fetch` has it.  Otherwise a
            document goes alone and is kept alone: to keep more the node would look for more.

        Raises
        ------
        NotFoundError
            If `fetch` does not have the root.
        StoreError
            If content is incomplete or malformed, or the node does not take it.
        StoreUnavailable
            If the node cannot be reached, or breaks off; then it has no root that is not whole.
        """
        name = _short(name)
        known = self._pin_of(root)
        if known is not None and known.recursive:
            if pin and name and known.name != name:
                self._keep(root, name, recursive=True)
            return
        links = dag.links_of if follow else dag.parts_of
        elsewhere: list[CID] = []
        ends: list[CID] = []
        blocks = leaves_first(fetch, root, links=links, elsewhere=elsewhere)
        if not follow:
            blocks = _noting(blocks, ends)
        # Documents may name what lies elsewhere: a node would look for that, perhaps for long.
        self._send(root, blocks, pin=pin and follow and root.codec != DAG_CBOR)
        if not pin:
            if not self.has_block(root):
                raise self._lost(root)
            return
        try:
            if not ends:
                self._keep(root, name, recursive=all(map(self.has_block, elsewhere)))
                return
            for cid, _ in leaves_first(fetch, root, links=links):
                self._keep(cid, name, recursive=False)
        except NotFoundError:
            raise self._lost(root) from None

    # -- pins -------------------------------------------------------------------------------

    def pin(self, address: Address, *, name: str = "", recursive: bool = True) -> Pin:
        """Have the node keep content; what it lacks of it, it fetches from its network.

        Raises
        ------
        NotFoundError
            If the root is nowhere to be found, or nothing more of it comes for a while.
        """
        root = self.resolve(address)
        self.block(root)
        self._keep(root, _short(name), recursive=recursive)
        return Pin(root, name, recursive, "")

    def unpin(self, address: Address, *, name: str | None = None) -> None:
        """Take a promise back; see `ContentStore.unpin`."""
        root = self.resolve(address)
        known = self._pin_of(root)
        if known is None or (name is not None and _short(name) != known.name):
            under = f" under the name {name!r}" if name is not None else ""
            raise NotFoundError(f"The node at {self._endpoint} has no pin of {root}{under}.")
        self._rpc.ask("pin/rm", str(root), recursive=_flag(known.recursive))

    def pins(self) -> Iterator[Pin]:
        """Give all pins, in no order: the node does not tell when they were made."""
        for kind in ("recursive", "direct"):
            for message in self._rpc.follow("pin/ls", type=kind, names="true", stream="true"):
                yield from pins_in(message)

    # -- the node ---------------------------------------------------------------------------

    def identity(self) -> Identity:
        """Return who the node is."""
        return identity_in(self._rpc.ask("id"))

    def peers(self) -> list[Peer]:
        """Return the nodes that this one is connected with."""
        return peers_in(self._rpc.ask("swarm/peers"))

    def repository(self) -> Repository:
        """Return how much lies on the node."""
        return repository_in(self._rpc.ask("repo/stat", size_only="true"))

    # -- sending ----------------------------------------------------------------------------

    def _send(self, root: CID, blocks: Iterator[dag.Block], *, pin: bool) -> None:
        if self._takes_cars is None:
            self._takes_cars = self._rpc.offers("dag/import")
        if self._takes_cars:
            self._send_car(root, blocks, pin=pin)
        else:
            self._send_blocks(blocks)

    def _send_car(self, root: CID, blocks: Iterator[dag.Block], *, pin: bool) -> None:
        """Send blocks as one CAR file, and read what the node says of its root."""
        answer = self._rpc.send(
            "dag/import", car.encode_car([root], blocks), pin_roots=_flag(pin), silent="false"
        )
        taken = False
        for cid, problem in map(root_in, answer):
            if problem:
                raise StoreError(
                    f"The node at {self._endpoint} took {root} and could not pin it: "
                    f"{self._endpoint.hide(problem)}."
                )
            taken = taken or (cid is not None and key_of(cid) == key_of(root))
        if pin and not taken:
            raise self._lost(root)

    def _send_blocks(self, blocks: Iterator[dag.Block]) -> None:
        """Send blocks one by one, some at the same time, and the last one last."""
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="nx-send") as pool:
            while group := list(islice(blocks, 2 * self._parallel)):
                *others, last = group
                for _ in pool.map(self._send_block, others):
                    pass
                self._send_block(last)

    def _send_block(self, each: dag.Block) -> None:
        """Send one block, and see that the node gives it the same name."""
        cid, block = each
        answer = self._rpc.send(
            "block/put",
            [block],
            cid_codec=CODECS[cid.codec],
            mhtype=_HASHES[cid.hash_code],
            pin="false",
        )
        named = key_in(answer)
        if named is None or named.digest != cid.digest:
            raise StoreError(f"The node at {self._endpoint} keeps {cid} under another name.")

    def _keep(self, root: CID, name: str, *, recursive: bool) -> None:
        """Pin; the node tells meanwhile how much it has walked over, and must get on."""
        options: dict[str, Any] = {"recursive": _flag(recursive)}
        if name:
            options["name"] = name
        try:
            with closing(
                self._rpc.follow("pin/add", str(root), progress="true", **options)
            ) as messages:
                is_kept = self._await_pin(root, messages)
            if not is_kept:
                # A node that has told of its progress says what went wrong in a trailer, which
                # HTTP clients throw away.  Asked once more, it says so in its answer.
                self._rpc.ask("pin/add", str(root), offline="true", **options)
        except NotFoundError:
            raise self._absent(root, "all of ", self._search) from None
        except StoreError as error:
            # A stronger promise was made before, and holds.
            if recursive or "already pinned recursively" not in str(error):
                raise

    def _await_pin(self, root: CID, messages: Iterator[Message]) -> bool:
        """Follow what a node tells while it pins; return whether it did."""
        is_kept = False
        done, deadline = -1, time.monotonic() + self._seconds
        for message in messages:
            is_kept = is_kept or bool(message.get("Pins"))
            if message.get("Progress", 0) != done:
                done, deadline = message.get("Progress", 0), time.monotonic() + self._seconds
            elif time.monotonic() > deadline and not is_kept:
                raise self._absent(root, "all of ", self._seconds)
        return is_kept

    def _pin_of(self, root: CID) -> Pin | None:
        """Return the node's pin of a root itself; what another one keeps alive is not meant."""
        for kind in ("recursive", "direct"):
            try:
                answer = self._rpc.ask("pin/ls", str(root), type=kind, names="true")
            except NotFoundError:
                continue
            for message in answer:
                for pin in pins_in(message):
                    if key_of(pin.cid) == key_of(root):
                        return pin
        return None

    # -- answers ----------------------------------------------------------------------------

    def _absent(self, cid: CID, what: str = "", seconds: float | None = None) -> NotFoundError:
        seconds = self._search if seconds is None else seconds
        return NotFoundError(
            f"The node at {self._endpoint} does not have {what}{cid}, and did not find it in its "
            f"network within {seconds:g} seconds. Check the CID, or add the content first."
        )

    def _lost(self, root: CID) -> StoreError:
        return StoreError(
            f"The node at {self._endpoint} took {root} and does not have it. Is its disk full?"
        )


def _either(spool: Spool, store: KuboStore) -> Fetch:
    return lambda cid: (spool if spool.has_block(cid) else store).block(cid)


def _noting(blocks: Iterator[dag.Block], ends: list[CID]) -> Iterator[dag.Block]:
    """Give blocks on, and note the documents that link to others."""
    for cid, block in blocks:
        if cid.codec == DAG_CBOR and dag.links_of(cid, block):
            ends.append(cid)
        yield cid, block


def _short(name: str) -> str:
    """Return as much of a name as a node takes."""
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def _flag(value: bool) -> str:
    return "true" if value else "false"
