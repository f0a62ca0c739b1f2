"""Stores from before there were pins: all that was ever added to them is pinned.

A store with blocks but without a folder of pins comes from an earlier version, which knew neither
pins nor collections: everything in it was meant to stay.  When such a store is opened, each block
that is no part of a file is pinned.  The folder of pins appears whole, by renaming, so that an
upgrade that is cut off is done again, and two processes may do it at once.
"""

from __future__ import annotations

import os
from contextlib import suppress
from errno import EEXIST, ENOTEMPTY
from pathlib import Path

from neuronexus_kernel.content.cid import CID, DAG_CBOR, RAW
from neuronexus_kernel.errors import ContentError, NeuroNexusError
from neuronexus_kernel.storage import dag
from neuronexus_kernel.storage.blocks import BlockStore
from neuronexus_kernel.storage.files import Flusher, create, explained, flush
from neuronexus_kernel.storage.interface import Pin
from neuronexus_kernel.storage.locking import OwnedFolder
from neuronexus_kernel.storage.pins import PinBook, now

NAME = "kept from an earlier version"


def adopt(blocks: BlockStore, pins: PinBook) -> int:
    """Pin all that lies in a store; return how many roots it has.

    A root is whatever no file consists of: a document's links take nothing from what they lead
    to, as that was added for itself.  A block that cannot be read is pinned, and so is what it
    may have consisted of.
    """
    roots, parts = _roots_and_parts(blocks)
    time = now()
    with explained(blocks.root, "could not be brought to the present form"):
        owned = OwnedFolder(blocks.staging)
        flusher = Flusher(sync=blocks.sync)
        try:
            new = owned.path / "pins"
            new.mkdir(mode=0o700)
            for name, elsewhere in roots.items():
                if name not in parts:
                    cid = CID.parse(name)
                    data = pins.entry(Pin(cid, NAME, True, time), profile=None, elsewhere=elsewhere)
                    path = new / pins.path_of(cid, NAME, True).name
                    create(path, data)
                    flusher.take(str(path), len(data))
            flusher.finish()
            _put_in_place(new, pins, blocks)
        finally:
            flusher.abandon()
            owned.remove()
    return len(roots.keys() - parts)


def _put_in_place(new: Path, pins: PinBook, blocks: BlockStore) -> None:
    if blocks.sync:
        flush(new)
    try:
        os.rename(new, pins.folder)
    except OSError as error:
        if error.errno not in (EEXIST, ENOTEMPTY):  # Another process has done it meanwhile.
            raise
    if blocks.sync:
        flush(blocks.root)


def _roots_and_parts(blocks: BlockStore) -> tuple[dict[str, list[CID]], set[str]]:
    """Return all blocks, each with what it names that is not here, and those that are parts."""
    roots: dict[str, list[CID]] = {}
    parts: set[str] = set()
    for file in blocks.files():
        with suppress(ContentError):
            cid = CID.parse(file.name)
            roots[file.name] = []
            if cid.codec == RAW:
                continue
            with suppress(NeuroNexusError):  # Corrupt, say: `verify` will tell.
                links = dag.links_of(cid, blocks.get(cid))
                if cid.codec == DAG_CBOR:
                    roots[file.name] = [link for link in links if not blocks.has(link)]
                else:
                    parts.update(map(blocks.name_of, links))
    return roots, parts
