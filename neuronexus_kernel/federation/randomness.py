"""One source of chance: a counter-based generator keyed by what the chance is for.

Each draw has an address (seed, purpose, round, partition id, ...).  BLAKE2b turns the address
into the key of a Philox generator, so that a client's batch order in round 7 does not depend on
who else trained, in which order, on which executor, or on how often anyone evaluated.  Only raw
64-bit words are used, a stream that NumPy promises never to change; its sampling methods may.

Source: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.int64]

_LOCAL = threading.local()


def words(purpose: str, *address: int, count: int) -> NDArray[np.uint64]:
    """Return `count` random 64-bit words of the stream at an address.

    Parameters
    ----------
    purpose
        What the words are for, such as ``"order"``; streams of two purposes are independent.
    *address
        Integers, for example seed, round and partition id.
    count
        How many words; a longer stream starts with the shorter one.
    """
    name = "/".join((purpose, *map(str, address)))
    digest = hashlib.blake2b(name.encode(), digest_size=16, person=b"neuronexus-rng-1").digest()
    stream = _generator()
    stream.state = {
        "bit_generator": "Philox",
        "state": {
            "counter": np.zeros(4, np.uint64),
            "key": np.frombuffer(digest, dtype="<u8").astype(np.uint64),
        },
        "buffer": np.zeros(4, np.uint64),
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
    return stream.random_raw(count)


def _generator() -> np.random.Philox:
    """Return this thread's generator, whose whole state is for the caller to set.

    A new one would ask the system for a seed that nobody needs, and takes ten times as long.
    """
    if not hasattr(_LOCAL, "generator"):
        _LOCAL.generator = np.random.Philox(key=0)
    found: np.random.Philox = _LOCAL.generator
    return found


def permutation(purpose: str, *address: int, count: int) -> Rows:
    """Return the numbers 0 to ``count - 1`` in random order, int64."""
    return np.argsort(words(purpose, *address, count=count), kind="stable")


def choose(size: int, count: int, *, seed: int, round: int) -> tuple[int, ...]:
    """Return which `size` of `count` clients form the cohort of a round, in rising order."""
    return tuple(sorted(permutation("cohort", seed, round, count=count)[:size].tolist()))


def order_of(examples: int, turn: int, *, seed: int, round: int, partition_id: int) -> Rows:
    """Return the order in which a client takes its rows in one of its passes through them."""
    return permutation("order", seed, round, partition_id, turn, count=examples)


def batch_rows(
    examples: int, batch_size: int, steps: int, *, seed: int, round: int, partition_id: int
) -> Iterator[Rows]:
    """Yield the rows of each of the batches that a client trains on in one round.

    Every pass through the data is a fresh order of all rows; the last batch of a pass may be
    smaller, and the last pass may end early.
    """
    per_pass = -(-examples // batch_size)
    for step in range(steps):
        turn, place = divmod(step, per_pass)
        if place == 0:
            order = order_of(examples, turn, seed=seed, round=round, partition_id=partition_id)
        yield order[place * batch_size : (place + 1) * batch_size]


def noise_keys(steps: int, *, seed: int, round: int, partition_id: int) -> NDArray[np.int64]:
    """Return one key for each training step of a client: of its dropout and augmentation."""
    return words("noise", seed, round, partition_id, count=steps).view(np.int64)
