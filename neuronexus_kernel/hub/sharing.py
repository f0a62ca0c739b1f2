"""The hub's public content, brought to an IPFS node and kept by a pinning service, by itself.

What goes abroad is decided by visibility: a public root with its parts, as `reach` tells them to a
visitor who is not signed in.  A document goes as its one block.  What it links to may be for the
project or sealed; where it is public it is a root itself, and goes as such.  The node pins files
and folders with all below them, and documents alone.

A pinning service is asked once the node has a root, and fetches it from there.  It keeps all below
a root: so it is not asked to keep documents of which not all that they lead to is public.

A node or a service that is down costs nothing and delays nobody: two couriers bring there, in the
background, what waits in an outbox each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from neuronexus_kernel.content import CID
from neuronexus_kernel.content.cid import DAG_CBOR, RAW
from neuronexus_kernel.hub.courier import Check, Courier, Deliver
from neuronexus_kernel.storage.dag import key_of, links_of
from neuronexus_kernel.storage.interface import BlockReader
from neuronexus_kernel.storage.kubo import KuboStore
from neuronexus_kernel.storage.outbox import Outbox
from neuronexus_kernel.storage.pinning import PinningService, Status

NAME = "neuronexus"
"""Of the pins on the node and at the service."""

_FOLDER = "sharing"
_PLACES = {"node": "IPFS node", "service": "pinning service"}
"""Where it is brought to: the folder of what waits, and what it is called."""
_UNDER_WAY = (Status.QUEUED, Status.PINNING, Status.PINNED)
_MOST_ORIGINS = 20

Roots = Callable[[], Iterable[CID]]

_log = logging.getLogger(__name__)


class Sharing:
    """Brings what is public to a node, and has a service keep it.

    Parameters
    ----------
    home
        The hub's folder.
    public
        Returns all public roots.
    blocks
        What everybody may read.
    node, service
        Where it is brought to.  Either may be None; a service can do nothing without a node.
    sync
        Whether what waits survives a power failure.
    """

    def __init__(
        self,
        home: Path,
        public: Roots,
        blocks: BlockReader,
        node: KuboStore | None,
        service: PinningService | None,
        *,
        sync: bool = True,
    ) -> None:
        self._couriers: list[Courier] = []
        if node is None:
            if service is not None:
                _log.warning(
                    "NEURONEXUS_PINNING is set and NEURONEXUS_IPFS is not: nothing is pinned by "
                    "the service, which would fetch it from an IPFS node."
                )
            return

        def courier(
            name: str, deliver: Deliver, lacking: Roots, break_off: Callable[[], None]
        ) -> Courier:
            outbox = Outbox(home / _FOLDER / name, sync=sync)
            return Courier(_PLACES[name], outbox, deliver, lacking, break_off)

        self._node = _Node(node, public, blocks)
        self._couriers = [courier("node", self._bring, self._node.lacking, node.close)]
        if service is not None:
            kept = _Service(service, node, public, blocks)
            self._couriers += [courier("service", kept.deliver, kept.lacking, kept.close)]

    @classmethod
    def configured(
        cls,
        home: Path,
        public: Roots,
        blocks: BlockReader,
        *,
        sync: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> Sharing:
        """Share with the node and the service that the environment names, if it names any.

        Parameters
        ----------
        home, public, blocks, sync
            As above.
        environment
            See `Endpoint.of_node` and `PinningService.configured`.
        """
        node = KuboStore.configured(environment)
        # An outbox has patience enough.
        service = PinningService.configured(environment, patience=0.0)
        return cls(home, public, blocks, node, service, sync=sync)

    @property
    def at_work(self) -> bool:
        """Whether something is on its way."""
        return any(courier.at_work for courier in self._couriers)

    def note(self, root: CID) -> None:
        """Take up a root that is public from now on; returns at once."""
        for courier in self._couriers[:1]:
            courier.note(root)

    def start(self) -> None:
        """Begin to bring there what the node and the service lack, until it is closed."""
        for courier in self._couriers:
            courier.start()

    def close(self) -> None:
        """Break off; what is not done yet is done after the next start."""
        for courier in self._couriers:
            courier.close()

    def _bring(self, root: CID, check: Check) -> None:
        self._node.deliver(root, check)
        for courier in self._couriers[1:]:
            courier.note(root)


def waiting(home: Path) -> dict[str, int]:
    """Return how many roots of the hub in a folder wait, and for what."""
    folder = home / _FOLDER
    return {
        place: len(Outbox(folder / name))
        for name, place in _PLACES.items()
        if (folder / name).is_dir()
    }


class _Node:
    """Brings public roots to a node."""

    def __init__(self, node: KuboStore, public: Roots, blocks: BlockReader) -> None:
        self._node = node
        self._public = public
        self._blocks = blocks

    def deliver(self, root: CID, check: Check) -> None:
        """Send a root with its parts, and have it pinned."""

        def fetch(cid: CID) -> bytes:
            check()
            return self._blocks.block(cid)

        self._node.push(fetch, root, name=NAME, follow=False)

    def lacking(self) -> Iterable[CID]:
        """Return the public roots that the node does not keep."""
        lacking = _by_key(self._public())
        for pin in self._node.pins():
            root = lacking.get(key_of(pin.cid))
            if root is not None and (pin.recursive or root.codec == DAG_CBOR):
                del lacking[key_of(root)]
        return lacking.values()


class _Service:
    """Asks a service to keep public roots."""

    def __init__(
        self, service: PinningService, node: KuboStore, public: Roots, blocks: BlockReader
    ) -> None:
        self._service = service
        self._node = node
        self._public = public
        self._blocks = blocks

    def deliver(self, root: CID, check: Check) -> None:
        """Ask for a root once, if the service can fetch all below it.

        What the node does not have is asked for when it has been brought there.
        """
        is_asked = any(self._service.pins(cids=[root], statuses=_UNDER_WAY))
        if is_asked or not self._leads_to_public_only(root, check):
            return
        if self._node.has_block(root):
            origins = self._node.identity().addresses[:_MOST_ORIGINS]
            self._service.add(root, name=NAME, origins=origins)

    def lacking(self) -> Iterable[CID]:
        """Return the public roots that the service was not asked for."""
        lacking = _by_key(self._public())
        for pin in self._service.pins(statuses=_UNDER_WAY):
            lacking.pop(key_of(pin.cid), None)
        return lacking.values()

    def close(self) -> None:
        """Break off what is under way."""
        self._service.close()
        self._node.close()

    def _leads_to_public_only(self, root: CID, check: Check) -> bool:
        todo, seen = [root], {key_of(root)}
        while todo:
            check()
            cid = todo.pop()
            if not self._blocks.has_block(cid):
                return False
            below = [] if cid.codec == RAW else links_of(cid, self._blocks.block(cid))
            todo += [link for link in below if key_of(link) not in seen]
            seen.update(map(key_of, below))
        return True


def _by_key(roots: Iterable[CID]) -> dict[bytes, CID]:
    return {key_of(root): root for root in roots}
