"""The folder in which an order for a training run lies, and where its results appear.

Whoever serves a run writes the assignment once: recipe, first weights, how many rounds.  Before
training begins, or goes on, it writes the seats: which node on the SuperLink is whose.  The
ServerApp reads both, saves each round in a checkpoint beside them, and then writes the round's
report: so whoever sees a report finds everything that belongs to it.  What the checkpoint holds is
the truth; the reports tell of it while the ServerApp, which alone may open it, is at work.

Documents are DAG-CBOR and JSON, weights are safetensors: nothing in the folder can run.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from neuronexus_kernel.content import dagcbor, new_id
from neuronexus_kernel.errors import (
    ConflictError,
    EvaluationError,
    InvalidInputError,
    NeuroNexusError,
)
from neuronexus_kernel.federation.deployment.tls import write_private
from neuronexus_kernel.federation.durable import Folder
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.federation.result import RoundReport
from neuronexus_kernel.models.weights import deserialize, serialize

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.federation.checkpoint import Checkpoint, Saved

FORMAT = "neuronexus/order@2"
PATIENCE_SECONDS = 3600.0
LARGEST_UPDATE = 1e6
"""A model that went so far has diverged, or means to drown the others."""

_ASSIGNMENT, _START, _VALIDATION = "assignment.cbor", "start.safetensors", "validation.dataset"
_SEATS, _CHECKPOINT = "seats.cbor", "checkpoint"
_RELEASE_SECONDS = 20.0
_POLL_SECONDS = 0.2


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
        Seconds to wait for the replies of a round; who is later than that loses this update.
    update_bound
        Largest L2 distance of a lab's model from the one that it was sent; a model that went
        further is refused.
    id
        Names the run to its nodes, also after it was interrupted.
    """

    recipe: Recipe
    weights: dict[str, np.ndarray]
    rounds: int
    nodes: int
    seed: int = 0
    cohort: int = 0
    validation: Dataset | None = None
    keep_updates: bool = False
    patience: float = PATIENCE_SECONDS
    update_bound: float = LARGEST_UPDATE
    id: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        for name in ("rounds", "nodes"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 <= self.cohort <= self.nodes:
            raise InvalidInputError(f"A round cannot have {self.cohort} of {self.nodes} nodes.")
        for name in ("patience", "update_bound"):
            if not getattr(self, name) > 0:
                raise InvalidInputError(f"{name} must be above zero, not {getattr(self, name)}.")

    def write(self, folder: Path) -> None:
        """Write the assignment into a folder of its own, made here."""
        folder.mkdir(parents=True, mode=0o700)
        files = Folder(folder)
        files.replace(_START, serialize(self.weights))
        if self.validation is not None:
            files.replace(_VALIDATION, self.validation.encode())
        document: dict[str, dagcbor.Node] = {
            "format": FORMAT,
            "id": self.id,
            "architecture": self.recipe.architecture.encode(),
            "recipe": self.recipe.encode(),
            "rounds": self.rounds,
            "nodes": self.nodes,
            "seed": self.seed,
            "cohort": self.cohort,
            "keep_updates": self.keep_updates,
            "patience": self.patience,
            "update_bound": self.update_bound if math.isfinite(self.update_bound) else 0.0,
        }
        files.replace(_ASSIGNMENT, dagcbor.encode(document))

    @classmethod
    def read(cls, folder: Path) -> Assignment:
        """Read an assignment.

        Raises
        ------
        EvaluationError
            If the folder holds none.
        """
        from neuronexus_kernel.datasets import Dataset
        from neuronexus_kernel.models import Architecture

        try:
            document = dagcbor.decode((folder / _ASSIGNMENT).read_bytes())
            if not isinstance(document, dict) or document.get("format") != FORMAT:
                raise EvaluationError(f"its format is not {FORMAT}.")
            architecture = Architecture.decode(document["architecture"])
            validation = folder / _VALIDATION
            return cls(
                recipe=Recipe.from_dict(dagcbor.decode(document["recipe"]), architecture),
                weights=deserialize((folder / _START).read_bytes(), architecture.parameter_shapes),
                rounds=document["rounds"],
                nodes=document["nodes"],
                seed=document["seed"],
                cohort=document["cohort"],
                validation=(
                    Dataset.decode(validation.read_bytes()) if validation.exists() else None
                ),
                keep_updates=document["keep_updates"],
                patience=document["patience"],
                update_bound=document["update_bound"] or math.inf,
                id=document["id"],
            )
        except (OSError, KeyError, TypeError, NeuroNexusError) as error:
            raise EvaluationError(f"The order in {folder} cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Seat:
    """A lab's place in a run.

    Attributes
    ----------
    node
        Number of its node on the SuperLink.
    partition
        Its partition id.
    name
        Who it is.
    """

    node: int
    partition: int
    name: str


def write_seats(folder: Path, seats: tuple[Seat, ...]) -> None:
    """Write who takes part, in place of who did: a new SuperLink numbers its nodes anew."""
    document: list[dagcbor.Node] = [asdict(seat) for seat in seats]
    Folder(folder).replace(_SEATS, dagcbor.encode(document))


def read_seats(folder: Path) -> tuple[Seat, ...]:
    """Read who takes part.

    Raises
    ------
    EvaluationError
        If it is not written.
    """
    try:
        seats = cast("list[dict[str, object]]", dagcbor.decode((folder / _SEATS).read_bytes()))
        return tuple(Seat(**seat) for seat in seats)  # type: ignore[arg-type]
    except (OSError, TypeError, NeuroNexusError) as error:
        raise EvaluationError(f"The seats in {folder} cannot be read: {error}") from None


# -- rounds -----------------------------------------------------------------------------------


@contextmanager
def checkpoint(folder: Path) -> Iterator[Checkpoint]:
    """Open the checkpoint of an order; a ServerApp that is just ending is waited for.

    Raises
    ------
    ConflictError
        If another process has it open and does not end.
    StoreError
        If it cannot be read or written.
    """
    from neuronexus_kernel.federation.checkpoint import Checkpoint

    until = time.monotonic() + _RELEASE_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                store = stack.enter_context(Checkpoint(folder / _CHECKPOINT))
                break
            except ConflictError:
                if time.monotonic() > until:
                    raise
                time.sleep(_POLL_SECONDS)
        yield store


def saved_in(folder: Path) -> Saved | None:
    """Return what is saved of an order's rounds, or None before the first.

    Raises
    ------
    StoreError
        If the checkpoint cannot be read.
    """
    if not (folder / _CHECKPOINT).exists():
        return None
    with checkpoint(folder) as store:
        return store.load()


def write_updates(folder: Path, number: int, updates: bytes) -> None:
    """Write what the labs sent in a round; when this returns, it is on the disk."""
    Folder(folder).replace(_updates(number), updates)


def read_updates(folder: Path, number: int) -> bytes | None:
    """Return what the labs sent in a round, as `RoundUpdates.encode` wrote it, if it was kept."""
    path = folder / _updates(number)
    return path.read_bytes() if path.exists() else None


def write_round(folder: Path, report: RoundReport) -> None:
    """Write a round's report, for whoever watches: the round is saved."""
    document = {**asdict(report), "clients": list(report.clients)}
    plain = {name: None if _is_nan(value) else value for name, value in document.items()}
    write_private(folder / _report(report.round), json.dumps(plain).encode())


def read_round(folder: Path, number: int) -> RoundReport | None:
    """Return the report of a round, or None if it is not there yet."""
    try:
        document = json.loads((folder / _report(number)).read_bytes())
    except FileNotFoundError:
        return None
    numbers = ("loss", "accuracy", "train_loss")
    values = {name: math.nan if document[name] is None else document[name] for name in numbers}
    return RoundReport(**{**document, **values, "clients": tuple(document["clients"])})


def _updates(number: int) -> str:
    return f"round-{number}.updates"


def _report(number: int) -> str:
    return f"round-{number}.json"


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
