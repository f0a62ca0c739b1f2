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


class CodeContribution:
    """A better architecture, a better optimisation technique, or both, for the head recipe.

    Parameters
    ----------
    architecture
        What should replace the head recipe's architecture.
    note
        A sentence on why it should be better.
    **technique
        New values by field of `federation.TECHNIQUE`: the optimiser, its schedule, the loss,
        augmentation, strategy and so on, such as ``optimiser="adamw"`` or
        ``schedule="cosine", schedule_parameters={"rounds": 50}``.

    Raises
    ------
    RecipeError
        If there is neither an architecture nor a technique, or a field is no part of a technique.
    """

    __slots__ = ("architecture", "note", "technique")

    kind: ClassVar[Kind] = "code"

    def __init__(
        self, architecture: Architecture | None = None, *, note: str = "", **technique: Any
    ) -> None:
        from neuronexus_kernel.federation import HYPERPARAMETERS, TECHNIQUE

        if architecture is None and not technique:
            raise RecipeError(
                "Give an architecture, a technique such as optimiser='adamw', or both."
            )
        for name in sorted(set(technique) - set(TECHNIQUE)):
            if name in HYPERPARAMETERS:
                raise RecipeError(f"A new {name} is a HyperparameterContribution({name}=...).")
            raise RecipeError(f"A technique has no field {name!r}; it has {', '.join(TECHNIQUE)}.")
        self.architecture = architecture
        self.technique: Mapping[str, Any] = technique
        self.note = note

    def __repr__(self) -> str:
        parts = [] if self.architecture is None else [repr(self.architecture)]
        parts += [f"{name}={value!r}" for name, value in self.technique.items()]
        return f"CodeContribution({', '.join(parts)})"

    def prepare(self, project: Project) -> dict[str, Node]:
        """Check the change against the task, store it, and return the payload's body."""
        body: dict[str, Node] = {}
        changes = dict(self.technique)
        if self.architecture is not None:
            record = project.record
            self.architecture.check_task(record.input_shape, record.output_shape)
            changes["architecture"] = self.architecture
        changed = project.recipe.with_changes(**changes)
        if self.architecture is not None:
            body["architecture"] = put_architecture(project.hub, self.architecture)
        if self.technique:
            body["changes"] = {name: changed.plain(name) for name in self.technique}
        return body


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
        changed = project.recipe.with_changes(**self.changes)
        return {"changes": {name: changed.plain(name) for name in self.changes}}


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
