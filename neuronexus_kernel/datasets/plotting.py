"""Who holds what, drawn: clients side by side, their classes above each other, their sizes on top.

One matrix of counts, classes x clients, is drawn in one of two ways.  Few clients get a circle
for each count, which reads exactly; many get a map, in which clients are put in the order of
their most frequent classes, so that the eye sees how unlike they are rather than noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuronexus_kernel.datasets.dataset import Dataset
from neuronexus_kernel.errors import DatasetError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neuronexus_kernel.datasets.partition import Partition

MOST_CIRCLES = 40
"""Clients up to which each gets its own circles."""

MOST_CIRCLE_CLASSES = 25
_MOST_NAMED = 20
_MOST_TOKENS = 20
_BINS = 20

_INK, _FAINT, _BLUE = "#334155", "#e2e8f0", "#4c78a8"
_RAMP = (
    (0.0, "#f8fafc"),
    (0.1, "#d5e4f0"),
    (0.25, "#9dc0dc"),
    (0.5, "#4c78a8"),
    (0.75, "#274b73"),
    (1.0, "#12263f"),
)


@dataclass(frozen=True, slots=True)
class Holdings:
    """Who holds how many rows of what.

    Attributes
    ----------
    counts
        int64, (classes, clients): rows, or for tokens places, from the lowest class up.
    sizes
        int64, (clients,): rows.
    clients
        A name for each client.
    classes
        A name for each row of `counts`.
    what
        What the rows of `counts` are.
    """

    counts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    clients: tuple[str, ...]
    classes: tuple[str, ...]
    what: str


def who_holds_what(
    data: Dataset | Sequence[Dataset] | Mapping[str, Dataset], partition: Partition | None
) -> Figure:
    """Draw who holds what; see `neuronexus_kernel.datasets.partition.plot`."""
    held = holdings(_named_shares(data, partition))
    name = data.name if isinstance(data, Dataset) else "Shares"
    title = name if partition is None else f"{name}, {partition!r}"
    return _draw(held, title)


def holdings(shares: Mapping[str, Dataset]) -> Holdings:
    """Count what each of the named shares holds.

    Raises
    ------
    DatasetError
        If they are of different kinds or shapes.
    """
    first = next(iter(shares.values()))
    for name, share in shares.items():
        if (share.kind, share.output_shape) != (first.kind, first.output_shape):
            raise DatasetError(
                f"{name} ({share.kind}, outputs {share.output_shape}) does not go with the "
                f"others ({first.kind}, outputs {first.output_shape})."
            )
    values, classes, what = _binned(list(shares.values()))
    counts = [np.bincount(each[each >= 0], minlength=len(classes)) for each in values]
    return Holdings(
        counts=np.stack(counts, axis=1),
        sizes=np.array([len(share) for share in shares.values()]),
        clients=tuple(shares),
        classes=classes,
        what=what,
    )


def _named_shares(data: object, partition: Partition | None) -> dict[str, Dataset]:
    shares: dict[str, Any]
    if isinstance(data, Dataset):
        if partition is None:
            raise DatasetError("Say how the data set is shared out: plot(dataset, partition).")
        parts = data.partition(partition)
        names = [str(client) for client in range(len(parts))]
        if partition.column is not None:
            names = [str(value) for value in np.unique(data.column(partition.column))]
        return dict(zip(names, parts, strict=True))
    if partition is not None:
        raise DatasetError("A partition shares out one data set, but several were given.")
    if isinstance(data, Mapping):
        shares = {str(name): share for name, share in data.items()}
    elif isinstance(data, Sequence):
        shares = {str(client): share for client, share in enumerate(data)}
    else:
        raise DatasetError(f"data is a Dataset or several, not {type(data).__name__}.")
    if not shares or not all(isinstance(share, Dataset) for share in shares.values()):
        raise DatasetError("Give at least one share, and each as a Dataset.")
    return shares


def _binned(shares: list[Dataset]) -> tuple[list[NDArray[np.int64]], tuple[str, ...], str]:
    """Return the class of every label (-1: not shown), names of the classes, what they are."""
    kind, count = shares[0].kind, shares[0].classes
    if kind == "classification":
        names = tuple(str(label) for label in range(count))
        return [share.labels.astype(np.int64, copy=False) for share in shares], names, "class"
    if kind == "next-token":
        tokens = [share.labels.reshape(-1).astype(np.int64, copy=False) for share in shares]
        total = np.bincount(np.concatenate(tokens), minlength=count)
        shown = np.argsort(-total, kind="stable")[: min(_MOST_TOKENS, np.count_nonzero(total))]
        place = np.full(count, -1)
        place[shown] = np.arange(len(shown))
        return (
            [place[each] for each in tokens],
            tuple(map(str, shown)),
            "token, most frequent first",
        )
    values = [share.labels.reshape(len(share), -1)[:, 0].astype(np.float64) for share in shares]
    edges = _round_edges(np.concatenate(values))
    bins = [np.searchsorted(edges[1:-1], each, side="right") for each in values]
    return bins, tuple(f"{low:.4g}" for low in edges[:-1]), "label, from"


def _round_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the edges of about `_BINS` bins, at numbers that are easy to read."""
    from matplotlib.ticker import MaxNLocator

    locator = MaxNLocator(_BINS, steps=[1, 2, 2.5, 5, 10])
    edges: NDArray[np.float64] = np.asarray(locator.tick_values(values.min(), values.max()))
    return edges


def _draw(held: Holdings, title: str) -> Figure:
    from matplotlib import pyplot

    clients = len(held.sizes)
    few = clients <= MOST_CIRCLES
    if not few:
        held = _in_order(held)
    classes = len(held.classes)
    width = float(np.clip(2.2 + 0.42 * clients, 5.5, 11)) if few else 11.0
    height = float(np.clip(0.30 * classes, 2.2, 5.5))
    figure, (top, main) = pyplot.subplots(
        2,
        1,
        sharex=True,
        figsize=(width, height + 1.9),
        height_ratios=(1.0, height),
        layout="constrained",
    )
    # The caller shows it; an open figure would be shown twice.
    pyplot.close(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    _draw_sizes(top, held.sizes)
    _label(main, held, few=few)
    if few and classes <= MOST_CIRCLE_CLASSES:
        _draw_circles(figure, main, held)
    else:
        _draw_map(figure, main, held)
    return figure


def _in_order(held: Holdings) -> Holdings:
    """Put clients in the order of their most frequent class, and within it the purest first."""
    shares = held.counts / np.maximum(held.counts.sum(axis=0), 1)
    order = np.lexsort((-shares.max(axis=0), shares.argmax(axis=0)))
    return Holdings(
        held.counts[:, order],
        held.sizes[order],
        tuple(held.clients[client] for client in order),
        held.classes,
        held.what,
    )


def _draw_sizes(axes: Axes, sizes: NDArray[np.int64]) -> None:
    places = np.arange(len(sizes))
    if len(sizes) <= MOST_CIRCLES:
        axes.bar(places, sizes, width=0.62, color=_BLUE)
    else:
        axes.fill_between(
            np.append(places, len(sizes)) - 0.5,
            np.append(sizes, sizes[-1]),
            step="post",
            color=_BLUE,
            linewidth=0,
        )
    axes.set_ylim(0, 1.12 * sizes.max())
    axes.set_yticks([int(sizes.max())], [f"{sizes.max():,}"])
    axes.set_ylabel("rows", color=_INK, rotation=0, ha="right", va="center")
    axes.axhline(sizes.max(), color=_FAINT, linewidth=0.8, zorder=0)
    _plain(axes)


def _draw_circles(figure: Figure, axes: Axes, held: Holdings) -> None:
    """Draw a circle for each count, its area in proportion."""
    from matplotlib.collections import EllipseCollection

    rows, columns = np.nonzero(held.counts)
    counts = held.counts[rows, columns]
    widths = 0.94 * np.sqrt(counts / held.counts.max())
    axes.set_xlim(-0.6, len(held.clients) - 0.4)
    axes.set_ylim(-0.6, len(held.classes) - 0.4)
    axes.grid(color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    figure.draw_without_rendering()  # which lays out, so that sizes are known
    box = axes.get_window_extent()
    # Circles stay circles: one unit is the smaller of a client's width and a class's height.
    unit = min(box.width / (len(held.clients) + 0.2), box.height / (len(held.classes) + 0.2))
    points = widths * unit * 72 / figure.dpi
    circles = EllipseCollection(
        points,
        points,
        np.zeros(len(points)),
        units="points",
        offsets=np.stack([columns, rows], axis=1),
        offset_transform=axes.transData,
        facecolors=[_colour(int(row), held) for row in rows],
        linewidth=0,
    )
    axes.add_collection(circles)
    axes.set_xlabel(f"client (largest circle: {counts.max():,})", color=_INK)


def _draw_map(figure: Figure, axes: Axes, held: Holdings) -> None:
    """Draw a map in which darkness is a class's share of what a client holds."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import PercentFormatter

    shares = held.counts / np.maximum(held.counts.sum(axis=0), 1)
    # From 0 to all in every plot, so that two can be compared; small shares are still seen.
    ramp = LinearSegmentedColormap.from_list("holdings", _RAMP)
    image = axes.imshow(
        shares, aspect="auto", origin="lower", cmap=ramp, vmin=0, vmax=1, interpolation="nearest"
    )
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=25, format=PercentFormatter(1, 0))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, colors=_INK)
    bar.set_label("of a client's rows", color=_INK, fontsize=9)


def _label(axes: Axes, held: Holdings, *, few: bool) -> None:
    clients, classes = len(held.clients), len(held.classes)
    if few:
        long = max(len(name) for name in held.clients) > 3
        axes.set_xticks(range(clients), held.clients, rotation=45 if long else 0)
        if long:
            for tick in axes.get_xticklabels():
                tick.set_horizontalalignment("right")
        axes.set_xlabel("client", color=_INK)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{clients:,} clients, in the order of what each holds most", color=_INK)
    step = -(-classes // _MOST_NAMED)
    axes.set_yticks(range(0, classes, step), held.classes[::step])
    axes.set_ylabel(held.what, color=_INK)
    _plain(axes)


def _plain(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelsize=9, colors=_INK)


def _colour(place: int, held: Holdings) -> Any:
    """Return a class's colour; quantities, which have an order, have one colour."""
    from matplotlib import colormaps

    if held.what != "class":
        return _BLUE
    return colormaps["tab10" if len(held.classes) <= 10 else "tab20"](place % 20)
