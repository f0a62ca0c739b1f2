"""Blocks of a stranger: whatever they hold, reading them ends, in bytes or in an error of ours."""

import random
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import CID, dagpb, unixfs
from neuronexus_kernel.content.cid import DAG_CBOR, DAG_PB, IDENTITY, RAW
from neuronexus_kernel.content.dagpb import Link, PBNode
from neuronexus_kernel.content.directory import build_folder, symlink
from neuronexus_kernel.content.hamt import bucket, murmur3
from neuronexus_kernel.content.unixfs import V0, V1, Message, build_file, chunks_of
from neuronexus_kernel.errors import ContentError, NotFoundError, StoreError
from neuronexus_kernel.storage import exporter, folders
from neuronexus_kernel.storage.exporter import Limits
from neuronexus_kernel.storage.unixfs import FileReader, content, read, size_of

OURS = (StoreError, ContentError, NotFoundError)
LIMIT = 10_000


def outcome(action):
    """Return what an action gives, or the kind of our error that it raises; no other may come."""
    try:
        return action()
    except OURS as error:
        return type(error)


def look_at_everything(fetch, cid):
    """Ask all that one can ask of a CID; what is told in two ways must be the same."""
    about = outcome(lambda: folders.stat(fetch, cid))
    whole = outcome(lambda: content(fetch, cid, limit=LIMIT))
    if isinstance(whole, bytes):
        assert about.size == len(whole) == size_of(fetch, cid)
        assert FileReader(fetch, cid).read() == whole
        assert b"".join(read(fetch, cid, 3, 20)) == whole[3:20]
        assert content(fetch, cid, limit=LIMIT, ahead=2) == whole
    listed = outcome(lambda: list(folders.entries(fetch, cid, limit=100)))
    if isinstance(listed, list):
        assert about.kind == "folder"
        assert len({entry.name for entry in listed}) == len(listed)
        for entry in listed[:5]:
            assert folders.resolve(fetch, f"{cid}/{entry.name}") == entry.cid
    outcome(lambda: folders.target_of(fetch, cid))
    for path in ("a", "a/b", "b/../a/c", "x" * 50):
        outcome(lambda path=path: folders.resolve(fetch, f"{cid}/{path}", follow=True))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "target")
        limits = Limits(entries=100, size=LIMIT, depth=20)
        where = outcome(lambda: exporter.download(fetch, cid, target, limits=limits))
        assert list(Path(folder).iterdir()) == ([target] if where == target else [])
        if where == target and isinstance(whole, bytes):
            assert target.read_bytes() == whole


def fetching(blocks):
    def fetch(cid):
        try:
            return blocks[cid]
        except KeyError:
            raise NotFoundError(f"There is no {cid}.") from None

    return fetch


def samples():
    """Trees of all kinds; the root and all blocks of each."""
    data = random.Random(0).randbytes(150)
    for base in (V0, V1):
        for threshold in (0, 10**6):
            profile = replace(base, chunk=11, links=4, threshold=threshold)
            blocks = {}

            def put(cid, block, blocks=blocks):
                blocks[cid] = bytes(block)

            file = build_file(chunks_of(data, 11), put, profile)
            small = build_file([b"small"], put, profile)
            inner = build_folder(
                [small.link(f"n{number}") for number in range(20)]
                + [symlink(b"n1", put, profile).link("link")],
                put,
                profile,
            )
            links = [file.link("a"), inner.link("b"), small.link("c")]
            folder = build_folder(links, put, profile)
            yield file.cid, blocks
            yield folder.cid, blocks


SAMPLES = list(samples())


@pytest.mark.parametrize(("root", "blocks"), SAMPLES)
def test_a_flipped_byte_in_any_block_is_found(root, blocks, tmp_path):
    """Through a `fetch` that verifies, as those of all stores do."""
    rng = random.Random(1)
    total = exporter.download(fetching(blocks), root, tmp_path / "whole")
    files = [total] if total.is_file() else sorted(total.rglob("*"))
    assert files
    reached = set()

    def honest(cid):
        reached.add(cid)
        return blocks[cid]

    exporter.download(honest, root, tmp_path / "reached")
    for number, damaged in enumerate(sorted(reached)):
        block = bytearray(blocks[damaged])
        block[rng.randrange(len(block))] ^= 1 << rng.randrange(8)

        def fetch(cid, damaged=damaged, block=bytes(block)):
            found = block if cid == damaged else blocks[cid]
            if not cid.matches(found):
                raise StoreError(f"Block {cid} is corrupt.")
            return found

        with pytest.raises(StoreError, match="corrupt"):
            exporter.download(fetch, root, tmp_path / f"{number}")
        assert not (tmp_path / f"{number}").exists()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_changed_blocks_are_read_or_refused(sample, data):
    """Through a `fetch` that does not verify: so the change comes as deep as can be."""
    root, blocks = sample
    damaged = data.draw(st.sampled_from(sorted(blocks)))
    block = bytearray(blocks[damaged])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(block)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "copy"])):
            case "flip" if at < len(block):
                block[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del block[at : at + data.draw(st.integers(1, 9))]
            case "insert":
                block[at:at] = data.draw(st.binary(min_size=1, max_size=9))
            case "copy":
                block[at:at] = block[: data.draw(st.integers(1, 60))]
    look_at_everything(fetching({**blocks, damaged: bytes(block)}), root)


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([DAG_PB, RAW, DAG_CBOR, 0x0129, 1 << 40]))
def test_any_bytes_are_read_or_refused(block, codec):
    cid = CID.of(block, codec)
    look_at_everything(fetching({cid: block}), cid)
    if len(block) <= 128:
        look_at_everything(fetching({}), CID(codec, block, IDENTITY))


NAMES = st.sampled_from(["a", "b", "c", "", "..", "a/b", "00", "00a", "FFa", "00\0"]) | st.none()
SIZES = st.sampled_from([0, 1, 4, 5, 9, 2**40])


@st.composite
def hostile_trees(draw):
    """Well-formed blocks that link to one another as they like, many to the same."""
    blocks, made = {}, [(CID.of(b"leaf"), 4), (CID(RAW, b"inl", IDENTITY), 3)]
    blocks[made[0][0]] = b"leaf"
    for _ in range(draw(st.integers(1, 9))):
        kind = draw(st.sampled_from([0, 1, 1, 2, 2, 3, 4, 5, 5]))
        links, sizes = [], []
        for _ in range(draw(st.integers(0, 5))):
            cid, size = draw(st.sampled_from(made))
            sizes.append(size if draw(st.booleans()) else draw(SIZES))
            links.append(Link(cid, draw(SIZES | st.none()), draw(NAMES)))
        data = draw(st.sampled_from([b"", b"data", b"a/b", b"..", b"/etc", b"\0", b"\1", b"\x80"]))
        fields = {}
        if kind == 5:
            fields = {
                "hash_type": draw(st.sampled_from([0x22, 0x22, 0x22, 0x12, None])),
                "fanout": draw(st.sampled_from([8, 256, 256, 1024, 7, 0, None])),
            }
            if draw(st.booleans()):
                links, data = in_places(links, fields["fanout"] or 8, draw(st.integers(0, 2)))
        if kind not in (0, 2) or draw(st.booleans()):
            sizes = []
        total = len(data) + sum(sizes)
        if draw(st.integers(0, 9)) == 0:
            total = draw(SIZES)
        message = unixfs.encode_message(Message(kind, total, tuple(sizes), data, **fields))
        block = dagpb.encode(PBNode(tuple(links), message))
        cid = CID.of(block, DAG_PB)
        blocks[cid] = block
        made.append((cid, total))
    return made[-1][0], blocks


def in_places(links, fanout, depth):
    """Give links names under which a shard at some depth could hold them."""
    if fanout not in (8, 256, 1024):
        return links, b"\1"
    placed, width = {}, len(f"{fanout - 1:X}")
    for link in links:
        name = link.name if link.name in ("a", "b", "c") else ""
        index = bucket(murmur3(name.encode()), depth, fanout) if name else len(placed)
        placed[index] = replace(link, name=f"{index:0{width}X}{name}")
    field = sum(1 << index for index in placed)
    return [placed[index] for index in sorted(placed)], field.to_bytes(
        (field.bit_length() + 7) // 8
    )


@settings(max_examples=120, deadline=None)
@given(hostile_trees())
def test_trees_that_lie_are_read_or_refused(tree):
    root, blocks = tree
    look_at_everything(fetching(blocks), root)


@pytest.mark.long
@settings(max_examples=5_000, deadline=None)
@given(hostile_trees())
def test_many_trees_that_lie_are_read_or_refused(tree):
    root, blocks = tree
    look_at_everything(fetching(blocks), root)
