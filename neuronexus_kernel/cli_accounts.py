"""``neuronexus hub``: looking after the accounts of a hub, as whoever owns its folder.

Links are printed to standard output alone, so that they can be piped; what is said about them
goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING

from neuronexus_kernel.cli_access import add_home, owned_hub
from neuronexus_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from neuronexus_kernel.hub import Hub
    from neuronexus_kernel.hub.account_records import OneTimeCode

    Actions = _SubParsersAction[argparse.ArgumentParser]


def add_accounts(actions: Actions) -> None:
    """Add the commands about accounts."""
    operator = actions.add_parser("operator", help="name operators")
    names = operator.add_subparsers(title="actions", required=True, metavar="ACTION")
    add = names.add_parser("add", help="make an operator, or give an account the role")
    add.add_argument("name")
    add.add_argument(
        "--existing", action="store_true", help="the account is there; ask for no password"
    )
    add_home(add)
    add.set_defaults(command=_operator_add)
    remove = names.add_parser("remove", help="make an operator a member again")
    remove.add_argument("name")
    add_home(remove)
    remove.set_defaults(command=_operator_remove)

    invite = actions.add_parser("invite", help="print a link by which somebody can register once")
    invite.add_argument("note", nargs="?", default="", help="for whom it is")
    invite.add_argument("--days", type=float, default=7.0, help="how long it works (default: 7)")
    add_home(invite)
    invite.set_defaults(command=_invite)
    reset = actions.add_parser(
        "reset-password", help="print a link by which an account's password can be set once"
    )
    reset.add_argument("name")
    add_home(reset)
    reset.set_defaults(command=_reset)
    for action, what in (
        ("disable", "close an account; its sign-ins and tokens end at once"),
        ("enable", "open a closed account again"),
    ):
        command = actions.add_parser(action, help=what)
        command.add_argument("name")
        add_home(command)
        command.set_defaults(command=_close_or_open, action=action)
    audit = actions.add_parser("audit", help="show what happened to accounts, the newest last")
    audit.add_argument("--account", help="only what is about this account, or was done by it")
    audit.add_argument("--kind", help="only this kind, such as signin.failed")
    audit.add_argument("--limit", type=int, default=50, help="how many (default: 50; up to 1000)")
    audit.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_home(audit)
    audit.set_defaults(command=_audit)


def _operator_add(options: argparse.Namespace) -> int:
    password = None if options.existing else _ask_password()
    with closing(owned_hub(options.home)) as hub:
        account = hub.add_operator(options.name, password)
    print(f"{account.name} is an operator now.")
    return 0


def _operator_remove(options: argparse.Namespace) -> int:
    with closing(owned_hub(options.home)) as hub:
        account = hub.remove_operator(options.name)
    print(f"{account.name} is a member now.")
    return 0


def _invite(options: argparse.Namespace) -> int:
    with closing(owned_hub(options.home)) as hub:
        _print_link(hub, hub.invite(options.days, options.note))
    return 0


def _reset(options: argparse.Namespace) -> int:
    with closing(owned_hub(options.home)) as hub:
        _print_link(hub, hub.issue_reset(options.name))
    return 0


def _close_or_open(options: argparse.Namespace) -> int:
    with closing(owned_hub(options.home)) as hub:
        if options.action == "disable":
            print(f"{hub.disable(options.name).name} is closed now; its sign-ins have ended.")
        else:
            print(f"{hub.enable(options.name).name} is open again.")
    return 0


def _audit(options: argparse.Namespace) -> int:
    with closing(owned_hub(options.home)) as hub:
        entries = hub.audit(options.account, options.kind, None, options.limit)
    for entry in reversed(entries):
        if options.json:
            print(json.dumps(asdict(entry)))
            continue
        who = entry.account or "-"
        by = f" by {entry.actor}" if entry.actor not in ("", entry.account) else ""
        details = " ".join(f"{name}={json.dumps(value)}" for name, value in entry.data.items())
        source = entry.source or "here"
        print(f"{entry.time[:19]}Z {entry.kind} {who}{by} from {source} {details}".rstrip())
    return 0


def _print_link(hub: Hub, code: OneTimeCode) -> None:
    from neuronexus_kernel.accounts import link_of

    link = link_of(hub, code)
    print(link)
    said = f"It works once, until {link.expires[:16]} UTC."
    if str(link).startswith("/"):
        said += " Put the address of your hub before it."
    print(said, file=sys.stderr)


def _ask_password() -> str:
    """Return a new password, from the terminal or from standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    from getpass import getpass

    password = getpass("Password: ")
    if password != getpass("Once more: "):
        raise InvalidInputError("The two passwords differ; nothing was changed.")
    return password
