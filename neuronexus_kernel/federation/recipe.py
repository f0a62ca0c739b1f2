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
from dataclasses import KW_ONLY, MISSING, dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.errors import ContentError, RecipeError
from neuronexus_kernel.federation.augmentation import Entry, check_augmentation
from neuronexus_kernel.federation.fields import (
    Check,
    Value,
    choice,
    flag,
    fraction,
    positive,
    whole,
)
from neuronexus_kernel.federation.schedules import MOST_ROUNDS, check_schedule, fraction_at
from neuronexus_kernel.federation.strategies import (
    STRATEGIES,
    Parameter,
    check_privacy,
    check_strategy,
)

if TYPE_CHECKING:
    import pandas as pd

    from neuronexus_kernel.models import Architecture

FORMAT = "neuronexus/recipe/1"

_CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "learning_rate": positive(1000.0),
        "batch_size": whole(1, 65_536),
        "local_epochs": whole(1, 1000),
        "local_steps": whole(0, 100_000),
        "cohort_size": whole(0, 1_000_000),
        "optimiser": choice("sgd", "adam", "adamw"),
        "momentum": fraction(),
        "nesterov": flag(),
        "weight_decay": positive(10.0, zero=True),
        "gradient_clip": positive(1_000_000.0, zero=True),
        "warmup_rounds": whole(0, MOST_ROUNDS),
        "loss": choice("cross_entropy", "bce", "mse", "next_token"),
        "label_smoothing": fraction(),
        "seed_policy": choice("run", "fixed-start"),
    }
)

_PARAMETERS_OF = MappingProxyType(
    {
        "schedule": "schedule_parameters",
        "strategy": "strategy_parameters",
        "privacy": "privacy_parameters",
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
    local_steps
        Steps of a client within one round, through its data as often as needed, instead of
        epochs; at most 100,000, and 0 means epochs.
    cohort_size
        Clients that train in a round, at most 1,000,000; 0 means all.
    optimiser
        ``"sgd"``, ``"adam"`` or ``"adamw"``; the latter two with PyTorch's standard betas and
        epsilon.
    momentum
        Momentum of sgd, at least 0 and below 1; adam and adamw take none.
    nesterov
        Whether momentum looks ahead (Nesterov); it needs a momentum.
    weight_decay
        0 to 10: the L2 penalty, added to the gradient as PyTorch does; adamw shrinks the weights
        apart from the gradient.
    gradient_clip
        Largest L2 norm of all gradients of a step together, at most 1,000,000; 0 means no limit.
    schedule
        How the learning rate changes from round to round: a name of `schedules.SCHEDULES`,
        ``"constant"``, ``"step"`` or ``"cosine"``.
    schedule_parameters
        Of step: ``{"every": rounds, "factor": f}``; of cosine: ``{"rounds": n, "final": f}``.
    warmup_rounds
        Rounds of warm-up: of n, round r uses r / (n + 1) of the rate.
    loss
        The mean over a batch of ``"cross_entropy"``, ``"bce"`` (binary cross-entropy of each
        output), ``"mse"`` or ``"next_token"`` (cross-entropy of each place of a sequence).
    label_smoothing
        Share of the target spread over all classes, at least 0 and below 1; for cross_entropy and
        next_token.
    augmentation
        Random changes of the training inputs, in order; see `augmentation.AUGMENTATIONS`.
    strategy
        How the server joins the clients' models: a name of `strategies.STRATEGIES`.
    strategy_parameters
        Parameters of the strategy; those left out have Flower's defaults.
    privacy
        ``"none"``, or central differential privacy by ``"fixed-clipping"`` or
        ``"adaptive-clipping"``, with strategies that take a mean.
    privacy_parameters
        Their parameters, named as in Flower: ``noise_multiplier`` and ``clipping_norm``, or
        ``noise_multiplier``, ``initial_clipping_norm``, ``target_clipped_quantile``,
        ``clip_norm_lr`` and ``clipped_count_stddev``.
    seed_policy
        ``"run"``: the run's seed decides the starting weights too.  ``"fixed-start"``: they are
        always those of seed 0.

    Raises
    ------
    RecipeError
        If a field is of the wrong type or out of range, or does not go with another; the message
        names it.

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
    local_steps: int = 0
    cohort_size: int = 0
    optimiser: str = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    gradient_clip: float = 0.0
    schedule: str = "constant"
    schedule_parameters: Mapping[str, Value] = field(default_factory=dict)
    warmup_rounds: int = 0
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    augmentation: tuple[Entry, ...] = ()
    strategy: str = "FedAvg"
    strategy_parameters: Mapping[str, Parameter] = field(default_factory=dict)
    privacy: str = "none"
    privacy_parameters: Mapping[str, Value] = field(default_factory=dict)
    seed_policy: str = "run"

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.architecture, "cid", None), CID):
            kind = type(self.architecture).__name__
            raise RecipeError(
                f"architecture must be an Architecture, such as models.mlp(64, (64,), 10), "
                f"not a {kind}. Architecture.capture(module, example) makes one of a torch module."
            )
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        self._keep("schedule", check_schedule(self.schedule, self.schedule_parameters))
        self._keep("strategy", check_strategy(self.strategy, self.strategy_parameters))
        self._keep(
            "privacy",
            check_privacy(self.privacy, self.privacy_parameters, strategy=self.strategy),
        )
        augmentation = check_augmentation(self.augmentation, self.architecture)
        object.__setattr__(self, "augmentation", augmentation)
        self._check_together()

    def _keep(self, name: str, checked: tuple[str, Mapping[str, Value]]) -> None:
        object.__setattr__(self, name, checked[0])
        object.__setattr__(self, _PARAMETERS_OF[name], MappingProxyType(dict(checked[1])))

    def _check_together(self) -> None:
        """Check fields that depend on each other."""
        if self.optimiser != "sgd" and self.momentum != 0:
            raise RecipeError(
                f"momentum must be 0 with optimiser {self.optimiser!r}, which has its own, "
                f"not {self.momentum!r}."
            )
        if self.nesterov and self.momentum == 0:
            raise RecipeError("nesterov needs a momentum above 0: it is a way of using it.")
        if self.label_smoothing and self.loss not in ("cross_entropy", "next_token"):
            raise RecipeError(
                f"label_smoothing must be 0 with loss {self.loss!r}: it is for cross_entropy and "
                f"next_token, not {self.label_smoothing!r}."
            )
        dimensions = len(self.architecture.output_shape)
        needed = {"cross_entropy": 1, "next_token": 2}.get(self.loss, dimensions)
        if dimensions != needed:
            form = {1: "(classes,)", 2: "(places, vocabulary)"}[needed]
            raise RecipeError(
                f"loss {self.loss!r} needs outputs of shape {form}, but the architecture gives "
                f"{self.architecture.output_shape}; {_LOSS_FOR.get(dimensions, _OTHER_LOSS)}."
            )
        smallest = STRATEGIES[self.strategy].smallest_cohort(self.strategy_parameters)
        if 0 < self.cohort_size < smallest:
            raise RecipeError(
                f"cohort_size must be 0 (all) or at least {smallest} for {self.strategy} with "
                f"these parameters, not {self.cohort_size}."
            )

    def learning_rate_at(self, round: int) -> float:
        """Return the clients' learning rate in a round, counted from 1."""
        return self.learning_rate * fraction_at(
            round, self.schedule, self.schedule_parameters, warmup=self.warmup_rounds
        )

    def with_changes(self, **changes: Any) -> Recipe:
        """Return a recipe with some fields changed.

        A new `schedule`, `strategy` or `privacy` drops the parameters of the old one unless new
        ones are given.

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
        for name, parameters in _PARAMETERS_OF.items():
            if changes.get(name, getattr(self, name)) != getattr(self, name):
                changes.setdefault(parameters, {})
        return replace(self, **changes)

    def diff(self, other: Recipe) -> dict[str, tuple[object, object]]:
        """Return the fields in which two recipes differ, as ``{name: (mine, the other's)}``.

        Architectures are compared and shown by their CID, parameters as dicts, augmentations as a
        list of dicts.
        """
        return {
            name: (mine, theirs)
            for name in FIELDS
            if (mine := self.plain(name)) != (theirs := other.plain(name))
        }

    def to_dict(self) -> dict[str, dagcbor.Node]:
        """Return the recipe as a document for DAG-CBOR; the architecture is a link.

        The first recipes' fields are always in it, the others where they differ from the default.
        """
        document: dict[str, dagcbor.Node] = {"format": FORMAT}
        for name in FIELDS:
            value = self.plain(name)
            if name in _ALWAYS or value != _DEFAULTS[name]:
                document[name] = value
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
        odd = sorted(str(name) for name in (set(node) - _KNOWN) | (_ALWAYS - set(node)))
        if odd:
            raise RecipeError(f"A recipe's document has fields missing or unknown: {odd[:5]}.")
        if node["architecture"] != architecture.cid:
            raise RecipeError(
                f"architecture: the recipe links to {node['architecture']}, "
                f"not to the architecture {architecture.cid} that was given."
            )
        given = {name: node[name] for name in HYPERPARAMETERS if name in node}
        recipe = cls(architecture, **given)
        try:
            canonical = dagcbor.encode(node) == recipe.encode()
        except ContentError:
            canonical = False
        if not canonical:
            raise RecipeError(
                "The recipe is not in canonical form: a number has the wrong type, or a default is "
                "written down."
            )
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

        rows = [(name, self.plain(name)) for name in FIELDS]
        return pd.DataFrame(rows, columns=["field", "value"])

    def __eq__(self, other: object) -> bool:
        return self.encode() == other.encode() if isinstance(other, Recipe) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.encode())

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={self.plain(name)!r}" for name in HYPERPARAMETERS)
        return f"Recipe({self.architecture.cid}, {values})"

    def __reduce__(self) -> tuple[object, ...]:
        values = {name: self.plain(name) for name in HYPERPARAMETERS}
        return _remake, (self.architecture, values)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{html.escape(str(self.plain(name)))}</td></tr>"
            for name in FIELDS
        )
        return f"<table><caption>Recipe {self.cid}</caption>{rows}</table>"

    def plain(self, name: str) -> Any:
        """Return a field as a value that DAG-CBOR can hold."""
        if name == "architecture":
            return self.architecture.cid
        return _plain_value(getattr(self, name))


def _plain_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [dict(each) for each in value]
    return dict(value) if isinstance(value, Mapping) else value


FIELDS: tuple[str, ...] = tuple(each.name for each in fields(Recipe))
"""Names of all fields, in the order of the constructor."""

HYPERPARAMETERS: tuple[str, ...] = tuple(name for name in FIELDS if name != "architecture")
"""Names of the fields that a hyperparameter contribution may change."""

TECHNIQUE: tuple[str, ...] = (
    "optimiser",
    "momentum",
    "nesterov",
    "weight_decay",
    "gradient_clip",
    "schedule",
    "schedule_parameters",
    "warmup_rounds",
    "loss",
    "label_smoothing",
    "augmentation",
    "strategy",
    "strategy_parameters",
    "privacy",
    "privacy_parameters",
)
"""Names of the fields that a code contribution may change besides the architecture."""

_ALWAYS = frozenset(
    {
        "architecture",
        "learning_rate",
        "batch_size",
        "local_epochs",
        "optimiser",
        "momentum",
        "weight_decay",
        "loss",
        "strategy",
        "strategy_parameters",
    }
)
"""The fields of the first recipes: always written, so that these keep their CIDs."""

_KNOWN = frozenset({"format", *FIELDS})

_DEFAULTS: Mapping[str, object] = MappingProxyType(
    {
        each.name: {} if each.default is MISSING else _plain_value(each.default)
        for each in fields(Recipe)
        if each.name not in _ALWAYS
    }
)

_LOSS_FOR = MappingProxyType({1: "use 'cross_entropy'", 2: "use 'next_token', 'bce' or 'mse'"})
_OTHER_LOSS = "use 'bce' or 'mse'"


def _remake(architecture: Architecture, values: dict[str, Any]) -> Recipe:
    return Recipe(architecture, **values)
