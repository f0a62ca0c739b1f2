"""The NeuroNexus server: pages, REST and WebSocket over a hub, on Jupyter Server.

One `jupyter server` process owns the hub's database and serves everything: the API that
`RemoteHub` speaks, the sign-in page, and the dashboard by Voila.  `app` attaches it to a server,
`launch` starts a server for it alone, ``python -m neuronexus_server`` does that from a shell.
`personal` is the other way round: a hub inside a person's own JupyterLab.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "neuronexus_server"}]


def _load_jupyter_server_extension(server: Any) -> None:
    from neuronexus_server.personal import load

    load(server)
