"""The Merkle tree over the log: one root commits to every entry and to their order.

Hashing, inclusion proofs and consistency proofs of RFC 9162 (section 2.1, the same tree as RFC
6962).  A reader holds leaf hashes and proves; a writer needs only a `Frontier`, the roots of the
complete subtrees, to append in O(log n).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from neuronexus_kernel.errors import LedgerError

HASH_SIZE = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of one leaf; the prefix keeps it apart from a node's."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: the roots of its complete subtrees, left to right.

    Parameters
    ----------
    size
        Number of leaves already in the tree.
    hashes
        The subtree roots, 32 bytes each; as many as `size` has one bits.

    Raises
    ------
    LedgerError
        If size and hashes do not fit together.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size < 0 or len(hashes) != size.bit_count() or any(len(h) != HASH_SIZE for h in hashes):
            raise LedgerError(f"{len(hashes)} hashes are no frontier of a tree of {size} leaves.")
        self._size = size
        self._hashes = list(hashes)

    @classmethod
    def of(cls, leaves: Iterable[bytes]) -> Frontier:
        """Return the frontier over these leaf hashes."""
        frontier = cls()
        for leaf in leaves:
            frontier.append(leaf)
        return frontier

    @property
    def size(self) -> int:
        """Number of leaves in the tree."""
        return self._size

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Roots of the complete subtrees; with `size` enough to go on appending elsewhere."""
        return tuple(self._hashes)

    def copy(self) -> Frontier:
        """Return an independent frontier of the same tree."""
        return Frontier(self._size, self._hashes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash (32 bytes) at the right."""
        if len(leaf) != HASH_SIZE:
            raise LedgerError(f"A leaf hash has {HASH_SIZE} bytes, not {len(leaf)}.")
        complete = self._size
        while complete & 1:
            leaf = node_hash(self._hashes.pop(), leaf)
            complete >>= 1
        self._hashes.append(leaf)
        self._size += 1

    def root(self) -> bytes:
        """Return the root of the tree as it is now."""
        if not self._hashes:
            return EMPTY_ROOT
        result = self._hashes[-1]
        for left in reversed(self._hashes[:-1]):
            result = node_hash(left, result)
        return result


def root(leaves: Iterable[bytes]) -> bytes:
    """Return the root over these leaf hashes."""
    return Frontier.of(leaves).root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the proof that leaf `index` is in the tree over `leaves`, in O(n) hashes.

    Raises
    ------
    LedgerError
        If there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise LedgerError(f"There is no entry {index} in a log of {len(leaves)}.")
    if len(leaves) == 1:
        return []
    middle = _largest_power_below(len(leaves))
    left, right = leaves[:middle], leaves[middle:]
    if index < middle:
        return [*inclusion_proof(left, index), root(right)]
    return [*inclusion_proof(right, index - middle), root(left)]


def consistency_proof(leaves: Sequence[bytes], first: int) -> list[bytes]:
    """Return the proof that the tree over ``leaves[:first]`` is the beginning of that over all.

    Raises
    ------
    LedgerError
        If `first` is not from 0 to the number of leaves.
    """
    if not 0 <= first <= len(leaves):
        raise LedgerError(f"A log of {len(leaves)} entries never had {first}.")
    return [] if first in (0, len(leaves)) else _subproof(leaves, first, known=True)


def _subproof(leaves: Sequence[bytes], first: int, *, known: bool) -> list[bytes]:
    if first == len(leaves):
        # The verifier already has this hash when it is the old root itself.
        return [] if known else [root(leaves)]
    middle = _largest_power_below(len(leaves))
    left, right = leaves[:middle], leaves[middle:]
    if first <= middle:
        return [*_subproof(left, first, known=known), root(right)]
    return [*_subproof(right, first - middle, known=False), root(left)]


def verify_inclusion(
    proof: Sequence[bytes], leaf: bytes, *, index: int, size: int, root: bytes
) -> bool:
    """Tell whether `proof` shows that leaf hash `leaf` stands at `index` of the tree `root`."""
    if not 0 <= index < size or not _all_hashes(leaf, root, *proof):
        return False
    path, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if path & 1 or path == last:
            result = node_hash(sibling, result)
            path, last = _skip_absent_levels(path, last)
        else:
            result = node_hash(result, sibling)
        path, last = path >> 1, last >> 1
    return last == 0 and result == root


def verify_consistency(
    proof: Sequence[bytes], *, first: int, first_root: bytes, second: int, second_root: bytes
) -> bool:
    """Tell whether `proof` shows that the second tree only appends to the first.

    The empty tree is the beginning of every tree; its proof is empty.
    """
    if not 0 <= first <= second or not _all_hashes(first_root, second_root, *proof):
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    hashes: Iterator[bytes] = iter(proof)
    if first & (first - 1) == 0:
        start = first_root
    else:
        start = next(hashes, b"")
    path, last = first - 1, second - 1
    while path & 1:
        path, last = path >> 1, last >> 1
    old = new = start
    for sibling in hashes:
        if last == 0:
            return False
        if path & 1 or path == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            path, last = _skip_absent_levels(path, last)
        else:
            new = node_hash(new, sibling)
        path, last = path >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _skip_absent_levels(path: int, last: int) -> tuple[int, int]:
    """Climb past the levels where the rightmost node has no sibling."""
    while not path & 1 and path:
        path, last = path >> 1, last >> 1
    return path, last


def _all_hashes(*values: bytes) -> bool:
    return all(len(value) == HASH_SIZE for value in values)


def _largest_power_below(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1
