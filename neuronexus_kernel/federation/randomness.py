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
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.int64]


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
    key = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def permutation(purpose: str, *address: int, count: int) -> Rows:
    """Return the numbers 0 to ``count - 1`` in random order, int64."""
    return np.argsort(words(purpose, *address, count=count), kind="stable")


def choose(size: int, count: int, *, seed: int, round: int) -> tuple[int, ...]:
    """Return which `size` of `count` clients form the cohort of a round, in rising order."""
    return tuple(sorted(permutation("cohort", seed, round, count=count)[:size].tolist()))


def batch_rows(
    examples: int, batch_size: int, epochs: int, *, seed: int, round: int, partition_id: int
) -> Iterator[Rows]:
    """Yield the rows of each batch that a client trains on in one round.

    Every epoch is a fresh order of all rows; the last batch of an epoch may be smaller.
    """
    for epoch in range(epochs):
        order = permutation("order", seed, round, partition_id, epoch, count=examples)
        for start in range(0, examples, batch_size):
            yield order[start : start + batch_size]


def noise_keys(steps: int, *, seed: int, round: int, partition_id: int) -> NDArray[np.int64]:
    """Return one key for each training step of a client: the source of its dropout masks."""
    return words("noise", seed, round, partition_id, count=steps).view(np.int64)
