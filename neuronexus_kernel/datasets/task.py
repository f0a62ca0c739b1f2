"""What is to be learnt, and on which rows each party may learn, look and be judged.

A `Task` shares a data set out once: `public` rows everyone may train on, `private` rows for the
researchers, `validation` rows for the curves, and `held_out` rows that only the hub's evaluators
see.  The shares are stratified by label and fixed by the seed.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

from neuronexus_kernel.datasets.dataset import Dataset
from neuronexus_kernel.errors import DatasetError

METRICS = ("accuracy",)


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Task:
    """A classification task.

    Parameters
    ----------
    dataset
        All rows.
    metric
        What is measured; one of `METRICS`.
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
        If the metric is unknown, the fractions leave no private rows, or a part would be empty.
    """

    public: Dataset
    private: Dataset
    validation: Dataset
    held_out: Dataset
    metric: str

    def __init__(
        self,
        dataset: Dataset,
        metric: str = "accuracy",
        *,
        public: float = 0.2,
        validation: float = 0.15,
        held_out: float = 0.2,
        seed: int = 0,
    ) -> None:
        if metric not in METRICS:
            raise DatasetError(f"There is no metric {metric!r}; known: {', '.join(METRICS)}.")
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
        object.__setattr__(self, "metric", metric)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.public.classes

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row's input."""
        return self.public.input_shape

    def _counts(self) -> dict[str, int]:
        return {
            "public": len(self.public),
            "private": len(self.private),
            "validation": len(self.validation),
            "held_out": len(self.held_out),
        }

    def __repr__(self) -> str:
        parts = ", ".join(f"{part}: {count:,}" for part, count in self._counts().items())
        return (
            f"Task({self.metric}, input_shape={self.input_shape}, classes={self.classes}, "
            f"rows of {parts})"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{part}</td><td>{count:,}</td></tr>" for part, count in self._counts().items()
        )
        return (
            f"<div><b>{html.escape(self.metric)}</b>, inputs of shape {self.input_shape}, "
            f"{self.classes} classes<table><tr><th>part</th><th>rows</th></tr>{rows}</table></div>"
        )
