"""What a researcher hands in: four kinds of contribution, as plain values.

Each knows how to write itself as one DAG-CBOR document, its payload, from content that is already
on the hub; `Project.submit` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from neuronexus_kernel.content import CID
from neuronexus_kernel.errors import InvalidInputError, RecipeError
from neuronexus_kernel.hub.records import Kind

if TYPE_CHECKING:
    from neuronexus_kernel.content.dagcbor import Node
    from neuronexus_kernel.datasets import Dataset
    from neuronexus_kernel.federation import Recipe
    from neuronexus_kernel.handles import TrainingRun
    from neuronexus_kernel.hub import Hub
    from neuronexus_kernel.models import Architecture
    from neuronexus_kernel.project import Project

FORMAT = "neuronexus/contribution/1"


@dataclass(frozen=True, slots=True)
class CodeContribution:
    """A better architecture for the head recipe.

    Parameters
    ----------
    architecture
        What should replace the head recipe's architecture.
    note
        A sentence on why it should be better.
    """

    architecture: Architecture
    note: str = ""

    kind: ClassVar[Kind] = "code"

    def prepare(self, project: Project) -> dict[str, Node]:
        """Check the architecture against the task, store it, and return the payload's body."""
        record = project.record
        self.architecture.check_task(record.input_shape, record.classes)
        return {"architecture": put_architecture(project.hub, self.architecture)}


class HyperparameterContribution:
    """A change of the head recipe's fields.

    Parameters
    ----------
    note
        A sentence on why it should be better.
    **changes
        New values by field, such as ``learning_rate=0.2``.

    Raises
    ------
    RecipeError
        If no field is given, or the architecture, which is a code contribution.
    """

    __slots__ = ("changes", "note")

    kind: ClassVar[Kind] = "hyperparameters"

    def __init__(self, *, note: str = "", **changes: Any) -> None:
        if not changes:
            raise RecipeError("Name at least one field to change, such as learning_rate=0.2.")
        if "architecture" in changes:
            raise RecipeError("A new architecture is a CodeContribution(architecture).")
        self.changes: Mapping[str, Any] = changes
        self.note = note

    def __repr__(self) -> str:
        changes = ", ".join(f"{name}={value!r}" for name, value in self.changes.items())
        return f"HyperparameterContribution({changes})"

    def prepare(self, project: Project) -> dict[str, Node]:
        """Check the changes against the head recipe and return the payload's body."""
        changed = project.recipe.with_changes(**self.changes).to_dict()
        return {"changes": {name: changed[name] for name in self.changes}}


@dataclass(frozen=True, slots=True)
class DataContribution:
    """Labelled examples to join the public training split.

    Parameters
    ----------
    dataset
        The examples; once submitted, every account of the hub can read them.
    note
        Where they come from.
    """

    dataset: Dataset
    note: str = ""

    kind: ClassVar[Kind] = "data"

    def prepare(self, project: Project) -> dict[str, Node]:
        """Store the examples and return the payload's body."""
        data = self.dataset.encode()
        root = project.hub.put(data, name=self.dataset.name, kind="dataset", visibility="project")
        return {"dataset": CID.parse(root.cid)}


@dataclass(frozen=True, slots=True)
class ComputeContribution:
    """The weights that a training run ended in.

    Parameters
    ----------
    run
        A finished run of `Project.train`.
    note
        Anything worth knowing about it.
    """

    run: TrainingRun
    note: str = ""

    kind: ClassVar[Kind] = "compute"

    def prepare(self, project: Project) -> dict[str, Node]:
        """Return the payload's body."""
        if self.run.version is None:
            raise InvalidInputError(
                "The run has made no model yet; let it finish at least a round."
            )
        return {"run": self.run.id, "weights": CID.parse(self.run.version.cid)}


AnyContribution: TypeAlias = (
    CodeContribution | HyperparameterContribution | DataContribution | ComputeContribution
)


def payload_of(contribution: AnyContribution, project: Project, author: str) -> dict[str, Node]:
    """Return the whole document of a contribution, storing what it links to."""
    return {
        "format": FORMAT,
        "kind": contribution.kind,
        "project": project.record.id,
        "author": author,
        "note": contribution.note,
        **contribution.prepare(project),
    }


def put_architecture(hub: Hub, architecture: Architecture) -> CID:
    """Store an architecture on the hub and return its CID."""
    root = hub.put(architecture.encode(), name="", kind="architecture", codec="dag-cbor")
    return CID.parse(root.cid)


def put_recipe(hub: Hub, recipe: Recipe) -> str:
    """Store a recipe and its architecture on the hub, and return the recipe's CID."""
    put_architecture(hub, recipe.architecture)
    return hub.put(recipe.encode(), kind="recipe", codec="dag-cbor").cid
