"""The dashboard: a snapshot drawn at once, then everything live.

`Dashboard` composes the panels and owns nothing else: state comes from ``snapshot.py`` and
``reducer.py``, events from ``live.py``, looks from ``theme.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import ipywidgets as widgets

from neuronexus_widgets import snapshot
from neuronexus_widgets.live import Batch, Live
from neuronexus_widgets.panels import Panel, frame
from neuronexus_widgets.panels.activity import Activity
from neuronexus_widgets.panels.contributions import Contributions
from neuronexus_widgets.panels.figures import Figures
from neuronexus_widgets.panels.header import Header
from neuronexus_widgets.panels.network import NetworkStatistics
from neuronexus_widgets.panels.tokens import Tokens
from neuronexus_widgets.panels.training import Training, Versions
from neuronexus_widgets.reducer import apply
from neuronexus_widgets.scene.network_view import NetworkView
from neuronexus_widgets.theme import css

if TYPE_CHECKING:
    from neuronexus_kernel.hub.hub import Hub

SIGN_OUT = "neuronexus/logout"
SIGN_IN = "neuronexus/auth"
ACCOUNT = "neuronexus/account"


class HasHub(Protocol):
    """A workbench, or anything else that holds a hub."""

    @property
    def hub(self) -> Hub:
        """The hub that it talks to."""


class Dashboard:
    """A project and its network, live.

    Parameters
    ----------
    source
        A `Workbench` or a `Hub`: whose eyes the dashboard sees with.
    project
        Name or id of the project; by default the one made last.
    follow
        Whether to stay live; otherwise the dashboard is a snapshot.

    Attributes
    ----------
    widget
        What to show; a notebook shows a dashboard that is the last value of a cell.
    state
        What is shown.

    Raises
    ------
    NotFoundError
        If there is no such project.
    HubUnavailableError
        If the hub cannot be reached.
    """

    def __init__(
        self, source: Hub | HasHub, project: str | None = None, *, follow: bool = True
    ) -> None:
        self._hub: Hub = source.hub if hasattr(source, "hub") else source
        self.state = snapshot.load(self._hub, project)
        base = page_base()
        self.header = Header(
            self._choose,
            sign_out=None if base is None else base + SIGN_OUT,
            sign_in=None if base is None else base + SIGN_IN,
            account=None if base is None else base + ACCOUNT,
        )
        self.figures, self.scene = Figures(), NetworkView()
        self.training, self.versions = Training(), Versions()
        self.contributions, self.tokens = Contributions(), Tokens()
        self.network, self.activity = NetworkStatistics(), Activity()
        self.widget = self._compose()
        self._draw()
        self._live: Live | None = None
        if follow:
            self._live = Live(self._hub, self._on_batch, since=self.state.seq)
            self._live.start()
        self.widget.observe(self._widget_closed, "comm")

    def close(self) -> None:
        """Stop following the hub; what is shown stays.  Closing the widget does this too."""
        if self._live is not None:
            self._live.stop()

    def _repr_mimebundle_(self, **options: object) -> Mapping[str, object]:
        bundle: Mapping[str, object] = self.widget._repr_mimebundle_(**options)
        return bundle

    def _widget_closed(self, change: Mapping[str, object]) -> None:
        if change["new"] is None:
            self.close()

    # -- drawing ------------------------------------------------------------------------------

    def _compose(self) -> widgets.Box:
        style = widgets.HTML(f"<style>{css()}</style>")
        style.add_class("nx-style")
        curves = frame([self.training.widget, self.versions.widget], "nx-column", "nx-w5")
        main = frame([self.contributions.widget, self.network.widget], "nx-column", "nx-w8")
        side = frame([self.tokens.widget, self.activity.widget], "nx-column", "nx-w4")
        grid = frame(
            [self.figures.widget, self.scene.widget, curves, main, side],
            "nx-grid",
        )
        return frame([style, self.header.widget, grid], "nx-dashboard")

    @property
    def _panels(self) -> tuple[Panel, ...]:
        return (
            self.header,
            self.figures,
            self.training,
            self.versions,
            self.contributions,
            self.tokens,
            self.network,
            self.activity,
        )

    def _draw(self) -> None:
        now = datetime.now(UTC)
        for panel in self._panels:
            panel.update(self.state, now)
        self.scene.update(self.state)

    def _on_batch(self, batch: Batch) -> None:
        state = self.state
        if batch.gap:
            state = snapshot.load(self._hub, state.project or None)
        for event in batch.events:
            state = apply(state, event)
        if batch.network is not None:
            state = snapshot.see(state, batch.network)
        for item in batch.contributions:
            state = snapshot.amend(state, item)
        if state.project and not self.state.project:  # the first project was just made
            state = snapshot.load(self._hub, state.project)
        self.state = state
        self.header.connection = batch.connection
        self._draw()
        self.scene.play(batch.events)

    def _choose(self, project: str) -> None:
        """Show another project."""
        if project == self.state.project:
            return
        if self._live is None:
            self.state = snapshot.load(self._hub, project)
            self._draw()
            return
        with self._live.lock:
            self.state = snapshot.load(self._hub, project)
            self._draw()


def page_base() -> str | None:
    """Return the address below which the server's pages are, or None in a notebook.

    Voila tells a kernel that serves a page of its own so by ``SERVER_SOFTWARE``.
    """
    if not os.environ.get("SERVER_SOFTWARE", "").startswith("voila"):
        return None
    return os.environ.get("VOILA_BASE_URL", "/").rstrip("/") + "/"
