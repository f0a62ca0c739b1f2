"""Child processes with limits: where evaluations run.

`ChildProcessExecutor` is a `concurrent.futures.Executor`, so that a cluster's executor can take
its place.  Each call runs in a process of its own, forked from a server that has the heavy
imports done, and ends with it; one that takes too long or too much memory is ended from outside.
Results are bytes: what comes back from a child is data and is never unpickled.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from neuronexus_kernel.errors import EvaluationError, NeuroNexusError
from neuronexus_kernel.settings import MIB, EvaluationLimits

T = TypeVar("T")

_DONE = b"\0"
_FAILED = b"\1"

_GOODBYE_SECONDS = 5.0
"""A child that has answered may take so long to end by itself, and clean up behind itself."""


class ChildProcessExecutor(Executor):
    """Runs functions that return bytes, each in a child process under limits.

    Parameters
    ----------
    limits
        Wall-clock time and private memory that one call may use.
    preload
        Modules imported once, before the first call.
    """

    def __init__(self, limits: EvaluationLimits, preload: tuple[str, ...] = ()) -> None:
        self._limits = limits
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._children: set[Any] = set()
        self._changed = threading.Condition()
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start a child that runs ``fn(*args, **kwargs)``, which must return bytes.

        The future raises `EvaluationError` if a limit was broken or the child died, and any
        `NeuroNexusError` that the function raised.
        """
        if self._closed:
            raise RuntimeError("The executor is shut down.")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        threading.Thread(
            target=self._attend, args=(future, fn, args, kwargs), name="nx-child", daemon=True
        ).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End every child that still runs."""
        with self._changed:
            self._closed = True
            for child in self._children:
                child.kill()
            if wait:
                self._changed.wait_for(lambda: not self._children, timeout=5)

    def _attend(self, future: Future[Any], fn: Any, args: Any, kwargs: Any) -> None:
        try:
            future.set_result(self._run(fn, args, kwargs))
        except BaseException as error:  # whatever it is belongs to the future's reader
            future.set_exception(error)

    def _run(self, fn: Any, args: Any, kwargs: Any) -> bytes:
        receiver, sender = self._context.Pipe(duplex=False)
        child = self._context.Process(
            target=_child, args=(sender, self._limits.memory, fn, args, kwargs), daemon=True
        )
        with receiver:
            with sender:
                self._start(child)
            try:
                answer = self._receive(child, receiver)
                child.join(_GOODBYE_SECONDS)
            finally:
                self._end(child)
        return answer

    def _start(self, child: Any) -> None:
        with self._changed:
            if self._closed:
                raise RuntimeError("The executor is shut down.")
            child.start()
            self._children.add(child)

    def _end(self, child: Any) -> None:
        child.kill()
        child.join()
        with self._changed:
            self._children.discard(child)
            self._changed.notify_all()
        child.close()

    def _receive(self, child: Any, receiver: Connection) -> bytes:
        if not receiver.poll(self._limits.seconds):
            raise EvaluationError(
                f"It took more than {self._limits.seconds:g} seconds and was ended "
                "(NEURONEXUS_EVALUATION_SECONDS)."
            )
        try:
            answer = receiver.recv_bytes()
        except (EOFError, OSError):
            child.join(_GOODBYE_SECONDS)
            raise EvaluationError(
                f"Its process ended without a result (exit code {child.exitcode}); it may have "
                f"used more memory than the {self._limits.memory // MIB} MiB allowed."
            ) from None
        if answer[:1] == _DONE:
            return answer[1:]
        failure = json.loads(answer[1:])
        raise NeuroNexusError.named(failure["code"])(failure["message"])


def _child(
    sender: Connection, memory: int, fn: Callable[..., bytes], args: Any, kwargs: Any
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the hub, which ends its children
    try:
        _limit_memory(memory)
        answer = _DONE + fn(*args, **kwargs)
    except Exception as error:
        answer = _FAILED + json.dumps(_describe(error, memory)).encode()
    sender.send_bytes(answer)


def _describe(error: Exception, memory: int) -> dict[str, str]:
    text = str(error)
    if isinstance(error, NeuroNexusError):
        return {"code": error.code, "message": text}
    if isinstance(error, MemoryError) or "allocate memory" in text:
        text = (
            f"It used more than the {memory // MIB} MiB of memory allowed "
            "(NEURONEXUS_EVALUATION_MEMORY_MIB)."
        )
    elif not isinstance(error, RuntimeError):
        text = f"{type(error).__name__}: {text}"
    return {"code": EvaluationError.code, "message": text[:2000]}


def _limit_memory(memory: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows, where only the time is limited
        return
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
