"""How records look in a notebook: tables as DataFrames, single things as small cards."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from neuronexus_kernel.hub.records import Contribution

if TYPE_CHECKING:
    import pandas as pd

    from neuronexus_kernel.storage.interface import Progress

_SHOWN_FROM = 16 * 2**20
"""Bytes from which a progress bar is shown."""

_CARD = (
    '<div style="display:inline-block;border:1px solid #8885;border-radius:8px;'
    'padding:.6em 1em;font-size:.95em">'
)


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows as a DataFrame with these columns, in this order, even when there are none."""
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=list(columns))
    for name in ("time", "created", "decided"):
        if name in table:
            table[name] = pd.to_datetime(table[name], utc=True, format="ISO8601")
    return table


def contributions_frame(contributions: Sequence[Contribution]) -> pd.DataFrame:
    """Return contributions as a DataFrame, one row each."""
    columns = ["kind", "author", "state", "value", "reward", "reason", "note", "receipt"]
    columns += ["created", "id"]
    return frame([{name: getattr(c, name) for name in columns} for c in contributions], columns)


def card(title: str, rows: Mapping[str, object]) -> str:
    """Return a small HTML card; everything in it is escaped."""
    lines = "".join(
        '<tr><td style="opacity:.65;padding-right:1em;text-align:left">'
        f'{html.escape(name)}</td><td style="text-align:left">{html.escape(str(value))}</td></tr>'
        for name, value in rows.items()
        if value not in (None, "")
    )
    return f"{_CARD}<b>{html.escape(title)}</b><table>{lines}</table></div>"


def named_metrics(metrics: Mapping[str, float], metric: str) -> dict[str, float]:
    """Return metrics under the name of what a project measures, which records call accuracy."""
    names = {"accuracy": metric, "held_out_accuracy": f"held_out_{metric}"}
    return {names.get(name, name): value for name, value in metrics.items()}


def metrics_text(metrics: Mapping[str, float], metric: str = "accuracy") -> str:
    """Return metrics in one line, such as ``accuracy 0.9611, loss 0.1402``."""
    metrics = named_metrics(metrics, metric)
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())


@contextmanager
def bar_of_bytes(text: str, total: int | None) -> Iterator[Progress | None]:
    """Show a bar of bytes for what takes a while; yield what it is told by.

    Parameters
    ----------
    total
        How many there will be, or None if that is not known.
    """
    if total is not None and total < _SHOWN_FROM:
        yield None
        return
    from tqdm.auto import tqdm

    delay = 1.0 if total is None else 0.0
    with tqdm(total=total, desc=text, unit="B", unit_scale=True, delay=delay) as bar:
        yield bar.update
