"""Looking through a whole store: is every block what it says, is every pinned root whole?

Every file is read and hashed, in as many threads as the computer has cores.  Then the links are
followed from all pins, each block once.  With places to repair from, a corrupt file is set aside
(it is never removed) and the block is fetched from the first place that has it right.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path

from neuronexus_kernel.content.cid import CID, RAW
from neuronexus_kernel.errors import ContentError, NeuroNexusError
from neuronexus_kernel.storage import dag
from neuronexus_kernel.storage.blocks import BlockFile, BlockStore
from neuronexus_kernel.storage.files import MAX_BLOCK
from neuronexus_kernel.storage.interface import BlockReader, Progress
from neuronexus_kernel.storage.pins import PinBook, Record

_GROUP = 16


class Fault(StrEnum):
    """What is wrong in a store."""

    CORRUPT = "corrupt"
    """A file holds other bytes than its name says, or cannot be read."""
    MISSING = "missing"
    """A pinned root needs a block that is not here."""
    MALFORMED = "malformed"
    """A pinned root needs a block whose links cannot be read: valid bytes that make no sense."""
    STRAY = "stray"
    """A file lies where blocks or pins do and is none; nothing uses it."""
    PIN = "pin"
    """The file of a pin is damaged: the root is kept, but its pin's name is lost."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes
    ----------
    fault
        What kind of thing.
    cid
        The block that it concerns, or the root of a damaged pin.
    path
        The file, if there is one; of a corrupt block that was set aside the place where it is now.
    roots
        The pinned roots that need the block.
    repaired
        Whether it is right again.
    """

    fault: Fault
    cid: CID | None
    path: Path | None
    roots: tuple[CID, ...] = ()
    repaired: bool = False

    def __str__(self) -> str:
        what = str(self.cid or self.path)
        needed = f", needed by {', '.join(map(str, self.roots))}" if self.roots else ""
        return f"{self.fault}: {what}{needed}{' (repaired)' if self.repaired else ''}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found in a store.

    Attributes
    ----------
    blocks, bytes
        That were read and hashed.
    pins
        Whose roots were followed.
    problems
        Everything that was wrong, repaired or not.
    seconds
        How long it took.
    """

    blocks: int
    bytes: int
    pins: int
    problems: tuple[Problem, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all is right, now that what could be repaired is; strays do no harm."""
        return all(each.repaired or each.fault == Fault.STRAY for each in self.problems)

    def __str__(self) -> str:
        left = sum(not problem.repaired for problem in self.problems)
        found = f"{len(self.problems)} ({left} left)" if self.problems else "none"
        first = f"blocks: {self.blocks:,} ({self.bytes:,} bytes); pins: {self.pins:,}"
        first = f"{first}; problems: {found}"
        return "\n".join([first, *map(str, self.problems)])


def verify(
    blocks: BlockStore,
    pins: PinBook,
    *,
    repair: Sequence[BlockReader] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Look through a whole store; see `LocalStore.verify`."""
    start = time.perf_counter()
    found = _Verifier(blocks, pins, repair, progress)
    found.hash_blocks()
    found.follow_pins()
    found.look_for_strays()
    return Verification(
        blocks=found.count,
        bytes=found.size,
        pins=found.pins,
        problems=found.problems(),
        seconds=time.perf_counter() - start,
    )


class _Verifier:
    """One pass through a store."""

    def __init__(
        self,
        blocks: BlockStore,
        pins: PinBook,
        repair: Sequence[BlockReader] | None,
        progress: Progress | None,
    ) -> None:
        self._blocks = blocks
        self._book = pins
        self._repair = repair
        self._progress = progress
        self._faults: dict[str, Problem] = {}
        self._others: list[Problem] = []
        # For each block that was followed: what is missing at it or below it.
        self._lacking: dict[str, frozenset[str]] = {}
        self._needed_by: dict[str, list[CID]] = {}
        self._elsewhere: set[str] = set()
        self.count = self.size = self.pins = 0

    # -- every block ------------------------------------------------------------------------

    def hash_blocks(self) -> None:
        """Read and hash every file."""
        for file, is_right in _side_by_side(self._is_right, self._blocks.files()):
            if is_right is None:  # Collected meanwhile.
                continue
            self.count += 1
            self.size += file.size
            if self._progress is not None:
                self._progress(file.size)
            if not is_right:
                self._found_corrupt(file.name)

    def _is_right(self, file: BlockFile) -> bool | None:
        return self._blocks.is_right(file.name)

    def _found_corrupt(self, name: str) -> None:
        path = Path(self._blocks.file_of(name))
        try:
            cid = CID.parse(name)
        except ContentError:
            self._others.append(Problem(Fault.STRAY, None, path))
            return
        if self._repair is not None:
            aside = self._blocks.set_aside(name)
            if aside is None:
                return  # Right after all: somebody added it again.
            path = aside
        self._faults[name] = Problem(Fault.CORRUPT, cid, path, repaired=self._restore(cid))

    def _restore(self, cid: CID) -> bool:
        """Fetch a block from the first place that has it right."""
        for place in self._repair or ():
            with suppress(NeuroNexusError):
                block = place.block(cid)
                if len(block) <= MAX_BLOCK and cid.matches(block):
                    with self._blocks.batch() as batch:
                        batch.put(cid, block)
                    return True
        return False

    # -- every pinned root ------------------------------------------------------------------

    def follow_pins(self) -> None:
        """See that all is here that pins promise."""
        files = sorted(self._book.names())
        for file in files:
            record = self._book.read(file)
            if record is not None:
                self._elsewhere.update(map(self._blocks.name_of, record.elsewhere))
        for file in files:
            record = self._book.read(file)
            if record is None:
                continue
            self.pins += 1
            pin = record.pin
            if record.damaged:
                self._others.append(Problem(Fault.PIN, pin.cid, self._book.folder / file))
            with self._blocks.readers.holding(self._blocks.name_of(pin.cid)):
                lacking = self._follow(record)
            # A pin that was taken back meanwhile promises nothing.
            if lacking and self._book.read(file) is not None:
                for name in lacking:
                    self._needed_by.setdefault(name, []).append(pin.cid)

    def _follow(self, record: Record) -> frozenset[str]:
        """Return what a pin lacks, but for what its documents name that was never here."""
        root = record.pin.cid
        if not record.pin.recursive:
            name = self._blocks.name_of(root)
            return frozenset() if self._is_here(root) else frozenset([name])
        self._follow_all(root)
        forgiven = {self._blocks.name_of(cid) for cid in record.elsewhere}
        return self._lacking[self._blocks.name_of(root)] - forgiven

    def _follow_all(self, root: CID) -> None:
        """Find out for each block below a root what is missing there: first below, then above."""
        todo: list[tuple[CID, list[str] | None]] = [(root, None)]
        while todo:
            cid, below = todo.pop()
            name = self._blocks.name_of(cid)
            if below is not None:
                lacking = {self._lacking[each] for each in below} - {frozenset()}
                self._lacking[name] = frozenset().union(*lacking)
            elif name not in self._lacking:
                links = self._links(cid, name)
                if links:
                    todo.append((cid, [self._blocks.name_of(link) for link in links]))
                    todo.extend((link, None) for link in links)

    def _links(self, cid: CID, name: str) -> list[CID]:
        """Return what a block links to; note what is missing where there is nothing to follow."""
        self._lacking[name] = frozenset()
        if not self._is_here(cid):
            self._lacking[name] = frozenset([name])
            return []
        if cid.codec == RAW:
            return []
        try:
            return dag.links_of(cid, self._blocks.get(cid))
        except NeuroNexusError:
            # Its bytes are right, or it would not be here: then it is what they say.
            self._lacking[name] = frozenset([name])
            self._faults.setdefault(name, Problem(Fault.MALFORMED, cid, None))
            return []

    def _is_here(self, cid: CID) -> bool:
        """Tell whether a block is here and right, fetching it if it is not."""
        name = self._blocks.name_of(cid)
        fault = self._faults.get(name)
        if fault is not None:
            return fault.repaired or fault.fault == Fault.MALFORMED
        if self._blocks.has(cid):
            return True
        # What was never here is not fetched either.
        repaired = name not in self._elsewhere and self._restore(cid)
        self._faults[name] = Problem(Fault.MISSING, cid, None, repaired=repaired)
        return repaired

    # -- and what else is there -------------------------------------------------------------

    def look_for_strays(self) -> None:
        """Find files that are neither blocks nor pins."""
        for path in (*self._blocks.strays(), *self._book.strays()):
            self._others.append(Problem(Fault.STRAY, None, path))

    def problems(self) -> tuple[Problem, ...]:
        """Return everything that was found, the worst first."""
        found = []
        for name, problem in sorted(self._faults.items()):
            roots = tuple(sorted(set(self._needed_by.get(name, ()))))
            # That a block is missing which no pin promises (any more) is no problem.
            if roots or problem.fault == Fault.CORRUPT or problem.repaired:
                found.append(replace(problem, roots=roots))
        order = list(Fault)
        return tuple(sorted((*found, *self._others), key=lambda each: order.index(each.fault)))


def _side_by_side(
    function: Callable[[BlockFile], bool | None], files: Iterator[BlockFile]
) -> Iterator[tuple[BlockFile, bool | None]]:
    """Call a function for each file, in a thread for each core; give the answers in order."""
    cores = os.cpu_count() or 1

    def answer(group: list[BlockFile]) -> list[tuple[BlockFile, bool | None]]:
        return [(file, function(file)) for file in group]

    with ThreadPoolExecutor(cores, thread_name_prefix="verify") as pool:
        waiting: deque[Future[list[tuple[BlockFile, bool | None]]]] = deque()
        while group := list(islice(files, _GROUP)):
            waiting.append(pool.submit(answer, group))
            if len(waiting) > 2 * cores:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
