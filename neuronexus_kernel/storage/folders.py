"""Folders: what is in them, what lies at a path, and what is known of it.

A folder is one block or a tree of shards (`content.hamt`), and `links` reads both without opening
the entries.  Nothing is trusted: names that could lead elsewhere or are there twice are refused,
and every name in a shard must lie where its hash puts it.  So no two links of a sharded folder
can lead to the same shard, and the number of blocks that are read is bounded by that of the
entries, which is bounded by a parameter.
"""

from __future__ import annotations

from collections.abc import Iterator

from neuronexus_kernel.content import dagpb, hamt
from neuronexus_kernel.content.cid import CID, CODECS, DAG_CBOR, DAG_PB, RAW
from neuronexus_kernel.content.directory import check_name
from neuronexus_kernel.content.unixfs import (
    DIRECTORY_TYPE,
    SHARD_TYPE,
    SYMLINK_TYPE,
    TYPES,
    Message,
)
from neuronexus_kernel.errors import ContentError, NotFoundError, StoreError
from neuronexus_kernel.storage.interface import Address, Entry, Kind, Stat
from neuronexus_kernel.storage.unixfs import Fetch, decode, fetch_block, unsupported

MAX_ENTRIES = 1_000_000
_MAX_HOPS = 32


def links(fetch: Fetch, folder: CID, *, limit: int = MAX_ENTRIES) -> Iterator[dagpb.Link]:
    """Give the links of a folder, each with its name, without opening what they lead to.

    Raises
    ------
    NotFoundError
        If the folder is missing.
    StoreError
        If it is no folder, it or one of its shards is malformed or missing, or it has more
        entries than `limit`.
    """
    node, message = _load(fetch, folder, folder)
    found = (
        _plain_links(node, folder)
        if message.kind == DIRECTORY_TYPE
        else _sharded_links(fetch, folder, _shard(node, message, folder))
    )
    for number, link in enumerate(found):
        if number == limit:
            raise StoreError(f"The folder {folder} has more than {limit:,} entries.")
        yield link


def entries(fetch: Fetch, folder: CID, *, limit: int = MAX_ENTRIES) -> Iterator[Entry]:
    """Give the entries of a folder, sorted by name.

    What an entry is, its root block tells, which is read; but a raw block is a file, and its size
    is the one that the folder tells.

    Raises
    ------
    NotFoundError, StoreError
        As in `links`; also if the root block of an entry is missing or malformed.
    """
    for link in sorted(links(fetch, folder, limit=limit), key=_name_of):
        name = link.name or ""
        if link.cid.codec == DAG_PB or link.size is None:
            about = _stat(fetch, link.cid, folder)
            total = about.total if link.size is None else link.size
            size = total if about.kind == Kind.FOLDER else about.size
            yield Entry(name, link.cid, about.kind, size)
        elif link.cid.codec in CODECS:
            kind = Kind.FILE if link.cid.codec == RAW else Kind.DOCUMENT
            yield Entry(name, link.cid, kind, link.size)
        else:
            raise unsupported(link.cid)


def stat(fetch: Fetch, cid: CID) -> Stat:
    """Return what the root block tells of some content.

    Raises
    ------
    NotFoundError
        If it is missing.
    StoreError
        If it is malformed, or its codec is none that is read here.
    """
    return _stat(fetch, cid, cid)


def target_of(fetch: Fetch, cid: CID) -> bytes:
    """Return where a symlink leads.

    Raises
    ------
    NotFoundError
        If it is missing.
    StoreError
        If it is no symlink, or malformed.
    """
    node, message = decode(fetch_block(fetch, cid, cid), cid)
    if message.kind != SYMLINK_TYPE:
        raise StoreError(f"{cid} is a {TYPES[message.kind]}, not a symlink.")
    return _target(node, message, cid)


def parse(address: Address) -> tuple[CID, list[str]]:
    """Take an address apart: a CID, and the names on the path below it.

    ``/ipfs/`` may stand before the CID.  ``.`` is left out, and ``..`` takes the name before it
    away, as the specification of paths tells.

    Raises
    ------
    ContentError
        If it begins with no CID, or the path leads above it.
    """
    if isinstance(address, CID):
        return address, []
    if not isinstance(address, str):
        raise ContentError(f"An address is a CID or text, not {type(address).__name__}.")
    first, _, path = address.removeprefix("/ipfs/").partition("/")
    names: list[str] = []
    for name in path.split("/"):
        if name == "..":
            if not names:
                raise ContentError(f"The path {address!r} leads above its root.")
            names.pop()
        elif name not in ("", "."):
            names.append(name)
    return CID.parse(first), names


def resolve(fetch: Fetch, address: Address, *, follow: bool = False) -> CID:
    """Return the CID of what lies at an address.

    Symlinks on the way are followed as long as they stay below the root.

    Parameters
    ----------
    fetch
        Returns a verified block; of a sharded folder only those on the way are asked for.
    address
        A CID, its text, or its text and a path.
    follow
        Whether the last name is followed too, if it is a symlink.

    Raises
    ------
    ContentError
        If it is no address.
    NotFoundError
        If nothing lies there.
    StoreError
        If a block on the way is missing or malformed, or a symlink leads above the root or round
        in a circle.
    """
    root, names = parse(address)
    trail = [root]
    todo = names[::-1]
    hops = 0
    while todo:
        name = todo.pop()
        if name == "..":
            if len(trail) == 1:
                raise StoreError(f"A symlink below {root} leads above it; it is not followed.")
            trail.pop()
            continue
        found = _lookup(fetch, trail[-1], name, root)
        target = _symlink(fetch, found, root) if todo or follow else None
        if target is None:
            trail.append(found)
            continue
        hops += 1
        if hops > _MAX_HOPS:
            raise StoreError(f"The symlinks below {root} lead round in a circle at {name!r}.")
        if target.startswith("/"):
            raise StoreError(f"The symlink {name!r} below {root} leads to {target!r}, outside it.")
        todo.extend(step for step in reversed(target.split("/")) if step not in ("", "."))
    return trail[-1]


def _lookup(fetch: Fetch, folder: CID, name: str, root: CID) -> CID:
    """Return the CID of one entry of a folder."""
    node, message = _load(fetch, folder, root, looking_for=name)
    if message.kind == DIRECTORY_TYPE:
        for link in _plain_links(node, folder):
            if link.name == name:
                return link.cid
        raise _nothing(folder, name)
    try:
        hashed = hamt.murmur3(name.encode())
    except UnicodeEncodeError:  # No entry has such a name.
        raise _nothing(folder, name) from None
    shard, depth = _shard(node, message, folder), 0
    while True:
        index = _place(hashed, depth, shard.fanout, folder) % shard.fanout
        slot = next((slot for slot in shard.slots if slot.bucket == index), None)
        if slot is None or slot.name not in (None, name):
            raise _nothing(folder, name)
        if slot.name is not None:
            return slot.link.cid
        shard, depth = _subshard(fetch, slot.link.cid, folder, shard.fanout), depth + 1


def _symlink(fetch: Fetch, cid: CID, root: CID) -> str | None:
    """Return where a symlink leads, or None for anything else."""
    if cid.codec != DAG_PB:
        return None
    node, message = decode(fetch_block(fetch, cid, root), cid)
    if message.kind != SYMLINK_TYPE:
        return None
    return _target(node, message, cid).decode(errors="surrogateescape")


def _target(node: dagpb.PBNode, message: Message, cid: CID) -> bytes:
    if node.links or not message.data or b"\0" in message.data:
        raise StoreError(f"The symlink {cid} is malformed: it has links, or leads nowhere.")
    return message.data


def _stat(fetch: Fetch, cid: CID, root: CID) -> Stat:
    if cid.codec not in CODECS:
        raise unsupported(cid)
    block = fetch_block(fetch, cid, root)
    if cid.codec != DAG_PB:
        kind = Kind.DOCUMENT if cid.codec == DAG_CBOR else Kind.FILE
        return Stat(cid, kind, len(block), len(block))
    node, message = decode(block, cid)
    total = dagpb.total_size(block, node.links)
    if message.kind in (DIRECTORY_TYPE, SHARD_TYPE):
        return Stat(cid, Kind.FOLDER, total, total)
    if message.kind == SYMLINK_TYPE:
        return Stat(cid, Kind.SYMLINK, len(_target(node, message, cid)), total)
    if TYPES[message.kind] == "metadata":
        raise StoreError(f"{cid} is UnixFS metadata, which is neither a file nor a folder.")
    return Stat(cid, Kind.FILE, message.size, total)


def _load(
    fetch: Fetch, folder: CID, root: CID, *, looking_for: str | None = None
) -> tuple[dagpb.PBNode, Message]:
    """Return the first block of a folder."""
    if folder.codec == DAG_PB:
        node, message = decode(fetch_block(fetch, folder, root), folder)
        if message.kind in (DIRECTORY_TYPE, SHARD_TYPE):
            return node, message
        what = TYPES[message.kind]
    elif folder.codec in CODECS:
        what = "document" if folder.codec == DAG_CBOR else "file"
    else:
        raise unsupported(folder)
    if looking_for is not None:
        raise NotFoundError(f"{folder} is a {what}: there is no {looking_for!r} below it.")
    raise StoreError(f"{folder} is a {what}, not a folder.")


def _plain_links(node: dagpb.PBNode, folder: CID) -> Iterator[dagpb.Link]:
    names = set()
    for link in node.links:
        name = _checked(link.name, folder)
        if name in names:
            raise StoreError(f"The folder {folder} is malformed: it has {name!r} twice.")
        names.add(name)
    yield from node.links


def _sharded_links(
    fetch: Fetch, folder: CID, shard: hamt.Shard, depth: int = 0, above: int = 0
) -> Iterator[dagpb.Link]:
    """Give the entries below a shard, which lies at some depth under the bits of `above`."""
    for slot in shard.slots:
        here = above * shard.fanout + slot.bucket
        if slot.name is None:
            # So deep that a hash has no bits left?  Then this raises, and recursion ends.
            _place(0, depth + 1, shard.fanout, folder)
            below = _subshard(fetch, slot.link.cid, folder, shard.fanout)
            yield from _sharded_links(fetch, folder, below, depth + 1, here)
            continue
        name = _checked(slot.name, folder)
        if _place(hamt.murmur3(name.encode()), depth, shard.fanout, folder) != here:
            raise StoreError(f"The folder {folder} is malformed: {name!r} is misplaced.")
        yield dagpb.Link(slot.link.cid, slot.link.size, name)


def _subshard(fetch: Fetch, cid: CID, folder: CID, fanout: int) -> hamt.Shard:
    """Return a shard below the first one; an empty one would not be there."""
    node, message = decode(fetch_block(fetch, cid, folder), cid)
    if message.kind != SHARD_TYPE or message.fanout != fanout or not node.links:
        raise StoreError(f"The folder {folder} is malformed: {cid} is not one of its shards.")
    return _shard(node, message, cid)


def _shard(node: dagpb.PBNode, message: Message, cid: CID) -> hamt.Shard:
    try:
        return hamt.read_shard(node, message)
    except ContentError as error:
        raise StoreError(f"Block {cid} is malformed: {error}") from None


def _place(hashed: int, depth: int, fanout: int, folder: CID) -> int:
    try:
        return hamt.place(hashed, depth, fanout)
    except ContentError as error:
        raise StoreError(f"The folder {folder} is malformed: {error}") from None


def _checked(name: str | None, folder: CID) -> str:
    try:
        return check_name(name)
    except ContentError as error:
        raise StoreError(f"The folder {folder} is malformed: {error}") from None


def _name_of(link: dagpb.Link) -> bytes:
    return (link.name or "").encode()


def _nothing(folder: CID, name: str) -> NotFoundError:
    return NotFoundError(f"There is no {name!r} in the folder {folder}.")
