"""The charts: bqplot figures in the house style that change in place.

Each chart takes new values by `update` and sends only what changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import bqplot as bq
import ipywidgets as widgets
import numpy as np

from neuronexus_widgets.theme import PALETTE

_MARGIN = {"top": 12, "bottom": 30, "left": 46, "right": 18}


def _figure(marks: list[bq.Mark], axes: list[bq.Axis], height: int) -> bq.Figure:
    return bq.Figure(
        marks=marks,
        axes=axes,
        fig_margin=_MARGIN,
        animation_duration=0,
        min_aspect_ratio=0.1,
        max_aspect_ratio=40,
        background_style={"fill": "transparent"},
        layout=widgets.Layout(width="100%", height=f"{height}px", min_width="0"),
    )


def _axis(scale: bq.Scale, *, vertical: bool = False, tick_format: str = "") -> bq.Axis:
    return bq.Axis(
        scale=scale,
        orientation="vertical" if vertical else "horizontal",
        grid_lines="solid" if vertical else "none",
        grid_color=PALETTE["line"],
        color=PALETTE["line"],
        label_color=PALETTE["muted"],
        tick_style={"fill": PALETTE["muted"], "font-size": "11px"},
        tick_format=tick_format,
        num_ticks=5,
    )


def bounds(
    values: Sequence[float],
    *,
    floor: float | None = None,
    ceiling: float | None = None,
    least: float = 0.05,
) -> tuple[float, float]:
    """Return round limits of an axis that hold all values with some room.

    Parameters
    ----------
    values
        What must be seen; may be empty.
    floor, ceiling
        Never go beyond these.
    least
        Smallest distance between the limits.
    """
    if not values:
        return (floor or 0.0, 1.0 if ceiling is None else ceiling)
    low, high = min(values), max(values)
    room = max((high - low) * 0.12, (least - (high - low)) / 2, 0.0)
    low, high = low - room, high + room
    if ceiling is not None and high > ceiling:
        low, high = min(low, ceiling - least), ceiling
    if floor is not None and low < floor:
        low, high = floor, max(high, floor + least)
    return (low, high)


class CurveChart:
    """A curve that grows, over faint curves of the past.

    Parameters
    ----------
    colour
        Name of a colour of the palette.
    tick_format
        How values are written, in d3's notation.
    height
        In pixels.
    ceiling
        Largest value that makes sense, or None.
    """

    def __init__(
        self,
        colour: str,
        *,
        tick_format: str = ".0%",
        height: int = 200,
        ceiling: float | None = 1.0,
        step: bool = False,
    ) -> None:
        self._ceiling = ceiling
        self.x, self.y = bq.LinearScale(min=1, max=10), bq.LinearScale(min=0, max=1)
        scales = {"x": self.x, "y": self.y}
        interpolation = "step-after" if step else "linear"
        self.past = bq.Lines(
            x=[], y=[], scales=scales, colors=[PALETTE["muted"]], opacities=[0.28], stroke_width=1.2
        )
        self.line = bq.Lines(
            x=[],
            y=[],
            scales=scales,
            colors=[PALETTE[colour]],
            stroke_width=2.4,
            interpolation=interpolation,
            fill="bottom",
            fill_colors=[PALETTE[colour]],
            fill_opacities=[0.08],
        )
        self.tip = bq.Scatter(
            x=[],
            y=[],
            scales=scales,
            colors=[PALETTE[colour]],
            default_size=46,
            stroke=PALETTE["panel"],
            stroke_width=2,
        )
        self.horizontal = _axis(self.x, tick_format="d")
        self.widget = _figure(
            [self.past, self.line, self.tip],
            [self.horizontal, _axis(self.y, vertical=True, tick_format=tick_format)],
            height,
        )
        self._shown: tuple[object, ...] = ()

    def update(
        self,
        x: Sequence[float],
        y: Sequence[float],
        *,
        last: float | None = None,
        past: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
    ) -> None:
        """Draw new values.

        Parameters
        ----------
        x, y
            The curve, of equal length.
        last
            Right end of the axis; by default the last value of `x`.
        past
            Older curves, drawn faint.
        """
        shown = (tuple(x), tuple(y), last, tuple((tuple(a), tuple(b)) for a, b in past))
        if shown == self._shown:
            return
        self._shown = shown
        self.y.min, self.y.max = bounds(
            [*y, *(value for _, old in past for value in old)], floor=0.0, ceiling=self._ceiling
        )
        first = min([*x[:1], *(old[0] for old, _ in past if old)], default=1)
        self.x.min, self.x.max = float(first), float(max([last or 0, first + 1, *x]))
        with self.line.hold_sync():
            self.line.x, self.line.y = np.array(x, float), np.array(y, float)
        with self.tip.hold_sync():
            self.tip.x, self.tip.y = np.array(x[-1:], float), np.array(y[-1:], float)
        with self.past.hold_sync():
            self.past.x, self.past.y = _padded(past)


class VersionChart:
    """Accuracy of each model version; those that became the head stand out.

    Parameters
    ----------
    height
        In pixels.
    """

    def __init__(self, *, height: int = 180) -> None:
        self.x, self.y = bq.LinearScale(min=-0.5, max=1.5), bq.LinearScale(min=0, max=1)
        scales = {"x": self.x, "y": self.y}
        self.line = bq.Lines(
            x=[], y=[], scales=scales, colors=[PALETTE["accent"]], stroke_width=1.6, opacities=[0.6]
        )
        self.all = bq.Scatter(
            x=[],
            y=[],
            scales=scales,
            colors=[PALETTE["accent"]],
            default_size=40,
            stroke=PALETTE["panel"],
            stroke_width=2,
        )
        self.heads = bq.Scatter(
            x=[],
            y=[],
            scales=scales,
            colors=[PALETTE["gold"]],
            default_size=72,
            marker="diamond",
            stroke=PALETTE["panel"],
            stroke_width=2,
        )
        self.horizontal = _axis(self.x, tick_format="d")
        self.widget = _figure(
            [self.line, self.all, self.heads],
            [self.horizontal, _axis(self.y, vertical=True, tick_format=".1%")],
            height,
        )
        self._shown: tuple[object, ...] = ()

    def update(
        self,
        numbers: Sequence[int],
        accuracies: Sequence[float],
        *,
        heads: Sequence[tuple[int, float]] = (),
    ) -> None:
        """Draw all versions, and those that became the head with their held-out accuracy."""
        shown = (tuple(numbers), tuple(accuracies), tuple(heads))
        if shown == self._shown:
            return
        self._shown = shown
        values = [*accuracies, *(value for _, value in heads)]
        self.y.min, self.y.max = bounds(values, floor=0.0, ceiling=1.0, least=0.02)
        marked = [*numbers, *(number for number, _ in heads)]
        low, high = min(marked, default=0), max(marked, default=1)
        self.x.min, self.x.max = low - 0.5, max(high, low + 1) + 0.5
        self.horizontal.tick_values = np.array(_whole_steps(low, max(high, low + 1)))
        for mark in (self.line, self.all):
            with mark.hold_sync():
                mark.x, mark.y = np.array(numbers, float), np.array(accuracies, float)
        with self.heads.hold_sync():
            self.heads.x = np.array([number for number, _ in heads], float)
            self.heads.y = np.array([value for _, value in heads], float)


def _whole_steps(low: int, high: int, most: int = 9) -> list[int]:
    step = max(1, -(-(high - low) // most))
    return list(range(low, high + 1, step))


def _padded(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return curves of unequal length as two rectangles, the last point repeated."""
    curves = [curve for curve in curves if curve[0]]
    if not curves:
        return np.zeros(0), np.zeros(0)
    length = max(len(x) for x, _ in curves)
    rows = [[[*part, *[part[-1]] * (length - len(part))] for part in curve] for curve in curves]
    return np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], float)
