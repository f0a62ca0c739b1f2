"""Memory is used again when nobody holds an array in it, and never before."""

from __future__ import annotations

import gc

import numpy as np
import torch

from neuronexus_kernel.federation.executors.fused.memory import Memory

SHAPES = {"conv": (4, 3, 5, 5), "linear": (7, 6)}
FLOAT = np.dtype("float32")


def addresses(stacks):
    return {array.__array_interface__["data"][0] for array in stacks.values()}


def test_an_array_that_somebody_holds_is_never_handed_out_again():
    memory = Memory()
    held, seen = [], set()
    for _ in range(6):
        stacks = memory.stacks(SHAPES, 5, FLOAT)
        assert not addresses(stacks) & seen
        seen |= addresses(stacks)
        held.append(stacks["conv"][2])  # one client's view keeps the whole
        held.append(torch.from_numpy(stacks["linear"])[1:])


def test_memory_that_nobody_holds_is_used_again():
    memory = Memory()
    first = memory.stacks(SHAPES, 5, FLOAT)
    used = addresses(first)
    del first
    gc.collect()
    assert addresses(memory.stacks(SHAPES, 5, FLOAT)) == used
    assert addresses(memory.stacks(SHAPES, 3, FLOAT)) == used


def test_larger_or_wider_requests_get_memory_that_is_large_enough():
    memory = Memory()
    for clients, dtype in ((2, "float32"), (9, "float32"), (9, "float64"), (1, "float32")):
        stacks = memory.stacks(SHAPES, clients, np.dtype(dtype))
        for name, array in stacks.items():
            assert array.shape == (clients, *SHAPES[name])
            assert array.dtype == dtype
            assert array.__array_interface__["data"][0] % 64 == 0
            array[...] = 1.0
