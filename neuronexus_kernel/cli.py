"""The command line: ``neuronexus``.

Each command is a thin door to what a notebook can do too.  Nothing heavy is imported before a
command needs it, so that ``neuronexus --help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict

from neuronexus_kernel import __version__
from neuronexus_kernel.cli_access import add_home, owned_hub
from neuronexus_kernel.cli_federation import add_federation
from neuronexus_kernel.cli_hub import add_hub
from neuronexus_kernel.cli_storage import add_storage
from neuronexus_kernel.errors import InvalidInputError, NeuroNexusError

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
    add_hub(commands.add_parser("hub", help="run a hub, and look after its accounts"))
    add_federation(commands.add_parser("federation", help="train on many machines"))
    add_storage(commands)
    _add_ledger(commands.add_parser("ledger", help="verify the ledger of a hub"))
    return parser


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


# -- ledger -----------------------------------------------------------------------------------


def _add_ledger(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    verify = actions.add_parser("verify", help="recompute every hash, sum and root")
    add_home(verify)
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    verify.set_defaults(command=_ledger_verify)


def _ledger_verify(options: argparse.Namespace) -> int:
    with closing(owned_hub(options.home)) as hub:
        status = hub.verify_ledger()
    if options.json:
        print(json.dumps(asdict(status)))
    elif status.ok:
        print(f"The ledger verifies: {status.entries} entries, root {status.root}.")
    else:
        print(f"The ledger does NOT verify after {status.entries} entries: {status.problem}")
    return 0 if status.ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
