"""Reading from trustless gateways: another hub, an IPFS node, or a public service.

A gateway is asked for one block at a time (https://specs.ipfs.tech/http-gateways/trustless-gateway/)
and believed in nothing: every block is checked against its CID, is at most 2 MiB, and comes in a
bounded time.  Which blocks a file or folder has is found out here, from blocks that were checked.
Several gateways stand in for one another; one that fails rests for a while, longer each time.
Nothing is fetched but what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, NoReturn

from neuronexus_kernel.content.cid import CID, IDENTITY
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import ContentError, InvalidInputError, NotFoundError, StoreError
from neuronexus_kernel.storage.distant import DistantStore
from neuronexus_kernel.storage.gateways import Gateway, Gateways, Patience
from neuronexus_kernel.storage.interface import (
    Address,
    BlockReader,
    Pin,
    Put,
    Source,
)

__all__ = ["Gateway", "GatewayStore", "Patience"]


class GatewayStore(DistantStore):
    """A `ContentStore` that only reads, from one or more trustless gateways.

    Parameters
    ----------
    gateways
        Addresses, the preferred one first.
    token
        For one gateway alone; give several ones as `Gateway` with a token each.
    cache
        Where blocks are looked for first.
    keep
        Takes each block that was fetched, in the order in which they come.
    parallel
        How many blocks are fetched at the same time.
    patience
        How long to wait.

    Raises
    ------
    InvalidInputError
        If there is no gateway, or an address is none.
    """

    def __init__(
        self,
        gateways: str | Gateway | Sequence[str | Gateway],
        *,
        token: str | None = None,
        cache: BlockReader | None = None,
        keep: Put | None = None,
        parallel: int = 8,
        patience: Patience | None = None,
    ) -> None:
        given = [gateways] if isinstance(gateways, (str, Gateway)) else list(gateways)
        if not given:
            raise InvalidInputError("A GatewayStore needs at least one address.")
        if token is not None and (len(given) > 1 or isinstance(given[0], Gateway)):
            raise InvalidInputError(
                "A token belongs to one gateway: write Gateway(address, token) for each."
            )
        if parallel < 1:
            raise InvalidInputError(f"parallel is at least 1, not {parallel!r}.")
        self._gateways = Gateways(
            [each if isinstance(each, Gateway) else Gateway(each, token) for each in given],
            patience=patience or Patience(),
            connections=parallel,
        )
        super().__init__(parallel=parallel)
        self._cache = cache
        self._keep = keep

    def __repr__(self) -> str:
        return f"GatewayStore({self._gateways.addresses!r})"

    def close(self) -> None:
        """Let go of the connections."""
        self._gateways.close()

    # -- blocks -----------------------------------------------------------------------------

    def block(self, cid: CID) -> bytes:
        """Return a verified block; see `BlockReader.block`."""
        cached = self._cached(cid)
        if cached is not None:
            return cached
        block = self._gateways.block(cid)
        if self._keep is not None:
            self._keep(cid, block)
        return block

    def has_block(self, cid: CID) -> bool:
        """Tell whether a gateway says that it has a block; nothing is verified by that."""
        if self._cache is not None and self._cache.has_block(cid):
            return True
        if cid.hash_code == IDENTITY:
            return True
        return self._gateways.has_block(cid)

    # -- what a gateway cannot do -----------------------------------------------------------

    def add(self, data: Source, **options: object) -> NoReturn:
        """Refuse: a gateway is only read."""
        raise _only_read("add content")

    def put_node(self, node: Node, *, name: str = "", pin: bool = True) -> NoReturn:
        """Refuse: a gateway is only read."""
        raise _only_read("add a document")

    def import_car(self, stream: BinaryIO, **options: object) -> NoReturn:
        """Refuse: a gateway is only read."""
        raise _only_read("import a CAR file")

    def pin(self, address: Address, *, name: str = "", recursive: bool = True) -> NoReturn:
        """Refuse: a gateway promises nothing."""
        raise _only_read("pin content")

    def unpin(self, address: Address, *, name: str | None = None) -> NoReturn:
        """Refuse: a gateway promises nothing."""
        raise _only_read("unpin content")

    def pins(self) -> Iterator[Pin]:
        """Give nothing: a gateway promises nothing."""
        return iter(())

    # -- asking -----------------------------------------------------------------------------

    def _cached(self, cid: CID) -> bytes | None:
        if cid.hash_code == IDENTITY:
            return cid.digest
        try:
            cid.matches(b"")
        except ContentError as error:
            raise StoreError(f"{cid} cannot be verified, so it is not fetched: {error}") from None
        if self._cache is None or not self._cache.has_block(cid):
            return None
        try:
            return self._cache.block(cid)
        except (NotFoundError, StoreError):
            return None


def _only_read(what: str) -> StoreError:
    return StoreError(f"Gateways are only read: use a LocalStore or a node to {what}.")
