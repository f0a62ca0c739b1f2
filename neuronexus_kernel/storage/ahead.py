"""Blocks fetched before they are asked for, for places where each takes a while."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from neuronexus_kernel.content.cid import CID, DAG_PB
from neuronexus_kernel.storage import dag, folders
from neuronexus_kernel.storage.dag import Fetch, Links
from neuronexus_kernel.storage.interface import Entry


class Ahead:
    """Fetches what will be asked for next: what the blocks so far link to, depth first.

    Parameters
    ----------
    fetch
        Returns a verified block.
    links
        Which links of a block will be asked for.
    pool
        Where blocks are fetched.
    width
        How many are fetched, or wait to be asked for, at the same time; so many are also kept
        after they were asked for, as the same block is often asked for again.
    once
        Whether no block will be asked for again.
    """

    def __init__(
        self, fetch: Fetch, links: Links, pool: ThreadPoolExecutor, width: int, *, once: bool
    ) -> None:
        self._once = once
        self._asked: set[CID] = set()
        self._fetch = fetch
        self._links = links
        self._pool = pool
        self._width = width
        self._todo: deque[CID] = deque()
        self._coming: dict[CID, Future[bytes]] = {}
        self._recent: OrderedDict[CID, bytes] = OrderedDict()

    def __call__(self, cid: CID) -> bytes:
        """Return a block."""
        block = self._recent.pop(cid, None)
        if block is None:
            coming = self._coming.pop(cid, None)
            if coming is None:
                # Not as expected: what came in vain makes room.
                self._coming = {c: f for c, f in self._coming.items() if not f.done()}
                block = self._fetch(cid)
            else:
                block = coming.result()
            self._todo.extendleft(reversed(self._links(cid, block)))
        if self._once:
            self._asked.add(cid)
        self._recent[cid] = block
        if len(self._recent) > self._width:
            self._recent.popitem(last=False)
        self._go_ahead()
        return block

    def expect(self, cids: Iterable[CID]) -> None:
        """Take these for what will be asked for after all else."""
        self._todo.extend(cids)
        self._go_ahead()

    def _go_ahead(self) -> None:
        while self._todo and len(self._coming) < self._width:
            cid = self._todo.popleft()
            if cid not in self._coming and cid not in self._recent and cid not in self._asked:
                self._coming[cid] = self._pool.submit(self._fetch, cid)


@contextmanager
def fetching_ahead(
    fetch: Fetch, links: Links, width: int, *, once: bool = False
) -> Iterator[Ahead]:
    """Give a `fetch` for reading all of some content, `width` blocks at a time; see `Ahead`."""
    pool = ThreadPoolExecutor(width, thread_name_prefix="nx-ahead")
    try:
        yield Ahead(fetch, links, pool, width, once=once)
    finally:
        pool.shutdown(cancel_futures=True)


def list_ahead(fetch: Fetch, cid: CID, width: int) -> list[Entry]:
    """Return the entries of a folder, `width` blocks at a time; see `ContentStore.ls`."""
    shards: dict[CID, bytes] = {}
    with fetching_ahead(fetch, _shards, width) as fetch_shard:

        def remember(cid: CID) -> bytes:
            shards[cid] = fetch_shard(cid)
            return shards[cid]

        links = sorted(folders.links(remember, cid), key=lambda link: (link.name or "").encode())
    # What an entry is, its first block tells; they are asked for in the order of the names.
    with fetching_ahead(fetch, _none, width) as fetch_entry:
        fetch_entry.expect(link.cid for link in links if link.cid.codec == DAG_PB)
        return list(folders.entries(lambda cid: shards.get(cid) or fetch_entry(cid), cid))


def _shards(cid: CID, block: bytes) -> list[CID]:
    return [link for link, _ in dag.entity(cid, block)]


def _none(cid: CID, block: bytes) -> list[CID]:
    return []
