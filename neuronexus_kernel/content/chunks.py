"""Cutting a file into chunks, and hashing them on all cores.

`chunks_of` cuts bytes in memory, `chunks_from` a stream, neither copying what it need not copy.
`in_order` carries out some work on the chunks in a few threads, as hashlib lets go of the
interpreter while it hashes, and gives the results in the order of the chunks.  What is read ahead
is bounded, so memory stays constant.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, islice
from typing import BinaryIO, TypeVar

from neuronexus_kernel.errors import ContentError

MIB = 1024 * 1024
KEPT = 8
"""So many MiB of chunks of a stream stay as they are while the next ones are read."""

_MOST_THREADS = 4

Bytes = bytes | memoryview
R = TypeVar("R")


def chunks_of(data: bytes | bytearray | memoryview, size: int = MIB) -> Iterator[memoryview]:
    """Cut bytes in memory into chunks of `size`, without copying them."""
    view = memoryview(data)
    view = view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
    for start in range(0, len(view), size):
        yield view[start : start + size]


def chunks_from(stream: BinaryIO, size: int = MIB) -> Iterator[memoryview]:
    """Read a stream in chunks of `size`, through a ring of buffers that are used again.

    A chunk stays as it is until `KEPT` MiB more were asked for.

    Raises
    ------
    ContentError
        If the stream gives text, or nothing because it does not block.
    """
    ring: list[memoryview] = []
    length = 1 + KEPT * _group(size)
    for number in count():
        if len(ring) < length:
            ring.append(memoryview(bytearray(size)))
        buffer = ring[number % length]
        filled = _fill(stream, buffer)
        if filled:
            yield buffer[:filled]
        if filled < size:
            return


def _fill(stream: BinaryIO, buffer: memoryview) -> int:
    """Read until the buffer is full or the stream ends; return how many bytes."""
    fill = getattr(stream, "readinto", None)
    filled = 0
    while filled < len(buffer):
        room = buffer[filled:]
        told = fill(room) if fill else _read_into(stream, room)
        if told is None:
            raise ContentError("The stream gives nothing yet; open it in blocking mode.")
        if told == 0:
            break
        filled += told
    return filled


def _read_into(stream: BinaryIO, room: memoryview) -> int | None:
    piece: object = stream.read(len(room))
    if piece is None:
        return None
    if not isinstance(piece, bytes):
        raise ContentError(f"The stream gives {type(piece).__name__}; open it in binary mode.")
    room[: len(piece)] = piece
    return len(piece)


def in_order(chunks: Iterable[Bytes], work: Callable[[Bytes], R], size: int = MIB) -> Iterator[R]:
    """Do some work on every chunk and give the results in order.

    Parameters
    ----------
    chunks
        Read in this thread, at most `KEPT` MiB ahead.
    work
        Called in other threads, unless there is little to do or only one processor.
    size
        Of a chunk; small ones travel between the threads several at a time.
    """
    groups = _grouped(chunks, _group(size))
    threads = min(_MOST_THREADS, processors())
    first = list(islice(groups, 2))
    if len(first) < 2 or threads < 2:
        for group in chain(first, groups):
            yield from map(work, group)
        return

    # Imported here: most content is small, and the import is not.
    from concurrent.futures import Future, ThreadPoolExecutor

    waiting: deque[Future[list[R]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="chunks") as pool:
        for group in chain(first, groups):
            waiting.append(pool.submit(lambda some: [work(chunk) for chunk in some], group))
            # With the group that is read now and the one whose results are used, KEPT at most.
            if len(waiting) > min(threads + 1, KEPT - 2):
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _group(size: int) -> int:
    """How many chunks make a MiB: less is not worth the way to another thread."""
    return max(1, MIB // size)


def _grouped(chunks: Iterable[Bytes], count: int) -> Iterator[list[Bytes]]:
    rest = iter(chunks)
    while group := list(islice(rest, count)):
        yield group


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
