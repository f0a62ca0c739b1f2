"""Recipe: everything that decides a training run, as data.

A recipe is an architecture and a few numbers and names.  It has one canonical DAG-CBOR form in
which the architecture is a link, so that two researchers who train in the same way hold the same
CID, and a change of one number is a change that can be proposed, measured and paid.

A field added later is written to the document only where it differs from its default: recipes
written before it keep their CIDs, and its default must never change.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.errors import ContentError, RecipeError
from neuronexus_kernel.federation.fields import Check, choice, fraction, positive, whole
from neuronexus_kernel.federation.strategies import Parameter, check_strategy

if TYPE_CHECKING:
    import pandas as pd

    from neuronexus_kernel.models import Architecture

FORMAT = "neuronexus/recipe/1"

_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "learning_rate": positive(1000.0),
        "batch_size": whole(1, 65_536),
        "local_epochs": whole(1, 1000),
        "optimiser": choice("sgd", "adam"),
        "momentum": fraction(),
        "weight_decay": positive(10.0, zero=True),
        "loss": choice("cross_entropy"),
    }
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides how a model is trained.

    Parameters
    ----------
    architecture
        The model: `neuronexus_kernel.models.Architecture`.
    learning_rate
        Step size of the clients' optimiser, above 0 and at most 1000.
    batch_size
        Examples in one step, 1 to 65,536; the last batch of an epoch may hold fewer.
    local_epochs
        Passes of a client over its own data within one round, 1 to 1000.
    optimiser
        ``"sgd"`` or ``"adam"`` (with PyTorch's standard betas and epsilon).
    momentum
        Momentum of sgd, at least 0 and below 1; adam takes none.
    weight_decay
        L2 penalty, added to the gradient as PyTorch does, 0 to 10.
    loss
        ``"cross_entropy"``, the mean over a batch.
    strategy
        How the server joins the clients' models: a name of `strategies.STRATEGIES`.
    strategy_parameters
        Parameters of the strategy; those left out have Flower's defaults.

    Raises
    ------
    RecipeError
        If a field is of the wrong type or out of range; the message names it.

    Examples
    --------
    >>> recipe = Recipe(models.mlp(64, (64,), 10), learning_rate=0.1)
    >>> recipe.with_changes(learning_rate=0.05).diff(recipe)
    {'learning_rate': (0.05, 0.1)}
    """

    architecture: Architecture
    _: KW_ONLY
    learning_rate: float = 0.1
    batch_size: int = 10
    local_epochs: int = 5
    optimiser: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    loss: str = "cross_entropy"
    strategy: str = "FedAvg"
    strategy_parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.architecture, "cid", None), CID):
            kind = type(self.architecture).__name__
            raise RecipeError(
                f"architecture must be an Architecture, such as models.mlp(64, (64,), 10), "
                f"not a {kind}. Architecture.capture(module, example) makes one of a torch module."
            )
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.optimiser == "adam" and self.momentum != 0:
            raise RecipeError(
                f"momentum must be 0 with optimiser 'adam', which has its own, "
                f"not {self.momentum!r}."
            )
        name, parameters = check_strategy(self.strategy, self.strategy_parameters)
        object.__setattr__(self, "strategy", name)
        object.__setattr__(self, "strategy_parameters", MappingProxyType(parameters))

    def with_changes(self, **changes: Any) -> Recipe:
        """Return a recipe with some fields changed.

        A new `strategy` drops the parameters of the old one unless new ones are given.

        Raises
        ------
        RecipeError
            If a field does not exist or a value is out of range.
        """
        unknown = sorted(set(changes) - set(FIELDS))
        if unknown:
            raise RecipeError(
                f"A recipe has no field {unknown[0]!r}; its fields are {', '.join(FIELDS)}."
            )
        if changes.get("strategy", self.strategy) != self.strategy:
            changes.setdefault("strategy_parameters", {})
        return replace(self, **changes)

    def diff(self, other: Recipe) -> dict[str, tuple[object, object]]:
        """Return the fields in which two recipes differ, as ``{name: (mine, the other's)}``.

        Architectures are compared and shown by their CID, strategy parameters as a dict.
        """
        return {
            name: (mine, theirs)
            for name in FIELDS
            if (mine := self._plain(name)) != (theirs := other._plain(name))
        }

    def to_dict(self) -> dict[str, dagcbor.Node]:
        """Return the recipe as a document for DAG-CBOR; the architecture is a link."""
        document: dict[str, dagcbor.Node] = {"format": FORMAT}
        for name in FIELDS:
            document[name] = self._plain(name)
        return document

    @classmethod
    def from_dict(cls, node: object, architecture: Architecture) -> Recipe:
        """Read a recipe from its document, which may come from anyone.

        Parameters
        ----------
        node
            What `to_dict` returned.
        architecture
            The architecture that the document links to.

        Raises
        ------
        RecipeError
            If a field is missing, unknown, out of range or not in its canonical form, or if
            the document links to another architecture.
        """
        if not isinstance(node, Mapping) or node.get("format") != FORMAT:
            raise RecipeError(f"This is not a recipe: its format is not {FORMAT!r}.")
        expected = {"format", *FIELDS}
        if set(node) != expected:
            odd = sorted(str(name) for name in set(node) ^ expected)
            raise RecipeError(f"A recipe's document has fields missing or unknown: {odd[:5]}.")
        if node["architecture"] != architecture.cid:
            raise RecipeError(
                f"architecture: the recipe links to {node['architecture']}, "
                f"not to the architecture {architecture.cid} that was given."
            )
        recipe = cls(architecture, **{name: node[name] for name in HYPERPARAMETERS})
        try:
            canonical = dagcbor.encode(node) == recipe.encode()
        except ContentError:
            canonical = False
        if not canonical:
            raise RecipeError("The recipe is not in canonical form: a number has the wrong type.")
        return recipe

    def encode(self) -> bytes:
        """Return the canonical DAG-CBOR bytes."""
        return dagcbor.encode(self.to_dict())

    @property
    def cid(self) -> CID:
        """The recipe's content identifier."""
        return dagcbor.cid_of(self.to_dict())

    def frame(self) -> pd.DataFrame:
        """Return a table of the fields: columns ``field`` and ``value``."""
        import pandas as pd

        rows = [(name, self._plain(name)) for name in FIELDS]
        return pd.DataFrame(rows, columns=["field", "value"])

    def __eq__(self, other: object) -> bool:
        return self.encode() == other.encode() if isinstance(other, Recipe) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.encode())

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={self._plain(name)!r}" for name in HYPERPARAMETERS)
        return f"Recipe({self.architecture.cid}, {values})"

    def __reduce__(self) -> tuple[object, ...]:
        values = {name: self._plain(name) for name in HYPERPARAMETERS}
        return _remake, (self.architecture, values)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{html.escape(str(self._plain(name)))}</td></tr>"
            for name in FIELDS
        )
        return f"<table><caption>Recipe {self.cid}</caption>{rows}</table>"

    def _plain(self, name: str) -> Any:
        """Return a field as a value that DAG-CBOR can hold."""
        if name == "architecture":
            return self.architecture.cid
        value = getattr(self, name)
        return dict(value) if isinstance(value, Mapping) else value


FIELDS: tuple[str, ...] = tuple(each.name for each in fields(Recipe))
"""Names of all fields, in the order of the constructor."""

HYPERPARAMETERS: tuple[str, ...] = tuple(name for name in FIELDS if name != "architecture")
"""Names of the fields that a hyperparameter contribution may change."""


def _remake(architecture: Architecture, values: dict[str, Any]) -> Recipe:
    return Recipe(architecture, **values)
