"""The folder in which an order for a training run lies, and where its results appear.

Whoever starts a run writes the order: recipe, first weights, who takes part.  The ServerApp reads
it, and after each round writes the weights, then what each lab sent if that is wanted, and last
the round's report: so whoever sees a report finds everything that belongs to it.  Documents are
DAG-CBOR and JSON, weights are safetensors: nothing in the folder can run.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.errors import EvaluationError, NeuroNexusError
from neuronexus_kernel.federation.deployment.tls import write_private
from neuronexus_kernel.federation.recipe import Recipe
from neuronexus_kernel.federation.result import RoundReport
from neuronexus_kernel.models.weights import deserialize, serialize

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset

FORMAT = "neuronexus/order@1"
_ORDER, _START, _VALIDATION = "order.cbor", "start.safetensors", "validation.dataset"


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


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """A training run to be done by the nodes of a SuperLink.

    Attributes
    ----------
    recipe
        How clients train and which strategy joins them.
    weights
        Where to begin.
    rounds, seed
        How many rounds, and the seed of all chance.
    seats
        Who takes part.
    patience
        Seconds to wait for the replies of a round; who is later than that loses this update.
    cohort
        How many of them train in a round.
    update_bound
        Largest L2 distance of a lab's model from the one that it was sent.
    validation
        What loss and accuracy are measured on; None if they are not.
    keep_updates
        Whether each lab's update of each round is written too.
    """

    recipe: Recipe
    weights: dict[str, np.ndarray]
    rounds: int
    seed: int
    seats: tuple[Seat, ...]
    patience: float
    cohort: int
    update_bound: float = math.inf
    validation: Dataset | None = None
    keep_updates: bool = False

    def write(self, folder: Path) -> None:
        """Write the order into a folder of its own, made here."""
        folder.mkdir(parents=True, mode=0o700)
        write_private(folder / _START, serialize(self.weights))
        if self.validation is not None:
            write_private(folder / _VALIDATION, self.validation.encode())
        document: dict[str, dagcbor.Node] = {
            "format": FORMAT,
            "architecture": self.recipe.architecture.encode(),
            "recipe": self.recipe.encode(),
            "rounds": self.rounds,
            "seed": self.seed,
            "patience": self.patience,
            "cohort": self.cohort,
            "update_bound": self.update_bound if math.isfinite(self.update_bound) else 0.0,
            "keep_updates": self.keep_updates,
            "seats": [asdict(seat) for seat in self.seats],
        }
        write_private(folder / _ORDER, dagcbor.encode(document))

    @classmethod
    def read(cls, folder: Path) -> Order:
        """Read an order.

        Raises
        ------
        EvaluationError
            If the folder holds none.
        """
        from neuronexus_kernel.datasets import Dataset
        from neuronexus_kernel.models import Architecture

        try:
            document = dagcbor.decode((folder / _ORDER).read_bytes())
            if not isinstance(document, dict) or document.get("format") != FORMAT:
                raise EvaluationError(f"its format is not {FORMAT}.")
            architecture = Architecture.decode(document["architecture"])
            recipe = Recipe.from_dict(dagcbor.decode(document["recipe"]), architecture)
            validation = folder / _VALIDATION
            return cls(
                recipe=recipe,
                weights=deserialize((folder / _START).read_bytes(), architecture.parameter_shapes),
                rounds=document["rounds"],
                seed=document["seed"],
                seats=tuple(Seat(**seat) for seat in document["seats"]),
                patience=document["patience"],
                cohort=document["cohort"],
                update_bound=document["update_bound"] or math.inf,
                validation=(
                    Dataset.decode(validation.read_bytes()) if validation.exists() else None
                ),
                keep_updates=document["keep_updates"],
            )
        except (OSError, KeyError, TypeError, NeuroNexusError) as error:
            raise EvaluationError(f"The order in {folder} cannot be read: {error}") from None


def write_round(
    folder: Path, report: RoundReport, weights: dict[str, np.ndarray], updates: bytes | None
) -> None:
    """Write what a round made; the report comes last."""
    number = report.round
    write_private(_weights(folder, number), serialize(weights))
    if updates is not None:
        write_private(_updates(folder, number), updates)
    document = {**asdict(report), "clients": list(report.clients)}
    plain = {name: None if _is_nan(value) else value for name, value in document.items()}
    write_private(_report(folder, number), json.dumps(plain).encode())
    _weights(folder, number - 1).unlink(missing_ok=True)


def read_round(folder: Path, number: int) -> RoundReport | None:
    """Return the report of a round, or None if it is not there yet."""
    try:
        document = json.loads(_report(folder, number).read_bytes())
    except FileNotFoundError:
        return None
    numbers = ("loss", "accuracy", "train_loss")
    values = {name: math.nan if document[name] is None else document[name] for name in numbers}
    return RoundReport(**{**document, **values, "clients": tuple(document["clients"])})


def read_weights(folder: Path, number: int) -> dict[str, np.ndarray]:
    """Return the weights after the last round."""
    return deserialize(_weights(folder, number).read_bytes())


def read_updates(folder: Path, number: int) -> bytes | None:
    """Return what the labs sent in a round, as `RoundUpdates.encode` wrote it, if it was kept."""
    path = _updates(folder, number)
    return path.read_bytes() if path.exists() else None


def _weights(folder: Path, number: int) -> Path:
    return folder / f"round-{number}.safetensors"


def _updates(folder: Path, number: int) -> Path:
    return folder / f"round-{number}.updates"


def _report(folder: Path, number: int) -> Path:
    return folder / f"round-{number}.json"


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
