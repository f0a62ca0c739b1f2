"""Threads that verify blocks ahead, for all streams of this process together.

Reading from a disk costs little; hashing is the work, and hashlib lets go of the interpreter while
it hashes.  So one stream gets on faster with as many threads as there are processors, and many
streams are served no better by more.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import ParamSpec, TypeVar

from neuronexus_kernel.content.chunks import processors

P = ParamSpec("P")
R = TypeVar("R")

_MOST = 4


class SharedThreads:
    """A few threads, which take no more than they will soon come to.

    Parameters
    ----------
    count
        How many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._begin()
        if hasattr(os, "register_at_fork"):
            # A fork has no threads but the one that forked, and may have a lock that nobody holds.
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pending = 0

    def offer(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R] | None:
        """Have some work done, or return None if there is enough to do: then do it yourself."""
        with self._lock:
            if self._pending >= 2 * self.count:
                return None
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="nx-verify")
            self._pending += 1
            pool = self._pool
        try:
            future = pool.submit(work, *args, **kwargs)
        except RuntimeError:  # The interpreter is shutting down.
            self._finish(None)
            return None
        future.add_done_callback(self._finish)
        return future

    def _finish(self, _: object) -> None:
        with self._lock:
            self._pending -= 1


@cache
def shared_threads() -> SharedThreads | None:
    """Return the threads of this process, or None where there is one processor alone."""
    count = min(_MOST, processors())
    return SharedThreads(count) if count > 1 else None
