"""The bar at the top: whose hub this is, which project, whether it is live, and who looks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import ipywidgets as widgets

from neuronexus_widgets.live import Connection
from neuronexus_widgets.panels import frame, text
from neuronexus_widgets.state import DashboardState
from neuronexus_widgets.theme import MARK
from neuronexus_widgets.words import escape

_WORDS: dict[Connection, str] = {
    "live": "Live",
    "reconnecting": "Reconnecting",
    "signed-out": "Signed out",
}


class Header:
    """Wordmark, project, live indicator and visitor.

    Parameters
    ----------
    on_choose
        Called with the id of a project that the visitor picks.
    sign_out, sign_in, account
        Addresses of the links; without them (in a notebook) there are no links.
    """

    def __init__(
        self,
        on_choose: Callable[[str], None],
        *,
        sign_out: str | None = None,
        sign_in: str | None = None,
        account: str | None = None,
    ) -> None:
        self._on_choose = on_choose
        self._sign_out, self._sign_in, self._account = sign_out, sign_in, account
        self.connection: Connection = "live"
        self._brand, self._standing = text("nx-header"), text("nx-standing")
        self._menu = widgets.Dropdown(options=[], layout=widgets.Layout(display="none"))
        self._menu.add_class("nx-choose")
        self._menu.observe(self._chosen, "value")
        self._filling = False
        self.widget = frame([self._brand, self._menu, self._standing], "nx-bar")

    def update(self, state: DashboardState, now: datetime) -> None:
        """Show who, what and whether live."""
        self._brand.value = (
            f'<div class="nx-line">{MARK}<span class="nx-wordmark">NeuroNexus</span>'
            f"{_project(state)}</div>"
        )
        self._standing.value = (
            f'<div class="nx-line"><span class="nx-live" data-state="{self.connection}" '
            f'role="status"><i></i>{_WORDS[self.connection]}</span>{self._visitor(state)}</div>'
        )
        self._fill(state)

    def _visitor(self, state: DashboardState) -> str:
        if self.connection == "signed-out" and self._sign_in:
            link = f'<a href="{escape(self._sign_in)}">Sign in again</a>'
            return f'<span class="nx-who">{link}</span>'
        if state.me is None:
            link = f'<a href="{escape(self._sign_in)}">Sign in</a>' if self._sign_in else ""
            return f'<span class="nx-who"><span class="nx-dim">Guest</span>{link}</span>'
        name = escape(state.me, 40)
        link = f'<a href="{escape(self._sign_out)}">Sign out</a>' if self._sign_out else ""
        if self._account:
            link = f'<a href="{escape(self._account)}">Account</a>{link}'
        initial = escape(state.me[:1])
        return (
            f'<span class="nx-who"><span class="nx-avatar" aria-hidden="true">{initial}</span>'
            f'<b class="nx-visitor">{name}</b>{link}</span>'
        )

    def _fill(self, state: DashboardState) -> None:
        """Offer the projects, once there are several."""
        options = tuple((item.name, item.id) for item in state.projects)
        if options == self._menu.options and state.project == self._menu.value:
            return
        self._filling = True
        try:
            self._menu.options = options
            self._menu.value = state.project if state.project else None
        finally:
            self._filling = False
        self._menu.layout.display = None if len(options) > 1 else "none"

    def _chosen(self, change: dict[str, object]) -> None:
        if not self._filling and isinstance(change["new"], str):
            self._on_choose(change["new"])


def _project(state: DashboardState) -> str:
    if not state.project:
        return '<span class="nx-project">no project yet</span>'
    if len(state.projects) > 1:  # then the menu shows the name
        return ""
    return f'<span class="nx-project"><b>{escape(state.name, 60)}</b></span>'
