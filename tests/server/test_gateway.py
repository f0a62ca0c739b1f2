"""The hub as a trustless gateway: what it gives, in which form, and to whom."""

from __future__ import annotations

import io
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlsplit

import pytest
import requests

from neuronexus_kernel.content import CID, dagcbor, dagpb, unixfs
from neuronexus_kernel.content.cid import DAG_PB, IDENTITY
from neuronexus_kernel.content.dagpb import Link, PBNode
from neuronexus_kernel.content.unixfs import DIRECTORY_TYPE, FILE_TYPE, Message
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.process import HubProcess, start_hub
from neuronexus_kernel.hub.records import Root
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.storage import LocalStore, car, dag, folders, importer
from neuronexus_kernel.storage.gateway import GatewayStore

MIB = 1024 * 1024
RAW = "application/vnd.ipld.raw"
CAR = "application/vnd.ipld.car"
PASSWORD = "correct horse battery"


def random_bytes(size: int) -> bytes:
    return secrets.token_bytes(size)


class Preparation:
    """A hub whose content is laid down before it serves: folders, and blocks of any kind."""

    def __init__(self, home: Path) -> None:
        self.hub = LocalHub.open(home)
        self.hub.login(*self._register())
        self.stores = {
            name: LocalStore(home / folder)
            for name, folder in (
                ("public", "content"),
                ("project", "content"),
                ("sealed", "sealed"),
            )
        }
        self.blocks: dict[CID, bytes] = {}

    def _register(self) -> tuple[str, str]:
        self.hub.register("maker", PASSWORD)
        return "maker", PASSWORD

    def add(self, data: bytes | Path, visibility: str, *, profile: str = "unixfs-v1-2025") -> CID:
        """Keep a file or a folder, and record its root."""

        def put(cid: CID, block: bytes | memoryview) -> None:
            self.blocks[cid] = bytes(block)

        cid = importer.add_tree(data, put, profile=profile)
        self._keep(cid, visibility)
        return self.record(cid, visibility)

    def put(self, block: bytes, visibility: str, codec: int = DAG_PB) -> CID:
        """Keep one block as it is, without a root."""
        cid = CID.of(block, codec)
        self.blocks[cid] = block
        self._keep(cid, visibility)
        return cid

    def _keep(self, cid: CID, visibility: str) -> None:
        blocks = dag.walk(self.blocks.__getitem__, cid)
        file = io.BytesIO(b"".join(car.encode_car([cid], blocks)))
        self.stores[visibility].import_car(file)

    def record(self, cid: CID, visibility: str) -> CID:
        contents = self.hub._services.contents
        root = Root(
            cid=str(cid),
            name="",
            kind="file",
            visibility=visibility,
            size=0,
            owner="maker",
            created="",
        )
        self.hub._services.database.write(lambda tx: contents.record(tx, root))
        return cid

    def folder(self, visibility: str, **entries: CID) -> CID:
        """Keep a folder of what is there already, without a root."""
        links = tuple(Link(cid, 0, name) for name, cid in sorted(entries.items()))
        message = unixfs.encode_message(Message(DIRECTORY_TYPE))
        return self.put(dagpb.encode(PBNode(links, message)), visibility)

    def lacking(self, begin: bytes) -> tuple[CID, CID]:
        """Keep a file whose second half is missing; return its first half, and it."""
        leaf, size = self.put(begin, "public", 0x55), len(begin)
        message = unixfs.encode_message(Message(FILE_TYPE, size + 4, (size, 4)))
        block = dagpb.encode(PBNode((Link(leaf, size), Link(CID.of(b"gone"), 4)), message))
        with self.stores["public"]._blocks.batch() as batch:
            batch.put(CID.of(block, DAG_PB), block)
        return leaf, self.record(CID.of(block, DAG_PB), "public")


@pytest.fixture(scope="module")
def content(
    new_home: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """Lay down content of all kinds; return what is where."""
    home = new_home()
    made = Preparation(home)
    source = tmp_path_factory.mktemp("source")
    (source / "sub dir").mkdir()
    (source / "a.txt").write_bytes(b"hello")
    (source / "again.txt").write_bytes(b"hello")
    (source / "sub dir" / "größe.bin").write_bytes(random_bytes(2 * MIB + 77))
    (source / "link").symlink_to("sub dir")
    many = tmp_path_factory.mktemp("many")
    for number in range(1000):
        (many / f"{number:03d}-{'x' * 240}").write_bytes(
            b"%d" % number if number % 99 == 24 else b""
        )
    large = random_bytes(3 * MIB + 5)
    at = SimpleNamespace(home=home, blocks=made.blocks, source=source)
    at.folder = made.add(source, "public")
    at.many = made.add(many, "public")
    at.old = made.add(large, "public", profile="unixfs-v0-2015")
    at.large, at.large_bytes = made.add(large, "public"), large
    at.small = made.add(b"a small public file", "public")
    at.project = made.add(random_bytes(2 * MIB + 9), "project")
    at.sealed = made.add(random_bytes(2 * MIB + 11), "sealed")
    # The same bytes in a public and in a project folder, and such that are in one of them only.
    shared, own = (
        made.put(b"shared", "project", 0x55),
        made.put(b"for the project", "project", 0x55),
    )
    at.shared, at.own = shared, own
    at.project_folder = made.record(made.folder("project", shared=shared, own=own), "project")
    at.public_folder = made.record(made.folder("public", shared=shared), "public")
    # A public document that names content of every kind.
    named = {
        "public": at.large,
        "project": at.project,
        "sealed": at.sealed,
        "own": own,
        "list": [None, {"deep": at.small}],
        "number": 1,
    }
    at.document = CID.of(dagcbor.encode(named), 0x71)
    made.stores["public"].put_node(named)
    made.record(at.document, "public")
    at.unlisted = made.stores["public"].add(b"nobody recorded this")
    at.leaf, at.lacking = made.lacking(b"here")
    _, at.lacking_large = made.lacking(random_bytes(MIB))
    made.hub.close()
    return at


@pytest.fixture(scope="module")
def hub(content: SimpleNamespace) -> Iterator[HubProcess]:
    with start_hub(content.home, port=0, arguments=("--no-warm-kernel",)) as process:
        yield process


@pytest.fixture(scope="module")
def member(hub: HubProcess) -> Iterator[str]:
    """Return the token of an account."""
    remote = RemoteHub(hub.address)
    yield remote.login("maker", PASSWORD).token
    remote.close()


@pytest.fixture(scope="module")
def ask(hub: HubProcess) -> Iterator[Callable[..., requests.Response]]:
    with requests.Session() as session:

        def ask(
            path: object,
            accept: str | None = None,
            *,
            verb: str = "GET",
            token: str | None = None,
            **headers: str,
        ) -> requests.Response:
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            headers["Accept"] = accept
            if token:
                headers["Authorization"] = f"Bearer {token}"
            return session.request(verb, f"{hub.address}/ipfs/{path}", headers=headers, timeout=20)

        yield ask


def blocks_of(response: requests.Response) -> list[CID]:
    """Return the CIDs of a CAR answer, in order, each block verified."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith(f"{CAR}; version=1")
    return [cid for cid, _ in car.read_car(io.BytesIO(response.content), lenient=True)[1]]


def every_block(response: requests.Response) -> list[CID]:
    """Return the CIDs of a CAR answer with those that come again."""
    stream, cids = io.BytesIO(response.content), []
    from neuronexus_kernel.storage.car_source import Source

    source = Source(stream)
    source.take(source.varint("header"), "header")
    while not source.at_end():
        section = source.take(source.varint("section"), "section")
        cid, at = CID.read(section)
        assert cid.matches(section[at:])
        cids.append(cid)
    return cids


def walk(content: SimpleNamespace, cid: CID, follow: dag.Follow = dag.everything) -> list[CID]:
    """Return what the blocks that were laid down say should come."""
    return [each for each, _ in dag.Walk(content.blocks.__getitem__).blocks(cid, follow)]


# -- raw blocks ------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [None, RAW, "text/html", f"{CAR};q=0.5, {RAW}"])
def test_a_block_comes_with_the_headers_of_the_specification(ask, content, accept):
    answer = ask(f"{content.small}?format=raw", accept)
    assert answer.status_code == 200
    assert answer.content == b"a small public file"
    told = answer.headers
    assert told["Content-Type"] == RAW
    assert told["Content-Length"] == "19"
    assert told["Content-Disposition"] == f'attachment; filename="{content.small}.bin"'
    assert told["X-Content-Type-Options"] == "nosniff"
    assert told["Etag"] == f'"{content.small}.raw"'
    assert told["Cache-Control"] == "public, max-age=29030400, immutable"
    assert told["X-Ipfs-Path"] == f"/ipfs/{content.small}"
    assert told["X-Ipfs-Roots"] == str(content.small)
    assert told["Accept-Ranges"] == "none"
    assert told["Vary"] == "Accept"
    assert "Access-Control-Allow-Origin" not in told


def test_a_block_is_chosen_by_the_header_too_and_says_where_it_lies(ask, content):
    answer = ask(content.small, RAW)
    assert answer.content == b"a small public file"
    assert answer.headers["Content-Location"] == f"/ipfs/{content.small}?format=raw"
    assert "Content-Location" not in ask(f"{content.small}?format=raw", RAW).headers
    assert "Content-Location" not in ask(f"{content.small}?format=raw").headers
    # The query decides, and what the header alone would have given lies elsewhere.
    answer = ask(f"{content.small}?format=raw", CAR)
    assert answer.headers["Content-Type"] == RAW
    assert answer.headers["Content-Location"] == f"/ipfs/{content.small}?format=raw"


def test_every_block_below_a_public_root_comes_one_by_one(ask, content):
    for root in (content.folder, content.large, content.old, content.public_folder):
        for cid in walk(content, root):
            answer = ask(f"{cid}?format=raw", RAW)
            assert answer.content == content.blocks[cid], cid
            head = ask(f"{cid}?format=raw", RAW, verb="HEAD")
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["Content-Length"] == str(len(content.blocks[cid]))


def test_a_head_says_what_a_get_would(ask, content):
    for path in (f"{content.small}?format=raw", f"{content.folder}?format=car"):
        got, head = ask(path), ask(path, verb="HEAD")
        assert head.content == b""
        ignored = {"Date", "Transfer-Encoding"}
        assert {k: v for k, v in head.headers.items() if k not in ignored} == {
            k: v for k, v in got.headers.items() if k not in ignored
        }
    assert ask(f"{CID.of(b'missing')}?format=car", verb="HEAD").status_code == 404


def test_a_cid_of_version_0_names_the_same_block(ask, content):
    assert content.old.version == 0
    assert ask(f"{content.old}?format=raw").content == content.blocks[content.old]
    new = CID(DAG_PB, content.old.digest)
    assert ask(f"{new}?format=raw").content == content.blocks[content.old]


@pytest.mark.parametrize("name", ["other.bin", 'a"b\\c.bin', "größe.bin", "x\r\nY: z"])
def test_a_name_to_save_under_may_be_given(ask, content, name):
    told = ask(f"{content.small}?format=raw&filename={quote(name)}").headers["Content-Disposition"]
    assert told.startswith("attachment; filename=")
    assert "\n" not in told
    if name == "other.bin":
        assert told == 'attachment; filename="other.bin"'
    elif name == "größe.bin":
        assert told == "attachment; filename=\"gr__e.bin\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.bin"


def test_an_answer_that_is_known_is_not_sent_again(ask, content):
    for path in (f"{content.small}?format=raw", f"{content.large}?format=car"):
        etag = ask(path, verb="HEAD").headers["Etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            answer = ask(path, If_None_Match=known)
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["Etag"] == etag
        assert ask(path, If_None_Match='"other"').status_code == 200
    # What nobody may read is not known to anybody, whatever they say.
    assert ask(f"{content.project}?format=raw", If_None_Match="*").status_code == 404


def test_each_answer_has_a_name_of_its_own(ask, content):
    forms = [
        *("?format=raw", "?format=car", "?format=car&dag-scope=block"),
        *("?format=car&dag-scope=entity", "?format=car&entity-bytes=0:*"),
        *("?format=car&entity-bytes=0:9", "?format=car&entity-bytes=-9:*"),
        "?format=car&car-dups=y",
    ]
    etags = [ask(f"{content.large}{form}", verb="HEAD").headers["Etag"] for form in forms]
    paths = [f"{content.folder}/a.txt", f"{content.folder}/again.txt"]
    etags += [ask(f"{path}?format=car", verb="HEAD").headers["Etag"] for path in paths]
    assert len(set(etags)) == len(etags)


# -- CAR files -------------------------------------------------------------------------------


def test_a_car_file_holds_everything_below_a_root(ask, content):
    for root in (content.folder, content.large, content.old, content.many, content.small):
        answer = ask(f"{root}?format=car")
        assert blocks_of(answer) == walk(content, root)
        assert car.read_car(io.BytesIO(answer.content))[0] == [root]
        taken: dict[CID, bytes] = {}
        car.import_car(io.BytesIO(answer.content), taken.__setitem__)
        assert taken == {cid: content.blocks[cid] for cid in taken}
    told = answer.headers
    assert told["Content-Type"] == f"{CAR}; version=1; order=dfs; dups=n"
    assert told["Content-Disposition"] == f'attachment; filename="{root}.car"'
    assert told["X-Content-Type-Options"] == "nosniff"
    assert told["Cache-Control"] == "public, max-age=29030400, immutable"
    assert told["Accept-Ranges"] == "none"


@pytest.mark.parametrize(
    ("accept", "query", "dups", "location"),
    [
        (f"{CAR}; version=1; order=dfs; dups=y", "", "y", "car-version=1&car-order=dfs&car-dups=y"),
        (f"{CAR};order=dfs;dups=n", "", "n", "car-order=dfs&car-dups=n"),
        (f"{CAR}; order=unk", "", "n", "car-order=unk"),
        (f"{CAR}; dups=n", "format=car&car-dups=y", "y", None),
        (f"{CAR}; dups=y", "format=car", "y", "car-dups=y"),
        (f"{CAR}; order=unk", "format=car&car-order=dfs", "n", None),
        (f"{CAR};order=foo, {CAR};dups=y;q=0.5", "", "y", "car-dups=y"),
        (None, "format=car&car-version=1&car-order=dfs&car-dups=y", "y", None),
    ],
)
def test_the_form_of_a_car_file_is_negotiated(ask, content, accept, query, dups, location):
    answer = ask(f"{content.folder}?{query}" if query else content.folder, accept)
    assert answer.headers["Content-Type"] == f"{CAR}; version=1; order=dfs; dups={dups}"
    expected = location and f"/ipfs/{content.folder}?format=car&{location}"
    assert answer.headers.get("Content-Location") == expected
    walked = dag.Walk(content.blocks.__getitem__, duplicates=dups == "y").blocks(content.folder)
    assert every_block(answer) == [cid for cid, _ in walked]


def test_a_path_leads_through_folders_and_its_blocks_come_first(ask, content):
    name = quote("sub dir/größe.bin")
    below = folders.resolve(content.blocks.__getitem__, f"{content.folder}/sub dir")
    file = folders.resolve(content.blocks.__getitem__, f"{content.folder}/sub dir/größe.bin")
    answer = ask(f"{content.folder}/{name}?format=car")
    assert blocks_of(answer) == [content.folder, below, *walk(content, file)]
    assert answer.headers["X-Ipfs-Path"] == f"/ipfs/{content.folder}/{name}"
    assert answer.headers["X-Ipfs-Roots"] == f"{content.folder},{below},{file}"
    assert car.read_car(io.BytesIO(answer.content))[0] == [file]
    scoped = ask(f"{content.folder}/{name}/?format=car&dag-scope=block")
    assert blocks_of(scoped) == [content.folder, below, file]


def test_a_path_leads_through_a_symlink(ask, content):
    answer = ask(f"{content.folder}/link/{quote('größe.bin')}?format=car&dag-scope=block")
    link = folders.resolve(content.blocks.__getitem__, f"{content.folder}/link")
    assert link in blocks_of(answer)


def test_a_path_leads_through_the_shards_of_a_folder(ask, content):
    name = f"123-{'x' * 240}"
    answer = ask(f"{content.many}/{name}?format=car")
    got = blocks_of(answer)
    assert got[0] == content.many
    assert content.blocks[got[-1]] == b"123"
    assert 2 < len(got) < 6
    # With these blocks alone the path can be followed.
    own = dict(car.read_car(io.BytesIO(answer.content))[1])
    assert folders.resolve(own.__getitem__, f"{content.many}/{name}") == got[-1]


def test_a_path_leads_through_a_document(ask, content):
    answer = ask(f"{content.document}/public?format=car")
    assert blocks_of(answer) == [content.document, *walk(content, content.large)]
    answer = ask(f"{content.document}/list/1/deep?format=car")
    assert blocks_of(answer) == [content.document, content.small]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/a.txt/below", 404),
        ("/sub%20dir/nothing/more", 404),
        ("/sub%2Fdir", 404),
        ("/%ff", 400),
        ("/a%00b", 400),
        ("/" + "x/" * 200, 400),
    ],
)
def test_a_path_that_leads_nowhere_is_told(ask, content, path, status):
    answer = ask(f"{content.folder}{path}?format=car")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "status"),
    [("number", 501), ("list", 501), ("list/9", 404), ("list/01", 404), ("nothing", 404)],
)
def test_a_path_that_ends_inside_a_document_is_told(ask, content, path, status):
    assert ask(f"{content.document}/{path}?format=car").status_code == status


def test_the_entity_of_a_folder_is_its_listing(ask, content):
    answer = ask(f"{content.folder}?format=car&dag-scope=entity")
    assert blocks_of(answer) == [content.folder]
    answer = ask(f"{content.many}?format=car&dag-scope=entity")
    shards = walk(content, content.many, dag.entity)
    assert blocks_of(answer) == shards
    assert len(shards) > 200
    answer = ask(f"{content.document}?format=car&dag-scope=entity")
    assert blocks_of(answer) == [content.document]


@pytest.mark.parametrize(
    ("span", "leaves"),
    [
        *(("0:*", [0, 1, 2, 3]), ("0:0", [0]), (f"{MIB}:{MIB}", [1]), (f"{MIB - 1}:{MIB}", [0, 1])),
        *(("-5:*", [3]), ("-6:*", [2, 3]), ("0:-6", [0, 1, 2]), ("-99999999:5", [0])),
        *(("0:99999999", [0, 1, 2, 3]), ("5:4", [])),
    ],
)
def test_a_range_of_a_file_comes_with_the_fewest_blocks(ask, content, span, leaves):
    root, *parts = walk(content, content.large)
    answer = ask(f"{content.large}?format=car&entity-bytes={span}")
    assert blocks_of(answer) == [root, *(parts[number] for number in leaves)]


def test_a_range_of_what_is_no_file_is_the_entity(ask, content):
    answer = ask(f"{content.many}?format=car&entity-bytes=0:5")
    assert blocks_of(answer) == walk(content, content.many, dag.entity)


def test_a_range_works_where_other_parts_are_missing(ask, content):
    answer = ask(f"{content.lacking}?format=car&entity-bytes=0:3")
    assert blocks_of(answer) == [content.lacking, content.leaf]


def test_a_file_that_lacks_a_block_is_not_given_for_whole(ask, content):
    # As long as nothing was sent, it can be told; after that, the connection is cut.
    assert ask(f"{content.lacking}?format=car").status_code == 404
    with pytest.raises(requests.RequestException):
        ask(f"{content.lacking_large}?format=car")
    assert ask(f"{content.lacking}?format=car", verb="HEAD").status_code == 200


# -- probes, and what is refused -------------------------------------------------------------


def test_the_probe_answers(ask):
    raw = ask("bafkqaaa?format=raw", RAW)
    assert (raw.status_code, raw.content, raw.headers["Content-Type"]) == (200, b"", RAW)
    assert ask("bafkqaaa", RAW).status_code == 200
    assert ask("bafkqaaa?format=raw", verb="HEAD").status_code == 200
    probe = ask("bafkqaaa?format=car", CAR)
    roots, blocks = car.read_car(io.BytesIO(probe.content))
    assert (roots, list(blocks)) == ([CID.parse("bafkqaaa")], [])
    other = CID(0x55, b"held in its own CID", IDENTITY)
    assert ask(f"{other}?format=raw").content == b"held in its own CID"
    assert every_block(ask(other, f"{CAR}; dups=y")) == []


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("{cid}", None, 400),
        ("{cid}", "*/*", 400),
        ("{cid}", "text/html,application/xhtml+xml,*/*;q=0.8", 406),
        ("{cid}", "application/json", 406),
        ("{cid}", f"{RAW};q=0", 400),
        ("{cid}?format=tar", None, 406),
        ("{cid}?format=dag-json", RAW, 406),
        ("{cid}?format=nonsense", RAW, 406),
        ("{cid}?format=ipns-record", None, 400),
        ("{cid}?format=raw&format=car", None, 400),
        ("{cid}?format=car&car-version=2", None, 406),
        ("{cid}?format=car&car-order=bfs", None, 406),
        ("{cid}?format=car&car-dups=maybe", None, 406),
        ("{cid}", f"{CAR}; version=2", 406),
        ("{cid}?format=car&dag-scope=some", None, 400),
        ("{cid}?format=car&entity-bytes=x", None, 400),
        ("{cid}?format=car&entity-bytes=19:*", None, 400),
        ("{cid}?format=car&entity-bytes=0:-99", None, 400),
        ("{cid}/path?format=raw", None, 400),
        ("nonsense?format=raw", None, 400),
        ("?format=raw", None, 400),
        ("QmNonsense?format=raw", None, 400),
        ("%ff?format=raw", None, 400),
        ("z" * 9000 + "?format=raw", None, 400),
    ],
)
def test_what_the_gateway_does_not_give_is_refused(ask, content, path, accept, status):
    answer = ask(path.format(cid=content.small), accept)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["detail"]


def test_content_that_is_not_here_is_told_by_the_condition(ask):
    missing = f"{CID.of(b'missing')}?format=raw"
    assert ask(missing).status_code == 404
    assert ask(missing, Cache_Control="only-if-cached").status_code == 412
    assert ask(f"{CID.of(b'x', 0x0129)}?format=raw").status_code == 404
    assert ask(f"{CID(0x55, bytes(32), 0xB220)}?format=raw").status_code == 404


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE", "PATCH"])
def test_the_gateway_is_only_read(ask, content, verb):
    answer = ask(f"{content.small}?format=raw", verb=verb)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_a_service_worker_is_no_content(ask, content):
    assert ask(f"{content.small}?format=raw", Service_Worker="script").status_code == 400


def test_pages_of_other_sites_get_nothing(ask, content):
    answer = ask(f"{content.small}?format=raw", Origin="https://elsewhere.example")
    assert answer.status_code == 403


# -- who may read what -----------------------------------------------------------------------


def everything_hidden(content: SimpleNamespace) -> list[CID]:
    hidden = [*walk(content, content.project), *walk(content, content.sealed)]
    return [*hidden, content.project_folder, content.own, content.unlisted]


def test_nobody_gets_a_block_that_is_only_in_project_or_sealed_content(ask, content):
    for cid in everything_hidden(content):
        for form in ("raw", "car", "car&dag-scope=block", "car&entity-bytes=0:*"):
            for verb in ("GET", "HEAD"):
                assert ask(f"{cid}?format={form}", verb=verb).status_code == 404, cid
    # Nor under another name of the same bytes.
    for cid in everything_hidden(content):
        for codec in (0x55, DAG_PB, 0x71):
            other = CID(codec, cid.digest)
            assert ask(f"{other}?format=raw").status_code == 404


def test_what_is_hidden_and_what_is_not_there_are_told_in_the_same_words(ask, content):
    missing = CID.of(b"missing")
    words = ask(f"{missing}?format=raw").json()["detail"]
    for cid in everything_hidden(content):
        told = ask(f"{cid}?format=raw").json()["detail"]
        assert told.replace(str(cid), "-") == words.replace(str(missing), "-")


def test_a_public_document_does_not_make_public_what_it_names(ask, content):
    for name in ("project", "sealed", "own"):
        for scope in ("block", "entity", "all"):
            answer = ask(f"{content.document}/{name}?format=car&dag-scope={scope}")
            assert answer.status_code == 404, (name, scope)
    # All that it names would have to be in the file, and some may not be.
    answer = ask(f"{content.document}?format=car")
    assert answer.status_code == 404
    assert "not for you to read" in answer.json()["detail"]
    assert blocks_of(ask(f"{content.document}?format=car&dag-scope=block")) == [content.document]


def test_a_block_in_a_public_and_in_a_project_folder_is_public(ask, content):
    assert ask(f"{content.shared}?format=raw").content == b"shared"
    assert blocks_of(ask(f"{content.public_folder}/shared?format=car"))[-1] == content.shared
    assert ask(f"{content.project_folder}/shared?format=car").status_code == 404


def test_an_account_reads_the_content_of_projects_and_caches_keep_it_to_themselves(
    ask, content, member
):
    for cid in (*walk(content, content.project), content.project_folder, content.own):
        answer = ask(f"{cid}?format=raw", token=member)
        assert answer.content == content.blocks[cid]
        assert answer.headers["Cache-Control"] == "private, max-age=29030400, immutable"
    answer = ask(f"{content.project}?format=car", token=member)
    assert blocks_of(answer) == walk(content, content.project)
    assert answer.headers["Cache-Control"].startswith("private")
    answer = ask(f"{content.document}/own?format=car", token=member)
    assert blocks_of(answer) == [content.document, content.own]
    assert (
        ask(f"{content.small}?format=raw", token=member)
        .headers["Cache-Control"]
        .startswith("public")
    )


def test_an_account_does_not_read_sealed_content_either(ask, content, member, hub):
    for token in (member, hub.token):
        for cid in (*walk(content, content.sealed), content.unlisted):
            assert ask(f"{cid}?format=raw", token=token).status_code == 404
        assert ask(f"{content.document}/sealed?format=car", token=token).status_code == 404
        with pytest.raises(requests.RequestException):  # it is cut off before what is sealed
            ask(f"{content.document}?format=car", token=token)


def test_a_token_that_is_none_is_refused(ask, content):
    assert ask(f"{content.small}?format=raw", token="nonsense").status_code == 401


def test_a_signed_in_browser_reads_the_content_of_projects(hub, content):
    with requests.Session() as session:
        session.get(f"{hub.address}/neuronexus/auth")
        fields = {"mode": "login", "name": "maker", "password": PASSWORD}
        session.post(
            f"{hub.address}/neuronexus/auth",
            data={**fields, "_xsrf": session.cookies["_xsrf"]},
            allow_redirects=False,
        )
        answer = session.get(f"{hub.address}/ipfs/{content.project}?format=raw")
        assert answer.content == content.blocks[content.project]


def test_what_is_published_while_the_hub_runs_is_served_at_once(ask, hub, member):
    remote = RemoteHub(hub.address, member)
    data = {sight: random_bytes(MIB + 100) for sight in ("public", "project", "sealed")}
    roots = {sight: remote.put(data[sight], visibility=sight).cid for sight in data}
    for sight, root in roots.items():
        kept: dict[CID, bytes] = {}
        importer.add_tree(
            data[sight],
            lambda c, b, kept=kept: kept.__setitem__(c, bytes(b)),
            profile="unixfs-v1-2025",
        )
        assert str(list(kept)[-1]) == root
        for cid, block in kept.items():
            for token, expected in ((None, {"public"}), (member, {"public", "project"})):
                answer = ask(f"{cid}?format=raw", token=token)
                assert (answer.status_code == 200) == (sight in expected)
                assert answer.status_code == 404 or answer.content == block
    # What was for the project is made public by whoever gives it again as such.
    remote.put(data["project"], visibility="public")
    assert ask(f"{roots['project']}?format=raw").status_code == 200
    # And what was given as sealed before stays what it is: the bytes that are public now.
    remote.put(data["sealed"], visibility="public")
    assert ask(f"{roots['sealed']}?format=raw").status_code == 200
    remote.close()


# -- load ------------------------------------------------------------------------------------


def test_many_readers_at_once_get_what_they_ask_for(ask, content, hub):
    cids = [*walk(content, content.folder), *walk(content, content.old)] * 3

    def read(cid: CID) -> bool:
        answer = requests.get(f"{hub.address}/ipfs/{cid}?format=raw", timeout=30)
        return answer.content == content.blocks[cid]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, cids))


def test_a_reader_that_stops_does_not_hold_up_the_hub(ask, content, hub):
    parts = urlsplit(hub.address)
    request = f"GET /ipfs/{content.large}?format=car HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
    stopped = [socket.create_connection((parts.hostname, parts.port)) for _ in range(20)]
    for line in stopped:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(request.encode())
    time.sleep(0.3)
    start = time.monotonic()
    assert blocks_of(ask(f"{content.large}?format=car")) == walk(content, content.large)
    assert time.monotonic() - start < 5
    for line in stopped:
        line.close()


# -- hub to hub ------------------------------------------------------------------------------


def test_two_hubs_exchange_content_and_stand_in_for_each_other(
    hub, content, server, new_member, tmp_path
):
    _, there = new_member()
    here, both = GatewayStore(hub.address), GatewayStore([hub.address, server.address])
    data = here.get(content.large)
    assert data == content.large_bytes
    root = there.put(data[: 2 * MIB], visibility="public")
    assert GatewayStore(server.address).get(root.cid) == data[: 2 * MIB]
    assert both.get(root.cid) == both.get(content.large)[: 2 * MIB]
    # A folder goes from a hub into a store, whole, and is the same there.
    local, file = LocalStore(tmp_path / "store"), io.BytesIO()
    here.export_car([content.folder], file)
    file.seek(0)
    assert local.import_car(file) == [content.folder]
    target = local.download(content.folder, tmp_path / "folder")
    assert (target / "sub dir" / "größe.bin").read_bytes() == (
        content.source / "sub dir" / "größe.bin"
    ).read_bytes()
    assert here.download(content.folder, tmp_path / "again") == tmp_path / "again"
    assert [entry.name for entry in here.ls(content.folder)] == sorted(
        path.name for path in content.source.iterdir()
    )


def test_a_store_with_a_token_reads_what_is_for_the_project(hub, content, member):
    from neuronexus_kernel.errors import NotFoundError

    expected = LocalStore(content.home / "content").get(content.project)
    assert GatewayStore(hub.address, token=member).get(content.project) == expected
    with pytest.raises(NotFoundError):
        GatewayStore(hub.address).get(content.project)
    for store in (GatewayStore(hub.address), GatewayStore(hub.address, token=member)):
        with pytest.raises(NotFoundError):
            store.get(content.sealed)
        assert not store.has(content.sealed)


def test_nobody_publishes_sealed_content_by_linking_to_it(ask, content, hub, member):
    from neuronexus_kernel.errors import StoreError

    remote = RemoteHub(hub.address, member)
    leaf = walk(content, content.sealed)[-1]
    message = unixfs.encode_message(Message(DIRECTORY_TYPE))
    block = dagpb.encode(PBNode((Link(leaf, 0, "leaf"),), message))
    root = CID.of(block, DAG_PB)
    file = b"".join(car.encode_car([root], [(root, block)]))
    for visibility in ("public", "project"):
        with pytest.raises(StoreError, match="incomplete"):
            remote.put(file, codec="car", visibility=visibility)
    for cid in (root, leaf):
        assert ask(f"{cid}?format=raw", token=member).status_code == 404
    remote.close()
