"""Copying a whole store to another place while others use it.

The pins are looked at first and the blocks copied afterwards, so that all that a pin needs is
among them; of a promise that was taken back meanwhile the copy knows nothing.  Every block is
verified on its way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from neuronexus_kernel.content.cid import CID
from neuronexus_kernel.errors import NotFoundError
from neuronexus_kernel.storage.blocks import BlockStore
from neuronexus_kernel.storage.pins import PinBook

_TOGETHER = 500


def copy_store(blocks: BlockStore, pins: PinBook, to: BlockStore, to_pins: PinBook) -> int:
    """Copy all blocks and pins of a store into an empty one; return how many blocks.

    Raises
    ------
    StoreError
        If a block is corrupt, or something cannot be read or written.
    """
    promised = pins.records()
    count = 0
    names = (file.name for file in blocks.files())
    while some := list(islice(names, _TOGETHER)):
        with to.batch() as batch:
            for cid, block in _read(blocks, some):
                batch.put(cid, block)
                count += 1
    with to.batch() as batch:
        for record in promised:
            pin = record.pin
            if record.damaged or pins.find(pin.cid, pin.name) is None:
                continue
            data = to_pins.entry(pin, profile=record.profile, elsewhere=record.elsewhere)
            batch.note(to_pins.path_of(pin.cid, pin.name, pin.recursive), data)
    return count


def _read(blocks: BlockStore, names: Sequence[str]) -> Iterator[tuple[CID, bytes]]:
    for name in names:
        cid = CID.parse(name)
        with suppress(NotFoundError):  # collected since it was listed
            yield cid, blocks.get(cid)
