"""Folders and symlinks as blocks."""

from dataclasses import replace

import pytest

from neuronexus_kernel.content import dagpb
from neuronexus_kernel.content.dagpb import Link
from neuronexus_kernel.content.directory import build_folder, check_name, symlink
from neuronexus_kernel.content.unixfs import (
    DIRECTORY_TYPE,
    SHARD_TYPE,
    SYMLINK_TYPE,
    V0,
    V1,
    build_leaf,
    decode_message,
)
from neuronexus_kernel.errors import ContentError


def block_of(links, profile=V1):
    blocks = {}
    built = build_folder(links, lambda cid, block: blocks.update({cid: block}), profile)
    return built, blocks[built.cid]


def test_entries_are_sorted_by_the_bytes_of_their_names():
    names = ["b", "a.txt", "a", "Z", "é", "\U0001f40d", "ﬀ", "a/"[:1] + "-"]
    leaf = build_leaf(b"x")
    built, block = block_of([leaf.link(name) for name in names])
    node = dagpb.decode(block)
    assert [link.name for link in node.links] == sorted(names, key=str.encode)
    assert decode_message(node.data).kind == DIRECTORY_TYPE
    assert built.total == built.size == len(block) + len(names)


def test_the_order_of_the_entries_does_not_matter():
    links = [build_leaf(bytes([number])).link(f"{number:x}") for number in range(40)]
    for profile in (V0, V1, replace(V1, threshold=0), replace(V0, threshold=0)):
        one, other = build_folder(links, None, profile), build_folder(links[::-1], None, profile)
        assert one == other


@pytest.mark.parametrize("base", [V0, V1], ids=lambda profile: profile.name)
def test_a_folder_just_as_large_as_is_allowed_is_not_sharded(base):
    links = [build_leaf(b"x", None, base).link(f"name-{number}") for number in range(50)]
    _, block = block_of(links, base)
    size = len(block)
    if base.measure == "links-bytes":
        size = sum(len(link.name) + len(bytes(link.cid)) for link in links)
    for threshold, kind in ((size, DIRECTORY_TYPE), (size - 1, SHARD_TYPE)):
        _, block = block_of(links, replace(base, threshold=threshold))
        assert decode_message(dagpb.decode(block).data).kind == kind


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0", None, "\ud800"])
def test_what_cannot_be_a_name_is_refused(name):
    with pytest.raises(ContentError):
        build_folder([Link(build_leaf(b"x").cid, 1, name)])


def test_odd_names_are_names():
    for name in ("...", " ", "-rf", "a\\b", "\n", "~", "CON", ".hidden", "é" * 100):
        assert check_name(name) == name


@pytest.mark.parametrize("profile", [V1, replace(V1, threshold=0)])
def test_a_name_that_is_there_twice_is_refused(profile):
    link = build_leaf(b"x").link("same")
    with pytest.raises(ContentError, match="same"):
        build_folder([link, build_leaf(b"y").link("other"), link], None, profile)


def test_a_symlink_holds_its_target_whatever_its_bytes():
    for target in (b"foo", b"../x", b"/etc/passwd", b"\xff\xfe"):
        blocks = {}
        built = symlink(target, lambda cid, block, kept=blocks: kept.update({cid: block}))
        node = dagpb.decode(blocks[built.cid])
        message = decode_message(node.data)
        assert (message.kind, message.data, node.links) == (SYMLINK_TYPE, target, ())
        assert (built.size, built.total) == (len(target), len(blocks[built.cid]))


@pytest.mark.parametrize("target", [b"", b"a\0b"])
def test_a_symlink_to_nowhere_is_refused(target):
    with pytest.raises(ContentError):
        symlink(target)
