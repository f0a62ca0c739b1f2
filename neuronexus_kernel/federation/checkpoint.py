"""Checkpoints: a run that is killed at any moment goes on after its last full round.

A folder holds one run.  ``run.cbor`` says what the run is; it is written once.  After each round
its arrays go into new files, its report to the end of ``history.log``, and then ``head.cbor``,
which names them all, is replaced in one step: a reader sees the round before or the round after,
never something between.  Every file is flushed to the disk before the head names it, and files
that no head names are swept away.  Documents are canonical DAG-CBOR, arrays are safetensors:
nothing in a checkpoint can run.

Clients' states are written only for the clients that the round asked, so that a checkpoint of a
run over thousands of clients costs as much as its cohort.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
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
from neuronexus_kernel.federation.result import RoundReport
from neuronexus_kernel.federation.snapshot import Arrays, pack, restore, unpack
from neuronexus_kernel.federation.strategies.client import States
from neuronexus_kernel.federation.updates import RoundUpdates

FORMAT = "neuronexus/checkpoint@1"

_RUN, _HEAD, _HISTORY, _LOCK = "run.cbor", "head.cbor", "history.log", "lock"
_SAFE = (_RUN, _HEAD, _HISTORY, _LOCK)
_FIRST_PARTS = re.compile(r"lock|run\.cbor\.new")
_PARTS = re.compile(
    r"lock|history\.log|(run|head)\.cbor(\.new)?|(round|clients)-\d+\.safetensors|updates-\d+\.cbor"
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
        self._folder = Path(folder)
        self._lock = -1
        self._head: dict[str, Node] = {}
        self.run: dict[str, Node] | None = None

    def __enter__(self) -> Checkpoint:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._check_empty_or_ours()
            self._take()
            self.run = self._document(_RUN)
            self._head = self._document(_HEAD) or {}
            if self.run is not None and self.run.get("format") != FORMAT:
                raise InvalidInputError(f"{self._folder} is no checkpoint of format {FORMAT}.")
            self._sweep()
        except OSError as error:
            self._release()
            raise StoreError(f"The checkpoint {self._folder} cannot be used: {error}") from error
        except NeuroNexusError:
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._release()

    def begin(self, run: Mapping[str, Node]) -> None:
        """Write down what the run is, once and for all."""
        self.run = {"format": FORMAT, **run}
        self._replace(_RUN, dagcbor.encode(self.run))

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
                self._write(str(kept[-1]), updates.encode())
            head["updates"] = kept
            if trees:
                self._write(name, _tensors(changed))
            self._write(str(head["arrays"]), _tensors(arrays))
            head["history"] = self._append(report)
            self._replace(_HEAD, dagcbor.encode(head))
            self._head = head
            self._sweep()
        except OSError as error:
            raise StoreError(
                f"Round {number} could not be saved in {self._folder}: {error}"
            ) from error

    def _check_empty_or_ours(self) -> None:
        """Check that nothing of somebody else's would be swept away."""
        ours = _PARTS if (self._folder / _RUN).exists() else _FIRST_PARTS
        for path in self._folder.iterdir():
            if not ours.fullmatch(path.name):
                raise InvalidInputError(
                    f"{self._folder} holds {path.name}, which is no part of a checkpoint: "
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
            updates=tuple(RoundUpdates.decode((self._folder / name).read_bytes()) for name in kept),
            _strategy=head["strategy"],
            _arrays=arrays,
        )

    def _reports(self, length: int) -> list[RoundReport]:
        data = (self._folder / _HISTORY).read_bytes()[:length]
        reports = []
        at = 0
        while at < length:
            end = at + _FRAME + int.from_bytes(data[at : at + _FRAME], "big")
            reports.append(_report(dagcbor.decode(data[at + _FRAME : end])))
            at = end
        return reports

    def _append(self, report: RoundReport) -> int:
        """Write a report behind the last one that the head knows of; return the new length."""
        length = cast(int, self._head.get("history", 0))
        document = dagcbor.encode(
            {each.name: _plain(getattr(report, each.name)) for each in fields(report)}
        )
        framed = len(document).to_bytes(_FRAME, "big") + document
        handle = os.open(self._folder / _HISTORY, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.truncate(length)
            file.seek(length)
            file.write(framed)
            file.flush()
            os.fsync(file.fileno())
        return length + len(framed)

    def _write(self, name: str, data: bytes) -> None:
        handle = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _replace(self, name: str, data: bytes) -> None:
        """Write a file so that it is there as a whole or as it was before."""
        new = f"{name}.new"
        self._write(new, data)
        self._flush()
        os.replace(self._folder / new, self._folder / name)
        self._flush()

    def _flush(self) -> None:
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _document(self, name: str) -> dict[str, Node] | None:
        try:
            data = (self._folder / name).read_bytes()
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
            f"The checkpoint {self._folder} cannot be read: {type(error).__name__}: {error} "
            "Name another folder to begin anew."
        )

    def _tensors_of(self, name: str) -> Mapping[str, np.ndarray]:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            loaded: Mapping[str, np.ndarray] = load((self._folder / name).read_bytes())
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
        for path in self._folder.iterdir():
            if path.name not in named:
                path.unlink()

    def _take(self) -> None:
        self._lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"Another run writes to the checkpoint {self._folder} now: wait for it, or name "
                "another folder."
            ) from None

    def _release(self) -> None:
        if self._lock >= 0:
            with suppress(OSError):
                os.close(self._lock)
            self._lock = -1


def check_same(there: Mapping[str, Node], now: Mapping[str, Node], folder: object) -> None:
    """Check that a run is the one that a checkpoint is of.

    Raises
    ------
    InvalidInputError
        Naming what differs.
    """
    differing = sorted(_differences(dict(there), dict(now), ""))
    if differing:
        shown = "; ".join(
            f"{name} is {_show(mine)} there and {_show(given)} now"
            for name, mine, given in differing[:5]
        )
        more = f" (and {len(differing) - 5} more)" if len(differing) > 5 else ""
        raise InvalidInputError(
            f"The checkpoint {folder} is of another run: {shown}{more}. Train with the same "
            "arguments to go on, or name another folder."
        )


def _differences(there: Node, now: Node, path: str) -> list[tuple[str, object, object]]:
    if isinstance(there, dict) and isinstance(now, dict):
        return [
            each
            for name in sorted({*there, *now})
            for each in _differences(
                there.get(name), now.get(name), f"{path}.{name}" if path else name
            )
        ]
    return [] if there == now and type(there) is type(now) else [(path, there, now)]


def _show(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tensors(arrays: Arrays) -> bytes:
    from safetensors.numpy import save

    data: bytes = save(arrays)
    return data


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
