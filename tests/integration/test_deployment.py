"""The same apps on a real SuperLink: real processes, TLS and node keys, on loopback."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.errors import ConflictError, HubUnavailableError
from neuronexus_kernel.federation.deployment import child, fab
from neuronexus_kernel.federation.deployment.order import Assignment
from neuronexus_kernel.federation.deployment.recipefile import save_recipe
from neuronexus_kernel.federation.deployment.serving import Serving, prepare
from neuronexus_kernel.federation.deployment.submit import Control
from neuronexus_kernel.federation.deployment.superlink import SuperLink
from neuronexus_kernel.federation.deployment.supernode import SuperNode
from neuronexus_kernel.federation.deployment.tls import make_certificates, make_node_key
from neuronexus_kernel.federation.result import RoundReport

HERE = Path(__file__).parent
NAMES = ("ada", "bob", "cleo")


@dataclass
class Witness:
    """Remembers what happened in a federation."""

    names: tuple[str, ...] = ()
    reports: list[RoundReport] = field(default_factory=list)
    updates: list[bytes] = field(default_factory=list)
    weights: dict[str, np.ndarray] | None = None
    state: str = ""
    problem: str = ""
    started_at: threading.Event = field(default_factory=threading.Event)

    def started(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.started_at.set()

    def round(self, report: RoundReport, updates: bytes | None) -> None:
        self.reports.append(report)
        if updates is not None:
            self.updates.append(updates)

    def ended(self, state: str, problem: str, weights: dict[str, np.ndarray] | None) -> None:
        self.state, self.problem, self.weights = state, problem, weights


@pytest.fixture(scope="module")
def shares() -> list[nx.Dataset]:
    return nx.datasets.digits().partition(nx.partition.iid(len(NAMES), seed=5))


@pytest.fixture(scope="module")
def recipe() -> nx.Recipe:
    return nx.Recipe(nx.models.mlp(64, (16,), 10), local_epochs=1)


@pytest.fixture
def ended() -> Iterator[Callable[[object], None]]:
    """Return a function that takes what must be stopped when the test is over."""
    things: list[object] = []
    yield things.append
    for thing in reversed(things):
        thing.stop()  # type: ignore[attr-defined]


Ended = Callable[[object], None]


def assignment(recipe: nx.Recipe, **changes: object) -> Assignment:
    values = {"rounds": 3, "nodes": len(NAMES), "seed": 7, **changes}
    start = recipe.architecture.initial_weights(int(str(values["seed"])))
    return Assignment(recipe=recipe, weights=start, **values)  # type: ignore[arg-type]


def serve(folder: Path, given: Assignment, witness: Witness) -> Serving:
    prepare(folder, given)
    return Serving(folder, witness)


def node(folder: Path, serving: Serving | SuperLink, data: nx.Dataset, name: str) -> SuperNode:
    return SuperNode(
        folder / f"node-{name}",
        data,
        address=serving.address,
        authority=serving.authority,
        key=folder / f"{name}.key",
        executor="sequential",
    )


def far(one: dict[str, np.ndarray] | None, other: dict[str, object]) -> float:
    assert one is not None
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - np.asarray(other[name])).max()) for name in one)


def members_of(group: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return found


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


# -- the same result --------------------------------------------------------------------------


def test_three_nodes_reach_the_weights_of_one_process(
    tmp_path: Path, recipe: nx.Recipe, shares: list[nx.Dataset], ended: Ended
) -> None:
    witness = Witness()
    serving = serve(tmp_path / "serve", assignment(recipe, keep_updates=True), witness)
    ended(serving)
    nodes = []
    # Who comes first does not matter: partition ids follow the names.
    for name, share in reversed(list(zip(NAMES, shares, strict=True))):
        serving.admit(make_node_key(tmp_path / f"{name}.key"), name)
        nodes.append(node(tmp_path, serving, share, name))
        ended(nodes[-1])
    with pytest.raises(ConflictError, match="seats"):
        serving.admit(make_node_key(tmp_path / "late.key"), "late")
    assert serving.wait(150) == "finished", serving.log.read_text()
    assert [n.wait(20) for n in nodes] == ["ended"] * 3, "they were sent home"
    assert [n.answered for n in nodes] == [3] * 3
    assert witness.names == NAMES
    assert [report.round for report in witness.reports] == [0, 1, 2, 3]
    assert all(report.clients == NAMES for report in witness.reports[1:])
    assert members_of(serving.pid) == []
    local = nx.federation.train(
        recipe,
        dict(zip(NAMES, shares, strict=True)),
        rounds=3,
        seed=7,
        executor="sequential",
        keep_updates=True,
        progress=False,
    )
    assert far(witness.weights, dict(local.weights)) <= 1e-6
    for told, kept in zip(witness.updates, local.updates, strict=True):
        update = nx.federation.RoundUpdates.decode(told)
        assert update.examples == kept.examples
        for name in NAMES:
            assert far(dict(update.deltas[name]), dict(kept.deltas[name])) <= 1e-6


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["SCAFFOLD", "FedBN", "FedBuff"])
def test_strategies_that_need_their_clients_help_give_the_same_weights(
    tmp_path: Path, recipe: nx.Recipe, shares: list[nx.Dataset], ended: Ended, strategy: str
) -> None:
    chosen = recipe.with_changes(strategy=strategy)
    witness = Witness()
    serving = serve(tmp_path / "serve", assignment(chosen, keep_updates=True), witness)
    ended(serving)
    for name, share in zip(NAMES, shares, strict=True):
        serving.admit(make_node_key(tmp_path / f"{name}.key"), name)
        ended(node(tmp_path, serving, share, name))
    assert serving.wait(200) == "finished", serving.log.read_text()
    local = nx.federation.train(
        chosen,
        dict(zip(NAMES, shares, strict=True)),
        rounds=3,
        seed=7,
        executor="sequential",
        progress=False,
    )
    assert far(witness.weights, dict(local.weights)) <= 1e-6


@pytest.mark.long
def test_flowers_own_supernode_runs_the_same_app(
    tmp_path: Path, recipe: nx.Recipe, shares: list[nx.Dataset], ended: Ended
) -> None:
    witness = Witness()
    recipe = recipe.with_changes(strategy="SCAFFOLD")  # what it keeps is in Flower's hands
    serving = serve(tmp_path / "serve", assignment(recipe, nodes=1, rounds=3), witness)
    ended(serving)
    serving.admit(make_node_key(tmp_path / "ada.key"), "ada")
    (tmp_path / "ada.dataset").write_bytes(shares[0].encode())
    (tmp_path / "ca.pem").write_bytes(serving.authority)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sysconfig.get_path("scripts")) / "flower-supernode")]
    command += ["--superlink", serving.address, "--root-certificates", str(tmp_path / "ca.pem")]
    command += ["--auth-supernode-private-key", str(tmp_path / "ada.key")]
    data = f'data="{tmp_path / "ada.dataset"}" partition-id=0 executor="sequential"'
    command += ["--node-config", data, "--host", "127.0.0.1", "--port", str(port)]
    environment = {**child._environment(tmp_path), "FLWR_HOME": str(tmp_path / "flower")}
    with (tmp_path / "supernode.log").open("w") as log:
        stock = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        assert serving.wait(200) == "finished", (tmp_path / "supernode.log").read_text()
    finally:
        os.killpg(stock.pid, signal.SIGKILL)
        stock.wait()
    local = nx.federation.train(
        recipe, {"ada": shares[0]}, rounds=3, seed=7, executor="sequential", progress=False
    )
    assert far(witness.weights, dict(local.weights)) <= 1e-6


# -- who is let in ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    link = SuperLink(tmp_path_factory.mktemp("link"))
    yield link
    link.stop()
    assert members_of(link.pid) == []


def test_an_unknown_key_is_refused(
    tmp_path: Path, link: SuperLink, shares: list[nx.Dataset], ended: Ended
) -> None:
    make_node_key(tmp_path / "stranger.key")
    stranger = node(tmp_path, link, shares[0], "stranger")
    ended(stranger)
    with pytest.raises(HubUnavailableError, match="does not know this node's key"):
        stranger.wait_until_connected()
    assert stranger.state == "refused"


@pytest.mark.long
def test_a_superlink_that_another_authority_vouches_for_is_not_trusted(
    tmp_path: Path, link: SuperLink, shares: list[nx.Dataset], ended: Ended
) -> None:
    make_node_key(tmp_path / "ada.key")
    other = make_certificates(tmp_path, ["127.0.0.1"]).authority.read_bytes()
    wary = SuperNode(
        tmp_path / "node",
        shares[0],
        address=link.address,
        authority=other,
        key=tmp_path / "ada.key",
    )
    ended(wary)
    with pytest.raises(HubUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        wary.wait_until_connected()


@pytest.mark.parametrize("token", ["", "guess"])
def test_only_the_owner_registers_nodes_and_starts_runs(
    tmp_path: Path, link: SuperLink, token: str
) -> None:
    stranger = Control(link.address, link.authority, token or "x")
    with pytest.raises(HubUnavailableError, match="401"):
        stranger.register(make_node_key(tmp_path / "mine.key"), "mine")
    with pytest.raises(HubUnavailableError, match="401"):
        stranger.start_run(fab.build(), folder="x")
    with pytest.raises(HubUnavailableError, match="401"):
        stranger.nodes()
    stranger.close()


def test_nobody_but_its_own_launcher_is_given_the_tasks_of_a_superlink(link: SuperLink) -> None:
    import httpx
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

    client = RuntimeHttpClient.from_server_address(
        link.address, False, link.authority, [RuntimeVersionHttpInterceptor("SuperExec")]
    )
    with pytest.raises(httpx.HTTPStatusError) as refused:
        client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))
    assert refused.value.response.status_code in (401, 403)
    client.close()


# -- another app ------------------------------------------------------------------------------


def foreign_app(folder: Path) -> fab.Bundle:
    """Return a FAB that writes files wherever its code runs."""
    code = f"""
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

Path({str(folder)!r}, "imported").touch()
client_app, server_app = ClientApp(), ServerApp()

@client_app.train()
def train(message, context):
    Path({str(folder)!r}, "trained").touch()
    return Message(RecordDict(), reply_to=message)

@server_app.main()
def main(grid, context):
    import time
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.1)
    content = RecordDict({{"config": ConfigRecord({{"server-round": 1}})}})
    replies = grid.send_and_receive([Message(content, node, "train") for node in nodes], timeout=40)
    answers = [reply.error.reason if reply.has_error() else "obeyed" for reply in replies]
    Path({str(folder)!r}, "answers").write_text("\\n".join(answers))
"""
    project = """
[project]
name = "neuronexus"
version = "0.0.1"
[tool.flwr.app]
publisher = "neuronexus"
[tool.flwr.app.components]
serverapp = "foreign:server_app"
clientapp = "foreign:client_app"
[tool.flwr.app.config]
folder = ""
"""
    data = fab._zip({"pyproject.toml": project.encode(), "foreign.py": code.encode()})
    return fab.Bundle(data, hashlib.sha256(data).hexdigest())


def test_a_superlink_serving_another_app_executes_nothing_on_the_node(
    tmp_path: Path, link: SuperLink, shares: list[nx.Dataset], ended: Ended
) -> None:
    traces = tmp_path / "traces"
    traces.mkdir()
    foreign = foreign_app(traces)
    control = Control(link.address, link.authority, link.token)
    control.register(make_node_key(tmp_path / "ada.key"), "ada")
    lab = node(tmp_path, link, shares[0], "ada")
    ended(lab)
    lab.wait_until_connected()
    run = control.start_run(foreign, folder="x")
    assert lab.wait(60) == "refused"
    assert foreign.sha256 in lab.reason
    assert "Nothing of it was executed" in lab.reason
    assert fab.build().sha256 in lab.log.read_text()
    wait_for(lambda: control.run_status(run).finished)
    assert (traces / "answers").read_text().startswith("The SuperLink serves an app")
    assert not (traces / "trained").exists()
    home = tmp_path / "node-ada"
    assert not (home / "flower").exists(), "nothing was installed either"
    control.close()


# -- what goes wrong --------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("lie", "told"),
    [("nan", "not finite"), ("shape", "has shape"), ("type", "complex64"), ("large", "away")],
)
def test_a_node_that_sends_what_does_not_fit_is_dropped_and_named(
    tmp_path: Path,
    recipe: nx.Recipe,
    shares: list[nx.Dataset],
    ended: Ended,
    lie: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    witness = Witness()
    serving = serve(tmp_path / "serve", assignment(recipe, rounds=2), witness)
    ended(serving)
    for name, share in zip(NAMES, shares, strict=True):
        serving.admit(make_node_key(tmp_path / f"{name}.key"), name)
        if name == "bob":
            paths = [str(HERE), *sys.path]
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
            monkeypatch.setenv("LIE", lie)
            ended(liar(tmp_path, serving, share, name))
        else:
            ended(node(tmp_path, serving, share, name))
    assert serving.wait(200) == "finished", serving.log.read_text()
    for report in witness.reports[1:]:
        assert report.clients == ("ada", "cleo")
        assert report.failures.keys() == {"bob"}
        assert told in report.failures["bob"]


def liar(folder: Path, serving: Serving, data: nx.Dataset, name: str) -> child.Child:
    (folder / "lies.dataset").write_bytes(data.encode())
    told = {
        "address": serving.address,
        "authority": serving.authority.decode(),
        "data": str(folder / "lies.dataset"),
        "executor": "sequential",
        "key": str(folder / f"{name}.key"),
        "partition": None,
        "previous": None,
    }
    return child.Child("lying_node", told, folder=folder / "liar", name="liar")


@pytest.mark.long
def test_a_node_killed_in_mid_round_costs_its_update_and_not_the_run(
    tmp_path: Path, shares: list[nx.Dataset], ended: Ended
) -> None:
    slow = nx.Recipe(nx.models.mlp(64, (64,), 10), local_epochs=40)
    witness = Witness()
    serving = serve(tmp_path / "serve", assignment(slow, rounds=2), witness)
    ended(serving)
    nodes = {}
    for name, share in zip(NAMES, shares, strict=True):
        serving.admit(make_node_key(tmp_path / f"{name}.key"), name)
        nodes[name] = node(tmp_path, serving, share, name)
        ended(nodes[name])
    wait_for(lambda: nodes["bob"].state == "training", 120)
    os.kill(nodes["bob"].pid, signal.SIGKILL)
    assert serving.wait(250) == "finished", serving.log.read_text()
    first = witness.reports[1]
    assert first.clients == ("ada", "cleo")
    assert first.failures["bob"].startswith("bob: ")
    assert nodes["bob"].state == "lost"


@pytest.mark.long
def test_a_node_that_comes_back_takes_part_again(
    tmp_path: Path, shares: list[nx.Dataset], ended: Ended
) -> None:
    slow = nx.Recipe(nx.models.mlp(64, (64,), 10), local_epochs=20)
    witness = Witness()
    serving = serve(tmp_path / "serve", assignment(slow, rounds=25), witness)
    ended(serving)
    nodes = {}
    for name, share in zip(NAMES, shares, strict=True):
        serving.admit(make_node_key(tmp_path / f"{name}.key"), name)
        nodes[name] = node(tmp_path, serving, share, name)
        ended(nodes[name])
    wait_for(lambda: nodes["bob"].state == "training", 120)
    os.kill(nodes["bob"].pid, signal.SIGKILL)
    wait_for(lambda: not nodes["bob"].alive)
    serving.admit(make_node_key(tmp_path / "bob.key"), "bob")
    ended(node(tmp_path, serving, shares[1], "bob"))
    assert serving.wait(250) == "finished", serving.log.read_text()
    assert any("bob" in report.failures for report in witness.reports)
    assert witness.reports[-1].clients == NAMES, witness.reports


# -- interrupted ------------------------------------------------------------------------------


def started_by(serving: Serving, program: str) -> int:
    """Return the process of a program that a SuperLink has started."""
    (found,) = [
        process
        for process in members_of(serving.pid)
        if any(Path(word).name == program for word in psutil.Process(process).cmdline())
    ]
    return found


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["FedAdam", "SCAFFOLD", "FedPer"])
def test_a_killed_superlink_is_resumed_and_ends_with_the_weights_of_one_that_lived(
    tmp_path: Path, recipe: nx.Recipe, shares: list[nx.Dataset], ended: Ended, strategy: str
) -> None:
    chosen = recipe.with_changes(strategy=strategy)
    witness = Witness()
    serving = serve(tmp_path / "serve", assignment(chosen, rounds=8, keep_updates=True), witness)
    ended(serving)
    nodes = {}
    for name, share in zip(NAMES, shares, strict=True):
        serving.admit(make_node_key(tmp_path / f"{name}.key"), name)
        nodes[name] = node(tmp_path, serving, share, name)
        ended(nodes[name])
    wait_for(lambda: serving.round >= 3, 120)
    os.kill(serving.pid, signal.SIGKILL)
    assert serving.wait(60) == "failed"
    assert "does not answer" in serving.problem
    assert members_of(serving.pid) == []
    assert witness.weights is not None, "the last full round is not lost"
    os.kill(nodes["bob"].pid, signal.SIGKILL)
    wait_for(lambda: nodes["ada"].state == nodes["cleo"].state == "connecting")

    after = Witness()
    resumed = Serving(tmp_path / "serve", after)
    ended(resumed)
    assert (resumed.address, resumed.authority) == (serving.address, serving.authority)
    for name in NAMES:
        resumed.admit(make_node_key(tmp_path / f"{name}.key"), name)
    nodes["bob"] = node(tmp_path, resumed, shares[1], "bob")
    ended(nodes["bob"])
    assert resumed.wait(200) == "finished", resumed.log.read_text()
    assert [nodes[name].wait(20) for name in NAMES] == ["ended"] * 3
    assert [report.round for report in after.reports] == list(range(9)), "told from the first on"
    assert all(report.clients == NAMES for report in after.reports[1:])
    local = nx.federation.train(
        chosen,
        dict(zip(NAMES, shares, strict=True)),
        rounds=8,
        seed=7,
        executor="sequential",
        keep_updates=True,
        progress=False,
    )
    assert far(after.weights, dict(local.weights)) <= 1e-6
    assert len(after.updates) == len(local.updates)


@pytest.mark.long
def test_a_killed_server_app_is_found_out_and_resumed(
    tmp_path: Path, recipe: nx.Recipe, shares: list[nx.Dataset], ended: Ended
) -> None:
    witness, after = Witness(), Witness()
    serving = serve(tmp_path / "serve", assignment(recipe, nodes=1, rounds=8), witness)
    ended(serving)
    key = make_node_key(tmp_path / "ada.key")
    serving.admit(key, "ada")
    lab = node(tmp_path, serving, shares[0], "ada")
    ended(lab)
    wait_for(lambda: serving.round >= 2, 120)
    os.kill(started_by(serving, "flwr-serverapp"), signal.SIGKILL)
    assert serving.wait(120) == "failed"
    assert "heartbeat" in serving.problem
    assert lab.wait(20) == "ended", "its SuperLink could still send it home"
    resumed = Serving(tmp_path / "serve", after)
    ended(resumed)
    resumed.admit(key, "ada")
    ended(node(tmp_path, resumed, shares[0], "ada"))
    assert resumed.wait(150) == "finished", resumed.log.read_text()
    local = nx.federation.train(
        recipe, {"ada": shares[0]}, rounds=8, seed=7, executor="sequential", progress=False
    )
    assert far(after.weights, dict(local.weights)) <= 1e-6


def test_a_superlink_that_can_start_nothing_any_more_ends(
    tmp_path: Path, recipe: nx.Recipe, ended: Ended
) -> None:
    witness = Witness()
    serving = serve(tmp_path / "serve", assignment(recipe), witness)
    ended(serving)
    os.kill(started_by(serving, "flower-superexec"), signal.SIGKILL)
    assert serving.wait(30) == "failed"
    assert (witness.state, witness.weights) == ("failed", None)
    assert members_of(serving.pid) == []


# -- the command line -------------------------------------------------------------------------


def serve_alone(folder: Path, recipe: nx.Recipe, *options: str) -> subprocess.Popen[str]:
    """Start ``neuronexus federation serve`` for one node."""
    save_recipe(recipe, folder / "recipe.json")
    (folder / "ada.pem").write_bytes(make_node_key(folder / "ada.key"))
    command = [sys.executable, "-m", "neuronexus_kernel.cli", "federation", "serve"]
    command += ["--recipe", str(folder / "recipe.json"), "--rounds", "2", "--nodes", "1"]
    command += ["--address", "127.0.0.1:0", "--node", f"ada={folder / 'ada.pem'}"]
    command += ["--folder", str(folder / "served"), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = process.stdout.readline() + process.stdout.readline()
    assert "ca.pem" in told, process.communicate()
    return process


@pytest.mark.parametrize(
    "sign", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGKILL]
)
def test_an_interrupted_serve_leaves_no_processes(
    tmp_path: Path, recipe: nx.Recipe, sign: signal.Signals
) -> None:
    process = serve_alone(tmp_path, recipe)
    started = psutil.Process(process.pid).children(recursive=True)
    assert started
    process.send_signal(sign)
    process.communicate(timeout=30)
    gone, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
    assert len(gone) == len(started)


@pytest.mark.long
def test_two_terminals_train_without_a_hub_though_one_is_killed(
    tmp_path: Path, recipe: nx.Recipe, shares: list[nx.Dataset]
) -> None:
    server = serve_alone(tmp_path, recipe, "--rounds", "8")
    np.savez(tmp_path / "lab.npz", inputs=shares[0].inputs, labels=shares[0].labels)
    link = next(
        connection.laddr.port
        for entry in psutil.Process(server.pid).children(recursive=True)
        for connection in entry.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    )
    command = [sys.executable, "-m", "neuronexus_kernel.cli", "federation", "join"]
    command += ["--data", str(tmp_path / "lab.npz"), "--superlink", f"127.0.0.1:{link}"]
    command += ["--authority", str(tmp_path / "served" / "ca.pem")]
    command += ["--key", str(tmp_path / "ada.key"), "--executor", "sequential"]
    joined = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    while not server.stdout.readline().startswith("Round 2:"):
        assert server.poll() is None
    server.kill()
    server.communicate()
    server = serve_alone(tmp_path, recipe, "--resume")
    said, _ = joined.communicate(timeout=200)
    assert joined.returncode == 0, said
    assert "It is ended." in said
    told, _ = server.communicate(timeout=60)
    assert server.returncode == 0
    assert "Round 8:" in told
    assert not (tmp_path / "served" / "run").exists(), "nothing is left but what was made"
    from neuronexus_kernel.models.weights import deserialize

    weights = deserialize((tmp_path / "served" / "weights.safetensors").read_bytes())
    local = nx.federation.train(
        recipe, {"ada": shares[0]}, rounds=8, executor="sequential", progress=False
    )
    assert far(weights, dict(local.weights)) <= 1e-6
