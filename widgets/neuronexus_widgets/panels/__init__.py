"""The panels of the dashboard, one a file.

A panel has a `widget` and an `update(state, now)`.  It is told the whole state each time and
sends to the page only what reads differently; all text from people is escaped by ``words.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import ipywidgets as widgets

from neuronexus_widgets.state import DashboardState


class Panel(Protocol):
    """Something on the page that shows a part of the state."""

    @property
    def widget(self) -> widgets.Widget:
        """What to show."""

    def update(self, state: DashboardState, now: datetime) -> None:
        """Show `state` as it reads at the time `now`."""


def text(*classes: str) -> widgets.HTML:
    """Return an empty HTML widget with CSS classes."""
    box = widgets.HTML()
    for name in classes:
        box.add_class(name)
    return box


def frame(children: Sequence[widgets.Widget], *classes: str) -> widgets.Box:
    """Return a box with CSS classes; the style sheet decides how it is laid out."""
    box = widgets.Box(list(children))
    for name in classes:
        box.add_class(name)
    return box


def empty(title: str, hint: str) -> str:
    """Return what a panel shows while there is nothing to show; both must be safe markup."""
    return f'<div class="nx-empty"><div>{title}</div><div>{hint}</div></div>'
