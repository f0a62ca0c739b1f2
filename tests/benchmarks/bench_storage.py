"""Content: hashing and reading against the bare hash function."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measure import Figure, best_seconds

from neuronexus_kernel.storage import LocalStore, cid_of

SIZE = 64 * 2**20


def figures() -> Iterator[Figure]:
    """Hash and read 64 MiB."""
    data = os.urandom(SIZE)
    bare = SIZE / best_seconds(lambda: hashlib.sha256(data).digest()) / 2**20
    ours = SIZE / best_seconds(lambda: cid_of(data)) / 2**20
    yield Figure("CID of 64 MiB", ours, bare, "hashlib.sha256", "MiB/s")
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        cid = store.add(data)
        read = SIZE / best_seconds(lambda: store.get(cid)) / 2**20
        yield Figure("verified read of 64 MiB", read, bare, "hashlib.sha256", "MiB/s")
