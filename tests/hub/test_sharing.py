"""A hub brings what is public to an IPFS node and a pinning service, and nothing else.

The node is the stand-in of ``tests/storage/loopback_rpc.py``; real ones are asked in
``tests/integration/test_shared_hub.py``.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import multiprocessing
import os
import random
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.content import CID, dagcbor, dagpb
from neuronexus_kernel.content.cid import DAG_PB
from neuronexus_kernel.content.unixfs import DIRECTORY_TYPE, Message, encode_message
from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.sharing import waiting
from neuronexus_kernel.storage import cid_of
from neuronexus_kernel.storage.car import encode_car
from neuronexus_kernel.storage.kubo import KuboStore
from neuronexus_kernel.storage.outbox import Action, Outbox

STORAGE = Path(__file__).parent.parent / "storage"
PASSWORD = "correct horse battery"
TOKEN = "token-never-to-be-shown"
FILE = random.Random(4).randbytes(3_000_000)  # Three chunks.


def beside(name: str):
    """Import a helper of the storage tests."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, STORAGE / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


rpc = beside("loopback_rpc")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """The node that the environment names; it runs."""
    with rpc.loopback_node(tmp_path / "node") as node:
        monkeypatch.setenv("NEURONEXUS_IPFS", node.address)
        yield node
        node.faults.clear()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """The pinning service that the environment names."""
    with beside("pinning_server").pinning_server(TOKEN) as server:
        monkeypatch.setenv("NEURONEXUS_PINNING", server.address)
        monkeypatch.setenv("NEURONEXUS_PINNING_TOKEN", TOKEN)
        yield server


@pytest.fixture
def open_hub(tmp_path: Path) -> Iterator[Callable[[], LocalHub]]:
    """Return a function that opens the hub of one folder, which shares, for somebody signed in."""
    opened: list[LocalHub] = []

    def make(*, shares: bool = True) -> LocalHub:
        for hub in opened:
            hub.close()
        hub = LocalHub.open(tmp_path / "home")
        opened.append(hub)
        if "ada" not in {account.name for account in hub.accounts()}:
            hub.register("ada", PASSWORD)
        hub.login("ada", PASSWORD)
        if shares:
            hub.start_sharing()
        return hub

    yield make
    for hub in opened:
        hub.close()


def wait_for(what: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def has_all(node, *roots: str) -> bool:
    return all(CID.parse(root) in node.pins for root in roots)


def settled(hub: LocalHub, node) -> None:
    """Wait until all that was public before has been brought there: it goes in its order."""
    last = hub.put(secrets.token_bytes(8)).cid
    wait_for(lambda: has_all(node, last))


def outbox_of(hub: LocalHub) -> Outbox:
    return Outbox(Path(hub.address) / "sharing" / "node")


def put_car(hub: LocalHub, root: CID, block: bytes, visibility: str = "public") -> str:
    car = b"".join(encode_car([root], [(root, block)]))
    return hub.put(car, codec="car", visibility=visibility).cid


def put_document(hub: LocalHub, node: object, visibility: str = "public") -> str:
    return hub.put(dagcbor.encode(node), codec="dag-cbor", visibility=visibility).cid


def links(*cids: str) -> list[CID]:
    return [CID.parse(cid) for cid in cids]


def folder_of(*cids: str) -> tuple[CID, bytes]:
    entries = tuple(dagpb.Link(CID.parse(cid), 0, f"{n:03}") for n, cid in enumerate(cids))
    block = dagpb.encode(dagpb.PBNode(entries, encode_message(Message(kind=DIRECTORY_TYPE))))
    return CID.of(block, DAG_PB), block


def parts(hub: LocalHub, *roots: str) -> set[bytes]:
    """Return the digests of some roots and of what they consist of."""
    found, todo = set(), links(*roots)
    while todo:
        cid = todo.pop()
        found.add(cid.digest)
        if cid.codec == DAG_PB:
            todo += [link.cid for link in dagpb.decode(hub.blocks().block(cid)).links]
    return found


# -- what arrives ----------------------------------------------------------------------------


def test_public_content_arrives_and_can_be_read(open_hub, node) -> None:
    hub = open_hub()
    file = hub.put(FILE, name="weights").cid
    document = put_document(hub, {"weights": CID.parse(file)})
    folder = put_car(hub, *folder_of(file))
    wait_for(lambda: has_all(node, file, document, folder))
    with closing(KuboStore(node.address, search=0.2)) as store:
        assert store.get(file) == store.get(f"{folder}/000") == FILE
        assert store.get_node(document) == {"weights": CID.parse(file)}
        pins = {str(pin.cid): (pin.recursive, pin.name) for pin in store.pins()}
    assert pins == {
        file: (True, "neuronexus"),
        folder: (True, "neuronexus"),
        document: (False, "neuronexus"),
    }
    wait_for(lambda: waiting(Path(hub.address)) == {"IPFS node": 0})


def test_what_is_for_the_project_or_sealed_never_arrives(open_hub, node) -> None:
    hub = open_hub()
    project = hub.put(FILE, visibility="project").cid
    sealed = hub.put(FILE[::-1], visibility="sealed").cid
    inner = put_document(hub, links(project), "project")
    public = [hub.put(b"public").cid, put_document(hub, {"receipt": links(inner, project)})]
    put_car(hub, *folder_of(public[0], project), "project")
    public.append(put_car(hub, *folder_of(*public)))
    public.append(put_document(hub, links(project, sealed, inner)))
    wait_for(lambda: has_all(node, *public))
    hub.close()
    assert node.digests() == {CID.parse(cid).digest for cid in public}
    project_and_sealed = {cid_of(FILE[: 1 << 20]).digest, cid_of(FILE[::-1][: 1 << 20]).digest}
    assert not node.digests() & (project_and_sealed | {CID.parse(inner).digest})


def test_what_waits_is_not_believed_to_be_public(open_hub, node) -> None:
    hub = open_hub(shares=False)
    project = hub.put(FILE, visibility="project").cid
    outbox_of(hub).put(CID.parse(project), Action.KEEP)
    hub = open_hub()
    settled(hub, node)
    wait_for(lambda: not outbox_of(hub).waiting())
    assert not node.has(CID.parse(project))
    assert len(node.digests()) == 1


def test_a_root_that_is_public_too_is_public(open_hub, node) -> None:
    hub = open_hub()
    root = hub.put(FILE, visibility="project").cid
    settled(hub, node)
    assert not node.has(CID.parse(root))
    hub.put(FILE, visibility="public")
    wait_for(lambda: has_all(node, root))
    with closing(KuboStore(node.address)) as store:
        assert store.get(root) == FILE


@pytest.mark.parametrize("seed", range(3))
def test_the_node_gets_what_the_public_roots_consist_of_and_no_more(open_hub, node, seed) -> None:
    """Files, folders and documents of all visibilities, each linking to some before it."""
    dice = random.Random(seed)
    hub = open_hub()
    made: list[str] = []
    public: list[str] = []
    for number in range(30):
        visibility = dice.choice(["public", "project", "project"])
        some = dice.sample(made, min(len(made), dice.randrange(4)))
        match dice.choice(["file", "folder", "document"]):
            case "file":
                cid = hub.put(b"%d" % number, visibility=visibility).cid
            case "folder":
                cid = put_car(hub, *folder_of(*some), visibility)
            case "document":
                cid = put_document(hub, [number, *links(*some)], visibility)
        made.append(cid)
        if visibility == "public":
            public.append(cid)
    wait_for(lambda: has_all(node, *public))
    there = node.digests()
    hub = open_hub(shares=False)
    assert there == parts(hub, *public)


def test_what_the_hub_itself_records_arrives(
    open_bench, node, task, better_weights, hand_in, tmp_path
) -> None:
    """Receipts too; held-out rows and data for the project do not, though receipts name them."""
    bench = open_bench()
    bench.hub.start_sharing()
    project = bench.project(task)
    bob = bench.person("bob")
    bob.project(project.name).submit(nx.DataContribution(task.private.subset(range(20))))
    record = hand_in(bob, project, better_weights[-1])
    bench.evaluate()
    record = bench.hub.contribution(record.id)
    assert record.receipt is not None
    hidden = [root.cid for root in bob.hub.roots() if root.visibility == "project"]
    assert hidden
    wait_for(lambda: has_all(node, *(root.cid for root in public_roots(bench.hub))))
    assert node.has(CID.parse(record.receipt))
    assert node.digests() == parts(bench.hub, *(root.cid for root in public_roots(bench.hub)))
    assert not node.digests() & {CID.parse(cid).digest for cid in hidden}


def public_roots(hub: LocalHub) -> list:
    return [root for root in hub.visitor().roots() if root.visibility == "public"]


# -- nodes that are not there ----------------------------------------------------------------


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name.endswith(".courier")]


def test_a_node_that_is_down_gets_it_when_it_is_back(open_hub, node, caplog) -> None:
    node.stop()
    hub = open_hub()
    roots = [hub.put(bytes([number])).cid for number in range(3)]
    wait_for(lambda: waiting(Path(hub.address))["IPFS node"] == 3)
    wait_for(lambda: messages(caplog))
    node.start()
    wait_for(lambda: has_all(node, *roots))
    wait_for(lambda: len(messages(caplog)) == 2)
    away, back = messages(caplog)
    assert away.startswith("The IPFS node is away")
    assert node.address in away
    assert back.startswith("The IPFS node is back")


def test_a_node_that_is_down_gets_it_after_a_restart_of_the_hub(open_hub, node) -> None:
    node.stop()
    hub = open_hub()
    roots = [hub.put(bytes([number])).cid for number in range(3)]
    wait_for(lambda: waiting(Path(hub.address))["IPFS node"] == 3)
    hub = open_hub()
    assert waiting(Path(hub.address))["IPFS node"] == 3
    roots.append(hub.put(FILE).cid)
    hub.close()
    for _ in range(10):
        outbox_of(hub).rest()
    assert outbox_of(hub).resting() > 200  # Somebody who starts the hub need not wait so long.
    node.start()
    open_hub()
    wait_for(lambda: has_all(node, *roots))


def test_a_node_that_was_named_later_gets_what_is_there(open_hub, node, monkeypatch) -> None:
    with monkeypatch.context() as before:
        before.delenv("NEURONEXUS_IPFS")
        hub = open_hub()
        root, hidden = hub.put(FILE).cid, hub.put(b"hidden", visibility="project").cid
        assert waiting(Path(hub.address)) == {}
    assert not node.asked
    open_hub()
    wait_for(lambda: has_all(node, root))
    assert not node.has(CID.parse(hidden))


def test_a_node_that_has_all_is_sent_nothing_and_one_that_lost_some_gets_it(open_hub, node) -> None:
    hub = open_hub()
    kept, lost = hub.put(FILE).cid, put_document(hub, {"a": 1})
    wait_for(lambda: has_all(node, kept, lost))
    node.asked.clear()
    open_hub()
    wait_for(lambda: node.asked["pin/ls"] == 2)
    hub.close()
    sent = node.sent
    del node.pins[CID.parse(lost)]
    node.blocks.path_of(CID.parse(lost)).unlink()
    open_hub()
    wait_for(lambda: has_all(node, lost))
    assert node.sent - sent == len(dagcbor.encode({"a": 1}))


def test_a_node_that_says_nothing_delays_nobody(open_hub, node) -> None:
    speaks, asked = threading.Event(), threading.Event()

    def is_silent(exchange) -> bool:
        asked.set()
        speaks.wait(30)
        return False

    node.faults["dag/import"] = is_silent
    hub = open_hub()
    root = hub.put(FILE).cid
    assert asked.wait(30)
    assert hub.busy
    assert hub.put(b"meanwhile").size == 9
    hub.close()  # It does not wait either.
    assert not speaks.is_set()
    assert not any(thread.name == "nx-courier" for thread in threading.enumerate())
    speaks.set()
    node.faults.clear()
    open_hub()
    wait_for(lambda: has_all(node, root))


def test_an_upload_that_is_cut_off_is_done_again(open_hub, node) -> None:
    node.faults["dag/import"] = rpc.times(2, rpc.takes_only(1024 * 1024))
    hub = open_hub()
    root = hub.put(FILE).cid
    wait_for(lambda: has_all(node, root))
    with closing(KuboStore(node.address)) as store:
        assert store.get(root) == FILE


def test_what_is_damaged_here_holds_up_nothing(open_hub, node, caplog) -> None:
    hub = open_hub(shares=False)
    broken, whole = hub.put(FILE).cid, hub.put(b"whole").cid
    chunk = cid_of(FILE[: 1 << 20])
    (path,) = (Path(hub.address) / "content" / "blocks").rglob(f"{chunk}*")
    path.write_bytes(b"other")
    open_hub()
    wait_for(lambda: has_all(node, whole))
    wait_for(lambda: any(broken in each for each in messages(caplog)))
    path.write_bytes(FILE[: 1 << 20])
    open_hub()
    wait_for(lambda: has_all(node, broken))


def test_a_wrong_key_is_told_without_the_key(open_hub, node, monkeypatch, caplog) -> None:
    node.login = ("somebody", "right")
    monkeypatch.setenv("INFURA_IPFS_ID", "somebody")
    monkeypatch.setenv("INFURA_IPFS_SECRET", TOKEN)
    hub = open_hub()
    root = hub.put(b"content").cid
    wait_for(lambda: messages(caplog))
    assert "does not let us in" in messages(caplog)[0]
    assert TOKEN not in caplog.text
    monkeypatch.setenv("INFURA_IPFS_SECRET", "right")
    open_hub()
    wait_for(lambda: has_all(node, root))
    assert not any("right" in each for each in messages(caplog))
    files = [path for path in Path(hub.address).rglob("sharing/*/*") if path.is_file()]
    assert files
    assert not any("right" in path.read_text() for path in files)


def test_half_a_key_is_refused_when_the_hub_opens(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("INFURA_IPFS_ID", "somebody")
    with pytest.raises(InvalidInputError, match="INFURA_IPFS_SECRET"):
        LocalHub.open(tmp_path / "home")
    monkeypatch.delenv("INFURA_IPFS_ID")
    LocalHub.open(tmp_path / "home").close()


# -- a hub that is killed --------------------------------------------------------------------


def put_for_ever(home: Path, told: Path) -> None:
    """Be a hub that records public and project content until it is killed."""
    hub = LocalHub.open(home)
    hub.register("ada", PASSWORD)
    hub.login("ada", PASSWORD)
    hub.start_sharing()
    with told.open("a") as file:
        for number in range(10**6):
            data = b"%d" % number + secrets.token_bytes(2000)
            root = hub.put(data, visibility="project" if number % 3 == 0 else "public")
            print(json.dumps([root.cid, root.visibility]), file=file, flush=True)


@pytest.mark.parametrize("seed", range(3))
def test_what_a_killed_hub_had_recorded_arrives(open_hub, node, tmp_path, seed) -> None:
    told = tmp_path / "told"
    told.touch()
    if seed == 0:
        node.stop()
    child = multiprocessing.get_context("spawn").Process(
        target=put_for_ever, args=(tmp_path / "home", told)
    )
    child.start()
    wait_for(lambda: len(told.read_text().splitlines()) > 10 * (seed + 1))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    if seed == 0:
        node.start()
    recorded = [json.loads(line) for line in told.read_text().splitlines() if line.endswith("]")]
    hub = open_hub()
    public = [root.cid for root in public_roots(hub)]
    assert {cid for cid, visibility in recorded if visibility == "public"} <= set(public)
    wait_for(lambda: has_all(node, *public))
    assert node.digests() == {CID.parse(cid).digest for cid in public}


# -- the pinning service ---------------------------------------------------------------------


def asked_for(service) -> dict[str, dict]:
    with service.lock:
        return {each["pin"]["cid"]: each["pin"] for each in service.requests.values()}


def test_the_service_is_asked_for_what_it_can_fetch_from_the_node(open_hub, node, service) -> None:
    hub = open_hub()
    hidden = hub.put(b"hidden", visibility="project").cid
    file = hub.put(FILE).cid
    recipe = put_document(hub, {"data": links(file)})
    partly = put_document(hub, {"data": links(file, hidden)})
    above = put_document(hub, {"below": links(partly)})
    last = hub.put(b"last").cid
    wait_for(lambda: last in asked_for(service))
    pins = asked_for(service)
    assert set(pins) == {file, recipe, last}
    assert not {partly, above, hidden} & set(pins)
    assert pins[file]["origins"] == ["/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWLoopback"]
    assert pins[file]["name"] == "neuronexus"
    assert has_all(node, file, recipe, partly, above, last)


def test_the_service_is_asked_once(open_hub, node, service) -> None:
    """Also if it does not say that it was, the first time."""
    server = beside("pinning_server")

    def loses_an_answer(exchange) -> bool:
        if exchange.command == "POST":
            return server.works_and_hangs_up(exchange)
        service.faults.insert(0, loses_an_answer)
        return False

    service.faults.append(loses_an_answer)
    hub = open_hub()
    first = hub.put(b"first").cid
    wait_for(lambda: first in asked_for(service))
    hub = open_hub()
    second = hub.put(b"second").cid
    wait_for(lambda: second in asked_for(service))
    wait_for(lambda: waiting(Path(hub.address))["pinning service"] == 0)
    assert len(service.requests) == 2


def test_a_service_that_is_away_is_asked_later(open_hub, node, service, caplog) -> None:
    busy = beside("pinning_server").is_busy(503)
    service.faults += [busy] * 2
    hub = open_hub()
    root = hub.put(b"content").cid
    wait_for(lambda: root in asked_for(service))
    wait_for(lambda: len(messages(caplog)) == 2)
    assert messages(caplog)[0].startswith("The pinning service is away")
    assert messages(caplog)[1].startswith("The pinning service is back")
    assert TOKEN not in caplog.text


def test_a_service_without_a_node_is_told_to_be_of_no_use(
    open_hub, service, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        hub = open_hub()
    hub.put(b"content")
    assert "NEURONEXUS_IPFS is not" in caplog.text
    hub.close()
    assert not service.requests
