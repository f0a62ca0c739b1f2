"""What is to be learnt, and on which rows each party may learn, look and be judged.

A `Task` shares a data set out once: `public` rows everyone may train on, `private` rows for the
researchers, `validation` rows for the curves, and `held_out` rows that only the hub's evaluators
see.  The shares are fixed by the seed, and stratified where labels are classes.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from neuronexus_kernel.datasets.checking import Kind
from neuronexus_kernel.datasets.dataset import Dataset
from neuronexus_kernel.errors import DatasetError

METRIC_OF: Mapping[Kind, str] = MappingProxyType(
    {"classification": "accuracy", "regression": "r2", "next-token": "accuracy"}
)
"""What is measured on each kind of data set; `federation.evaluation` says how."""

METRICS = tuple(dict.fromkeys(METRIC_OF.values()))


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Task:
    """What is to be learnt.

    Parameters
    ----------
    dataset
        All rows.
    metric
        What is measured: ``"accuracy"`` where labels are classes or tokens, ``"r2"`` (the
        fraction of the labels' variance that is foretold) where they are quantities; by default
        the one that goes with the data set.
    public, validation, held_out
        Fractions of the rows, each above 0; what they leave is private.
    seed
        Decides which row goes where; the same on every computer.

    Attributes
    ----------
    public : Dataset
        Rows that everyone may train on; evaluations re-train on these.
    private : Dataset
        Rows for the researchers' private parts.
    validation : Dataset
        Rows that curves are drawn from.
    held_out : Dataset
        Sealed rows that decide what a contribution is worth.
    metric : str
        What is measured.

    Raises
    ------
    DatasetError
        If the metric is unknown or of another kind of data, the fractions leave no private rows,
        or a part would be empty.
    """

    public: Dataset
    private: Dataset
    validation: Dataset
    held_out: Dataset
    metric: str

    def __init__(
        self,
        dataset: Dataset,
        metric: str | None = None,
        *,
        public: float = 0.2,
        validation: float = 0.15,
        held_out: float = 0.2,
        seed: int = 0,
    ) -> None:
        chosen = _checked_metric(metric, dataset)
        fractions = {"public": public, "validation": validation, "held_out": held_out}
        for part, fraction in fractions.items():
            if not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
                raise DatasetError(f"{part} must be a fraction above 0, not {fraction!r}.")
        rest = 1 - sum(fractions.values())
        if rest <= 1e-9:
            raise DatasetError(
                f"public, validation and held_out sum to {1 - rest:g}: no private rows are left. "
                "Keep their sum below 1."
            )
        parts = dataset.split({**fractions, "private": rest}, seed=seed)
        for part, rows in parts.items():
            object.__setattr__(self, part, rows)
        object.__setattr__(self, "metric", chosen)

    @property
    def kind(self) -> Kind:
        """What a label is: that of the data set."""
        return self.public.kind

    @property
    def classes(self) -> int:
        """Number of classes, or of tokens; 0 for regression."""
        return self.public.classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row's input."""
        return self.public.input_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what a model answers to one row."""
        return self.public.output_shape

    def _counts(self) -> dict[str, int]:
        return {
            "public": len(self.public),
            "private": len(self.private),
            "validation": len(self.validation),
            "held_out": len(self.held_out),
        }

    def __repr__(self) -> str:
        parts = ", ".join(f"{part}: {count:,}" for part, count in self._counts().items())
        answer = (
            f"output_shape={self.output_shape}"
            if self.kind == "regression"
            else f"classes={self.classes}"
        )
        kind = "" if self.kind == "classification" else f"{self.kind}, "
        return (
            f"Task({kind}{self.metric}, input_shape={self.input_shape}, {answer}, rows of {parts})"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{part}</td><td>{count:,}</td></tr>" for part, count in self._counts().items()
        )
        return (
            f"<div><b>{html.escape(self.metric)}</b>, inputs of shape {self.input_shape}, "
            f"{describe_outputs(self.kind, self.classes, self.output_shape)}"
            f"<table><tr><th>part</th><th>rows</th></tr>{rows}</table></div>"
        )


def describe_outputs(kind: str, classes: int, output_shape: tuple[int, ...]) -> str:
    """Return in words what a model of a task answers."""
    if kind == "regression":
        return f"quantities of shape {output_shape}"
    return f"{classes} classes" if kind == "classification" else f"the next of {classes} tokens"


def _checked_metric(metric: str | None, dataset: Dataset) -> str:
    """Return the metric that goes with a data set, if `metric` is that one or None."""
    if metric is not None and metric not in METRICS:
        raise DatasetError(f"There is no metric {metric!r}; known: {', '.join(METRICS)}.")
    own = METRIC_OF[dataset.kind]
    if metric not in (None, own):
        raise DatasetError(
            f"The metric {metric!r} does not go with {dataset.name}, which is for "
            f"{dataset.kind}; its metric is {own!r}."
        )
    return own
