"""What child processes are asked to do in the tests: importable by them by its path."""

import os
import time

from neuronexus_kernel.errors import RecipeError


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


def show_progress() -> bytes:
    """Make a progress bar, even if none is shown: tqdm takes two semaphores for it."""
    from tqdm.auto import tqdm

    with tqdm(disable=True):
        return b"done"


def tell_and_sleep(path: str) -> bytes:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)
    return b""
