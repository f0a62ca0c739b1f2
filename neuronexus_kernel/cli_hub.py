"""``neuronexus hub``: running a hub; the groups of commands about it are put together here."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from neuronexus_kernel.cli_access import add_home
from neuronexus_kernel.cli_accounts import add_accounts
from neuronexus_kernel.cli_upkeep import add_upkeep
from neuronexus_kernel.errors import HubUnavailableError
from neuronexus_kernel.settings import home_directory

if TYPE_CHECKING:
    from argparse import _SubParsersAction

STOP_SECONDS = 30.0


def add_hub(parser: argparse.ArgumentParser) -> None:
    """Add every ``neuronexus hub`` command; each group adds its own."""
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    for add in (_add_running, add_upkeep, add_accounts):
        add(actions)


def _add_running(actions: _SubParsersAction[argparse.ArgumentParser]) -> None:
    start = actions.add_parser("start", help="run the hub in this terminal until Ctrl-C")
    add_home(start)
    start.add_argument("--host", default="127.0.0.1")
    start.add_argument("--port", type=int, default=8765, help="the next free one is taken")
    start.set_defaults(command=_start)
    status = actions.add_parser("status", help="say where the hub is and how it does")
    add_home(status)
    status.set_defaults(command=_status)
    stop = actions.add_parser("stop", help="end the hub that runs in the background")
    add_home(stop)
    stop.set_defaults(command=_stop)


def _start(options: argparse.Namespace) -> int:
    home = options.home or home_directory()
    command = [sys.executable, "-m", "neuronexus_server", "--home", str(home)]
    command += ["--host", options.host, "--port", str(options.port)]
    os.execv(sys.executable, command)


def _status(options: argparse.Namespace) -> int:
    from neuronexus_kernel.hub.process import live_hub
    from neuronexus_kernel.hub.remote import RemoteHub
    from neuronexus_kernel.hub.sharing import waiting

    home = options.home or home_directory()
    found = live_hub(home)
    if found is None:
        print(f"No hub runs on {home}. Start one with `neuronexus hub start`.")
        return 1
    network = RemoteHub(found.address, found.token).network()
    print(f"{found.address} (pid {found.pid}), NeuroNexus {network.version}")
    print(
        f"{len(network.nodes)} accounts, {network.projects} projects, {network.versions} model "
        f"versions, {network.contributions} contributions, {network.minted} NXS minted"
    )
    for place, count in waiting(home).items():
        print(f"{count} public roots wait for the {place}")
    return 0


def _stop(options: argparse.Namespace) -> int:
    import psutil

    from neuronexus_kernel.hub.process import live_hub

    home = options.home or home_directory()
    found = live_hub(home)
    if found is None:
        print("No hub runs there.")
        return 0
    psutil.Process(found.pid).terminate()
    until = time.monotonic() + STOP_SECONDS
    while live_hub(home) is not None:
        if time.monotonic() > until:
            raise HubUnavailableError(
                f"The hub (pid {found.pid}) was told to end but is still there after "
                f"{STOP_SECONDS:g} seconds; it may be finishing an evaluation."
            )
        time.sleep(0.1)
    print(f"The hub at {found.address} has ended.")
    return 0
