"""Which blocks may be read by whom: found from the roots, and never more than them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronexus_kernel.content import CID, dagcbor, dagpb
from neuronexus_kernel.content.cid import DAG_CBOR, DAG_PB, IDENTITY, RAW
from neuronexus_kernel.content.dagpb import Link, PBNode
from neuronexus_kernel.errors import NotFoundError, StoreError
from neuronexus_kernel.hub import reach
from neuronexus_kernel.hub.reach import Reach

ACCOUNT = SimpleNamespace(name="ada")


class Content(dict):
    """A store in memory."""

    corrupt: frozenset[CID] = frozenset()

    def put(self, block: bytes, codec: int = RAW) -> CID:
        cid = CID.of(block, codec)
        self[cid.digest] = block
        return cid

    def node(self, *links: CID, data: bytes = b"") -> CID:
        return self.put(dagpb.encode(PBNode(tuple(Link(cid, 0) for cid in links), data)), DAG_PB)

    def document(self, *links: CID, number: int = 0) -> CID:
        return self.put(dagcbor.encode([number, *links]), DAG_CBOR)

    def block(self, cid: CID) -> bytes:
        if cid.digest not in self:
            raise NotFoundError("not here")
        if cid in self.corrupt:
            raise StoreError("corrupt")
        return self[cid.digest]

    def has_block(self, cid: CID) -> bool:
        return cid.digest in self


class Records:
    """A table of roots, and how often it was read."""

    def __init__(self) -> None:
        self.roots: list[tuple[str, str]] = []
        self.reads = 0

    def read(self, query):
        def rows(statement):
            self.reads += 1
            (wanted,) = statement.compile().params.values()
            return [SimpleNamespace(cid=cid) for cid, sight in self.roots if sight == wanted]

        return query(SimpleNamespace(all=rows))

    def listen(self, topic, listener) -> None:
        self.tell = listener


class Hub:
    """A store, a table, and what reaches what; a root is recorded as the hub does it."""

    def __init__(self) -> None:
        self.content, self.records = Content(), Records()
        self.reach = Reach(self.records, self.content)

    def record(self, cid: CID, visibility: str) -> CID:
        self.records.roots.append((str(cid), visibility))
        self.records.tell(f"{visibility} {cid}")
        return cid

    def readable(self, cid: CID, account: object = None) -> bool:
        reader = self.reach.reader(account)
        has = reader.has_block(cid)
        try:
            reader.block(cid)
        except NotFoundError:
            assert not has
        else:
            assert has
        return has


@pytest.fixture
def hub() -> Hub:
    return Hub()


def test_a_public_file_is_read_block_by_block(hub):
    leaves = [hub.content.put(bytes([number])) for number in range(3)]
    root = hub.content.node(hub.content.node(*leaves[:2]), leaves[2])
    assert not any(hub.readable(leaf) for leaf in leaves)
    hub.record(root, "public")
    assert all(hub.readable(cid) for cid in (root, *leaves))


def test_what_another_hub_recorded_unheard_is_found_after_an_alarm(hub):
    hub.record(hub.content.put(b"first"), "public")
    cid = hub.content.put(b"second")
    assert not hub.readable(cid)
    hub.records.roots.append((str(cid), "public"))
    assert not hub.readable(cid)
    hub.records.tell(None)
    assert hub.readable(cid)


def test_a_document_is_read_and_what_it_names_is_not(hub):
    named = hub.content.put(b"for the project")
    hub.record(named, "project")
    document = hub.record(hub.content.document(named), "public")
    assert hub.readable(document)
    assert not hub.readable(named)
    assert hub.readable(named, ACCOUNT)
    folder = hub.record(hub.content.node(document), "public")
    assert hub.readable(folder)
    assert not hub.readable(named)


def test_what_is_in_a_public_folder_is_public_whatever_else_it_is_in(hub):
    shared, own = hub.content.put(b"shared"), hub.content.put(b"own")
    hub.record(shared, "project")
    hub.record(hub.content.node(shared, own), "project")
    assert not hub.readable(shared)
    hub.record(hub.content.node(shared), "public")
    assert hub.readable(shared)
    assert not hub.readable(own)


def test_a_sealed_root_opens_nothing_and_closes_nothing(hub):
    leaf = hub.content.put(b"leaf")
    root = hub.content.node(leaf)
    hub.record(root, "sealed")
    for account in (None, ACCOUNT):
        assert not hub.readable(root, account)
        assert not hub.readable(leaf, account)
    hub.record(hub.content.node(root), "public")
    assert hub.readable(leaf)


def test_both_versions_of_a_cid_and_another_codec_are_the_same_bytes(hub):
    root = hub.record(hub.content.node(hub.content.put(b"leaf")), "public")
    assert hub.readable(CID(DAG_PB, root.digest, version=0))
    assert hub.readable(CID(RAW, root.digest))


def test_bytes_that_were_public_as_they_are_do_not_open_what_they_would_link_to(hub):
    hidden = hub.content.put(b"hidden")
    node = hub.content.node(hidden)
    hub.record(CID(RAW, node.digest), "public")
    assert hub.readable(CID(DAG_PB, node.digest))
    assert not hub.readable(hidden)
    # But a file that has them as a node does.
    hub.record(CID(DAG_PB, node.digest), "public")
    assert hub.readable(hidden)


def test_an_identity_cid_is_readable_and_its_links_count(hub):
    leaf = hub.content.put(b"leaf")
    inline = CID(DAG_PB, dagpb.encode(PBNode((Link(leaf, 0),), None)), IDENTITY)
    assert hub.readable(inline)
    assert not hub.readable(leaf)
    hub.record(hub.content.node(inline), "public")
    assert hub.readable(leaf)


def test_a_block_that_was_repaired_is_followed_later(hub, monkeypatch):
    leaf = hub.content.put(b"leaf")
    middle = hub.content.node(leaf)
    block = hub.content.pop(middle.digest)
    root = hub.record(hub.content.node(middle), "public")
    assert hub.readable(root)
    assert not hub.readable(leaf)
    hub.content[middle.digest] = block
    assert not hub.readable(leaf)  # it is not tried each time
    monkeypatch.setattr(reach.time, "monotonic", lambda: 1e12)
    assert hub.readable(leaf)


def test_a_corrupt_or_malformed_block_hides_only_what_is_below_it(hub):
    leaf, other = hub.content.put(b"leaf"), hub.content.put(b"other")
    corrupt = hub.content.node(leaf)
    hub.content.corrupt = frozenset({corrupt})
    malformed = hub.content.put(b"\xff\xff", DAG_PB)
    hub.record(hub.content.node(corrupt, malformed, other), "public")
    assert hub.readable(other)
    assert not hub.readable(leaf)


def test_the_table_is_read_once_for_each_visibility(hub):
    for number in range(5):
        hub.record(hub.content.put(bytes([number])), "public")
    for _ in range(3):
        assert hub.readable(CID.of(b"\x02"))
        assert not hub.readable(CID.of(b"missing"))
    assert hub.records.reads == 1
    hub.readable(CID.of(b"missing"), ACCOUNT)
    assert hub.records.reads == 2


def test_a_tree_that_doubles_at_each_level_takes_no_time(hub):
    cid = hub.content.put(b"bomb")
    for _ in range(60):
        cid = hub.content.node(cid, cid)
    hub.record(cid, "public")
    assert hub.readable(CID.of(b"bomb"))


@given(st.data())
def test_no_visitor_reads_more_or_less_than_the_roots_give(data):
    hub, cids = Hub(), []
    for number in range(data.draw(st.integers(1, 12))):
        links = data.draw(st.lists(st.sampled_from(cids), max_size=3)) if cids else []
        kind = data.draw(st.sampled_from(["raw", "node", "document"]))
        if kind == "raw":
            cids.append(hub.content.put(b"%d" % number))
        elif kind == "node":
            cids.append(hub.content.node(*links, data=b"%d" % number))
        else:
            cids.append(hub.content.document(*links, number=number))
    recorded: dict[str, set[CID]] = {"public": set(), "project": set(), "sealed": set()}

    def below(cid: CID) -> set[CID]:
        found, todo = set(), [cid]
        while todo:
            each = todo.pop()
            found.add(each)
            if each.codec == DAG_PB:
                todo += [link.cid for link in dagpb.decode(hub.content[each.digest]).links]
        return found

    for _ in range(data.draw(st.integers(0, 6))):
        visibility = data.draw(st.sampled_from(list(recorded)))
        cid = data.draw(st.sampled_from(cids))
        hub.record(cid, visibility)
        recorded[visibility] |= below(cid)
        if data.draw(st.booleans()):
            hub.readable(data.draw(st.sampled_from(cids)))
        if data.draw(st.booleans()):
            hub.reach = Reach(hub.records, hub.content)  # as after a restart
    for cid in cids:
        assert hub.readable(cid) == (cid in recorded["public"])
        assert hub.readable(cid, ACCOUNT) == (cid in recorded["public"] | recorded["project"])
