"""Folders and symlinks in UnixFS: names with links to what they name.

A folder is one block, its links sorted by the bytes of their names, until it is larger than its
profile allows; then it is sharded (`hamt`).  The two profiles measure it differently: one by the
bytes of that block, the other by the names and CIDs in it.  Sources:
https://specs.ipfs.tech/unixfs/#dag-pb-directory and https://specs.ipfs.tech/ipips/ipip-0499/.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from neuronexus_kernel.content import dagpb
from neuronexus_kernel.content.hamt import build_shards
from neuronexus_kernel.content.unixfs import (
    DIRECTORY_TYPE,
    SYMLINK_TYPE,
    V1,
    Built,
    Message,
    Profile,
    Put,
    encode_message,
)
from neuronexus_kernel.errors import ContentError

_EMPTY = encode_message(Message(DIRECTORY_TYPE))


def check_name(name: str | None) -> str:
    """Return the name of an entry if it can be one.

    Raises
    ------
    ContentError
        If it is empty, ``.`` or ``..``, or holds a slash or a zero byte: such a name would lead
        elsewhere, or nowhere.
    """
    if name is None or name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ContentError(f"{name!r} cannot be the name of an entry of a folder.")
    return name


def build_folder(
    links: Iterable[dagpb.Link], put: Put | None = None, profile: Profile = V1
) -> Built:
    """Build a folder.

    Parameters
    ----------
    links
        Its entries, in any order, with their names and the bytes of their blocks (`Built.link`).
    put
        Called with every block and its CID, the root last; None only computes the address.
    profile
        Decides the CID, and whether the folder is sharded.

    Raises
    ------
    ContentError
        If a name cannot be one, or is there twice.
    """
    entries = sorted(links, key=_name_bytes)
    for earlier, later in pairwise(entries):
        if earlier.name == later.name:
            raise ContentError(f"Two entries of a folder are named {later.name!r}.")
    if profile.measure == "links-bytes":
        size = sum(len(_name_bytes(link)) + len(bytes(link.cid)) for link in entries)
        if size > profile.threshold:
            return build_shards(entries, put, profile)
    block = dagpb.encode(dagpb.PBNode(tuple(entries), _EMPTY))
    if profile.measure == "block-bytes" and len(block) > profile.threshold:
        return build_shards(entries, put, profile)
    return _built(block, entries, put, profile)


def symlink(target: bytes, put: Put | None = None, profile: Profile = V1) -> Built:
    """Build a symlink.

    Raises
    ------
    ContentError
        If the target is empty or holds a zero byte.
    """
    if not target or b"\0" in target:
        raise ContentError(f"{target!r} cannot be the target of a symlink.")
    block = dagpb.encode(dagpb.PBNode((), encode_message(Message(SYMLINK_TYPE, data=target))))
    built = _built(block, (), put, profile)
    return Built(built.cid, len(target), built.total)


def _built(block: bytes, links: Sequence[dagpb.Link], put: Put | None, profile: Profile) -> Built:
    cid = profile.cid(block)
    if put:
        put(cid, block)
    total = dagpb.total_size(block, links)
    return Built(cid, total, total)


def _name_bytes(link: dagpb.Link) -> bytes:
    name = check_name(link.name)
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise ContentError(f"The name {name!r} of an entry cannot be written as UTF-8.") from None
