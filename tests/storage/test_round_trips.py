"""Whatever tree is imported, that tree is exported."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content import unixfs
from neuronexus_kernel.content.unixfs import V0, V1
from neuronexus_kernel.storage import cid_of, exporter, folders
from neuronexus_kernel.storage.importer import add_tree
from neuronexus_kernel.storage.unixfs import content

# Profiles under which a few bytes and a few names make large trees.
TINY = [
    replace(V1, name="tiny-v1", chunk=7, links=3, threshold=150, fanout=8),
    replace(V0, name="tiny-v0", chunk=5, links=2, threshold=60, fanout=16),
]

NAMES = st.one_of(
    st.sampled_from(["a", "b", ".hidden", "-rf", "...", "é", "e\u0301", "\U0001f40d", "x y", "\n"]),
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20),
).filter(lambda name: name not in (".", ".."))
SYMLINKS = st.lists(NAMES, min_size=1, max_size=3).map("/".join).map(lambda path: ("->", path))
TREES = st.recursive(
    st.binary(max_size=120) | SYMLINKS,
    lambda below: st.dictionaries(NAMES, below, max_size=12),
    max_leaves=30,
)


@pytest.fixture(scope="module", autouse=True)
def _tiny_profiles():
    unixfs.PROFILES.update({profile.name: profile for profile in TINY})
    yield
    for profile in TINY:
        del unixfs.PROFILES[profile.name]


def write(path, tree):
    if isinstance(tree, bytes):
        path.write_bytes(tree)
    elif isinstance(tree, tuple):
        path.symlink_to(tree[1])
    else:
        path.mkdir()
        for name, below in tree.items():
            write(path / name, below)


def read(path):
    if path.is_symlink():
        return ("->", os.readlink(path))
    if path.is_file():
        return path.read_bytes()
    return {below.name: read(below) for below in path.iterdir()}


def listed(fetch, cid):
    """Read a tree through the listings, without the exporter."""
    about = folders.stat(fetch, cid)
    if about.kind == "folder":
        return {entry.name: listed(fetch, entry.cid) for entry in folders.entries(fetch, cid)}
    if about.kind == "symlink":
        return ("->", folders.target_of(fetch, cid).decode())
    whole = content(fetch, cid)
    assert len(whole) == about.size
    return whole


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(NAMES, TREES, max_size=12) | st.binary(max_size=300),
    st.sampled_from(["tiny-v1", "tiny-v0", "unixfs-v1-2025", "unixfs-v0-2015"]),
)
def test_any_tree_comes_back(tree, profile):
    blocks = {}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        write(source, tree)
        cid = add_tree(
            source, lambda cid, b: blocks.update({cid: bytes(b)}), profile=profile, hidden=True
        )
        assert all(one.matches(block) for one, block in blocks.items())
        assert exporter.download(blocks.__getitem__, cid, target) == target
        assert read(target) == tree
        assert listed(blocks.__getitem__, cid) == tree
        assert cid_of(target, profile=profile, hidden=True) == cid
        assert sorted(os.listdir(folder)) == ["source", "target"]
