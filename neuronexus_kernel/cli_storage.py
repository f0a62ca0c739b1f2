"""The command line of content: ``neuronexus add``, ``get``, ``ls``, ``pin`` and so on.

They work on the embedded store of this computer (``content`` in the hub's folder) while a hub may
be running on it: the store is safe for several processes.  What is added here is kept and pinned;
a hub lists and serves only what was given to it (``wb.storage.add``).  With `NEURONEXUS_IPFS`
it goes to that IPFS node too; but beside a hub, whose store also holds what is not public, only
what is added, and nothing that is pinned or imported.

``export --project`` and ``import --project`` alone go through the hub: they carry whole projects,
records included, and the hub decides who may.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from neuronexus_kernel.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from neuronexus_kernel.settings import StorageSettings, home_directory

if TYPE_CHECKING:
    from neuronexus_kernel.storage import LocalStore
    from neuronexus_kernel.storage.interface import ContentStore, Progress
    from neuronexus_kernel.storage.replicated import ReplicatedStore

PROFILES = ("unixfs-v1-2025", "unixfs-v0-2015")


def add_storage(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of the content store."""
    for name, fill, text in (
        ("add", _add_add, "keep files and folders by content address; print their CIDs"),
        ("get", _add_get, "write content to disk, verified"),
        ("ls", _add_ls, "list what is pinned, or the entries of a folder"),
        ("pin", _add_pin, "promise to keep content, or take the promise back"),
        ("verify", _add_verify, "read and hash every block, and repair what is broken"),
        ("gc", _add_gc, "remove what no pin needs"),
        ("export", _add_export, "write content as a CAR file"),
        ("import", _add_import, "take in a CAR file, every block verified"),
    ):
        parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        parser.add_argument(
            "--home", type=Path, help="the hub's folder (default: $NEURONEXUS_HOME, else your data)"
        )
        parser.add_argument(
            "--quiet", action="store_true", help="no progress bar; results alone are printed"
        )
        fill(parser)


# -- add ----------------------------------------------------------------------------------------


def _add_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--profile", choices=PROFILES, default=PROFILES[0], help="of IPIP-499")
    parser.add_argument("--only-hash", action="store_true", help="print the CID, keep nothing")
    parser.add_argument("--name", default="", help="name of the pin")
    parser.add_argument("--no-pin", action="store_true", help="the next gc may remove it")
    parser.add_argument("--hidden", action="store_true", help="entries that begin with a dot too")
    parser.set_defaults(command=_add)


def _add(options: argparse.Namespace) -> int:
    from neuronexus_kernel.storage.importer import add_tree

    _check_pin_name(options)
    for path in options.paths:
        if not path.exists() and not path.is_symlink():
            raise NotFoundError(f"There is no file or folder {path}.")
    for path in options.paths:
        with _progress(options, f"adding {path.name}", _size_of(path)) as told:
            if options.only_hash:
                cid = add_tree(
                    path, None, profile=options.profile, hidden=options.hidden, progress=told
                )
            else:
                cid = _store(options).add(
                    path,
                    profile=options.profile,
                    name=options.name,
                    pin=not options.no_pin,
                    hidden=options.hidden,
                    progress=told,
                )
        print(cid if options.only_hash or len(options.paths) == 1 else f"{cid}  {path}")
    return 0


# -- get, ls ------------------------------------------------------------------------------------


def _add_get(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="CID[/PATH]")
    parser.add_argument(
        "-o", "--output", metavar="PATH", help="where to (default: named by the address); - prints"
    )
    _add_gateway(parser)
    parser.set_defaults(command=_get)


def _get(options: argparse.Namespace) -> int:
    store = _reader(options)
    if options.output == "-":
        with store.open(options.address) as stream:
            _copy(stream, sys.stdout.buffer)
        return 0
    target = Path(options.output or options.address.strip("/").rpartition("/")[2])
    total = store.stat(options.address).total
    with _progress(options, f"getting {target.name[:24]}", total) as told:
        print(store.download(options.address, target, progress=told))
    return 0


def _add_ls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", nargs="?", metavar="CID[/PATH]", help="a folder")
    _add_gateway(parser)
    parser.set_defaults(command=_ls)


def _ls(options: argparse.Namespace) -> int:
    store = _reader(options)
    if options.address is None:
        for pin in store.pins():
            kind = "recursive" if pin.recursive else "direct"
            print(f"{pin.cid}  {kind:<9}  {pin.created[:19]}Z  {pin.name}".rstrip())
        return 0
    for entry in store.ls(options.address):
        print(f"{entry.cid}  {entry.kind:<8}  {entry.size:>14,}  {entry.name}")
    return 0


# -- pins and housekeeping ----------------------------------------------------------------------


def _add_pin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("addresses", nargs="+", metavar="CID[/PATH]")
    parser.add_argument("--name", help="name of the pin")
    parser.add_argument("--direct", action="store_true", help="the one block, nothing below it")
    parser.add_argument("--remove", action="store_true", help="take the promise back")
    parser.set_defaults(command=_pin)


def _pin(options: argparse.Namespace) -> int:
    _check_pin_name(options)
    store = _store(options)
    for address in options.addresses:
        if options.remove:
            _unpin(options, store, address)
        else:
            print(store.pin(address, name=options.name or "", recursive=not options.direct).cid)
    return 0


def _unpin(options: argparse.Namespace, store: ContentStore, address: str) -> None:
    """Take the named pin back, or all of them: beside a hub only the one without a name."""
    if options.name or not _has_hub(options):
        store.unpin(address, name=options.name)
        return
    try:
        store.unpin(address, name="")
    except NotFoundError:
        root = store.resolve(address)
        names = sorted({pin.name for pin in store.pins() if pin.cid.digest == root.digest})
        if not names:
            raise
        raise ConflictError(
            f"{root} is pinned as {', '.join(names)}, and not without a name. Say which of yours "
            "to take back: --name NAME. What the hub and its accounts pinned stays."
        ) from None


def _check_pin_name(options: argparse.Namespace) -> None:
    """Refuse the names under which a hub pins, where there is one."""
    from neuronexus_kernel.hub.pins import is_taken

    if options.name and is_taken(options.name) and _has_hub(options):
        raise ForbiddenError(
            f"{options.name!r} names pins of the hub in this home: they are made and taken back "
            "by itself, and by its accounts with `wb.storage.pin` and `unpin`. Use another name."
        )


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repair",
        action="append",
        metavar="GATEWAY",
        help="fetch broken and missing blocks from this trustless gateway; once for each",
    )
    parser.set_defaults(command=_verify)


def _verify(options: argparse.Namespace) -> int:
    store = _local(options)
    repair = None
    if options.repair:
        from neuronexus_kernel.storage.gateway import GatewayStore

        repair = [GatewayStore(options.repair)]
    with _progress(options, "verifying", store.usage().bytes) as told:
        found = store.verify(repair=repair, progress=told)
    print(found)
    return 0 if found.ok else 1


def _add_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    parser.set_defaults(command=_gc)


def _gc(options: argparse.Namespace) -> int:
    print(_local(options).collect(dry_run=options.dry_run))
    return 0


# -- CAR files ----------------------------------------------------------------------------------


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("addresses", nargs="*", metavar="CID[/PATH]")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE.car")
    parser.add_argument("--version", type=int, choices=(1, 2), default=1, help="2 has an index")
    _add_gateway(parser)
    whole = parser.add_argument_group("a whole project of the hub, records and content")
    whole.add_argument("--project", metavar="NAME", help="instead of addresses")
    whole.add_argument("--sealed", action="store_true", help="held-out rows too, for operators")
    whole.add_argument("--user", help="who you are on the hub (default: owner of its folder)")
    parser.set_defaults(command=_export)


def _export(options: argparse.Namespace) -> int:
    from neuronexus_kernel.storage.files import appearing

    if (options.project is None) is (not options.addresses):
        raise InvalidInputError("Say what to export: either addresses, or --project NAME.")
    if options.project is not None:
        return _export_project(options)
    store = _reader(options)
    total = sum(store.stat(address).total for address in options.addresses)
    with appearing(options.output) as stream, _progress(options, "exporting", total) as told:
        store.export_car(options.addresses, stream, version=options.version, progress=told)
    print(options.output)
    return 0


def _export_project(options: argparse.Namespace) -> int:
    from neuronexus_kernel.archives import export_project
    from neuronexus_kernel.cli_access import owned_hub, workbench

    elsewhere = options.home is None and "NEURONEXUS_HUB" in os.environ
    as_owner = options.user is None and not elsewhere
    hub = owned_hub(options.home) if as_owner else workbench(options.user, options.home).hub
    with closing(hub), _progress(options, f"exporting {options.project}", None) as told:
        export_project(hub, options.project, options.output, sealed=options.sealed, progress=told)
    print(options.output)
    return 0


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="FILE.car")
    parser.add_argument("--name", default="", help="name of the pins, or of the project")
    parser.add_argument("--no-pin", action="store_true", help="the next gc may remove it")
    whole = parser.add_argument_group("a whole project for the hub, records and content")
    whole.add_argument("--project", action="store_true", help="the file holds a project")
    whole.add_argument("--user", help="who you are on the hub; you will own the project")
    parser.set_defaults(command=_import)


def _import_project(options: argparse.Namespace) -> int:
    from neuronexus_kernel.archives import import_project, size_of
    from neuronexus_kernel.cli_access import workbench

    size = size_of(options.path)
    with (
        closing(workbench(options.user, options.home).hub) as hub,
        _progress(options, f"importing {options.path.name}", size) as told,
    ):
        made = import_project(hub, options.path, name=options.name, progress=told)
    print(f"{made.name} {made.id}")
    return 0


def _import(options: argparse.Namespace) -> int:
    if options.project:
        return _import_project(options)
    from neuronexus_kernel.storage.files import opened

    _check_pin_name(options)
    with opened(options.path) as stream:
        total = options.path.stat().st_size
        with _progress(options, f"importing {options.path.name}", total) as told:
            roots = _store(options).import_car(
                stream, name=options.name, pin=not options.no_pin, progress=told
            )
    for root in roots:
        print(root)
    return 0


# -- what they share ----------------------------------------------------------------------------


def _add_gateway(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gateway",
        action="append",
        metavar="URL",
        help="read from this trustless gateway, such as another hub; once for each",
    )


def _local(options: argparse.Namespace) -> LocalStore:
    from neuronexus_kernel.storage import LocalStore

    settings = StorageSettings.load()
    return LocalStore((settings.folder or _home(options)) / "content", settings)


def _home(options: argparse.Namespace) -> Path:
    home: Path | None = options.home
    return home.expanduser().resolve() if home else home_directory()


def _has_hub(options: argparse.Namespace) -> bool:
    """Tell whether the home is that of a hub, whose store holds what is not public."""
    return (_home(options) / "hub.lock").exists()


def _store(options: argparse.Namespace) -> LocalStore | ReplicatedStore:
    """Return the store of this computer, with the IPFS node that the environment names."""
    from neuronexus_kernel.storage.replicated import with_node

    return with_node(_local(options), only_added=_has_hub(options))


def _reader(options: argparse.Namespace) -> ContentStore:
    if not options.gateway:
        return _store(options)
    from neuronexus_kernel.storage.gateway import GatewayStore

    return GatewayStore(options.gateway)


@contextmanager
def _progress(
    options: argparse.Namespace, text: str, total: int | None
) -> Iterator[Progress | None]:
    """Show a bar of bytes while something long happens; yield what it is told by."""
    if options.quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=text, unit="B", unit_scale=True, leave=False) as bar:
        yield bar.update


def _size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(each.lstat().st_size for each in path.rglob("*") if not each.is_dir())
    return path.stat().st_size if path.exists() else 0


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    while piece := source.read(1 << 20):
        target.write(piece)
    target.flush()
