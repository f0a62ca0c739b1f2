"""Reading through gateways: what is right arrives, and what is wrong is refused in bounded time."""

import dataclasses
import importlib.util
import io
import sys
import time
from pathlib import Path

import pytest

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR, DAG_PB, IDENTITY, RAW
from neuronexus_kernel.content.dagpb import Link
from neuronexus_kernel.content.directory import build_folder
from neuronexus_kernel.content.unixfs import V1
from neuronexus_kernel.errors import (
    ContentError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    StoreError,
    StoreUnavailable,
)
from neuronexus_kernel.storage import car, importer
from neuronexus_kernel.storage.files import MAX_BLOCK
from neuronexus_kernel.storage.gateway import Gateway, GatewayStore, Patience
from neuronexus_kernel.storage.interface import Kind

_SPEC = importlib.util.spec_from_file_location(
    "gateway_server", Path(__file__).with_name("gateway_server.py")
)
gateway_server = sys.modules[_SPEC.name] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(gateway_server)
honest_gateway, line = gateway_server.honest_gateway, gateway_server.line

QUICK = Patience(seconds=1.0, rounds=2, pause=0.05)
BLOCK = b"a block"
CID_OF_IT = CID.of(BLOCK)


@pytest.fixture
def blocks():
    return {CID_OF_IT: BLOCK}


@pytest.fixture
def gateway(blocks):
    with honest_gateway(blocks) as server:
        yield server


@pytest.fixture
def store(gateway):
    store = GatewayStore(gateway.address, patience=QUICK)
    yield store
    store.close()


def put_into(server):
    def put(cid, block):
        server.blocks[cid.digest] = bytes(block)

    return put


def nobody():
    """Return the address of a port where nobody listens."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


# -- what is right ---------------------------------------------------------------------------


def test_a_block_arrives(store):
    assert store.block(CID_OF_IT) == BLOCK
    assert store.has_block(CID_OF_IT)
    assert store.get(str(CID_OF_IT)) == BLOCK


def test_a_block_that_nobody_has_is_not_found(store, gateway):
    missing = CID.of(b"missing")
    with pytest.raises(NotFoundError, match=str(missing)):
        store.block(missing)
    assert gateway.asked[missing] == 1
    assert not store.has_block(missing)
    assert not store.has(missing)
    gateway.answer = lambda cid, handler: handler.reply(410)
    with pytest.raises(NotFoundError):
        store.block(CID_OF_IT)


def test_a_block_of_an_identity_cid_asks_nobody(store, gateway):
    inline = CID(0x55, b"inline", IDENTITY)
    assert store.block(inline) == b"inline"
    assert store.has_block(inline)
    assert not gateway.asked


def test_what_cannot_be_verified_is_not_fetched(store, gateway):
    with pytest.raises(StoreError, match="cannot be verified"):
        store.block(CID(0x55, bytes(32), 0xB220))
    assert not gateway.asked


def test_text_that_is_no_cid_is_refused(store):
    with pytest.raises(ContentError):
        store.get("nonsense")


@pytest.mark.parametrize("profile", ["unixfs-v1-2025", "unixfs-v0-2015"])
def test_a_file_arrives_many_blocks_at_a_time(store, gateway, profile):
    data = b"".join(bytes([number]) * 2**18 for number in range(24))
    cid = importer.add_tree(io.BytesIO(data), put_into(gateway), profile=profile)
    gateway.pause = 0.02
    assert store.get(cid) == data
    assert gateway.most_at_once > 3
    assert set(gateway.asked.values()) == {1}
    assert store.size(cid) == len(data)


def test_an_open_file_fetches_only_what_is_read(store, gateway):
    data = b"".join(bytes([number]) * 1024 * 1024 for number in range(5))
    cid = importer.add_tree(data, put_into(gateway), profile="unixfs-v1-2025")
    with store.open(cid) as stream:
        stream.seek(3 * 1024 * 1024 + 5)
        assert stream.read(10) == bytes([3]) * 10
    assert sum(gateway.asked.values()) <= 4  # the root for the size and for reading, and a leaf


@pytest.fixture
def folder(tmp_path, gateway):
    """Return a folder on the gateway, and the same on disk."""
    source = tmp_path / "source"
    (source / "deep" / "empty").mkdir(parents=True)
    for number in range(12):
        (source / f"{number}.txt").write_bytes(b"%d" % number * 10)
    (source / "deep" / "large").write_bytes(bytes(3 * 1024 * 1024))
    (source / "link").symlink_to("0.txt")
    return importer.add_tree(source, put_into(gateway), profile="unixfs-v1-2025"), source


def test_a_folder_is_listed_by_the_first_blocks_alone(store, gateway, folder):
    cid, _ = folder
    entries = store.ls(cid)
    assert [entry.name for entry in entries] == sorted(
        ["deep", "link", *(f"{number}.txt" for number in range(12))]
    )
    assert {entry.name: entry.kind for entry in entries}["deep"] == Kind.FOLDER
    assert sum(gateway.asked.values()) == 3  # the folder, and what is dag-pb in it
    assert store.stat(cid).kind == Kind.FOLDER


def test_a_path_leads_to_content(store, folder):
    cid, _ = folder
    assert store.get(f"{cid}/deep/large") == bytes(3 * 1024 * 1024)
    assert store.has(f"/ipfs/{cid}/3.txt")
    assert not store.has(f"{cid}/nothing")
    with pytest.raises(NotFoundError):
        store.get(f"{cid}/nothing")


def test_a_folder_is_downloaded(store, folder, gateway, tmp_path):
    cid, source = folder
    gateway.pause = 0.01
    target = store.download(cid, tmp_path / "target")
    names = sorted(path.relative_to(source) for path in source.rglob("*"))
    assert sorted(path.relative_to(target) for path in target.rglob("*")) == names
    for name in names:
        if (source / name).is_file():
            assert (source / name).read_bytes() == (target / name).read_bytes()
    assert gateway.most_at_once > 3
    assert max(gateway.asked.values()) <= 3


def test_everything_below_a_root_goes_into_a_car_file(store, folder, gateway):
    cid, _ = folder
    stream = io.BytesIO()
    store.export_car([cid], stream)
    stream.seek(0)
    taken = {}
    assert car.import_car(stream, taken.__setitem__) == [cid]
    assert {each.digest for each in taken} == gateway.blocks.keys() - {CID_OF_IT.digest}
    assert set(gateway.asked.values()) == {1}


def test_a_sharded_folder_is_listed(store, gateway):
    put, links = put_into(gateway), []
    small = dataclasses.replace(V1, threshold=1000)
    for number in range(120):
        file = CID.of(b"%d" % number)
        put(file, b"%d" % number)
        entry = build_folder([Link(file, 1, "file")], put) if number % 4 else None
        links.append(Link(entry.cid if entry else file, 10, f"entry {number}"))
    cid = build_folder(links, put, small).cid
    entries = store.ls(cid)
    assert [entry.name for entry in entries] == sorted(link.name for link in links)
    assert max(gateway.asked.values()) == 1
    # The folder, its shards, and what is a folder in it; none of the files.
    assert not any(each.codec == RAW for each in gateway.asked)


def test_a_document_arrives(store, gateway):
    block = dagcbor.encode({"link": CID_OF_IT})
    cid = CID.of(block, DAG_CBOR)
    gateway.blocks[cid.digest] = block
    assert store.get_node(cid) == {"link": CID_OF_IT}
    assert gateway.asked == {cid: 1}  # what it names was not asked for
    with pytest.raises(StoreError, match="no document"):
        store.get_node(CID_OF_IT)


# -- a cache in front ------------------------------------------------------------------------


class Cache(dict):
    def block(self, cid):
        return self[cid]

    def has_block(self, cid):
        return cid in self


def test_a_cache_is_asked_first_and_takes_what_was_fetched(gateway):
    cache = Cache()
    store = GatewayStore(gateway.address, cache=cache, keep=cache.__setitem__)
    for _ in range(3):
        assert store.block(CID_OF_IT) == BLOCK
    assert gateway.asked[CID_OF_IT] == 1
    assert cache == {CID_OF_IT: BLOCK}


def test_a_corrupt_cache_is_passed_over(gateway):
    class Corrupt(Cache):
        def block(self, cid):
            raise StoreError("The disk is failing.")

    store = GatewayStore(gateway.address, cache=Corrupt({CID_OF_IT: b"other"}))
    assert store.block(CID_OF_IT) == BLOCK


# -- several gateways ------------------------------------------------------------------------


def test_a_gateway_that_is_down_is_stood_in_for_and_rests(gateway):
    store = GatewayStore([nobody(), gateway.address], patience=QUICK)
    assert store.block(CID_OF_IT) == BLOCK
    places = store._gateways._in_order()
    assert places[0].address == gateway.address


def test_what_one_gateway_lacks_another_may_have(blocks, gateway):
    with honest_gateway({}) as empty:
        store = GatewayStore([empty.address, gateway.address], patience=QUICK)
        assert store.block(CID_OF_IT) == BLOCK
        assert store.has_block(CID_OF_IT)
        gateway.blocks.clear()
        with pytest.raises(NotFoundError):
            store.block(CID_OF_IT)


def test_a_gateway_that_rests_is_still_asked_for_what_no_other_has(gateway):
    with honest_gateway({}) as empty:
        store = GatewayStore([gateway.address, empty.address], patience=QUICK)
        gateway.answer = lambda cid, handler: handler.reply(503)
        with pytest.raises(NotFoundError, match="503"):
            store.block(CID_OF_IT)
        gateway.answer = lambda cid, handler: False
        assert store.block(CID_OF_IT) == BLOCK
        assert empty.asked[CID_OF_IT] == 2


def test_a_liar_is_stood_in_for(gateway, blocks):
    with honest_gateway(blocks) as liar:
        liar.answer = lambda cid, handler: handler.reply(200, b"a lie")
        store = GatewayStore([liar.address, gateway.address], patience=QUICK)
        assert store.block(CID_OF_IT) == BLOCK


def test_none_that_answers_is_unavailable():
    store = GatewayStore([nobody(), nobody()], patience=QUICK)
    with pytest.raises(StoreUnavailable, match="try again later"):
        store.block(CID_OF_IT)
    with pytest.raises(StoreUnavailable):
        store.has_block(CID_OF_IT)


def test_a_hiccup_is_waited_for(gateway):
    statuses = [503, 429]
    gateway.answer = lambda cid, handler: bool(statuses) and handler.reply(statuses.pop())
    patient = GatewayStore(gateway.address, patience=Patience(rounds=3, pause=0.01))
    assert patient.block(CID_OF_IT) == BLOCK
    assert gateway.asked[CID_OF_IT] == 3


def test_a_gateway_may_say_how_long_it_wants_to_be_left_alone(gateway):
    gateway.answer = lambda cid, handler: handler.reply(429, Retry_After="100")
    store = GatewayStore(gateway.address, patience=QUICK)
    with pytest.raises(StoreUnavailable, match="429"):
        store.block(CID_OF_IT)
    (place,) = store._gateways._places
    assert 90 < place.rests_until - time.monotonic() <= 100


def test_a_token_goes_to_its_own_gateway_alone(gateway, blocks):
    with honest_gateway({}) as other:
        both = [Gateway(other.address), Gateway(gateway.address, "secret")]
        assert GatewayStore(both).block(CID_OF_IT) == BLOCK
        assert other.tokens == {None}
        assert gateway.tokens == {"Bearer secret"}
        assert "secret" not in repr(both)
    with pytest.raises(InvalidInputError, match="one gateway"):
        GatewayStore([gateway.address, other.address], token="secret")


@pytest.mark.parametrize("status", [401, 403])
def test_a_gateway_that_lets_nobody_in_is_told(gateway, status):
    gateway.answer = lambda cid, handler: handler.reply(status)
    with pytest.raises(StoreUnavailable, match="check the token"):
        GatewayStore(gateway.address, token="old", patience=QUICK).block(CID_OF_IT)
    assert gateway.asked[CID_OF_IT] == 1  # asking again would change nothing


# -- gateways that lie -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"other bytes", BLOCK + b"\0", BLOCK[:-1], bytes(MAX_BLOCK + 1), bytes(MAX_BLOCK * 4)],
    ids=["nothing", "other", "more", "less", "too much", "far too much"],
)
def test_other_bytes_are_refused(store, gateway, body):
    gateway.answer = lambda cid, handler: handler.reply(200, body)
    with pytest.raises(StoreError, match="No gateway gave the block"):
        store.block(CID_OF_IT)
    assert gateway.asked[CID_OF_IT] == 1


def test_a_body_that_is_cut_off_is_refused(store, gateway):
    gateway.answer = lambda cid, handler: (
        handler.reply(200, BLOCK[:3], Content_Length=str(len(BLOCK)), Connection="close")
        and handler.connection.shutdown(2) is None
    )
    with pytest.raises(StoreUnavailable):
        store.block(CID_OF_IT)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(store, gateway, status):
    with honest_gateway({CID_OF_IT: BLOCK}) as elsewhere:
        gateway.answer = lambda cid, handler: handler.reply(
            status, Location=f"{elsewhere.address}/ipfs/{cid}?format=raw"
        )
        with pytest.raises(StoreUnavailable, match="elsewhere"):
            store.block(CID_OF_IT)
        assert not elsewhere.asked


def test_a_packed_body_is_not_unpacked(store, gateway):
    import gzip

    gateway.answer = lambda cid, handler: handler.reply(
        200, gzip.compress(BLOCK), Content_Encoding="gzip"
    )
    with pytest.raises(StoreError, match="packed"):
        store.block(CID_OF_IT)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def forever(connection, piece, pause=0.0, first=b""):
    connection.sendall(first)
    while True:
        connection.sendall(piece)
        time.sleep(pause)


SLOW = {
    "says nothing": lambda c: time.sleep(30),
    "says nothing after the headers": lambda c: (c.sendall(OK + b"\r\n"), time.sleep(30)),
    "drips its status": lambda c: forever(c, b"H", 0.05),
    "drips its headers": lambda c: forever(c, b"X", 0.05, OK),
    "drips its body": lambda c: forever(c, b"x", 0.05, OK + b"Content-Length: 99999\r\n\r\n"),
    "drips chunks": lambda c: forever(c, b"1\r\nx\r\n", 0.05, CHUNKED),
    "continues for ever": lambda c: forever(c, b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
    "drips a trailer": lambda c: forever(c, b"X: y\r\n", 0.05, CHUNKED + b"0\r\n"),
}
ENDLESS = {
    "a body without length": lambda c: forever(c, bytes(65536), first=OK + b"\r\n"),
    "chunks": lambda c: forever(c, b"10000\r\n" + bytes(65536) + b"\r\n", first=CHUNKED),
    "a length between chunks": lambda c: forever(c, b"1" * 65536, first=CHUNKED),
    "a header": lambda c: forever(c, b"X" * 65536, first=OK),
    "headers": lambda c: forever(c, b"X: y\r\n" * 1000, first=OK),
    "a status": lambda c: forever(c, b"H" * 65536),
    "an error": lambda c: forever(c, bytes(65536), first=b"HTTP/1.1 500 No\r\n\r\n"),
}


def asked_after_reading(behave):
    def converse(connection):
        connection.recv(65536)
        behave(connection)

    return converse


@pytest.mark.parametrize("what", SLOW | ENDLESS)
def test_a_gateway_that_does_not_end_is_left_in_time(what):
    import tracemalloc

    patience = Patience(seconds=0.25, rounds=1)
    with line(asked_after_reading((SLOW | ENDLESS)[what])) as address:
        store = GatewayStore(address, patience=patience)
        start = time.monotonic()
        tracemalloc.start()
        with pytest.raises((StoreError, StoreUnavailable)):
            store.block(CID_OF_IT)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert time.monotonic() - start < 2.5
        assert peak < 4 * MAX_BLOCK


def test_many_readers_of_a_slow_gateway_are_all_let_go_in_time():
    from concurrent.futures import ThreadPoolExecutor

    with line(asked_after_reading(SLOW["drips its body"])) as address:
        store = GatewayStore(address, patience=Patience(seconds=0.25, rounds=1), parallel=8)
        start = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            reading = [pool.submit(store.block, CID_OF_IT) for _ in range(8)]
        assert all(isinstance(each.exception(), StoreUnavailable) for each in reading)
        assert time.monotonic() - start < 3


def test_tls_that_never_shakes_hands_is_left_in_time():
    with line(lambda c: forever(c, b"\x16", 0.05)) as address:
        store = GatewayStore(
            address.replace("http", "https"), patience=Patience(seconds=0.25, rounds=1)
        )
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.block(CID_OF_IT)
        assert time.monotonic() - start < 2.5


def test_a_file_whose_blocks_lie_is_refused(store, gateway):
    data = bytes(range(256)) * 4096 * 3
    cid = importer.add_tree(data, put_into(gateway), profile="unixfs-v1-2025")
    leaf = next(digest for digest, block in gateway.blocks.items() if len(block) > 10**6)
    gateway.blocks[leaf] = bytes(len(gateway.blocks[leaf]))
    with pytest.raises(StoreError):
        store.get(cid)


# -- what a gateway cannot do ----------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.add(b"data", name="x", pin=False),
        lambda store: store.put_node({}),
        lambda store: store.import_car(io.BytesIO()),
        lambda store: store.pin(CID_OF_IT, name="x"),
        lambda store: store.unpin(CID_OF_IT),
    ],
)
def test_it_is_only_read(store, act):
    with pytest.raises(StoreError, match="only read"):
        act(store)
    assert list(store.pins()) == []


@pytest.mark.parametrize("address", ["", "gateway.example", "ftp://x", "http://", "file:///etc", 5])
def test_an_address_must_be_one(address):
    with pytest.raises(InvalidInputError):
        GatewayStore([address])


def test_an_address_holds_no_password():
    with pytest.raises(ForbiddenError):
        GatewayStore("http://user:word@127.0.0.1")


def test_some_gateway_and_some_parallel_reading_are_needed():
    with pytest.raises(InvalidInputError, match="at least one address"):
        GatewayStore([])
    with pytest.raises(InvalidInputError, match="parallel"):
        GatewayStore("http://127.0.0.1", parallel=0)


def test_a_cid_of_version_0_is_asked_for_as_it_is(store, gateway):
    block = b"\x0a\x02\x08\x01"
    old = CID(DAG_PB, CID.of(block).digest, version=0)
    gateway.blocks[old.digest] = block
    assert store.block(old) == block
    assert gateway.asked[old] == 1
