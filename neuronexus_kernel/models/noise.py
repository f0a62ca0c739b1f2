"""Counter-based noise: the n-th random number of a key is a hash of (key, n), nothing else.

There is no state to advance, so the same numbers come out in a loop, in a vectorised cohort, on
any machine and in any order.  The hash is SplitMix64: Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014.  It is written once for Python integers, once for
NumPy and once for torch; all three give the same bits.  It is not for secrets.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

BITS = 53
"""How many random bits a drawn number has: as many as a float64 holds exactly."""

_GAMMA = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = 2**64 - 1


def _signed(value: int) -> int:
    """Return the int64 that has the same 64 bits as `value`."""
    value &= _MASK
    return value - 2**64 if value >> 63 else value


def mix(value: int) -> int:
    """Return the SplitMix64 hash of 64 bits: an unsigned 64-bit integer."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def key_of(*parts: int | str) -> int:
    """Return an int64 key made of several numbers and words, such as (seed, round, client).

    The order matters, and a number differs from the same number as text.
    """
    key = 0
    for part in parts:
        if isinstance(part, int) and -(2**63) <= part < 2**63:
            number = mix(part + _GAMMA)
        else:
            number = int.from_bytes(hashlib.sha256(repr(part).encode()).digest()[:8])
        key = mix((key + _GAMMA) ^ number)
    return _signed(key)


def bits_array(key: int, count: int) -> np.ndarray:
    """Return the first `count` random numbers of a key: uint64 of shape (count,), `BITS` wide."""
    z = np.arange(1, count + 1, dtype=np.uint64)
    z *= np.uint64(_GAMMA)
    z += np.uint64(key & _MASK)
    z ^= z >> np.uint64(30)
    z *= np.uint64(_FIRST)
    z ^= z >> np.uint64(27)
    z *= np.uint64(_SECOND)
    z ^= z >> np.uint64(31)
    z >>= np.uint64(64 - BITS)
    return z


def uniform_array(key: int, count: int) -> np.ndarray:
    """Return `count` float64 numbers, uniform in [-1, 1), that belong to a key."""
    return bits_array(key, count) * 2.0 ** (1 - BITS) - 1.0


def _shifted(value: Tensor, places: int) -> Tensor:
    """Shift int64 to the right and fill with zeros (torch itself would copy the sign)."""
    shifted: Tensor = (value >> places) & (2 ** (64 - places) - 1)
    return shifted


def _mix_tensor(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _signed(_FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(_SECOND)
    return z ^ _shifted(z, 31)


def bits_tensor(key: Tensor, stream: int, count: int) -> Tensor:
    """Return the first `count` random numbers of one stream of a key.

    Only integer arithmetic that wraps around is used and none of torch's generators, so it may
    run under ``torch.func.vmap`` with one key per row.

    Parameters
    ----------
    key
        int64 scalar; or several, of shape (n, 1).
    stream
        Tells apart several uses of one key, such as two dropout layers.
    count
        How many numbers.

    Returns
    -------
    Tensor
        int64 of shape (count,), or (n, count) for several keys, each from 0 to ``2**BITS - 1``.
        A number depends on its key and place, not on `count`.
    """
    import torch

    start = _mix_tensor(key + _signed((stream + 1) * _GAMMA))
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=key.device)
    return _shifted(_mix_tensor(start + counter * _signed(_GAMMA)), 64 - BITS)
