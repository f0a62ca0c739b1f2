"""The command line: ``neuronexus``.

Each command is a thin door to what a notebook can do too.  Nothing heavy is imported before a
command needs it, so that ``neuronexus --help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from neuronexus_kernel import __version__
from neuronexus_kernel.cli_access import owned_hub
from neuronexus_kernel.cli_federation import add_federation
from neuronexus_kernel.cli_storage import add_storage
from neuronexus_kernel.cli_upkeep import add_upkeep
from neuronexus_kernel.errors import HubUnavailableError, InvalidInputError, NeuroNexusError
from neuronexus_kernel.settings import home_directory

STOP_SECONDS = 30.0

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for an error, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    try:
        return command(options)
    except NeuroNexusError as error:
        print(f"neuronexus: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neuronexus",
        description="Co-develop AI models: train federatedly, measure contributions, pay for them.",
    )
    parser.add_argument("--version", action="version", version=f"neuronexus {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands.add_parser("demo", help="play the story of three researchers, live"))
    _add_hub(commands.add_parser("hub", help="start a hub, see it, name its operators, back it up"))
    add_federation(commands.add_parser("federation", help="train on many machines"))
    add_storage(commands)
    _add_ledger(commands.add_parser("ledger", help="verify the ledger of a hub"))
    return parser


def _add_home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home", type=Path, help="the hub's folder (default: $NEURONEXUS_HOME, else your data)"
    )


# -- demo -------------------------------------------------------------------------------------


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="headless, in a temporary home")
    parser.add_argument("--dataset", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--json", action="store_true", help="with --once: print one JSON object")
    parser.add_argument("--port", type=int, default=8765, help="without --once: where to listen")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="without --once: seconds to wait for you to sign in before the story begins",
    )
    parser.set_defaults(command=_demo)


def _demo(options: argparse.Namespace) -> int:
    from neuronexus_kernel import demo

    if options.json and not options.once:
        raise InvalidInputError("--json goes with --once; the live demo shows a dashboard.")
    if options.once:
        outcome = demo.once(options.dataset, quiet=options.json)
        print(json.dumps(outcome) if options.json else demo.summary(outcome))
        return 0
    return demo.live(options.dataset, port=options.port, patience=options.patience)


# -- hub --------------------------------------------------------------------------------------


def _add_hub(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    start = actions.add_parser("start", help="run the hub in this terminal until Ctrl-C")
    _add_home(start)
    start.add_argument("--host", default="127.0.0.1")
    start.add_argument("--port", type=int, default=8765, help="the next free one is taken")
    start.set_defaults(command=_hub_start)
    status = actions.add_parser("status", help="say where the hub is and how it does")
    _add_home(status)
    status.set_defaults(command=_hub_status)
    stop = actions.add_parser("stop", help="end the hub that runs in the background")
    _add_home(stop)
    stop.set_defaults(command=_hub_stop)
    add_upkeep(actions)
    operator = actions.add_parser("operator", help="name operators")
    names = operator.add_subparsers(title="actions", required=True, metavar="ACTION")
    add = names.add_parser("add", help="make an operator, or give an account the role")
    add.add_argument("name")
    add.add_argument(
        "--existing", action="store_true", help="the account is there; ask for no password"
    )
    _add_home(add)
    add.set_defaults(command=_operator_add)


def _hub_start(options: argparse.Namespace) -> int:
    home = options.home or home_directory()
    command = [sys.executable, "-m", "neuronexus_server", "--home", str(home)]
    command += ["--host", options.host, "--port", str(options.port)]
    os.execv(sys.executable, command)


def _hub_status(options: argparse.Namespace) -> int:
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


def _hub_stop(options: argparse.Namespace) -> int:
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


def _operator_add(options: argparse.Namespace) -> int:
    password = None if options.existing else _ask_password()
    hub = owned_hub(options.home)
    try:
        account = hub.add_operator(options.name, password)
    finally:
        hub.close()
    print(f"{account.name} is an operator now.")
    return 0


def _ask_password() -> str:
    """Return a new password, from the terminal or from standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    from getpass import getpass

    password = getpass("Password: ")
    if password != getpass("Once more: "):
        raise InvalidInputError("The two passwords differ; nothing was changed.")
    return password


# -- ledger -----------------------------------------------------------------------------------


def _add_ledger(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    verify = actions.add_parser("verify", help="recompute every hash, sum and root")
    _add_home(verify)
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    verify.set_defaults(command=_ledger_verify)


def _ledger_verify(options: argparse.Namespace) -> int:
    hub = owned_hub(options.home)
    try:
        status = hub.verify_ledger()
    finally:
        hub.close()
    if options.json:
        print(json.dumps(asdict(status)))
    elif status.ok:
        print(f"The ledger verifies: {status.entries} entries, root {status.root}.")
    else:
        print(f"The ledger does NOT verify after {status.entries} entries: {status.problem}")
    return 0 if status.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
