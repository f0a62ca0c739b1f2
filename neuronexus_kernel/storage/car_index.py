"""The index of a CAR file of version 2: where in the payload each block lies.

Both forms sort digests into buckets of one length; MultihashIndexSorted (0x0401) sorts those by
hash function before, which IndexSorted (0x0400) leaves out.  Source:
https://ipld.io/specs/transport/car/carv2/#index-format.  The text of the specification leaves out
what all implementations write: each list of buckets begins with their number (4 bytes), and a
bucket's count is one of bytes, not of entries.  This follows the implementations.

An index is never believed.  Reading a file goes over all its sections anyway, so that the index is
only compared with what was seen.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from itertools import groupby

from neuronexus_kernel.content.cid import encode_varint
from neuronexus_kernel.errors import StoreError
from neuronexus_kernel.storage.car_source import Source

INDEX_SORTED = 0x0400
MULTIHASH_INDEX_SORTED = 0x0401

_PLACE = 8  # bytes of a place, behind the digest
_MAX_WIDTH = 1024
_WHAT = "the index"

Entry = tuple[int | None, bytes]
"""The hash function, where the form tells it, and digest and place in one."""


def encode_index(places: Mapping[bytes, int]) -> bytes:
    """Return the index (MultihashIndexSorted) of some blocks.

    Parameters
    ----------
    places
        By digest and place (8 bytes, little-endian) in one: the multihash number.
    """
    out = [encode_varint(MULTIHASH_INDEX_SORTED)]
    codes = sorted(set(places.values()))
    out.append(struct.pack("<i", len(codes)))
    for code in codes:
        entries = sorted((len(key), key) for key, own in places.items() if own == code)
        buckets = [(width, list(group)) for width, group in groupby(entries, lambda e: e[0])]
        out.append(struct.pack("<Qi", code, len(buckets)))
        for width, bucket in buckets:
            out.append(struct.pack("<IQ", width, width * len(bucket)))
            out.extend(key for _, key in bucket)
    return b"".join(out)


def check_index(source: Source, places: Mapping[bytes, int], *, lenient: bool = False) -> None:
    """Read an index and compare it with the blocks that were seen.

    Parameters
    ----------
    source
        At the beginning of the index.
    places
        As in `encode_index`.
    lenient
        Pass over an index of an unknown form, which nobody here will use.

    Raises
    ------
    StoreError
        If the index is malformed or of another form, or does not tell exactly these places.
    """
    form = source.varint(_WHAT)
    if form == MULTIHASH_INDEX_SORTED:
        entries = _coded_buckets(source, len(places))
    elif form == INDEX_SORTED:
        entries = _buckets(source, None, len(places))
    elif lenient:
        source.drain(_MAX_WIDTH * (1 + len(places)), _WHAT)
        return
    else:
        raise StoreError(
            f"The index of the CAR file has the unknown form 0x{form:x}. Write the file again as "
            "version 1."
        )
    left = dict(places)
    for code, key in entries:
        own = left.pop(key, None)
        if own is None or code not in (own, None):
            raise StoreError("The index of the CAR file names a place where no such block is.")
    if left:
        raise StoreError(f"The index of the CAR file leaves out {len(left)} of its blocks.")


def _coded_buckets(source: Source, most: int) -> Iterator[Entry]:
    last = -1
    for _ in range(_number(source, "<i", most)):
        code = _number(source, "<Q", None)
        if code <= last:
            raise _unsorted()
        last = code
        yield from _buckets(source, code, most)


def _buckets(source: Source, code: int | None, most: int) -> Iterator[Entry]:
    last = _PLACE - 1
    for _ in range(_number(source, "<i", most)):
        width = _number(source, "<I", _MAX_WIDTH)
        size = _number(source, "<Q", width * most)
        if width <= last or size % width:
            raise _unsorted()
        last = width
        before = b""
        for _ in range(size // width):
            key = source.take(width, _WHAT)
            if key[:-_PLACE] < before[:-_PLACE] or key == before:
                raise _unsorted()
            before = key
            yield code, key


def _number(source: Source, form: str, most: int | None) -> int:
    number: int
    (number,) = struct.unpack(form, source.take(struct.calcsize(form), _WHAT))
    if number < 0 or (most is not None and number > most):
        raise StoreError("The index of the CAR file tells of more blocks than the file has.")
    return number


def _unsorted() -> StoreError:
    return StoreError("The index of the CAR file is malformed: it is not in its order.")
