"""What child processes are asked to do in the tests: importable by them by its path."""

import multiprocessing
import os
import time

from neuronexus_kernel.errors import RecipeError

_kept: list = []


def answer(size: int) -> bytes:
    return b"x" * size


def sleep(seconds: float) -> bytes:
    time.sleep(seconds)
    return b""


def eat(mebibytes: int) -> bytes:
    return bytes(bytearray(mebibytes << 20)[:1])


def die() -> bytes:
    os._exit(7)


def refuse() -> bytes:
    raise RecipeError("learning_rate must be above 0.")


def blunder() -> bytes:
    raise KeyError("a key")


def lock() -> bytes:
    """Make and keep what a progress bar makes: a semaphore that must be cleaned up."""
    _kept.append(multiprocessing.get_context("forkserver").RLock())
    return b"locked"


def tell_and_sleep(path: str) -> bytes:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)
    return b""
