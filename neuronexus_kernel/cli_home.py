"""What the commands for the person who hosts a hub share: which hub, and acting as its owner."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from neuronexus_kernel.settings import home_directory

if TYPE_CHECKING:
    from neuronexus_kernel.hub import Hub


def add_home(parser: argparse.ArgumentParser) -> None:
    """Add the option that says which hub is meant."""
    parser.add_argument(
        "--home", type=Path, help="the hub's folder (default: $NEURONEXUS_HOME, else your data)"
    )


@contextmanager
def owned_hub(home: Path | None, *, timeout: float = 30.0) -> Iterator[Hub]:
    """Give the hub of a folder, as its owner: the running one, else opened here; then close it."""
    from neuronexus_kernel.hub.process import live_hub

    home = home or home_directory()
    found = live_hub(home)
    hub: Hub
    if found is not None:
        from neuronexus_kernel.hub.remote import RemoteHub

        hub = RemoteHub(found.address, found.token, timeout=timeout)
    else:
        from neuronexus_kernel.hub.local import LocalHub

        opened = LocalHub.open(home)
        hub = opened.visitor(opened.owner_token)
    try:
        yield hub
    finally:
        hub.close()
