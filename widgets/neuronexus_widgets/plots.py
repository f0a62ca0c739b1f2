"""The charts: bqplot figures in the house style that change in place.

Each chart takes new values by `update` and sends nothing when they are the ones it shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import bqplot as bq
import ipywidgets as widgets
import numpy as np
from numpy.typing import NDArray

from neuronexus_widgets.theme import PALETTE
from neuronexus_widgets.words import MINUS

Curve = tuple[Sequence[float], Sequence[float]]

_MARGIN = {"top": 10, "bottom": 26, "left": 48, "right": 16}
_UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d"))


class RoundChart:
    """A metric over the rounds of a run, with earlier runs faint behind it.

    Parameters
    ----------
    height
        Least height, in pixels.
    """

    def __init__(self, *, height: int = 170) -> None:
        self.x, self.y = bq.LinearScale(min=0, max=10), bq.LinearScale(min=0, max=1)
        scales = {"x": self.x, "y": self.y}
        self.past = _line(scales, "muted", opacities=[0.3], stroke_width=1.2)
        self.line = _line(
            scales, "accent", fill="bottom", fill_colors=[PALETTE["accent"]], fill_opacities=[0.09]
        )
        self.tip = _dots(scales, "accent", 56)
        self.across, self.up = _axis(self.x), _axis(self.y, vertical=True, tick_format=".0%")
        self.widget = _figure([self.past, self.line, self.tip], [self.across, self.up], height)
        self._shown: object = None

    def update(
        self,
        curve: Curve,
        *,
        rounds: int = 0,
        past: Sequence[Curve] = (),
        metric: str = "accuracy",
    ) -> None:
        """Draw new values.

        Parameters
        ----------
        curve
            Rounds and values of the metric, of equal length.
        rounds
            How many rounds the run will have.
        past
            Curves of earlier runs.
        metric
            What is measured: it decides how the marks are written.
        """
        shown = (_frozen(curve), rounds, tuple(_frozen(old) for old in past), metric)
        if shown == self._shown:
            return
        self._shown = shown
        x, y = curve
        seen = [value for _, values in (curve, *past) for value in values]
        marks = ticks(min(seen, default=0.0), max(seen, default=1.0), most=4)
        self.up.tick_format = _tick_format(metric, marks)
        _fit(self.y, self.up, marks)
        end = max([rounds, *x, *(old[-1] for old, _ in past if old)], default=1)
        _fit(self.x, self.across, ticks(0, max(end, 2), most=6, least=1), end=max(end, 2))
        _give(self.line, x, y)
        _give(self.tip, x[-1:], y[-1:])
        _give(self.past, *_rectangles(past))


class VersionChart:
    """A metric of each model version; those that became the head stand out.

    Parameters
    ----------
    height
        Least height, in pixels.
    """

    def __init__(self, *, height: int = 150) -> None:
        self.x, self.y = bq.LinearScale(min=-0.5, max=1.5), bq.LinearScale(min=0, max=1)
        scales = {"x": self.x, "y": self.y}
        self.line = _line(scales, "accent", opacities=[0.6], stroke_width=1.6)
        self.all = _dots(scales, "accent", 56)
        self.heads = _dots(scales, "gold", 80, marker="diamond")
        self.across, self.up = _axis(self.x), _axis(self.y, vertical=True, tick_format=".0%")
        self.widget = _figure([self.line, self.all, self.heads], [self.across, self.up], height)
        self._shown: object = None

    def update(self, curve: Curve, *, heads: Curve = ((), ()), metric: str = "accuracy") -> None:
        """Draw all versions, and those that became the head with what they reached held out.

        Parameters
        ----------
        curve, heads
            Numbers of versions and values of the metric, of equal length.
        metric
            What is measured: it decides how the marks are written.
        """
        shown = (_frozen(curve), _frozen(heads), metric)
        if shown == self._shown:
            return
        self._shown = shown
        numbers, values = [*curve[0], *heads[0]], [*curve[1], *heads[1]]
        marks = ticks(min(values, default=0.0), max(values, default=1.0), most=4, least=0.005)
        self.up.tick_format = _tick_format(metric, marks)
        _fit(self.y, self.up, marks)
        low = min(numbers, default=0)
        high = max([*numbers, low + 1])
        inside = [mark for mark in ticks(low, high, most=9, least=1) if low <= mark <= high]
        self.across.tick_values = np.array(inside)
        with self.x.hold_sync():
            self.x.min, self.x.max = low - 0.4, high + 0.4
        for mark in (self.line, self.all):
            _give(mark, *curve)
        _give(self.heads, *heads)


class BalanceChart:
    """A balance over time, drawn as steps that end now.

    Parameters
    ----------
    height
        Least height, in pixels.
    """

    def __init__(self, *, height: int = 130) -> None:
        self.x, self.y = bq.LinearScale(min=-60, max=0), bq.LinearScale(min=0, max=1)
        scales = {"x": self.x, "y": self.y}
        self.line = _line(
            scales,
            "gold",
            interpolation="step-after",
            fill="bottom",
            fill_colors=[PALETTE["gold"]],
            fill_opacities=[0.08],
        )
        self.tip = _dots(scales, "gold", 56)
        self.across, self.up = _axis(self.x), _axis(self.y, vertical=True, tick_format="~s")
        self.widget = _figure([self.line, self.tip], [self.across, self.up], height)
        self._shown: object = None

    def update(self, times: Sequence[datetime], balances: Sequence[float], now: datetime) -> None:
        """Draw the balance after each entry; time moves on the axis every half minute.

        Parameters
        ----------
        times, balances
            When, oldest first, and the balance from then on, of equal length.
        now
            Right end of the chart.
        """
        shown = (tuple(times), tuple(balances), int(now.timestamp() // 30))
        if shown == self._shown or not times:
            return
        self._shown = shown
        ages = [min(0.0, (time - now).total_seconds()) for time in times]
        span = max(60.0, -1.08 * ages[0])
        x, y = [-span, *ages, 0.0], [0.0, *balances, balances[-1]]
        _fit(self.y, self.up, ticks(min(0.0, *y), max(y), most=3))
        seconds, unit = next(item for item in reversed(_UNITS) if span >= 2 * item[0])
        marks = [mark for mark in ticks(-span / seconds, 0, most=4) if mark * seconds >= -span]
        self.across.tick_labels = {
            f"{mark * seconds:g}": f"{MINUS}{-mark:g} {unit}" if mark else "now" for mark in marks
        }
        self.across.tick_values = np.array(marks) * seconds
        self.x.min = -span
        _give(self.line, x, y)
        _give(self.tip, [0.0], y[-1:])


def ticks(low: float, high: float, *, most: int = 5, least: float = 0.0) -> list[float]:
    """Return round numbers from at or below `low` to at or above `high`, evenly spaced.

    Parameters
    ----------
    low, high
        What the numbers must enclose.
    most
        How many steps at most, about.
    least
        Smallest step.
    """
    step = max((high - low) / most, least, 1e-12)
    power: float = 10.0 ** math.floor(math.log10(step))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


# -- parts --------------------------------------------------------------------------------------


def _figure(marks: list[bq.Mark], axes: list[bq.Axis], height: int) -> bq.Figure:
    return bq.Figure(
        marks=marks,
        axes=axes,
        fig_margin=_MARGIN,
        min_aspect_ratio=0.1,
        max_aspect_ratio=40,
        background_style={"fill": "transparent"},
        layout=widgets.Layout(width="100%", height="100%", min_width="0", min_height=f"{height}px"),
    )


def _axis(scale: bq.Scale, *, vertical: bool = False, tick_format: str = "d") -> bq.Axis:
    return bq.Axis(
        scale=scale,
        side="left" if vertical else "bottom",
        grid_lines="solid" if vertical else "none",
        grid_color=PALETTE["line"],
        color=PALETTE["line"],
        label_color=PALETTE["muted"],
        tick_style={"fill": PALETTE["muted"], "font-size": "11px"},
        tick_format=tick_format,
    )


def _line(scales: dict[str, bq.Scale], colour: str, **looks: object) -> bq.Lines:
    looks = {"stroke_width": 2.4, **looks}
    return bq.Lines(x=[], y=[], scales=scales, colors=[PALETTE[colour]], **looks)


def _dots(
    scales: dict[str, bq.Scale], colour: str, size: int, *, marker: str = "circle"
) -> bq.Scatter:
    return bq.Scatter(
        x=[],
        y=[],
        scales=scales,
        colors=[PALETTE[colour]],
        default_size=size,
        marker=marker,
        stroke=PALETTE["panel"],
        stroke_width=2,
    )


def _fit(
    scale: bq.LinearScale, axis: bq.Axis, marks: Sequence[float], *, end: float | None = None
) -> None:
    """Let an axis run from the first to the last of the marks, or to `end`."""
    last = marks[-1] if end is None else end
    axis.tick_values = np.array([mark for mark in marks if mark <= last])
    with scale.hold_sync():
        scale.min, scale.max = marks[0], last


def _tick_format(metric: str, marks: Sequence[float]) -> str:
    """Return how marks of a metric are written, as a format of d3."""
    if metric != "accuracy":
        return "~g"
    return ".0%" if marks[1] - marks[0] >= 0.01 else ".1%"


def _give(mark: bq.Mark, x: object, y: object) -> None:
    with mark.hold_sync():
        mark.x, mark.y = np.array(x, float), np.array(y, float)


def _frozen(curve: Curve) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(curve[0]), tuple(curve[1])


def _rectangles(curves: Sequence[Curve]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return curves of unequal length as two rectangles, the last point repeated.

    bqplot drops dimensions of size one, so a lone curve is one row and points are left out.
    """
    curves = [curve for curve in curves if len(curve[0]) > 1]
    if len(curves) < 2:
        alone = curves[0] if curves else ((), ())
        return np.array(alone[0], float), np.array(alone[1], float)
    length = max(len(x) for x, _ in curves)
    rows = [[[*part, *[part[-1]] * (length - len(part))] for part in curve] for curve in curves]
    both = np.array(rows, float)
    return both[:, 0], both[:, 1]
