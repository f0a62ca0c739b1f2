"""Checkpoints: a run that is killed at any moment goes on after its last full round.

A folder holds one run.  ``run.cbor`` says what the run is; it is written once.  After each round
its arrays go into new files, its report to the end of ``history.log``, and then ``head.cbor``,
which names them all, is replaced in one step: a reader sees the round before or the round after,
never something between.  Files that no head names are swept away.  ``note.cbor`` is for whoever
trains, to remember what the run is to them.  Documents are canonical DAG-CBOR, arrays are
safetensors: nothing in a checkpoint can run.

Clients' states are written only for the clients that the round asked, so that a checkpoint of a
run over thousands of clients costs as much as its cohort.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import (
    ConflictError,
    ContentError,
    InvalidInputError,
    NeuroNexusError,
    StoreError,
)
from neuronexus_kernel.federation._flower import Strategy
from neuronexus_kernel.federation.durable import LOCK, Folder
from neuronexus_kernel.federation.result import RoundReport
from neuronexus_kernel.federation.snapshot import Arrays, pack, restore, unpack
from neuronexus_kernel.federation.strategies.client import States
from neuronexus_kernel.federation.updates import RoundUpdates

FORMAT = "neuronexus/checkpoint@1"

_RUN, _NOTE, _HEAD, _HISTORY = "run.cbor", "note.cbor", "head.cbor", "history.log"
_SAFE = (_RUN, _NOTE, _HEAD, _HISTORY)
_FIRST_PARTS = re.compile(rf"{LOCK}|run\.cbor\.new|note\.cbor(\.new)?")
_PARTS = re.compile(
    rf"{LOCK}|history\.log|(run|note|head)\.cbor(\.new)?|"
    r"(round|clients)-\d+\.safetensors|updates-\d+\.cbor"
)
_FRAME = 8


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """What a checkpoint holds of a run.

    Attributes
    ----------
    round
        The last full round; 0 before the first.
    reports
        One per round, round 0 first.
    weights
        The global weights after that round, by name.
    states
        What clients keep between rounds.
    updates
        Of each round, when they are kept.
    """

    round: int
    reports: tuple[RoundReport, ...]
    weights: dict[str, np.ndarray]
    states: dict[int, dict[str, dict[str, np.ndarray]]]
    updates: tuple[RoundUpdates, ...]
    _strategy: Node
    _arrays: Mapping[str, np.ndarray]

    def restore(self, strategy: Strategy) -> None:
        """Give a strategy the state that the run's had after the round."""
        restore(strategy, self._strategy, self._arrays)


class Checkpoint:
    """The checkpoint of one run, opened by one process at a time; a context manager.

    Parameters
    ----------
    folder
        Where it is; made if it does not exist.

    Attributes
    ----------
    run
        What the run is, as written by `begin`; None in a new folder.
    note
        What `write_note` wrote last, or None.

    Raises
    ------
    InvalidInputError
        If the folder holds something else.
    ConflictError
        If another run writes there now.
    StoreError
        If it cannot be read or written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Folder(Path(folder))
        self._head: dict[str, Node] = {}
        self.run: dict[str, Node] | None = None
        self.note: dict[str, Node] | None = None

    def __str__(self) -> str:
        return str(self._folder.path)

    def __enter__(self) -> Checkpoint:
        try:
            self._folder.make()
            self._check_empty_or_ours()
            self._take()
            self.run, self.note = self._document(_RUN), self._document(_NOTE)
            self._head = self._document(_HEAD) or {}
            if self.run is not None and self.run.get("format") != FORMAT:
                raise InvalidInputError(f"{self} is no checkpoint of format {FORMAT}.")
            self._sweep()
        except OSError as error:
            self._folder.release()
            raise StoreError(f"The checkpoint {self} cannot be used: {error}") from error
        except NeuroNexusError:
            self._folder.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.release()

    def begin(self, run: Mapping[str, Node]) -> None:
        """Write down what the run is, once and for all."""
        self.run = {"format": FORMAT, **run}
        self._keep(_RUN, self.run)

    def write_note(self, note: Mapping[str, Node]) -> None:
        """Remember something about the run, in the place of what was noted before."""
        self.note = dict(note)
        self._keep(_NOTE, self.note)

    def load(self) -> Saved | None:
        """Return what was saved after the last full round, or None if there is nothing yet."""
        if not self._head:
            return None
        try:
            return self._load()
        except (OSError, KeyError, TypeError, ValueError, NeuroNexusError) as error:
            raise self._spoilt(error) from error

    def save(
        self,
        report: RoundReport,
        weights: Mapping[str, np.ndarray],
        strategy: Strategy,
        *,
        states: States,
        asked: Iterable[int],
        updates: RoundUpdates | None,
    ) -> None:
        """Save a round; when this returns, it is on the disk.

        Parameters
        ----------
        report
            What happened in the round.
        weights
            The global weights after it.
        strategy
            The strategy, after it.
        states
            What clients keep.
        asked
            Partition ids of those whose state the round may have changed.
        updates
            Of this round, if they are kept.

        Raises
        ------
        InvalidInputError
            If the strategy's state has no form that can be saved.
        StoreError
            If the disk does not take it.
        """
        number = report.round
        arrays: Arrays = {}
        head: dict[str, Node] = {
            "round": number,
            "weights": pack(dict(weights), arrays, "weights"),
            "strategy": pack(strategy, arrays, "strategy"),
            "arrays": f"round-{number}.safetensors",
        }
        changed: Arrays = {}
        some = {place: states[place] for place in sorted(set(asked)) if place in states}
        trees = {str(place): pack(state, changed, "states") for place, state in some.items()}
        clients = dict(cast("dict[str, Node]", self._head.get("clients", {})))
        if trees:
            name = f"clients-{number}.safetensors"
            clients |= {place: {"arrays": name, "state": tree} for place, tree in trees.items()}
        head["clients"] = clients
        kept = list(cast("list[Node]", self._head.get("updates", [])))
        try:
            if updates is not None:
                kept.append(f"updates-{number}.cbor")
                self._folder.write(str(kept[-1]), updates.encode())
            head["updates"] = kept
            if trees:
                self._folder.write(name, _tensors(changed))
            self._folder.write(str(head["arrays"]), _tensors(arrays))
            length = cast(int, self._head.get("history", 0))
            head["history"] = self._folder.append(_HISTORY, _framed(report), length)
            self._folder.replace(_HEAD, dagcbor.encode(head))
            self._head = head
            self._sweep()
        except OSError as error:
            raise StoreError(f"Round {number} could not be saved in {self}: {error}") from error

    def _check_empty_or_ours(self) -> None:
        """Check that nothing of somebody else's would be swept away."""
        there = set(self._folder.names())
        ours = _PARTS if _RUN in there else _FIRST_PARTS
        for name in sorted(there):
            if not ours.fullmatch(name):
                raise InvalidInputError(
                    f"{self} holds {name}, which is no part of a checkpoint: "
                    "name a folder of its own."
                )

    def _load(self) -> Saved:
        head = self._head
        arrays = self._tensors_of(str(head["arrays"]))
        files: dict[str, Mapping[str, np.ndarray]] = {}
        states = {}
        for place, entry in cast("dict[str, dict[str, Node]]", head["clients"]).items():
            name = str(entry["arrays"])
            if name not in files:
                files[name] = self._tensors_of(name)
            states[int(place)] = cast(
                "dict[str, dict[str, np.ndarray]]", unpack(entry["state"], files[name])
            )
        kept = cast("list[str]", head["updates"])
        return Saved(
            round=cast(int, head["round"]),
            reports=tuple(self._reports(cast(int, head["history"]))),
            weights=cast("dict[str, np.ndarray]", unpack(head["weights"], arrays)),
            states=states,
            updates=tuple(RoundUpdates.decode(self._folder.read(name)) for name in kept),
            _strategy=head["strategy"],
            _arrays=arrays,
        )

    def _reports(self, length: int) -> list[RoundReport]:
        data = self._folder.read(_HISTORY)[:length]
        reports = []
        at = 0
        while at < length:
            end = at + _FRAME + int.from_bytes(data[at : at + _FRAME], "big")
            reports.append(_report(dagcbor.decode(data[at + _FRAME : end])))
            at = end
        return reports

    def _keep(self, name: str, document: Node) -> None:
        try:
            self._folder.replace(name, dagcbor.encode(document))
        except OSError as error:
            raise StoreError(f"The checkpoint {self} cannot be written: {error}") from error

    def _document(self, name: str) -> dict[str, Node] | None:
        try:
            data = self._folder.read(name)
        except FileNotFoundError:
            return None
        try:
            node = dagcbor.decode(data)
        except ContentError as error:
            raise self._spoilt(error) from None
        if not isinstance(node, dict):
            raise self._spoilt(InvalidInputError(f"{name} is no document of a checkpoint."))
        return node

    def _spoilt(self, error: Exception) -> StoreError:
        return StoreError(
            f"The checkpoint {self} cannot be read: {type(error).__name__}: {error} "
            "Name another folder to begin anew."
        )

    def _tensors_of(self, name: str) -> Mapping[str, np.ndarray]:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            loaded: Mapping[str, np.ndarray] = load(self._folder.read(name))
        except SafetensorError as error:
            raise StoreError(f"{name} is no safetensors file: {error}") from None
        return loaded

    def _sweep(self) -> None:
        """Remove files that the head does not name: of older rounds, and half-written ones."""
        clients = cast("dict[str, dict[str, Node]]", self._head.get("clients", {}))
        named = {
            *_SAFE,
            str(self._head.get("arrays")),
            *(str(entry["arrays"]) for entry in clients.values()),
            *(str(name) for name in cast("list[Node]", self._head.get("updates", []))),
        }
        self._folder.sweep(named)

    def _take(self) -> None:
        if not self._folder.take():
            raise ConflictError(
                f"Another run writes to the checkpoint {self} now: wait for it, or name "
                "another folder."
            )


@contextmanager
def opened(
    checkpoint: str | os.PathLike[str] | Checkpoint | None,
) -> Iterator[Checkpoint | None]:
    """Yield a checkpoint by its folder; one that is open already, or none, is handed through."""
    if checkpoint is None or isinstance(checkpoint, Checkpoint):
        yield checkpoint
        return
    with Checkpoint(checkpoint) as store:
        yield store


def _tensors(arrays: Arrays) -> bytes:
    from safetensors.numpy import save

    data: bytes = save(arrays)
    return data


def _framed(report: RoundReport) -> bytes:
    """Return a report with its length before it."""
    document = dagcbor.encode(
        {each.name: _plain(getattr(report, each.name)) for each in fields(report)}
    )
    return len(document).to_bytes(_FRAME, "big") + document


def _plain(value: object) -> Node:
    """Return a report's field as a tree without arrays."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return cast(Node, value)


def _report(node: Node) -> RoundReport:
    document = cast("dict[str, Node]", node)
    values: dict[str, object] = dict(document)
    for name in ("loss", "accuracy", "seconds", "train_loss"):
        number = document[name]
        values[name] = float("nan") if number is None else float(cast("float | str", number))
    values["clients"] = tuple(cast("list[str]", document["clients"]))
    return RoundReport(**values)  # type: ignore[arg-type]
