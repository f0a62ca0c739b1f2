"""How a data set looks in a notebook: one line, a card with small bars, a table."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from neuronexus_kernel.datasets.dataset import Dataset

_MOST_BARS = 50
_BINS = 30


def text(dataset: Dataset) -> str:
    """Return a data set's one line."""
    start = f"Dataset({dataset.name!r}, {len(dataset):,} rows, input_shape={dataset.input_shape}, "
    if dataset.kind == "regression":
        return f"{start}regression, output_shape={dataset.output_shape})"
    if dataset.kind == "next-token":
        return f"{start}next-token, vocabulary={dataset.classes})"
    return f"{start}classes={dataset.classes})"


def page(dataset: Dataset) -> str:
    """Return a data set's card as HTML: what it is, and bars of its labels."""
    told, bars = _bars(dataset)
    highest = max(count for _, count in bars)
    drawn = "".join(
        f'<div title="{title}" style="width:10px;background:#4c78a8;'
        f'height:{max(1, round(40 * count / highest))}px"></div>'
        for title, count in bars
    )
    return (
        f"<div><b>{html.escape(dataset.name)}</b>: {len(dataset):,} rows of shape "
        f"{dataset.input_shape}, {told}"
        f'<div style="display:flex;align-items:flex-end;gap:2px">{drawn}</div></div>'
    )


def table(dataset: Dataset) -> pd.DataFrame:
    """Return a table of a data set's labels; see `Dataset.summary`."""
    import pandas as pd

    if dataset.kind == "regression":
        flat = dataset.labels.reshape(len(dataset), -1).astype(np.float64)
        names = [_place(index, dataset.output_shape) for index in range(flat.shape[1])]
        return pd.DataFrame(
            {
                "output": names,
                "mean": flat.mean(axis=0),
                "deviation": flat.std(axis=0),
                "minimum": flat.min(axis=0),
                "median": np.median(flat, axis=0),
                "maximum": flat.max(axis=0),
            }
        )
    counts = label_counts(dataset)
    shares = counts / counts.sum()
    if dataset.kind == "classification":
        return pd.DataFrame({"class": np.arange(len(counts)), "rows": counts, "share": shares})
    order = np.argsort(-counts, kind="stable")
    found = {"token": order, "positions": counts[order], "share": shares[order]}
    return pd.DataFrame(found)


def label_counts(dataset: Dataset) -> NDArray[np.int64]:
    """Return how often each class or token is a label: int64, shape ``(classes,)``."""
    labels = dataset.labels.reshape(-1).astype(np.int64, copy=False)
    return np.bincount(labels, minlength=dataset.classes)


def _bars(dataset: Dataset) -> tuple[str, list[tuple[str, int]]]:
    """Return what the labels are, and a title and height for each bar."""
    if dataset.kind == "regression":
        values = dataset.labels.reshape(len(dataset), -1)[:, 0].astype(np.float64)
        counts, edges = np.histogram(values, bins=_BINS)
        spans = zip(edges, edges[1:], counts.tolist(), strict=False)
        bars = [(f"{low:.4g} to {high:.4g}: {count} rows", count) for low, high, count in spans]
        return f"quantities of shape {dataset.output_shape}", bars
    counts = label_counts(dataset)
    if dataset.kind == "next-token":
        order = np.argsort(-counts, kind="stable")[:_MOST_BARS].tolist()
        bars = [(f"token {token}: {counts[token]} times", int(counts[token])) for token in order]
        return f"next of {dataset.classes} tokens, the most frequent shown", bars
    shown = counts[:_MOST_BARS].tolist()
    more = f" (first {len(shown)} shown)" if len(counts) > len(shown) else ""
    bars = [(f"class {label}: {count} rows", count) for label, count in enumerate(shown)]
    return f"{dataset.classes} classes{more}", bars


def _place(index: int, shape: tuple[int, ...]) -> str:
    """Return the name of one number of an output: its position, such as ``0`` or ``2, 3``."""
    return ", ".join(str(int(at)) for at in np.unravel_index(index, shape))
