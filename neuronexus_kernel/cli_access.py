"""For whom a command acts: an account that signs in, or the owner of the hub's folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import AuthenticationError
from neuronexus_kernel.settings import home_directory

if TYPE_CHECKING:
    from neuronexus_kernel.hub import Hub
    from neuronexus_kernel.workbench import Workbench


def add_home(parser: argparse.ArgumentParser) -> None:
    """Add the option that says which hub is meant, by its folder."""
    parser.add_argument(
        "--home", type=Path, help="the hub's folder (default: $NEURONEXUS_HOME, else your data)"
    )


def workbench(user: str | None, home: Path | None = None) -> Workbench:
    """Return the hub as the person that the command is for.

    Parameters
    ----------
    user
        Who that is; their password is asked for.  None where the environment holds a token.
    home
        Folder of the hub that runs there; by default see `nx.connect`.

    Raises
    ------
    AuthenticationError
        If nobody signs in.
    HubUnavailableError
        If no hub runs on `home`.
    """
    from neuronexus_kernel.workbench import connect

    found = connect(None if home is None else _address(home))
    if found.user is None:
        if user is None:
            raise AuthenticationError(
                "Say who you are with --user NAME, or put a token of yours in $NEURONEXUS_TOKEN "
                "and the hub's address in $NEURONEXUS_HUB."
            )
        found.login(user, _password(user))
    return found


def owned_hub(home: Path | None, *, timeout: float = 30.0) -> Hub:
    """Return the hub of a folder, as its owner: the running one, else opened here.

    Parameters
    ----------
    timeout
        Seconds to wait for an answer of a running one.
    """
    from neuronexus_kernel.hub.process import live_hub

    home = home or home_directory()
    found = live_hub(home)
    if found is not None:
        from neuronexus_kernel.hub.remote import RemoteHub

        return RemoteHub(found.address, found.token, timeout=timeout)
    from neuronexus_kernel.hub.local import LocalHub

    hub = LocalHub.open(home)
    return hub.visitor(hub.owner_token)


def _address(home: Path) -> str:
    from neuronexus_kernel.errors import HubUnavailableError
    from neuronexus_kernel.hub.process import live_hub

    found = live_hub(home)
    if found is None:
        raise HubUnavailableError(
            f"No hub runs on {home}. Start one with `neuronexus hub start --home {home}`."
        )
    return found.address


def _password(user: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    from getpass import getpass

    return getpass(f"Password of {user}: ")
