"""Walks through DAGs: which blocks are given, in which order, and where they end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronexus_kernel.content import CID, dagcbor, dagpb, unixfs
from neuronexus_kernel.content.cid import DAG_CBOR, DAG_PB, IDENTITY, RAW
from neuronexus_kernel.content.dagpb import Link, PBNode
from neuronexus_kernel.content.unixfs import DIRECTORY_TYPE, FILE_TYPE, SHARD_TYPE, Message
from neuronexus_kernel.errors import InvalidInputError, NotFoundError, StoreError
from neuronexus_kernel.storage import dag
from neuronexus_kernel.storage.dag import Limits, Scope, Span, Walk


class Blocks(dict):
    """Blocks in memory, and which of them were asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def put(self, block, codec=RAW):
        cid = CID.of(block, codec)
        self[cid] = block
        return cid

    def document(self, node):
        return self.put(dagcbor.encode(node), DAG_CBOR)

    def node(self, links, message):
        node = PBNode(tuple(links), unixfs.encode_message(message))
        return self.put(dagpb.encode(node), DAG_PB)

    def file(self, parts, data=b""):
        """Put a node of a file over parts, each a CID and its size."""
        sizes = tuple(size for _, size in parts)
        message = Message(FILE_TYPE, len(data) + sum(sizes), sizes, data)
        return self.node([Link(cid, size) for cid, size in parts], message)

    def folder(self, **entries):
        links = [Link(cid, 0, name) for name, cid in entries.items()]
        return self.node(links, Message(DIRECTORY_TYPE))

    def fetch(self, cid):
        self.asked.append(cid)
        if cid not in self:
            raise NotFoundError(f"There is no {cid}.")
        return self[cid]


@pytest.fixture
def blocks():
    return Blocks()


def cids_of(blocks, root, scope=Scope.ALL, span=None, **options):
    walk = Walk(blocks.fetch, **options)
    return [cid for cid, _ in walk.blocks(root, dag.following(scope, span))]


def leaves(blocks, count, size=10):
    return [(blocks.put(bytes([index]) * size), size) for index in range(count)]


def test_a_walk_is_depth_first_and_in_the_order_of_the_links(blocks):
    a, b, c = (blocks.put(letter) for letter in (b"a", b"b", b"c"))
    inner = blocks.document({"x": [a, b]})
    root = blocks.document({"first": inner, "second": {"deep": [None, c]}})
    assert cids_of(blocks, root) == [root, inner, a, b, c]
    assert list(dag.walk(blocks.fetch, root)) == [
        (cid, blocks[cid]) for cid in cids_of(blocks, root)
    ]


def test_a_block_is_given_once_unless_each_time_is_asked_for(blocks):
    leaf = blocks.put(b"leaf")
    inner = blocks.document([leaf, leaf])
    root = blocks.document([inner, leaf, inner])
    assert cids_of(blocks, root) == [root, inner, leaf]
    assert cids_of(blocks, root, duplicates=True) == [
        *(root, inner, leaf, leaf),
        *(leaf, inner, leaf, leaf),
    ]


def test_both_versions_of_a_cid_are_one_block(blocks):
    folder = blocks.folder()
    old = CID(DAG_PB, folder.digest, version=0)
    blocks[old] = blocks[folder]
    root = blocks.folder(new=folder, old=old)
    assert cids_of(blocks, root) == [root, folder]


def test_a_block_of_one_identity_is_not_given_but_followed(blocks):
    leaf = blocks.put(b"leaf")
    inline = CID(DAG_CBOR, dagcbor.encode([leaf]), IDENTITY)
    root = blocks.document([inline])
    assert cids_of(blocks, root) == [root, leaf]
    assert inline not in blocks.asked


def test_several_roots_share_one_walk(blocks):
    leaf = blocks.put(b"leaf")
    roots = [blocks.document([leaf, number]) for number in range(3)]
    walk = Walk(blocks.fetch)
    assert [cid for root in roots for cid, _ in walk.blocks(root)] == [roots[0], leaf, *roots[1:]]


def test_links_are_told_by_codec(blocks):
    leaf = blocks.put(b"leaf")
    assert dag.links_of(leaf, b"leaf") == []
    document = blocks.document([leaf, {"again": leaf}])
    folder = blocks.folder(one=leaf, two=document)
    assert dag.links_of(document, blocks[document]) == [leaf, leaf]
    assert dag.links_of(folder, blocks[folder]) == [leaf, document]


def test_a_folder_has_parts_and_a_document_only_names(blocks):
    leaf = blocks.put(b"leaf")
    document, folder = blocks.document([leaf]), blocks.folder(one=leaf)
    assert dag.parts_of(document, blocks[document]) == []
    assert dag.parts_of(folder, blocks[folder]) == [leaf]


@pytest.mark.parametrize(("code", "name"), [(0x0129, "dag-json"), (0x0200, "json"), (0x99, "unkn")])
def test_another_codec_is_refused_by_its_name(blocks, code, name):
    leaf = blocks.put(b"{}", code)
    root = blocks.document([leaf])
    with pytest.raises(StoreError, match=name):
        cids_of(blocks, root)
    assert cids_of(blocks, leaf, Scope.BLOCK) == [leaf]


@pytest.mark.parametrize("codec", [DAG_PB, DAG_CBOR])
@pytest.mark.parametrize("block", [b"\xff\xff", b"\x12\x05a", b"\xa1", b"\xd8\x2a\x41\x00"])
def test_a_malformed_block_is_refused(blocks, codec, block):
    root = blocks.put(block, codec)
    with pytest.raises(StoreError, match="malformed"):
        cids_of(blocks, root)


def test_a_missing_root_is_not_found_and_a_missing_part_says_what_is_incomplete(blocks):
    leaf = CID.of(b"never kept")
    with pytest.raises(NotFoundError):
        cids_of(blocks, leaf)
    root = blocks.document([leaf])
    with pytest.raises(StoreError, match=f"{root} is incomplete: its block {leaf}"):
        cids_of(blocks, root)


# -- limits ----------------------------------------------------------------------------------


def chain(blocks, depth):
    cid = blocks.put(b"end")
    for _ in range(depth):
        cid = blocks.document([cid])
    return cid


def test_depth_is_bounded(blocks):
    root = chain(blocks, 20)
    assert len(cids_of(blocks, root, limits=Limits(depth=20))) == 21
    with pytest.raises(StoreError, match="deeper than 19 levels"):
        cids_of(blocks, root, limits=Limits(depth=19))


def test_a_chain_of_ten_thousand_needs_no_deep_stack(blocks):
    assert len(cids_of(blocks, chain(blocks, 10_000), limits=Limits(depth=10_000))) == 10_001


def test_blocks_and_bytes_are_bounded(blocks):
    root = blocks.file(leaves(blocks, 9))
    size = len(blocks[root]) + 90
    assert len(cids_of(blocks, root, limits=Limits(blocks=10, size=size))) == 10
    with pytest.raises(StoreError, match="more than 9 blocks"):
        cids_of(blocks, root, limits=Limits(blocks=9))
    with pytest.raises(StoreError, match="bytes of blocks"):
        cids_of(blocks, root, limits=Limits(size=size - 1))


def test_links_without_end_are_bounded_before_they_take_memory(blocks):
    leaf = blocks.put(b"leaf")
    wide = blocks.document([leaf] * 1000)
    with pytest.raises(StoreError, match="more than 900 blocks"):
        cids_of(blocks, wide, limits=Limits(blocks=900))


def test_a_tree_that_doubles_at_each_level_is_small_once_and_bounded_when_repeated(blocks):
    cid = blocks.put(b"bomb")
    for _ in range(60):
        cid = blocks.document([cid, cid])
    assert len(cids_of(blocks, cid)) == 61
    with pytest.raises(StoreError, match="more than 5,000 blocks"):
        cids_of(blocks, cid, duplicates=True, limits=Limits(blocks=5000))


def test_a_file_that_doubles_at_each_level_is_bounded_for_any_range(blocks):
    cid, size = blocks.put(b"x"), 1
    for _ in range(40):
        cid, size = blocks.file([(cid, size), (cid, size)]), size * 2
    for span in (Span(0), Span(1, size - 2), Span(size // 3, size // 2)):
        assert len(cids_of(blocks, cid, span=span, limits=Limits(blocks=300))) == 41


# -- scopes ----------------------------------------------------------------------------------


def test_an_entity_is_a_file_or_the_listing_of_a_folder(blocks):
    parts = leaves(blocks, 3)
    file = blocks.file(parts)
    folder = blocks.folder(file=file)
    document = blocks.document({"folder": folder})
    below = [cid for cid, _ in parts]
    assert cids_of(blocks, file, Scope.ENTITY) == [file, *below]
    assert cids_of(blocks, folder, Scope.ENTITY) == [folder]
    assert cids_of(blocks, document, Scope.ENTITY) == [document]
    assert cids_of(blocks, parts[0][0], Scope.ENTITY) == [parts[0][0]]
    assert cids_of(blocks, document, Scope.BLOCK) == [document]
    assert cids_of(blocks, document, Scope.ALL) == [document, folder, file, *below]


@pytest.mark.parametrize(("fanout", "digits"), [(256, "AB"), (16, "C"), (1024, "3FF")])
def test_an_entity_is_all_shards_of_a_folder_and_none_of_its_files(blocks, fanout, digits):
    message = Message(SHARD_TYPE, data=b"\x01", hash_type=0x22, fanout=fanout)
    file = blocks.put(b"file")
    shard = blocks.node([Link(file, 0, digits + "name")], message)
    root = blocks.node([Link(file, 0, digits + "other"), Link(shard, 0, digits)], message)
    assert cids_of(blocks, root, Scope.ENTITY) == [root, shard]
    assert cids_of(blocks, root, span=Span(0, 5)) == [root, shard]


def test_a_dag_pb_block_that_is_no_unixfs_is_an_entity_alone(blocks):
    leaf = blocks.put(b"leaf")
    root = blocks.put(dagpb.encode(PBNode((Link(leaf, 4, "x"),), b"\xff\xff")), DAG_PB)
    assert cids_of(blocks, root, Scope.ENTITY) == [root]
    assert cids_of(blocks, root) == [root, leaf]


@pytest.fixture
def tree(blocks):
    """Return a file of 61 bytes: one in its root, and two nodes of three leaves of ten."""
    parts = leaves(blocks, 6)
    left, right = blocks.file(parts[:3]), blocks.file(parts[3:])
    root = blocks.file([(left, 30), (right, 30)], data=b"!")
    return root, left, right, [cid for cid, _ in parts]


def needed(tree, first, last):
    """Return the blocks with these bytes, found the slow way."""
    root, left, right, parts = tree
    touched = [i for i in range(6) if first <= 10 * i + 10 and last >= 10 * i + 1]
    order = [root]
    for node, numbers in ((left, range(3)), (right, range(3, 6))):
        own = [parts[i] for i in numbers if i in touched]
        order += [node, *own] if own else []
    return order


def test_a_span_gives_the_fewest_blocks_that_hold_its_bytes(blocks, tree):
    for first in range(61):
        for last in sorted({first, min(first + 1, 60), min(first + 10, 60), 59, 60}):
            if last < first:
                continue
            expected = needed(tree, first, last)
            assert cids_of(blocks, tree[0], span=Span(first, last)) == expected
            assert cids_of(blocks, tree[0], span=Span(first - 61, last)) == expected
            if last < 60:
                assert cids_of(blocks, tree[0], span=Span(first, last - 61)) == expected


def test_a_span_reads_nothing_outside_itself(blocks, tree):
    cids_of(blocks, tree[0], span=Span(35, 35))
    assert blocks.asked == needed(tree, 35, 35)


@pytest.mark.parametrize(
    ("text", "bytes_of_it"),
    [
        ("0:*", range(61)),
        ("60:*", range(60, 61)),
        ("-5:*", range(56, 61)),
        ("-999:*", range(61)),
        ("0:999", range(61)),
        ("-999:-60", range(2)),
    ],
)
def test_a_span_may_go_beyond_the_file(blocks, tree, text, bytes_of_it):
    expected = needed(tree, bytes_of_it[0], bytes_of_it[-1])
    assert cids_of(blocks, tree[0], span=Span.parse(text)) == expected


@pytest.mark.parametrize("text", ["61:*", "5:4", "0:-62", "100:200", "-1:-2"])
def test_a_span_without_bytes_is_the_block_alone(blocks, tree, text):
    assert cids_of(blocks, tree[0], span=Span.parse(text)) == [tree[0]]


@pytest.mark.parametrize("text", ["", "1", "a:b", "*:5", "1:2:3", " 1:2", "1:", ":1", "1" * 30])
def test_a_span_that_is_none_is_refused(text):
    with pytest.raises(InvalidInputError, match="from:to"):
        Span.parse(text)


def test_the_same_part_at_two_places_is_followed_for_each(blocks):
    parts = leaves(blocks, 2)
    half = blocks.file(parts)
    root = blocks.file([(half, 20), (half, 20)])
    # The end of the first half is its second leaf, the beginning of the second its first leaf.
    assert cids_of(blocks, root, span=Span(19, 20)) == [root, half, parts[1][0], parts[0][0]]


def test_the_size_of_a_file_is_told_by_its_root(blocks, tree):
    assert dag.file_size(tree[0], blocks[tree[0]]) == 61
    assert dag.file_size(tree[3][0], b"0123456789") == 10
    folder = blocks.folder()
    assert dag.file_size(folder, blocks[folder]) is None


def test_a_file_whose_sizes_do_not_fit_its_links_is_refused(blocks):
    leaf = blocks.put(b"leaf")
    root = blocks.node([Link(leaf, 4), Link(leaf, 4)], Message(FILE_TYPE, 4, (4,)))
    for span in (None, Span(0, 2)):
        with pytest.raises(StoreError, match="2 links and 1 sizes"):
            cids_of(blocks, root, Scope.ENTITY, span)


@given(st.binary(max_size=80), st.sampled_from([RAW, DAG_PB, DAG_CBOR]), st.sampled_from(Scope))
def test_any_bytes_have_links_or_are_refused(block, codec, scope):
    cid = CID.of(block, codec)
    for span in (None, Span(0, 5), Span(-3)):
        try:
            links = dag.following(scope, span)(cid, block)
            size = dag.file_size(cid, block)
        except StoreError:
            continue
        assert all(isinstance(link, CID) for link, _ in links)
        assert size is None or codec != DAG_CBOR
