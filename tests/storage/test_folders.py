"""Folders: listing them, and finding what lies at a path."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import CID, dagcbor, dagpb, unixfs
from neuronexus_kernel.content.cid import DAG_CBOR, IDENTITY, RAW
from neuronexus_kernel.content.dagpb import Link, PBNode
from neuronexus_kernel.content.directory import build_folder, symlink
from neuronexus_kernel.content.hamt import bucket, murmur3
from neuronexus_kernel.content.unixfs import V0, V1, Message, build_leaf
from neuronexus_kernel.errors import ContentError, NotFoundError, StoreError
from neuronexus_kernel.storage import folders
from neuronexus_kernel.storage.interface import Entry, Kind, Stat

SHARDED = replace(V1, threshold=0)


def file(memory, data, profile=V1):
    return build_leaf(data, memory.put, profile)


@pytest.fixture
def ls(memory):
    return lambda cid, **options: list(folders.entries(memory.fetch, cid, **options))


@pytest.fixture
def resolve(memory):
    return lambda address, **options: folders.resolve(memory.fetch, address, **options)


@pytest.mark.parametrize("profile", [V0, V1, SHARDED, replace(V0, threshold=0)])
def test_a_folder_is_listed(memory, ls, profile):
    text, empty = file(memory, b"text", profile), file(memory, b"", profile)
    link = symlink(b"text", memory.put, profile)
    inner = build_folder([text.link("text")], memory.put, profile)
    document = memory.keep(dagcbor.encode({"a": 1}), DAG_CBOR)
    folder = build_folder(
        [
            inner.link("inner"),
            text.link("text"),
            empty.link("empty"),
            link.link("link"),
            Link(document, 4, "document"),
        ],
        memory.put,
        profile,
    )
    assert ls(folder.cid) == [
        Entry("document", document, Kind.DOCUMENT, 4),
        Entry("empty", empty.cid, Kind.FILE, 0),
        Entry("inner", inner.cid, Kind.FOLDER, inner.total),
        Entry("link", link.cid, Kind.SYMLINK, 4),
        Entry("text", text.cid, Kind.FILE, 4),
    ]
    about = folders.stat(memory.fetch, folder.cid)
    assert about == Stat(folder.cid, Kind.FOLDER, folder.total, folder.total)
    assert folders.stat(memory.fetch, text.cid) == Stat(text.cid, Kind.FILE, 4, text.total)
    assert folders.stat(memory.fetch, link.cid) == Stat(link.cid, Kind.SYMLINK, 4, link.total)
    assert folders.stat(memory.fetch, document) == Stat(document, Kind.DOCUMENT, 4, 4)
    assert folders.target_of(memory.fetch, link.cid) == b"text"


def test_an_empty_folder_has_no_entries(memory, ls):
    assert ls(build_folder([], memory.put).cid) == []
    assert ls(build_folder([], memory.put, V0).cid) == []
    assert ls(CID.parse("bafyaabakaieac")) == []  # within its own CID
    empty_shard = Message(5, hash_type=0x22, fanout=256)
    assert ls(memory.keep(dagpb.encode(PBNode((), unixfs.encode_message(empty_shard))))) == []


def test_links_are_listed_although_what_they_lead_to_is_missing(memory):
    folder = build_folder(
        [Link(CID.of(b"gone"), 3, "a"), Link(CID.of(b"x", 0x70), 9, "b")], memory.put
    )
    names = [link.name for link in folders.links(memory.fetch, folder.cid)]
    assert names == ["a", "b"]
    with pytest.raises(StoreError, match="incomplete"):
        list(folders.entries(memory.fetch, folder.cid))


def test_a_link_that_tells_no_size_is_looked_at(memory, ls):
    text = file(memory, b"text")
    folder = build_folder([text.link("a")], memory.put)
    silent = build_folder([Link(text.cid, None, "a"), Link(folder.cid, None, "b")], memory.put)
    assert [entry.size for entry in ls(silent.cid)] == [4, folder.total]


def test_what_is_no_folder_is_called_what_it_is(memory, ls):
    for cid, what in (
        (file(memory, b"x").cid, "file"),
        (file(memory, b"x", V0).cid, "file"),
        (symlink(b"x", memory.put).cid, "symlink"),
        (memory.keep(b"\xa0", DAG_CBOR), "document"),
    ):
        with pytest.raises(StoreError, match=f"is a {what}, not a folder"):
            ls(cid)
    with pytest.raises(StoreError, match="0x129"):
        ls(memory.keep(b"{}", 0x0129))
    with pytest.raises(NotFoundError):
        ls(CID.of(b"never", 0x70))


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))


@settings(max_examples=60, deadline=None)
@given(st.sets(NAMES, max_size=40), st.sampled_from([8, 64, 256]), NAMES)
def test_what_a_sharded_folder_lists_is_found_by_name(names, fanout, other):
    blocks = {}

    def put(cid, block):
        blocks[cid] = bytes(block)

    profile = replace(SHARDED, fanout=fanout)
    built = build_folder(
        [build_leaf(name.encode(), put).link(name) for name in names], put, profile
    )
    fetch = blocks.__getitem__
    listed = {entry.name: entry.cid for entry in folders.entries(fetch, built.cid)}
    assert sorted(listed, key=str.encode) == list(listed)
    assert set(listed) == names
    for name, cid in listed.items():
        assert folders.resolve(fetch, f"{built.cid}/{name}") == cid
    if other not in names:
        with pytest.raises(NotFoundError):
            folders.resolve(fetch, f"{built.cid}/{other}")


def test_finding_a_name_touches_only_the_shards_on_the_way(memory, resolve):
    links = [file(memory, b"x").link(f"file-{number}") for number in range(3000)]
    built = build_folder(links, memory.put, SHARDED)
    memory.asked.clear()
    assert resolve(f"{built.cid}/file-1234") == links[0].cid
    assert 2 <= len(memory.asked) <= 4


# Paths


@pytest.fixture(params=[V1, SHARDED], ids=["plain", "sharded"])
def tree(memory, request):
    """a/b/file, a/b/up -> ../c, a/c/note, a/loop -> loop, top -> a/b, and links that lead out."""
    profile = request.param

    def folder(**entries):
        return build_folder([one.link(name) for name, one in entries.items()], memory.put, profile)

    def link(target):
        return symlink(target, memory.put, profile)

    return folder(
        a=folder(
            b=folder(file=file(memory, b"file"), up=link(b"../c"), out=link(b"../../../x")),
            c=folder(note=file(memory, b"note")),
            loop=link(b"loop"),
            root=link(b"/a"),
        ),
        top=link(b"a/./b/"),
    ).cid


def test_a_path_leads_to_what_lies_there(memory, resolve, tree):
    assert resolve(tree) == tree
    assert resolve(str(tree)) == resolve(f"{tree}/") == resolve(f"/ipfs/{tree}") == tree
    cid = CID.of(b"file")
    for path in ("a/b/file", "a//b/./file", "/a/b/file", "a/c/../b/file", "x/../a/b/file"):
        assert resolve(f"{tree}/{path}") == cid
    assert resolve(f"/ipfs/{tree}/a/b/file") == cid


def test_symlinks_on_the_way_are_followed_and_the_last_one_on_demand(memory, resolve, tree):
    assert resolve(f"{tree}/top/file") == CID.of(b"file")
    assert resolve(f"{tree}/top/up/note") == CID.of(b"note")
    link = resolve(f"{tree}/top")
    assert folders.target_of(memory.fetch, link) == b"a/./b/"
    assert resolve(f"{tree}/top", follow=True) == resolve(f"{tree}/a/b")
    assert resolve(link, follow=True) == link


def test_symlinks_that_lead_out_or_round_are_not_followed(resolve, tree):
    with pytest.raises(StoreError, match="above"):
        resolve(f"{tree}/a/b/out/etc")
    with pytest.raises(StoreError, match="outside"):
        resolve(f"{tree}/a/root/b")
    with pytest.raises(StoreError, match="circle"):
        resolve(f"{tree}/a/loop/x")
    with pytest.raises(StoreError, match="circle"):
        resolve(f"{tree}/a/loop", follow=True)


def test_what_is_not_there_is_named(resolve, tree):
    with pytest.raises(NotFoundError, match="'nothing'"):
        resolve(f"{tree}/a/nothing/b")
    with pytest.raises(NotFoundError, match="is a file: there is no 'below'"):
        resolve(f"{tree}/a/b/file/below")
    for path in ("..", "a/../..", "a/../../b"):
        with pytest.raises(ContentError, match="above its root"):
            resolve(f"{tree}/{path}")
    for text in ("", "/", "nonsense/a", "/ipfs/", 7, None):
        with pytest.raises(ContentError):
            resolve(text)
    with pytest.raises(NotFoundError):
        resolve(f"{tree}/\ud800")


# Hostile folders


def folder_of(memory, links, message=None):
    body = unixfs.encode_message(message or Message(1))
    return memory.keep(dagpb.encode(PBNode(tuple(links), body)))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "/etc", "a\0", None])
def test_names_that_lead_elsewhere_are_refused(memory, ls, resolve, name):
    cid = folder_of(memory, [Link(file(memory, b"x").cid, 1, name)])
    with pytest.raises(StoreError, match="cannot be the name"):
        resolve(f"{cid}/x")
    with pytest.raises(StoreError, match="cannot be the name"):
        ls(cid)


@pytest.mark.parametrize("name", [".", "..", "a/b", "../x", "/etc", "a\0"])
def test_names_that_lead_elsewhere_are_refused_in_shards(memory, ls, name):
    index = bucket(murmur3(name.encode()), 0, 256)
    with pytest.raises(StoreError, match="cannot be the name"):
        ls(shard_of(memory, {index: (name, file(memory, b"x").cid)}))


def test_a_name_that_is_there_twice_is_refused(memory, ls, resolve):
    links = [file(memory, data).link("same") for data in (b"one", b"two")]
    cid = folder_of(memory, links)
    with pytest.raises(StoreError, match="twice"):
        ls(cid)
    with pytest.raises(StoreError, match="twice"):
        resolve(f"{cid}/same")


def test_a_folder_in_another_order_is_listed_sorted(memory, ls):
    cid = folder_of(memory, [file(memory, b"x").link(name) for name in ("b", "a", "c")])
    assert [entry.name for entry in ls(cid)] == ["a", "b", "c"]


def shard_of(memory, slots, fanout=256):
    """A shard with these links, by bucket."""
    links = [Link(cid, 0, f"{index:02X}{name}") for index, (name, cid) in sorted(slots.items())]
    field = sum(1 << index for index in slots)
    return folder_of(
        memory, links, Message(5, data=field.to_bytes(32), hash_type=0x22, fanout=fanout)
    )


def test_a_name_in_another_place_than_its_hash_leads_to_is_refused(memory, ls):
    leaf = file(memory, b"x").cid
    hashed = murmur3(b"name")
    first, second = (bucket(hashed, depth, 256) for depth in range(2))
    assert [one.name for one in ls(shard_of(memory, {first: ("name", leaf)}))] == ["name"]
    below = shard_of(memory, {second: ("name", leaf)})
    assert [one.name for one in ls(shard_of(memory, {first: ("", below)}))] == ["name"]
    for wrong in (
        shard_of(memory, {(first + 1) % 256: ("name", leaf)}),
        shard_of(memory, {first: ("", shard_of(memory, {(second + 1) % 256: ("name", leaf)}))}),
        shard_of(memory, {(first + 1) % 256: ("", below)}),
        shard_of(memory, dict.fromkeys(range(256), ("", below))),
    ):
        with pytest.raises(StoreError, match="misplaced"):
            ls(wrong)


def test_shards_without_end_are_refused(memory, ls, resolve):
    """256 ways at each of many levels, all to the same few blocks: refused at the first way."""
    cid = shard_of(memory, {0: ("name", file(memory, b"x").cid)})
    for _ in range(40):
        cid = shard_of(memory, dict.fromkeys(range(256), ("", cid)))
    memory.asked.clear()
    with pytest.raises(StoreError, match="deeper"):
        ls(cid)
    with pytest.raises(StoreError, match="deeper"):
        resolve(f"{cid}/name")
    assert len(memory.asked) < 30


def test_an_empty_shard_below_another_is_refused(memory, ls, resolve):
    cid = shard_of(memory, {index: ("", shard_of(memory, {})) for index in range(256)})
    with pytest.raises(StoreError, match="not one of its shards"):
        ls(cid)
    with pytest.raises(StoreError, match="not one of its shards"):
        resolve(f"{cid}/x")


def test_other_things_than_shards_in_the_place_of_shards_are_refused(memory, ls):
    leaf = file(memory, b"x")
    for other in (
        leaf.cid,
        file(memory, b"x", V0).cid,
        build_folder([leaf.link("a")], memory.put).cid,
        build_folder([leaf.link("a")], memory.put, replace(SHARDED, fanout=64)).cid,
        memory.keep(b"\xff"),
        memory.keep(b"\xa0", DAG_CBOR),
        CID(RAW, b"inline", IDENTITY),
    ):
        with pytest.raises(StoreError):
            ls(shard_of(memory, {7: ("", other)}))


def test_a_missing_shard_makes_the_folder_incomplete(memory, ls, resolve):
    missing = CID.of(b"never", 0x70)
    cid = shard_of(memory, dict.fromkeys(range(256), ("", missing)))
    for ask in (lambda: ls(cid), lambda: resolve(f"{cid}/x")):
        with pytest.raises(StoreError, match=f"incomplete.*{missing}"):
            ask()


def test_more_entries_than_allowed_are_refused(memory, ls):
    links = [file(memory, b"x").link(f"{number}") for number in range(20)]
    for profile in (V1, SHARDED):
        cid = build_folder(links, memory.put, profile).cid
        assert len(ls(cid, limit=20)) == 20
        with pytest.raises(StoreError, match="more than 19 entries"):
            ls(cid, limit=19)


def test_malformed_symlinks_are_refused(memory):
    for data, links in ((b"", []), (b"a\0b", []), (b"ok", [Link(CID.of(b"x"), 1, "")])):
        cid = folder_of(memory, links, Message(4, data=data))
        for ask in (folders.stat, folders.target_of):
            with pytest.raises(StoreError, match="malformed"):
                ask(memory.fetch, cid)
    with pytest.raises(StoreError, match="not a symlink"):
        folders.target_of(memory.fetch, build_folder([], memory.put).cid)
    with pytest.raises(StoreError, match="metadata"):
        folders.stat(memory.fetch, folder_of(memory, [], Message(3)))
