"""Following a path through folders and documents, and remembering over which blocks it led.

Whoever asks a trustless gateway for ``/ipfs/{cid}/some/path`` gets these blocks too, to see for
themselves that the path leads where the gateway says
(https://specs.ipfs.tech/http-gateways/path-gateway/#traversing-remaining-path).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.cid import CID, DAG_CBOR
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import ContentError, NotFoundError, StoreError
from neuronexus_kernel.storage import folders
from neuronexus_kernel.storage.dag import Fetch
from neuronexus_kernel.storage.unixfs import fetch_block


class EndsInsideError(NotFoundError):
    """A path ends at a value within a document, which has no address of its own."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a path led.

    Attributes
    ----------
    roots
        The root and what each name led to; the last one is what lies at the path.  A name within
        a document that is no link leads to nothing of its own.
    way
        The blocks on the way, without the last root's own, in their order.
    """

    roots: tuple[CID, ...]
    way: tuple[CID, ...]

    @property
    def end(self) -> CID:
        """What lies at the path."""
        return self.roots[-1]


def trace(fetch: Fetch, root: CID, names: Sequence[str]) -> Trace:
    """Follow the names below a root.

    Parameters
    ----------
    fetch
        Returns a verified block.
    root
        Where to begin.
    names
        Of entries of folders, of fields of documents, or of their lists' places.

    Raises
    ------
    NotFoundError
        If a block on the way is missing, or there is no such name.
    EndsInsideError
        If the last name is that of a value within a document.
    StoreError
        If a block on the way is malformed, or a symlink leads outside.
    """
    way: dict[CID, bytes] = {}

    def remember(cid: CID) -> bytes:
        if cid not in way:
            way[cid] = fetch(cid)
        return way[cid]

    roots, rest = [root], list(names)
    while rest:
        if roots[-1].codec == DAG_CBOR:
            found, used = _in_document(remember, roots[-1], rest)
            roots.append(found)
        else:
            below = _in_folders(remember, roots[-1], rest)
            roots += below
            used = len(below)
        del rest[:used]
    return Trace(tuple(roots), tuple(cid for cid in way if cid != roots[-1]))


def _in_document(fetch: Fetch, root: CID, names: Sequence[str]) -> tuple[CID, int]:
    """Follow names through a document to a link; return it, and how many names it took."""
    try:
        node: Node = dagcbor.decode(fetch_block(fetch, root, root))
    except ContentError as error:
        raise StoreError(f"Block {root} is no DAG-CBOR document: {error}") from None
    for number, name in enumerate(names, start=1):
        if isinstance(node, dict) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isascii() and name.isdigit() and len(name) < 10:
            place = int(name)
            if str(place) != name or place >= len(node):
                raise NotFoundError(f"The list in the document {root} has no {name!r}.")
            node = node[place]
        else:
            raise NotFoundError(f"There is no {name!r} in the document {root}.")
        if isinstance(node, CID):
            return node, number
    raise EndsInsideError(
        f"The path ends inside the document {root}; ask for the document and read the value there."
    )


def _in_folders(fetch: Fetch, root: CID, names: Sequence[str]) -> list[CID]:
    """Follow names through folders, as far as they are folders; return what each led to."""
    found: list[CID] = []
    for count in range(1, len(names) + 1):
        if any("/" in name for name in names[:count]):
            raise NotFoundError(f"There is no {names[count - 1]!r} below {root}.")
        found.append(folders.resolve(fetch, "/".join((str(root), *names[:count]))))
        if found[-1].codec == DAG_CBOR:
            break
    return found
