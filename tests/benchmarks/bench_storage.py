"""Content beside real Kubo, whose library runs in a child process and takes its own time.

All sides of a figure take turns within one run, and the best of several turns counts.  What is
added is new each time, as a block that is there already costs little.  Kubo is version 0.22 with
the settings of `ipfs init`: it flushes what it adds, as our store does, but does not verify what it
reads.  Where its wheel is not installed, only the figures without it are measured.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import BinaryIO

from measure import Figure

sys.path.insert(0, str(Path(__file__).parents[1] / "storage"))

from kubo_node import KuboNode

from neuronexus_kernel.content import CID
from neuronexus_kernel.storage import LocalStore, cid_of, unixfs

MIB = 2**20
SIZE = 200 * MIB
FILES = 10_000
V0, V1 = "unixfs-v0-2015", "unixfs-v1-2025"
TURNS = 3
CORES = len(os.sched_getaffinity(0))


def figures() -> Iterator[Figure]:
    """Hash, add, read, and look at memory and threads."""
    with tempfile.TemporaryDirectory(prefix="nx-bench-") as folder:
        here = Path(folder)
        yield from _hashing(here)
        yield from _memory(here)
        yield from _threads(here)
        if KuboNode.is_installed():
            kubo = KuboNode(here / "kubo")
            try:
                yield from _hashing_beside_kubo(here, kubo)
                yield from _small_files(here, kubo)
                yield from _large_files(here, kubo)
            finally:
                kubo.close()


def in_turn(sides: Mapping[str, Callable[[], float]], turns: int = TURNS) -> dict[str, float]:
    """Return the best of what each side measures; they take turns, after a first one unmeasured."""
    best = dict.fromkeys(sides, float("inf"))
    for turn in range(turns + 1):
        for name, measure in sides.items():
            seconds = measure()
            if turn:
                best[name] = min(best[name], seconds)
    return best


def seconds_of(action: Callable[[], object]) -> Callable[[], float]:
    """Return a function that takes the time of an action."""

    def measure() -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    return measure


def kubo_seconds(kubo: KuboNode, action: Callable[[], object]) -> Callable[[], float]:
    """Return a function that has Kubo do something and returns the time that it took itself."""

    def measure() -> float:
        action()
        return kubo.seconds

    return measure


def _hashing(here: Path) -> Iterator[Figure]:
    data = os.urandom(SIZE)
    best = in_turn(
        {
            "bare": seconds_of(lambda: hashlib.sha256(data).digest()),
            "ours": seconds_of(lambda: cid_of(data, profile=V1)),
            "legacy": seconds_of(lambda: cid_of(data, profile=V0)),
        }
    )
    speed = {name: SIZE / MIB / seconds for name, seconds in best.items()}
    what, peer = "CID of 200 MiB in memory", "hashlib.sha256"
    yield Figure(f"{what}, v1", speed["ours"], speed["bare"], peer, "MiB/s", goal=0.8)
    yield Figure(f"{what}, v0", speed["legacy"], speed["bare"], peer, "MiB/s")


def _hashing_beside_kubo(here: Path, kubo: KuboNode) -> Iterator[Figure]:
    path = here / "hashed"
    path.write_bytes(os.urandom(SIZE))
    best = in_turn(
        {
            "kubo": kubo_seconds(kubo, lambda: kubo.cid_of(path)),
            "v0": seconds_of(lambda: cid_of(path, profile=V0)),
            "v1": seconds_of(lambda: cid_of(path, profile=V1)),
        }
    )
    speed = {name: SIZE / MIB / seconds for name, seconds in best.items()}
    what = "CID of a file of 200 MiB"
    yield Figure(f"{what}, v0", speed["v0"], speed["kubo"], "Kubo", "MiB/s", goal=1.5)
    yield Figure(f"{what}, v1", speed["v1"], speed["kubo"], "Kubo, v0", "MiB/s")
    path.unlink()


def _small_files(here: Path, kubo: KuboNode) -> Iterator[Figure]:
    numbers = count()

    def new_folder() -> Path:
        path = here / f"small-{next(numbers)}"
        path.mkdir()
        for number in range(FILES):
            (path / f"{number:05d}").write_bytes(os.urandom(1024))
        return path

    path = new_folder()
    best = in_turn(
        {
            "kubo": kubo_seconds(kubo, lambda: kubo.cid_of(path)),
            "ours": seconds_of(lambda: cid_of(path, profile=V0)),
        }
    )
    what = "10,000 files of 1 KiB in a folder"
    ours, theirs = FILES / best["ours"], FILES / best["kubo"]
    yield Figure(f"{what}, CID", ours, theirs, "Kubo", "files/s", goal=2)

    store = LocalStore(here / "store-small")

    def ours_added() -> float:
        path = new_folder()
        return seconds_of(lambda: store.add(path, profile=V0))()

    def kubo_added() -> float:
        kubo.add(new_folder())
        return kubo.seconds

    best = in_turn({"kubo": kubo_added, "ours": ours_added}, turns=2)
    ours, theirs = FILES / best["ours"], FILES / best["kubo"]
    yield Figure(f"{what}, kept", ours, theirs, "Kubo", "files/s", goal=2)


def _large_files(here: Path, kubo: KuboNode) -> Iterator[Figure]:
    """Add new content each turn, read it for the first time, and again.

    The first time is what one who fetches a data set sees, and Kubo is several times faster the
    second; both are told.
    """
    store = LocalStore(here / "store-large")
    path, target = here / "large", here / "target"

    def renew() -> None:
        path.write_bytes(os.urandom(SIZE))
        target.unlink(missing_ok=True)

    def kubo_turn(taken: dict[str, float]) -> None:
        renew()
        cid = kubo.add(path)
        taken["kubo added"] = kubo.seconds
        for read in ("kubo read", "kubo read again"):
            target.unlink(missing_ok=True)
            kubo.download(cid, target)
            taken[read] = kubo.seconds

    def our_turn(taken: dict[str, float], profile: str) -> None:
        renew()
        cids: list[CID] = []
        add = seconds_of(lambda: cids.append(store.add(path, profile=profile)))
        taken[f"{profile} added"] = add()

        def stream() -> None:
            with store.open(cids[0]) as opened:
                _drain(opened)

        def stream_alone() -> None:
            with unixfs.FileReader(store.block, cids[0]) as opened:
                _drain(opened)

        taken[f"{profile} read"] = seconds_of(stream)()
        taken[f"{profile} read again"] = seconds_of(stream)()
        taken[f"{profile} read alone"] = seconds_of(stream_alone)()
        taken[f"{profile} got"] = seconds_of(lambda: store.get(cids[0]))()
        taken[f"{profile} written"] = seconds_of(lambda: store.download(cids[0], target))()

    best: dict[str, float] = {}
    for turn in range(TURNS + 1):
        taken: dict[str, float] = {}
        kubo_turn(taken)
        our_turn(taken, V1)
        our_turn(taken, V0)
        data = path.read_bytes()
        taken["bare"] = seconds_of(lambda data=data: hashlib.sha256(data).digest())()
        if turn:
            best = {name: min(each, best.get(name, each)) for name, each in taken.items()}
    speed = {name: SIZE / MIB / seconds for name, seconds in best.items()}

    def figure(what: str, ours: str, theirs: str, goal: float | None = None) -> Figure:
        peer = {"bare": "hashlib.sha256", "kubo added": "Kubo"}.get(theirs, "Kubo's download")
        return Figure(what, speed[ours], speed[theirs], peer, "MiB/s", goal=goal)

    yield figure("add 200 MiB to disk", f"{V1} added", "kubo added", 2)
    yield figure("add 200 MiB to disk, v0", f"{V0} added", "kubo added")
    yield figure("verified read of 200 MiB", f"{V1} read", "kubo read", 5)
    yield figure("verified read of 200 MiB, v0", f"{V0} read", "kubo read")
    yield figure("verified read, again", f"{V1} read again", "kubo read again")
    yield figure("verified read into memory, again", f"{V1} got", "kubo read again")
    yield figure("verified download, again", f"{V1} written", "kubo read again")
    yield figure("verified read, again, one thread", f"{V1} read alone", "bare")


PEAK = """
import sys
from pathlib import Path
from neuronexus_kernel.storage import LocalStore
def told(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))
store = LocalStore(sys.argv[1])
store.get(store.add(bytes(1000)))
idle = told("VmRSS")
cid = store.add(Path(sys.argv[2]), profile=sys.argv[3])
with store.open(cid) as stream:
    while stream.read(1 << 20):
        pass
print(told("VmHWM") - idle)
"""


def _memory(here: Path) -> Iterator[Figure]:
    """Add and read a sparse file of 2 GiB in a process of its own."""
    path = here / "sparse"
    path.touch()
    os.truncate(path, 2048 * MIB)
    for name, profile in (("v1", V1), ("v0", V0)):
        command = [sys.executable, "-c", PEAK, str(here / f"peak-{name}"), str(path), profile]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        yield Figure(
            f"memory to add and read 2 GiB, {name}",
            int(told) / 1024,
            100,
            "100 MiB above idle",
            "MiB",
            goal=1,
            less=True,
        )


def _threads(here: Path) -> Iterator[Figure]:
    """Eight threads read 400 MiB, beside one; and so the hash function, whose work it is.

    Two processors may share one unit that hashes, and then nothing scales; so what is compared is
    how both scale.
    """
    store = LocalStore(here / "store-threads")
    pieces = [os.urandom(50 * MIB) for _ in range(8)]
    cids = [store.add(piece) for piece in pieces]

    def read(cid: CID) -> None:
        with unixfs.FileReader(store.block, cid) as stream:  # A stream of the store is not alone.
            _drain(stream)

    def opened(cid: CID) -> None:
        with store.open(cid) as stream:
            _drain(stream)

    def bare(piece: bytes) -> None:
        view = memoryview(piece)
        for start in range(0, len(view), MIB):
            hashlib.sha256(view[start : start + MIB]).digest()

    with ThreadPoolExecutor(8) as pool:
        best = in_turn(
            {
                "ours, 1": seconds_of(lambda: [read(cid) for cid in cids]),
                "bare, 1": seconds_of(lambda: [bare(piece) for piece in pieces]),
                "ours, 8": seconds_of(lambda: list(pool.map(opened, cids))),
                "bare, 8": seconds_of(lambda: list(pool.map(bare, pieces))),
            }
        )
    ours, hashing = best["ours, 1"] / best["ours, 8"], best["bare, 1"] / best["bare, 8"]
    what = "8 threads reading, verified, beside 1"
    yield Figure(what, ours, hashing, f"hashlib.sha256, {CORES} cores", "times", goal=0.9)


def _drain(stream: BinaryIO) -> None:
    """Read to the end through one buffer."""
    buffer = bytearray(MIB)
    while stream.readinto(buffer):
        pass
