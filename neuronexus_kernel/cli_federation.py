"""The command line of training on many machines: ``neuronexus federation serve`` and ``join``.

With ``--project`` a hub keeps the books: it serves, and knows whose node is whose.  With
``--recipe`` and ``--superlink`` two sides can do without one: they exchange the certificate and
the public keys by hand.  Either way ``serve --resume`` goes on with what ended early.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from neuronexus_kernel.cli_access import workbench
from neuronexus_kernel.errors import ConflictError, InvalidInputError, NeuroNexusError
from neuronexus_kernel.settings import home_directory

if TYPE_CHECKING:
    import numpy as np

    from neuronexus_kernel.federation.result import RoundReport

_POLL_SECONDS = 0.5
_AT_WORK = ("connecting", "waiting", "training")


def add_federation(parser: argparse.ArgumentParser) -> None:
    """Add the actions of ``neuronexus federation`` to its parser."""
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    _add_serve(actions.add_parser("serve", help="wait for nodes, then train with them"))
    _add_join(actions.add_parser("join", help="take part with data that stay here"))
    key = actions.add_parser("key", help="make this machine's node key; print its public half")
    key.add_argument("--key", type=Path, help="where it is (default: in your own folder)")
    key.set_defaults(command=_key)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--project", metavar="NAME", help="a project of the hub")
    what.add_argument("--recipe", type=Path, metavar="FILE", help="a recipe; no hub is needed")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--nodes", type=int, help="how many take part")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with what ended early, after its last full round and as it was begun",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--address", default="", metavar="HOST:PORT", help="where to listen")
    parser.add_argument("--user", help="with --project: who you are on the hub")
    parser.add_argument(
        "--name", default="", help="with --recipe: name under which others reach this machine"
    )
    parser.add_argument(
        "--node",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="with --recipe: a lab and its public key; once for each",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("federation"),
        help="with --recipe: where certificate, rounds and weights go",
    )
    parser.set_defaults(command=_serve)


def _add_join(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--project", metavar="NAME", help="a project of the hub")
    where.add_argument("--superlink", metavar="HOST:PORT", help="a SuperLink; no hub is needed")
    parser.add_argument("--user", help="with --project: who you are on the hub")
    parser.add_argument("--authority", type=Path, help="with --superlink: its ca.pem")
    parser.add_argument("--key", type=Path, help="with --superlink: the node's private key")
    parser.add_argument("--executor", default="auto")
    parser.set_defaults(command=_join)


# -- with a hub -------------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    if options.recipe is not None:
        return _serve_alone(options)
    if options.nodes is None and not options.resume:
        raise InvalidInputError("Say how many take part: --nodes N.")
    project = workbench(options.user).project(options.project)
    if options.resume:
        federation = project.federation().resume()
    else:
        federation = project.serve(
            nodes=options.nodes, rounds=options.rounds, seed=options.seed, address=options.address
        )
    record = federation.record
    print(f"Federation {record.id} waits at {record.address} for {record.nodes} nodes.")
    _until_over(
        lambda: federation.state in ("waiting", "training"), federation.stop, "the federation"
    )
    record = federation.record
    print(f"It is {record.state}." + (f" {record.problem}" if record.problem else ""))
    if record.resumable:
        print(f"Go on with: neuronexus federation serve --project {options.project} --resume")
    if federation.run is not None:
        print(federation.run.history.to_string(index=False))
    return 0 if record.state == "finished" else 1


def _join(options: argparse.Namespace) -> int:
    if options.superlink is not None:
        return _join_alone(options)
    project = workbench(options.user).project(options.project)
    node = project.join(options.data, executor=options.executor)
    print(f"{node!r}: the data stay here. Ctrl-C leaves the federation.")
    _until_over(lambda: node.state in _AT_WORK, node.stop, "the node")
    node.stop()
    return _told(node.state, node.problem or "")


# -- without a hub ----------------------------------------------------------------------------


class _Printer:
    """Prints what happens in a federation, and keeps the weights."""

    def __init__(self, folder: Path) -> None:
        self._weights = folder / "weights.safetensors"

    def started(self, names: tuple[str, ...]) -> None:
        print(f"Training begins with {', '.join(names)}.", flush=True)

    def round(self, report: RoundReport, updates: bytes | None) -> None:
        if report.round:
            left_out = "".join(f"; left out: {reason}" for reason in report.failures.values())
            print(
                f"Round {report.round}: training loss {report.train_loss:.4f}, "
                f"{len(report.clients)} updates, {report.seconds:.1f} s{left_out}",
                flush=True,
            )

    def ended(self, state: str, problem: str, weights: dict[str, np.ndarray] | None) -> None:
        if weights is not None:
            from neuronexus_kernel.models.weights import serialize

            self._weights.write_bytes(serialize(weights))
            print(f"The weights are in {self._weights}.")


def _serve_alone(options: argparse.Namespace) -> int:
    from neuronexus_kernel.federation.deployment.serving import Serving
    from neuronexus_kernel.federation.deployment.tls import check_public_key

    keys = dict(_named_key(text) for text in options.node)
    public = {name: check_public_key(path.read_bytes()) for name, path in keys.items()}
    home = options.folder / "run"
    (_check_same if options.resume else _prepare)(options, home, nodes=len(public))
    try:
        serving = Serving(home, _Printer(options.folder))
    except NeuroNexusError:
        if not options.resume:
            shutil.rmtree(home)
        raise
    try:
        (options.folder / "ca.pem").write_bytes(serving.authority)
        for name, key in public.items():
            serving.admit(key, name)
        print(f"The SuperLink listens at {serving.address}; give each lab", flush=True)
        print(f"{options.folder / 'ca.pem'}. App SHA-256: {serving.bundle.sha256}", flush=True)
        _until_over(
            lambda: serving.state in ("waiting", "training"), serving.stop, "the federation"
        )
    finally:
        serving.stop()
    if serving.state == "finished":
        shutil.rmtree(home)
    else:
        print("The same command with --resume goes on after the last full round.")
    return _told(serving.state, serving.problem)


def _prepare(options: argparse.Namespace, home: Path, *, nodes: int) -> None:
    """Write down what is to be trained."""
    from neuronexus_kernel.federation.deployment.order import Assignment
    from neuronexus_kernel.federation.deployment.recipefile import load_recipe
    from neuronexus_kernel.federation.deployment.serving import prepare

    if nodes != options.nodes:
        raise InvalidInputError("Name each lab with its public key: --nodes N, --node NAME=FILE.")
    if home.exists():
        raise ConflictError(
            f"{home} holds a run that has not finished: go on with it by --resume, or remove it."
        )
    recipe = load_recipe(options.recipe)
    assignment = Assignment(
        recipe=recipe,
        weights=recipe.architecture.initial_weights(options.seed),
        rounds=options.rounds,
        nodes=nodes,
        seed=options.seed,
    )
    prepare(
        home,
        assignment,
        address=options.address or "127.0.0.1:9092",
        names=(options.name,) if options.name else (),
    )


def _check_same(options: argparse.Namespace, home: Path, *, nodes: int) -> None:
    """Check that what is to go on is what the command says."""
    from neuronexus_kernel.federation.deployment.order import Assignment
    from neuronexus_kernel.federation.deployment.recipefile import load_recipe
    from neuronexus_kernel.federation.deployment.serving import order_folder

    if not home.exists():
        raise InvalidInputError(f"There is nothing to go on with in {options.folder}.")
    given = Assignment.read(order_folder(home))
    if given.recipe != load_recipe(options.recipe) or given.nodes != nodes:
        raise InvalidInputError(
            f"{home} is a run of another recipe, or of another number of labs: give the same "
            f"--recipe, and each of the {given.nodes} labs with --node NAME=FILE."
        )


def _join_alone(options: argparse.Namespace) -> int:
    from neuronexus_kernel.federation.deployment.supernode import SuperNode

    if options.authority is None:
        raise InvalidInputError("Give the SuperLink's certificate too: --authority ca.pem.")
    key = options.key or _key_file()
    node = SuperNode(
        home_directory() / "nodes" / key.stem,
        options.data,
        address=options.superlink,
        authority=_certificate(options.authority),
        key=key,
        executor=options.executor,
    )
    try:
        node.wait_until_connected()
        print("Connected: the data stay here. Ctrl-C leaves the federation.", flush=True)
        _until_over(lambda: node.alive, node.stop, "the node")
    finally:
        node.stop()
    return _told(node.state, node.reason)


def _certificate(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"The certificate {path} cannot be read: {error}") from None


def _key(options: argparse.Namespace) -> int:
    from neuronexus_kernel.federation.deployment.tls import make_node_key

    print(make_node_key(options.key or _key_file()).decode(), end="")
    return 0


def _key_file() -> Path:
    return home_directory() / "nodes" / "node.key"


def _named_key(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path and os.path.exists(path)):
        raise InvalidInputError(f"--node is NAME=FILE with the file of a public key, not {text!r}.")
    return name, Path(path)


def _until_over(going_on: Callable[[], bool], stop: Callable[[], object], what: str) -> None:
    """Wait; Ctrl-C ends it in order."""
    try:
        while going_on():
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        print(f"Ending {what} ...", file=sys.stderr)
        stop()


def _told(state: str, problem: str) -> int:
    print(f"It is {state}." + (f" {problem}" if problem else ""))
    return 0 if state in ("finished", "ended", "stopped", "interrupted") else 1
