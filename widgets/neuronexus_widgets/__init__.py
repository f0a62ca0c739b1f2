"""The looks of NeuroNexus: a live dashboard made of ipywidgets, bqplot and pythreejs.

`DashboardState` (``state.py``) is what is shown, as plain values that know no widget; ``snapshot``
reads it from a hub, ``reducer`` carries it forward by events, and `Live` (``live.py``) brings
them; panels draw a state and change only what changed; and `Dashboard` puts them together.  The
package imports the kernel library, never the other way round, and never torch: a visitor's page
must be there within seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuronexus_widgets.dashboard import Dashboard

__all__ = ["Dashboard"]


def __getattr__(name: str) -> type[Dashboard]:
    """Import `Dashboard`, and the widget libraries with it, when it is first asked for."""
    if name == "Dashboard":
        from neuronexus_widgets.dashboard import Dashboard

        return Dashboard
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
