"""A federation from its first node to its last round: a SuperLink, an order, and who watches.

Who serves says how many nodes there will be.  Nodes are admitted by their public keys; once all
of them are connected the run begins, with partition ids in the order of the labs' names, so that
it does not matter who came first.  Each round is told as it ends.  When the last round is over,
the nodes are sent home and the SuperLink ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from neuronexus_kernel.errors import ConflictError, InvalidInputError, NeuroNexusError
from neuronexus_kernel.federation.deployment.fab import Bundle, build
from neuronexus_kernel.federation.deployment.order import (
    Order,
    Seat,
    read_round,
    read_updates,
    read_weights,
)
from neuronexus_kernel.federation.deployment.submit import Control
from neuronexus_kernel.federation.deployment.superlink import SuperLink

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.federation.recipe import Recipe
    from neuronexus_kernel.federation.result import RoundReport

PATIENCE_SECONDS = 3600.0
LARGEST_UPDATE = 1e6
"""A model that went so far has diverged, or means to drown the others."""

FINAL_STATES = frozenset({"finished", "interrupted", "failed"})

_POLL_SECONDS = 0.2
_FAREWELL_SECONDS = 1.5
_RUN = "runs/1"


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """What is to be trained, by whom there will be.

    Attributes
    ----------
    recipe, weights
        How to train, and where to begin.
    rounds
        How many rounds.
    nodes
        How many labs take part; the run begins when all of them are connected.
    seed
        Seed of the run.
    cohort
        Labs that train in a round; 0 for all.
    validation
        What loss and accuracy are measured on; None if they are not.
    keep_updates
        Whether each lab's update of each round is kept for whoever watches.
    patience
        Seconds to wait for the replies of a round.
    update_bound
        Largest L2 distance of a lab's model from the one that it was sent; a model that went
        further is refused.
    """

    recipe: Recipe
    weights: Mapping[str, np.ndarray]
    rounds: int
    nodes: int
    seed: int = 0
    cohort: int = 0
    validation: Dataset | None = None
    keep_updates: bool = False
    patience: float = PATIENCE_SECONDS
    update_bound: float = LARGEST_UPDATE

    def __post_init__(self) -> None:
        for name in ("rounds", "nodes"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 <= self.cohort <= self.nodes:
            raise InvalidInputError(f"A round cannot have {self.cohort} of {self.nodes} nodes.")
        for name in ("patience", "update_bound"):
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"{name} must be above zero, not {getattr(self, name)}.")


class Audience(Protocol):
    """Who hears what happens, in the thread of the federation."""

    def started(self, names: tuple[str, ...]) -> None:
        """All labs are connected, and training begins."""

    def round(self, report: RoundReport, updates: bytes | None) -> None:
        """A round is over."""

    def ended(self, state: str, problem: str, weights: dict[str, np.ndarray] | None) -> None:
        """Nothing more will come; weights of the last round, if there was one."""


class Serving:
    """A federation in progress.

    Parameters
    ----------
    folder
        For all its files; made if missing.
    assignment
        What is to be trained.
    audience
        Hears what happens.
    address
        ``HOST:PORT`` to listen on; port 0 takes a free one.
    names
        Further names or IP addresses under which labs reach this machine.

    Raises
    ------
    HubUnavailableError
        If the SuperLink does not come up.
    """

    def __init__(
        self,
        folder: Path,
        assignment: Assignment,
        audience: Audience,
        *,
        address: str = "127.0.0.1:0",
        names: tuple[str, ...] = (),
    ) -> None:
        self._folder = folder
        self._assignment = assignment
        self._audience = audience
        self._bundle = build()
        self._admitted: dict[bytes, Seat] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._state, self._problem, self._round = "waiting", "", 0
        self._connected: tuple[str, ...] = ()
        self._link = SuperLink(folder, address, names=names)
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

    def stop(self) -> None:
        """End it after the last full round, and wait until its processes are gone."""
        self._stopping.set()
        self._thread.join()

    def _serve(self) -> None:
        state, problem = "failed", "It ended by a fault of the program; see the log."
        try:
            seats = self._gather()
            if seats:
                problem = self._train(seats)
                state = "failed" if problem else "finished"
            if self._stopping.is_set():
                state, problem = "interrupted", ""
        except NeuroNexusError as error:
            problem = str(error)
        finally:
            self._say_goodbye()
            self._problem = problem if state == "failed" else ""
            self._audience.ended(state, self._problem, self._weights())
            self._state = state

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

    def _train(self, seats: tuple[Seat, ...]) -> str:
        """Run the order and tell of its rounds; return what went wrong, if anything did."""
        given = self._assignment
        Order(
            recipe=given.recipe,
            weights=dict(given.weights),
            rounds=given.rounds,
            seed=given.seed,
            seats=seats,
            patience=given.patience,
            cohort=given.cohort or len(seats),
            update_bound=given.update_bound,
            validation=given.validation,
            keep_updates=given.keep_updates,
        ).write(self._run_folder)
        self._audience.started(tuple(seat.name for seat in seats))
        run = self._control.start_run(self._bundle, folder=_RUN)
        told = 0
        while True:
            status = self._control.run_status(run)
            told = self._tell(told)
            self._look()
            if status.finished:
                return status.problem
            if self._stopping.wait(_POLL_SECONDS):
                self._control.stop_run(run)
                return ""

    def _look(self) -> set[int]:
        """See which nodes are connected; return their numbers."""
        online = [node for node in self._control.nodes() if node.online]
        self._connected = tuple(sorted(node.name for node in online))
        return {node.node for node in online}

    def _tell(self, number: int) -> int:
        """Tell of the rounds that are over from `number` on; return the next one's number."""
        while (report := read_round(self._run_folder, number)) is not None:
            self._audience.round(report, read_updates(self._run_folder, number))
            self._round = number
            number += 1
        return number

    def _weights(self) -> dict[str, np.ndarray] | None:
        if self._round < 1:
            return None
        return read_weights(self._run_folder, self._round)

    @property
    def _run_folder(self) -> Path:
        return self._folder / "flower" / _RUN

    def _say_goodbye(self) -> None:
        """Send the nodes home, so that they need not find out by themselves; end the SuperLink."""
        self._connected = ()
        try:
            for seat in self._admitted.values():
                self._control.unregister(seat.node)
            if self._admitted:
                time.sleep(_FAREWELL_SECONDS)
        except NeuroNexusError:
            pass
        finally:
            self._control.close()
            self._link.stop()
