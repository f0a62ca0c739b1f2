"""The command line of an operator: ``neuronexus hub migrate``, ``backup``, ``restore``, ``check``.

A backup and a check go through the hub that runs on the folder, if one does: a DuckDB file can be
read by the process that owns it only.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from neuronexus_kernel.cli_access import add_home, owned_hub
from neuronexus_kernel.settings import Settings

_PATIENCE = 24 * 3600.0
"""Seconds to wait for a hub that copies all that it has."""


def add_upkeep(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the actions to those of ``neuronexus hub``."""
    migrate = actions.add_parser("migrate", help="bring the tables of the database up to date")
    migrate.set_defaults(command=_migrate)
    backup = actions.add_parser("backup", help="write all that the hub has to a new folder")
    backup.add_argument("folder", type=Path, help="must not exist yet")
    backup.set_defaults(command=_backup)
    restore = actions.add_parser("restore", help="make an empty hub from a backup")
    restore.add_argument("folder", type=Path, help="the backup")
    restore.set_defaults(command=_restore)
    check = actions.add_parser("check", help="look through ledger, stores and records")
    check.set_defaults(command=_check)
    for parser in (migrate, backup, restore, check):
        add_home(parser)


def _migrate(options: argparse.Namespace) -> int:
    from neuronexus_kernel.hub.upgrading import migrate_hub

    before, after = migrate_hub(Settings.load(options.home))
    if before == after:
        print(f"The tables are up to date (revision {after}).")
    else:
        print(f"The tables were brought from revision {before or 'none'} to {after}.")
    return 0


def _backup(options: argparse.Namespace) -> int:
    with closing(owned_hub(options.home, timeout=_PATIENCE)) as hub:
        made = hub.backup(str(options.folder.absolute()))
    print(f"{made.path}: {made.rows:,} records up to event {made.events:,}, {made.blocks:,} blocks")
    if made.missing:
        print(
            f"{len(made.missing)} objects that the records name are missing in the hub itself, the "
            f"first is {made.missing[0]}: see `neuronexus hub check`."
        )
    return 0


def _restore(options: argparse.Namespace) -> int:
    from neuronexus_kernel.hub.backup import restore

    settings = Settings.load(options.home)
    made = restore(settings, options.folder)
    print(
        f"{settings.home}: {made.rows:,} records up to event {made.events:,}, {made.blocks:,} "
        f"blocks, as they were at {made.created[:19]}Z. See `neuronexus hub check`."
    )
    return 0


def _check(options: argparse.Namespace) -> int:
    with closing(owned_hub(options.home, timeout=_PATIENCE)) as hub:
        problems = hub.check()
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems." if problems else "All is well.")
    return 1 if problems else 0
