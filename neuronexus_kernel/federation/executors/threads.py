"""How many threads torch uses, for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads, and as many as before afterwards.

    Sums depend on how many threads share them, so a result that must be reproducible needs a
    fixed number.  And small steps are faster on one: sharing them costs more than it saves, and
    on a busy machine each step waits for the slowest thread.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
