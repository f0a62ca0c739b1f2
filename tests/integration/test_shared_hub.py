"""A hub that is served brings what is public to IPFS nodes, through a crash, and nothing else."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from neuronexus_kernel.cli import main
from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.hub.process import HubProcess, start_hub
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.storage import cid_of
from neuronexus_kernel.storage.endpoints import Endpoint
from neuronexus_kernel.storage.kubo import KuboStore
from neuronexus_kernel.storage.rpc import Rpc

PASSWORD = "correct horse battery"
SECRET = "s3cret-never-to-be-shown"
FILE = random.Random(6).randbytes(3_000_000)  # Three chunks.
CHUNKS = [FILE[at : at + (1 << 20)] for at in range(0, len(FILE), 1 << 20)]


def beside(path: str):
    """Import what lies elsewhere among the tests."""
    name = Path(path).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent.parent / path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


nodes = beside("integration/ipfs_nodes.py")
NODES = [
    pytest.param(
        nodes.js_ipfs,
        id="js-ipfs",
        marks=[
            pytest.mark.long,
            pytest.mark.skipif(not nodes.has_js_ipfs(), reason="js-ipfs is not installed"),
        ],
    ),
]
if nodes.has_kubo():
    NODES.append(pytest.param(nodes.kubo, id="kubo"))


def wait_for(what: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def member(hub: HubProcess) -> RemoteHub:
    view = RemoteHub(hub.address)
    if "ada" not in {account.name for account in view.accounts()}:
        view.register("ada", PASSWORD)
    view.login("ada", PASSWORD)
    return view


def put_some_of_all(hub: RemoteHub) -> tuple[str, str]:
    """Put content that is public, for the project, and sealed; return what is public."""
    project = hub.put(FILE[::-1], visibility="project").cid
    sealed = hub.put(FILE[1:], visibility="sealed").cid
    file = hub.put(FILE).cid
    names = [CID.parse(cid) for cid in (project, sealed, file)]
    return file, hub.put(dagcbor.encode(names), codec="dag-cbor").cid


@pytest.mark.parametrize("run", NODES)
def test_a_real_node_has_what_is_public_and_nothing_else(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run(tmp_path / "repository") as address, closing(KuboStore(address)) as store:
        monkeypatch.setenv("NEURONEXUS_IPFS", address)
        rpc = Rpc(Endpoint.parse(address), seconds=30.0)
        before = blocks_of(rpc)
        with start_hub(tmp_path / "home", port=0) as hub:
            file, document = map(CID.parse, put_some_of_all(member(hub)))
            wait_for(lambda: {pin.cid for pin in store.pins()} >= {file, document})
        assert {(p.cid, p.recursive) for p in store.pins()} >= {(file, True), (document, False)}
        assert rpc.read("cat", str(file), limit=10_000_000) == FILE
        assert len(store.get_node(document)) == 3
        expected = {each.digest for each in (file, document, *map(cid_of, CHUNKS))}
        assert blocks_of(rpc) - before == expected


def blocks_of(rpc: Rpc) -> set[bytes]:
    """Return the digests of all blocks of a node."""
    return {CID.parse(message["Ref"]).digest for message in rpc.ask("refs/local")}


def test_a_hub_that_is_killed_while_the_node_is_away_brings_it_there_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, log = tmp_path / "home", tmp_path / "home" / "hub.log"
    with beside("storage/loopback_rpc.py").loopback_node(tmp_path / "node") as node:
        node.login = ("somebody", SECRET)
        monkeypatch.setenv("NEURONEXUS_IPFS", node.address)
        monkeypatch.setenv("INFURA_IPFS_ID", "somebody")
        monkeypatch.setenv("INFURA_IPFS_SECRET", SECRET)
        node.stop()
        hub = start_hub(home, port=0)
        try:
            roots = put_some_of_all(member(hub))
            wait_for(lambda: "2 public roots wait for the IPFS node" in status(home, capsys))
            wait_for(lambda: f"The node at {node.address} does not answer" in log.read_text())
            children = psutil.Process(hub.pid).children(recursive=True)
            os.kill(hub.pid, signal.SIGKILL)
            hub.stop()
            psutil.wait_procs(children, timeout=20)
            hub = start_hub(home, port=0)
            wait_for(lambda: "2 public roots wait for the IPFS node" in status(home, capsys))
            node.start()
            wait_for(lambda: {CID.parse(root) for root in roots} <= node.pins.keys())
            wait_for(lambda: "0 public roots wait for the IPFS node" in status(home, capsys))
            wait_for(lambda: "The IPFS node is back" in log.read_text())
        finally:
            hub.stop()
        public = (*map(CID.parse, roots), *map(cid_of, CHUNKS))
        assert node.digests() == {cid.digest for cid in public}
    assert SECRET not in log.read_text()


def status(home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["hub", "status", "--home", str(home)]) == 0
    return capsys.readouterr().out
