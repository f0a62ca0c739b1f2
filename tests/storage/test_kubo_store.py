"""Content on a node that may be slow, hostile or gone; `loopback_rpc` stands in for it.

What real nodes say is tested in ``tests/integration/test_kubo_rpc.py``.
"""

import importlib.util
import io
import logging
import os
import random
import ssl
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from neuronexus_kernel.content import dagpb
from neuronexus_kernel.content.cid import CID, DAG_CBOR, DAG_PB, IDENTITY
from neuronexus_kernel.content.unixfs import DIRECTORY_TYPE, Message, encode_message
from neuronexus_kernel.errors import (
    ContentError,
    InvalidInputError,
    NeuroNexusError,
    NotFoundError,
    StoreError,
    StoreUnavailable,
)
from neuronexus_kernel.storage import LocalStore, cid_of
from neuronexus_kernel.storage.car import encode_car
from neuronexus_kernel.storage.endpoints import Credentials, Endpoint
from neuronexus_kernel.storage.files import MAX_BLOCK
from neuronexus_kernel.storage.interface import Kind
from neuronexus_kernel.storage.kubo import KuboStore

_SPEC = importlib.util.spec_from_file_location(
    "loopback_rpc", Path(__file__).with_name("loopback_rpc.py")
)
rpc = sys.modules[_SPEC.name] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(rpc)

SECRET = "s3cret-never-to-be-shown"
FILE = random.Random(1).randbytes(3_000_000)  # Three chunks.


@pytest.fixture
def node(tmp_path):
    with rpc.loopback_node(tmp_path / "node") as node:
        yield node


@pytest.fixture
def store(node):
    store = KuboStore(node.address, seconds=2.0, search=0.5)
    yield store
    store.close()


def folder_in(path):
    (path / "below").mkdir(parents=True)
    (path / "one.txt").write_text("one")
    (path / "below" / "two.bin").write_bytes(FILE)
    return path


# -- what is right ---------------------------------------------------------------------------


def test_what_is_added_lies_on_the_node_and_comes_back(store, node):
    cid = store.add(FILE, name="weights")
    assert node.has(cid)
    assert store.get(cid) == FILE
    assert cid == cid_of(FILE)
    with store.open(cid) as stream:
        stream.seek(1_500_000)
        assert stream.read(10) == FILE[1_500_000:1_500_010]


def test_a_folder_comes_back_as_it_was(store, tmp_path):
    folder = folder_in(tmp_path / "folder")
    cid = store.add(folder)
    assert [(each.name, each.kind) for each in store.ls(cid)] == [
        ("below", Kind.FOLDER),
        ("one.txt", Kind.FILE),
    ]
    assert store.get(f"{cid}/below/two.bin") == FILE
    target = store.download(cid, tmp_path / "target")
    assert (target / "below" / "two.bin").read_bytes() == FILE
    assert store.stat(cid).kind == Kind.FOLDER


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_the_cid_is_that_of_the_profile_whatever_the_node_would_do(store, profile):
    assert store.add(FILE, profile=profile) == cid_of(FILE, profile=profile)
    assert store.get(cid_of(FILE, profile=profile)) == FILE


def test_a_document_comes_back_and_may_name_what_lies_elsewhere(store):
    document = {"name": "receipt", "sealed": CID.of(b"nobody has this")}
    cid = store.put_node(document)
    assert store.get_node(cid) == document
    assert [(pin.cid, pin.recursive) for pin in store.pins()] == [(cid, False)]


def test_a_document_is_pinned_with_what_it_names_if_that_is_on_the_node(store):
    weights = store.add(FILE, pin=False)
    cid = store.put_node({"weights": weights})
    assert [(pin.cid, pin.recursive) for pin in store.pins()] == [(cid, True)]


def test_a_document_goes_alone_where_it_should(store, node, tmp_path):
    local = LocalStore(tmp_path / "local")
    weights = local.add(FILE)
    below = local.put_node({"weights": weights})
    above = local.put_node({"below": below})
    for cid in (above, below, below):
        store.push(local.block, cid, follow=False)
    assert node.digests() == {above.digest, below.digest}
    assert {(pin.cid, pin.recursive) for pin in store.pins()} == {(above, False), (below, False)}


def test_a_folder_with_a_document_is_kept_block_by_block(store, node, tmp_path):
    """To keep it whole, the node would look for what the document links to."""
    local = LocalStore(tmp_path / "local")
    project = local.add(b"for the project alone")
    file, receipt = local.add(FILE), local.put_node([project])
    body = encode_message(Message(kind=DIRECTORY_TYPE))
    links = tuple(dagpb.Link(cid, 0, name) for name, cid in (("a", file), ("b", receipt)))
    block = dagpb.encode(dagpb.PBNode(links, body))
    root = CID.of(block, DAG_PB)
    local.import_car(io.BytesIO(b"".join(encode_car([root], [(root, block)]))))
    store.push(local.block, root, follow=False)
    assert [entry.name for entry in store.ls(root)] == ["a", "b"]
    assert store.get(f"{root}/a") == FILE
    assert not node.has(project)
    assert {pin.cid for pin in store.pins()} >= {root, file, receipt, cid_of(FILE[: 1 << 20])}
    assert not any(pin.recursive for pin in store.pins())


def test_closing_breaks_off_what_is_under_way(node):
    store = KuboStore(node.address, seconds=60.0)
    asked = threading.Event()

    def silent(exchange):
        asked.set()
        time.sleep(20.0)
        return True

    node.faults["id"] = silent
    problems = []

    def ask():
        try:
            store.identity()
        except StoreUnavailable as problem:
            problems.append(problem)

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(10)
    store.close()
    thread.join(10)
    assert not thread.is_alive()
    assert problems
    del node.faults["id"]
    assert store.identity().agent == "loopback/1.0"


def test_a_car_file_goes_in_and_out(store, tmp_path):
    local = LocalStore(tmp_path / "local")
    root = local.add(folder_in(tmp_path / "folder"))
    stream = io.BytesIO()
    local.export_car([root], stream)
    stream.seek(0)
    assert store.import_car(stream) == [root]
    back = io.BytesIO()
    store.export_car([root], back)
    assert back.getvalue() == stream.getvalue()


def test_a_malformed_car_file_is_refused_before_anything_is_sent(store, node, tmp_path):
    stream = io.BytesIO()
    local = LocalStore(tmp_path / "local")
    local.export_car([local.add(FILE)], stream)
    with pytest.raises(StoreError, match="cut off"):
        store.import_car(io.BytesIO(stream.getvalue()[:-1]))
    assert node.sent == 0


def test_pins_have_names_and_can_be_taken_back(store):
    cid = store.add(b"content", name="first")
    assert [(pin.cid, pin.name, pin.recursive) for pin in store.pins()] == [(cid, "first", True)]
    with pytest.raises(NotFoundError, match="other"):
        store.unpin(cid, name="other")
    store.unpin(cid, name="first")
    assert list(store.pins()) == []
    assert store.has(cid)
    with pytest.raises(NotFoundError, match="no pin"):
        store.unpin(cid)


def test_pinning_again_changes_nothing(store):
    cid = store.add(b"content", name="first")
    store.pin(cid, recursive=False)
    store.add(b"content")
    assert [(pin.name, pin.recursive) for pin in store.pins()] == [("first", True)]


def test_what_the_node_keeps_already_is_not_sent_again(store, node):
    store.add(FILE)
    sent = node.sent
    store.add(FILE)
    assert node.sent == sent


def test_the_node_tells_about_itself(store):
    assert store.identity().agent == "loopback/1.0"
    assert store.identity().addresses
    assert [peer.peer for peer in store.peers()] == ["12D3KooWOther"]
    store.add(FILE)
    assert store.repository().size >= len(FILE)


def test_leaves_are_sent_before_what_links_to_them(store, node, monkeypatch):
    order = []
    put = node.put
    monkeypatch.setattr(node, "put", lambda blocks: put(seen(blocks, order)))
    root = store.add(FILE)
    assert order[-1] == root
    assert len(order) == 4


def seen(blocks, order):
    for cid, block in blocks:
        order.append(cid)
        yield cid, block


def test_many_threads_may_use_one_store(store):
    cids, problems = [], []

    def work(number):
        try:
            data = bytes([number]) * 100_000
            cid = store.add(data)
            assert store.get(cid) == data
            cids.append(cid)
        except Exception as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert {pin.cid for pin in store.pins()} == set(cids)


def test_a_forked_child_opens_connections_of_its_own(store):
    cid = store.add(b"content")
    child = os.fork()
    if child == 0:
        os._exit(0 if store.get(cid) == b"content" else 1)
    assert store.get(cid) == b"content"
    assert os.waitpid(child, 0)[1] == 0


def test_the_library_complains_about_nothing(node):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = KuboStore(node.address)
        store.get(store.add(b"content"))


# -- what is not there -----------------------------------------------------------------------


def test_content_that_nobody_has_is_not_found(store):
    absent = CID.of(b"absent")
    assert not store.has(absent)
    assert not store.has_block(absent)
    for call in (store.get, store.open, store.stat, store.size, store.pin, store.unpin):
        with pytest.raises(NotFoundError):
            call(absent)


def test_what_is_no_address_is_told_so(store):
    with pytest.raises(ContentError):
        store.get("nonsense")


def test_only_what_is_on_the_node_counts_as_there(store, node):
    store.has(CID.of(b"absent"))
    command, options = node.options[-1]
    assert command == "block/stat"
    assert options["offline"] == "true"


def test_the_node_is_told_how_long_to_look_for_a_block(store, node):
    with pytest.raises(NotFoundError, match=r"within 0\.5 seconds"):
        store.get(CID.of(b"absent"))
    assert node.options[-1][1]["timeout"] == "500ms"


def test_a_pin_of_what_is_incomplete_is_refused(store, node):
    root = store.add(FILE, pin=False)
    os.unlink(node.blocks.path_of(cid_of(FILE[: 1024 * 1024])))
    with pytest.raises(NotFoundError, match="all of"):
        store.pin(root)


def test_what_a_node_says_in_a_trailer_is_found_out(store, node):
    """After it has told of its progress, Kubo tells what went wrong where no client looks."""
    cid = store.add(FILE, pin=False)
    os.unlink(node.blocks.path_of(cid_of(FILE[: 1024 * 1024])))
    node.faults["pin/add"] = rpc.times(1, rpc.says(200, b'{"Progress":1}\n'))
    with pytest.raises(NotFoundError, match="all of"):
        store.pin(cid)


def test_a_long_name_is_cut_to_what_a_node_takes(store):
    cid = store.add(b"content", name="é" * 500)
    (pin,) = store.pins()
    assert pin.name == "é" * 127
    store.add(b"content", name="é" * 500)
    store.unpin(cid, name="é" * 500)


def test_pinning_that_gets_nowhere_ends(node):
    store = KuboStore(node.address, seconds=0.5)
    cid = store.add(b"content", pin=False)
    node.faults["pin/add"] = rpc.keeps_saying({"Progress": 7}, 0.05)
    start = time.monotonic()
    with pytest.raises(NotFoundError, match="all of"):
        store.pin(cid)
    assert time.monotonic() - start < 5


def test_identity_cids_need_no_node(store, node):
    node.stop()
    cid = CID(0x55, b"inline", IDENTITY)
    assert store.block(cid) == b"inline"
    assert store.has_block(cid)


def test_a_hash_that_cannot_be_verified_is_not_asked_for(store, node):
    with pytest.raises(StoreError, match="0x1e"):
        store.block(CID(0x55, bytes(32), 0x1E))
    assert not node.asked


# -- nodes that are down, slow or broken -----------------------------------------------------


def every_call(store, tmp_path):
    cid = CID.of(b"content")
    return {
        "add": lambda: store.add(b"content"),
        "put_node": lambda: store.put_node({"a": 1}),
        "get": lambda: store.get(cid),
        "open": lambda: store.open(cid),
        "has": lambda: store.has(cid),
        "stat": lambda: store.stat(cid),
        "download": lambda: store.download(cid, tmp_path / "target"),
        "export_car": lambda: store.export_car([cid], io.BytesIO()),
        "pin": lambda: store.pin(cid),
        "unpin": lambda: store.unpin(cid),
        "pins": lambda: list(store.pins()),
        "identity": store.identity,
        "peers": store.peers,
        "repository": store.repository,
    }


def test_a_node_that_is_down_is_unavailable_whatever_is_asked(store, node, tmp_path):
    node.stop()
    for call in every_call(store, tmp_path).values():
        with pytest.raises(StoreUnavailable, match=r"does not answer.*refused"):
            call()


def test_a_node_that_comes_back_is_used_again(store, node):
    cid = store.add(b"content")
    node.stop()
    with pytest.raises(StoreUnavailable):
        store.get(cid)
    node.start()
    assert store.get(cid) == b"content"


def test_a_node_that_says_nothing_is_given_up(node):
    store = KuboStore(node.address, seconds=0.5)
    node.faults["id"] = rpc.is_silent(20.0)
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match="longer than"):
        store.identity()
    assert time.monotonic() - start < 5


def test_a_node_that_drips_its_answer_is_given_up(node):
    store = KuboStore(node.address, seconds=0.6)
    node.faults["id"] = rpc.drips(b'{"ID": "' + b"x" * 10_000 + b'"}', 0.05)
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"longer than 0\.6 seconds"):
        store.identity()
    assert time.monotonic() - start < 3


def test_a_connection_that_was_idle_too_long_is_opened_anew(store, node):
    store.identity()
    node.faults["id"] = rpc.times(1, rpc.hangs_up)
    assert store.identity().agent == "loopback/1.0"


def test_an_answer_that_breaks_off_is_not_taken_for_whole(store, node):
    cid = store.add(FILE)
    node.faults["block/get"] = rpc.breaks_off(b"half")
    with pytest.raises(StoreUnavailable):
        store.get(cid)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_node_that_is_busy_is_unavailable(store, node, status):
    node.faults["block/get"] = rpc.says(status, b"<html>busy</html>")
    with pytest.raises(StoreUnavailable, match=str(status)):
        store.get(CID.of(b"content"))


def test_an_upload_that_is_cut_off_leaves_no_root_behind(store, node):
    node.faults["dag/import"] = rpc.takes_only(2 * 1024 * 1024)
    with pytest.raises(StoreUnavailable):
        store.add(FILE)
    assert node.sent > 0
    assert not store.has(cid_of(FILE))
    del node.faults["dag/import"]
    assert store.get(store.add(FILE)) == FILE


def test_an_upload_that_the_node_does_not_take_in_ends(node, tmp_path):
    store = KuboStore(node.address, seconds=1.0)
    node.faults["dag/import"] = lambda exchange: (
        not exchange._body_is_read and (time.sleep(4) or True)
    )
    start = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.add(os.urandom(40_000_000))
    assert time.monotonic() - start < 10


def test_what_the_source_raises_during_an_upload_comes_out_as_it_is(store, tmp_path):
    local = LocalStore(tmp_path / "local")
    root = local.add(FILE)
    path = local._blocks.path_of(cid_of(FILE[: 1024 * 1024]))
    path.write_bytes(b"other")
    with pytest.raises(StoreError, match="corrupt"):
        store.push(local.block, root)
    path.unlink()
    with pytest.raises(StoreError, match="incomplete"):
        store.push(local.block, root)


def test_a_node_that_cannot_pin_what_it_took_says_why(store, node):
    root = cid_of(FILE)
    node.faults["dag/import"] = lambda exchange: (
        not exchange._body_is_read
        and (
            exchange.file()
            and (
                exchange.tell({"Root": {"Cid": {"/": str(root)}, "PinErrorMsg": "disk full"}})
                or True
            )
        )
    )
    with pytest.raises(StoreError, match="disk full"):
        store.add(FILE)


def test_a_node_that_takes_everything_and_has_nothing_is_found_out(store, node):
    node.faults["dag/import"] = lambda exchange: (
        not exchange._body_is_read and (exchange.file() and (exchange.tell() or True))
    )
    with pytest.raises(StoreError, match="does not have it"):
        store.add(FILE)
    with pytest.raises(StoreError, match="does not have it"):
        store.add(FILE, pin=False)


# -- hosted nodes ----------------------------------------------------------------------------


def test_a_node_that_takes_no_car_files_is_given_blocks(store, node, tmp_path):
    node.faults["dag/import"] = rpc.says(404, b"404 page not found\n")
    cid = store.add(folder_in(tmp_path / "folder"))
    assert store.get(f"{cid}/below/two.bin") == FILE
    assert node.asked["block/put"] == 7
    old = store.add(FILE, profile="unixfs-v0-2015")
    assert store.get(old) == FILE
    assert node.asked["dag/import"] == 1


def test_a_node_that_names_a_block_otherwise_is_not_believed(store, node):
    node.faults["dag/import"] = rpc.says(405, b"")
    node.faults["block/put"] = lambda exchange: (
        bool(exchange.file()) and (exchange.tell({"Key": str(CID.of(b"other")), "Size": 5}) or True)
    )
    with pytest.raises(StoreError, match="another name"):
        store.add(b"content")


def test_name_and_password_are_sent_where_they_are_asked_for(node):
    node.login = ("me", SECRET)
    store = KuboStore(Endpoint.parse(node.address, Credentials(SECRET, "me")))
    assert store.get(store.add(b"content")) == b"content"
    url = node.address.replace("http://", f"http://me:{SECRET}@")
    assert KuboStore(url).get(cid_of(b"content")) == b"content"


def test_infuras_variables_are_honoured(node):
    node.login = ("me", SECRET)
    environment = {
        "NEURONEXUS_IPFS": f"/ip4/127.0.0.1/tcp/{node.port}/http",
        "INFURA_IPFS_ID": "me",
        "INFURA_IPFS_SECRET": SECRET,
    }
    store = KuboStore.configured(environment)
    assert store.get(store.add(b"content")) == b"content"
    assert KuboStore.configured({}) is None


def test_wrong_credentials_are_told_so_before_anything_is_sent(node):
    node.login = ("me", SECRET)
    store = KuboStore(Endpoint.parse(node.address, Credentials("wrong", "me")))
    for call in (lambda: store.add(FILE), lambda: store.get(CID.of(b"content"))):
        with pytest.raises(StoreUnavailable, match="INFURA_IPFS_SECRET"):
            call()
    assert node.sent == 0


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.2 that nobody trusts by itself, and the context to speak with."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a node for tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.2"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return file, context


def test_a_hosted_node_is_spoken_with_over_https(tmp_path, certificate, monkeypatch):
    file, tls = certificate
    with rpc.loopback_node(tmp_path / "node", tls=tls) as node:
        node.login = ("me", SECRET)
        environment = {
            "NEURONEXUS_IPFS": f"/ip4/127.0.0.2/tcp/{node.port}/https",
            "INFURA_IPFS_ID": "me",
            "INFURA_IPFS_SECRET": SECRET,
        }
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
        store = KuboStore.configured(environment)
        assert store.get(store.add(FILE)) == FILE


def test_a_certificate_that_nobody_trusts_is_not_believed(tmp_path, certificate):
    with rpc.loopback_node(tmp_path / "node", tls=certificate[1]) as node:
        store = KuboStore(Endpoint.parse(node.address, Credentials(SECRET, "me")))
        with pytest.raises(StoreUnavailable, match="certificate"):
            store.identity()
        assert not node.asked


def test_a_netrc_file_and_proxies_stay_out_of_it(node, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    node.login = ("me", SECRET)
    with pytest.raises(StoreUnavailable, match="let us in"):
        KuboStore(node.address).identity()


def test_secrets_are_shown_nowhere(node, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    endpoint = Endpoint.parse(node.address, Credentials(SECRET, "me"))
    store = KuboStore(endpoint, seconds=1.0, search=0.2)
    token = endpoint.credentials.header.partition(" ")[2]
    shown = [repr(store), repr(endpoint), str(endpoint), repr(endpoint.credentials)]
    echo = f"who are you, {SECRET} alias {token}?"
    faults = [
        rpc.refuses(echo),
        rpc.says(403, echo.encode()),
        rpc.says(400, echo.encode()),
        rpc.says(302, b"", Location=f"http://127.0.0.1:1/{SECRET}"),
        rpc.says(200, b'{"Message": "' + echo.encode() + b'", "Type": "error"}'),
        rpc.hangs_up,
    ]
    for fault in faults:
        for command in ("block/get", "block/stat", "id", "pin/ls", "dag/import", "swarm/peers"):
            node.faults[command] = fault
        for call in every_call(store, tmp_path).values():
            try:
                call()
            except NeuroNexusError as error:
                shown += [str(error), "".join(traceback.format_exception(error))]
    assert len(shown) > 50
    shown.append(caplog.text)
    assert not [text for text in shown if SECRET in text or token in text]


def test_redirects_are_not_followed(node, tmp_path):
    with rpc.loopback_node(tmp_path / "other") as other:
        other.login = ("nobody", "nothing")
        node.faults["id"] = rpc.says(307, b"", Location=f"{other.address}/api/v0/id")
        with pytest.raises(StoreUnavailable, match="307"):
            KuboStore(Endpoint.parse(node.address, Credentials(SECRET, "me"))).identity()
        assert not other.asked


# -- hostile nodes ---------------------------------------------------------------------------


def test_other_bytes_than_the_cid_says_are_thrown_away(store, node):
    cid = store.add(b"content")
    node.faults["block/get"] = rpc.says(200, b"Content")
    for call in (store.get, store.block):
        with pytest.raises(StoreError, match="other bytes"):
            call(cid)


def test_a_flipped_byte_in_any_block_is_found(store, node, tmp_path):
    root = store.add(FILE)
    paths = [Path(file) for file in (tmp_path / "node" / "blocks").rglob("b*") if file.is_file()]
    assert len(paths) == 4
    for path in paths:
        right = path.read_bytes()
        path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
        node.faults["block/get"] = as_it_lies(node)
        with pytest.raises(StoreError, match="other bytes"):
            store.get(root)
        path.write_bytes(right)
    assert store.get(root) == FILE


def as_it_lies(node):
    """Answer with what is on the disk, unchecked."""

    def answer(exchange):
        path = node.blocks.path_of(CID.parse(exchange.arguments[0]))
        exchange.reply(200, path.read_bytes(), "application/vnd.ipld.raw")
        return True

    return answer


@pytest.mark.parametrize(
    ("command", "call"),
    [
        ("block/get", lambda store: store.get(CID.of(b"content"))),
        ("id", lambda store: store.identity()),
        ("pin/ls", lambda store: list(store.pins())),
    ],
)
def test_an_answer_without_end_is_not_taken(store, node, command, call):
    node.faults[command] = rpc.never_ends(b"x" * 1_000_000)
    with pytest.raises(StoreError):
        call(store)


@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_error_without_end_is_not_taken(store, node, status):
    def answer(exchange):
        exchange.send_response(status)
        exchange.end_headers()
        exchange.close_connection = True
        try:
            for _ in range(1000):
                exchange.wfile.write(b"x" * 1_000_000)
            pytest.fail("all of it was read")
        except OSError:
            return True

    node.faults["block/get"] = answer
    with pytest.raises((StoreError, StoreUnavailable)):
        store.get(CID.of(b"content"))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b"null",
        b'{"Keys": 3, "Peers": 7, "ID": 5, "Addresses": "x", "RepoSize": "much"}',
        b'{"Keys": {"nonsense": 1, "bafk": {"Type": []}}, "Peers": [1, {"Peer": {}}]}',
        b'{"RepoSize": 1e999, "Root": 1, "Pins": 2, "Progress": {}, "Key": []}',
        b"[" * 100_000,
        b'{"Message": "could not find it", "Type": "error"}',
        b'{"Message": 7, "Type": "error"}',
        b"\xff\xfe\x00",
    ],
)
def test_nonsense_gives_errors_of_ours_or_nothing(store, node, tmp_path, answer):
    known = store.add(b"content")
    for command in list(vars(rpc.Exchange)):
        if command.startswith("do_") and command != "do_POST":
            node.faults[command[3:].replace("_", "/", 1)] = rpc.says(200, answer)
    calls = every_call(store, tmp_path)
    calls["push"] = lambda: store.push({known: b"content"}.__getitem__, known)
    for call in calls.values():
        with suppress(StoreError, StoreUnavailable, NotFoundError):
            call()


def test_a_block_above_the_limit_is_neither_taken_nor_sent(store, node):
    node.faults["block/get"] = rpc.says(200, bytes(MAX_BLOCK + 1))
    with pytest.raises(StoreError, match="more than"):
        store.get(CID.of(bytes(MAX_BLOCK + 1)))
    with pytest.raises(StoreError, match="limit"):
        store.put_node({"large": bytes(MAX_BLOCK)})
    assert node.sent == 0


def test_another_codec_is_named(store):
    with pytest.raises(StoreError, match="0x129"):
        store.stat(CID(0x0129, bytes(32)))


def test_paths_that_cannot_be_read_are_told(store, tmp_path):
    with pytest.raises(NotFoundError, match="no file or folder"):
        store.add(tmp_path / "nothing")
    with pytest.raises(InvalidInputError):
        store.add("text")


def test_codecs_come_through(store):
    cid = store.put_node({"a": 1})
    assert cid.codec == DAG_CBOR
    assert store.add(FILE).codec == DAG_PB
