"""A federation from its first node to its last round: a SuperLink, an order, and who watches.

Who serves says how many nodes there will be.  Nodes are admitted by their public keys; once all
of them are connected the run begins, with partition ids in the order of the labs' names, so that
it does not matter who came first.  Each round is told as it ends.  When the last round is over,
the nodes are sent home and the SuperLink ends.

All that a run needs lies in its folder, and each round is saved there: a federation that ended
before its last round, or whose process was killed, is resumed from the folder by another one.
The SuperLink keeps its address and certificate then, so that nodes that are still there find it.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from neuronexus_kernel.errors import (
    ConflictError,
    EvaluationError,
    HubUnavailableError,
    NeuroNexusError,
)
from neuronexus_kernel.federation.deployment.fab import Bundle, build
from neuronexus_kernel.federation.deployment.order import (
    Assignment,
    Seat,
    read_round,
    read_updates,
    saved_in,
    write_seats,
)
from neuronexus_kernel.federation.deployment.submit import Control
from neuronexus_kernel.federation.deployment.superlink import SuperLink, split_address
from neuronexus_kernel.federation.durable import Folder

if TYPE_CHECKING:
    from neuronexus_kernel.federation.result import RoundReport

FINAL_STATES = frozenset({"finished", "interrupted", "failed"})

_POLL_SECONDS = 0.2
_FAREWELL_SECONDS = 1.5
_RUN = "runs/1"
_PLACE = "place.json"


class Audience(Protocol):
    """Who hears what happens, in the thread of the federation."""

    def started(self, names: tuple[str, ...]) -> None:
        """All labs are connected, and training begins or goes on."""

    def round(self, report: RoundReport, updates: bytes | None) -> None:
        """A round is over; of a federation that is resumed, all rounds are told again."""

    def ended(self, state: str, problem: str, weights: dict[str, np.ndarray] | None) -> None:
        """Nothing more will come; weights of the last round, if there was one."""


class Serving:
    """A federation in progress, from where its folder says that it stands.

    Parameters
    ----------
    folder
        What `prepare` made, and perhaps an earlier process left.
    audience
        Hears what happens.

    Raises
    ------
    EvaluationError
        If the folder does not hold what is needed.
    HubUnavailableError
        If the SuperLink does not come up.
    """

    def __init__(self, folder: Path, audience: Audience) -> None:
        self._order_folder = order_folder(folder)
        self._assignment = Assignment.read(self._order_folder)
        self._audience = audience
        self._bundle = build()
        self._admitted: dict[bytes, Seat] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._farewell = True
        self._state, self._problem, self._round = "waiting", "", 0
        self._told = 0
        self._weights: dict[str, np.ndarray] | None = None
        self._connected: tuple[str, ...] = ()
        self._link, self._names = _open_link(folder)
        try:
            self._control = Control(self._link.address, self._link.authority, self._link.token)
            self._thread = threading.Thread(target=self._serve, name="nx-serving", daemon=True)
            self._thread.start()
        except BaseException:
            self._link.stop()
            raise

    @property
    def address(self) -> str:
        """Where the SuperLink listens."""
        return self._link.address

    @property
    def reached(self) -> str:
        """Where labs reach it: by the first of its further names, if it has any."""
        return f"{self._names[0]}:{self._link.port}" if self._names else self._link.address

    @property
    def authority(self) -> bytes:
        """Certificate of the SuperLink's authority, PEM."""
        return self._link.authority

    @property
    def bundle(self) -> Bundle:
        """The app that it serves."""
        return self._bundle

    @property
    def pid(self) -> int:
        """Process of the SuperLink, and the group of all processes it started."""
        return self._link.pid

    @property
    def state(self) -> str:
        """waiting (for nodes), training, finished, interrupted or failed."""
        return self._state

    @property
    def problem(self) -> str:
        """Why it failed; empty if it did not."""
        return self._problem

    @property
    def round(self) -> int:
        """The last round that is over."""
        return self._round

    @property
    def log(self) -> Path:
        """The SuperLink's and the ServerApp's log."""
        return self._link.log

    def admit(self, public_key: bytes, name: str) -> None:
        """Let a lab's node in.

        Parameters
        ----------
        public_key
            Of the node's key, PEM.
        name
            Who it is: one node each.

        Raises
        ------
        ConflictError
            If somebody else has the key, the lab has another node here, all seats are taken, or
            the federation is over.
        """
        with self._lock:
            known = self._admitted.get(public_key)
            if known is not None and known.name == name:
                return
            if known is not None:
                raise ConflictError("This node key belongs to another account; make a new one.")
            if any(seat.name == name for seat in self._admitted.values()):
                raise ConflictError(
                    f"{name} takes part with another node key already; join with that key."
                )
            if self._state != "waiting":
                raise ConflictError(f"The federation takes no more nodes: it is {self._state}.")
            if len(self._admitted) == self._assignment.nodes:
                raise ConflictError(
                    f"All {self._assignment.nodes} seats of the federation are taken."
                )
            node = self._control.register(public_key, name)
            self._admitted[public_key] = Seat(node, -1, name)

    @property
    def connected(self) -> tuple[str, ...]:
        """Names of the labs whose nodes are connected, sorted."""
        return self._connected

    def wait(self, timeout: float | None = None) -> str:
        """Wait until it is over, and return how it ended.

        Raises
        ------
        TimeoutError
            If it is not over in time.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"The federation is still {self._state} after {timeout:g} seconds.")
        return self._state

    def stop(self, *, farewell: bool = True) -> None:
        """End it after the last full round, and wait until its processes are gone.

        Parameters
        ----------
        farewell
            Whether the nodes are sent home.  Otherwise they look for the SuperLink for a while,
            and are there again if it is resumed soon.
        """
        self._farewell = farewell
        self._stopping.set()
        self._thread.join()

    def _serve(self) -> None:
        state, problem = "failed", "It ended by a fault of the program; see the log."
        try:
            state, problem = self._train()
        except NeuroNexusError as error:
            state = "interrupted" if self._stopping.is_set() else "failed"
            problem = str(error)
        finally:
            self._close()
            try:
                if self._tell_saved() == self._assignment.rounds:
                    state = "finished"  # whatever ended after the last round was saved
            except NeuroNexusError as error:
                state, problem = "failed", str(error)
            finally:
                self._end(state, problem if state == "failed" else "")

    def _end(self, state: str, problem: str) -> None:
        self._problem = problem
        try:
            self._audience.ended(state, problem, self._weights)
        finally:
            self._state = state

    def _train(self) -> tuple[str, str]:
        """Train the rounds that are not saved yet; return how it ended, and what went wrong."""
        saved = saved_in(self._order_folder)
        if saved is not None and saved.round == self._assignment.rounds:
            return "finished", ""
        seats = self._gather()
        if not seats:
            return "interrupted", ""
        write_seats(self._order_folder, seats)
        self._audience.started(tuple(seat.name for seat in seats))
        self._tell_saved()
        run = self._control.start_run(self._bundle, folder=_RUN)
        while True:
            status = self._control.run_status(run)
            self._tell_new()
            self._look()
            if status.finished:
                return ("failed" if status.problem else "finished"), status.problem
            if self._stopping.wait(_POLL_SECONDS):
                self._control.stop_run(run)
                return "interrupted", ""

    def _gather(self) -> tuple[Seat, ...]:
        """Wait for all nodes; return their seats, or none when told to stop."""
        while not self._stopping.wait(_POLL_SECONDS):
            online = self._look()
            with self._lock:
                here = [seat for seat in self._admitted.values() if seat.node in online]
                if len(here) == self._assignment.nodes:
                    self._state = "training"
                    break
        else:
            return ()
        here.sort(key=lambda seat: seat.name)
        return tuple(Seat(seat.node, place, seat.name) for place, seat in enumerate(here))

    def _look(self) -> set[int]:
        """See which nodes are connected; return their numbers."""
        online = [node for node in self._control.nodes() if node.online]
        self._connected = tuple(sorted(node.name for node in online))
        return {node.node for node in online}

    def _tell_saved(self) -> int:
        """Tell of all rounds that are saved, while no ServerApp is at work; return the last."""
        saved = saved_in(self._order_folder)
        if saved is None:
            return 0
        for report in saved.reports[self._told :]:
            self._tell(report)
        self._weights = saved.weights if saved.round > 0 else None
        return saved.round

    def _tell_new(self) -> None:
        """Tell of the rounds that have ended since, while a ServerApp is at work."""
        while (report := read_round(self._order_folder, self._told)) is not None:
            self._tell(report)

    def _tell(self, report: RoundReport) -> None:
        self._audience.round(report, read_updates(self._order_folder, report.round))
        self._round = report.round
        self._told = report.round + 1

    def _close(self) -> None:
        """Send the nodes home, so that they need not find out by themselves; end the SuperLink."""
        self._connected = ()
        try:
            if self._farewell:
                for seat in self._admitted.values():
                    self._control.unregister(seat.node)
                time.sleep(_FAREWELL_SECONDS if self._admitted else 0)
        except NeuroNexusError:
            pass
        finally:
            self._control.close()
            self._link.stop()


def prepare(
    folder: Path,
    assignment: Assignment,
    *,
    address: str = "127.0.0.1:0",
    names: tuple[str, ...] = (),
) -> None:
    """Make the folder of a federation, with all that `Serving` needs.

    Parameters
    ----------
    folder
        For all its files; it does not exist.
    assignment
        What is to be trained.
    address
        ``HOST:PORT`` to listen on; port 0 takes a free one.
    names
        Further names or IP addresses under which labs reach this machine.

    Raises
    ------
    InvalidInputError
        If the address is none.
    ConflictError
        If the folder is there.
    """
    split_address(address)
    if folder.exists():
        raise ConflictError(f"{folder} is there already: name another folder.")
    folder.mkdir(parents=True, mode=0o700)
    assignment.write(order_folder(folder))
    _Place(address, address, names).write(folder)


def order_folder(folder: Path) -> Path:
    """Return where the order lies in a federation's folder: below Flower's own, for its apps."""
    return folder / "flower" / _RUN


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a federation is served: the address asked for, and the one that it got."""

    asked: str
    address: str
    names: tuple[str, ...]

    def write(self, folder: Path) -> None:
        Folder(folder).replace(_PLACE, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: Path) -> _Place:
        try:
            document = json.loads((folder / _PLACE).read_bytes())
            return cls(document["asked"], document["address"], tuple(document["names"]))
        except (OSError, ValueError, KeyError) as error:
            raise EvaluationError(f"The federation in {folder} cannot be read: {error}") from None


def _open_link(folder: Path) -> tuple[SuperLink, tuple[str, ...]]:
    """Start a SuperLink where the last one was, so that nodes find it, or else where it may be."""
    place = _Place.read(folder)
    try:
        link = SuperLink(folder, place.address, names=place.names)
    except HubUnavailableError:
        if place.address == place.asked:
            raise
        link = SuperLink(folder, place.asked, names=place.names)
    replace(place, address=link.address).write(folder)
    return link, place.names
