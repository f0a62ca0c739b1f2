"""Real Kubo beside us (its library, in a child process): the profile unixfs-v0-2015 is its own.

Kubo 0.22 shards a folder from 256 KiB of names and CIDs on, the profile only above: at that one
size they differ (boxo pull request 1088 changed Kubo), and the vectors of IPIP-499 decide.
"""

import os
import random

import pytest

from neuronexus_kernel.content import CID
from neuronexus_kernel.content.unixfs import V0
from neuronexus_kernel.storage import cid_of, exporter, folders
from neuronexus_kernel.storage.importer import add_tree
from neuronexus_kernel.storage.unixfs import content

KIB, MIB = 1024, 1024 * 1024
ROW = V0.links * V0.chunk  # what one node holds: 43.5 MiB

SIZES = {
    "empty": 0,
    "1 byte": 1,
    "127 bytes": 127,
    "128 bytes": 128,
    "16383 bytes": 16_383,
    "16384 bytes": 16_384,
    "a chunk less 1": V0.chunk - 1,
    "a chunk": V0.chunk,
    "a chunk and 1": V0.chunk + 1,
    "two chunks less 1": 2 * V0.chunk - 1,
    "two chunks": 2 * V0.chunk,
    "two chunks and 1": 2 * V0.chunk + 1,
    "1 MiB": MIB,
    "all links of a node less 1": ROW - 1,
    "all links of a node": ROW,
    "all links of a node and 1": ROW + 1,
    "a second row and 1": ROW + V0.chunk + 1,
    "50 MB": 50_000_000,
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_files(kubo, tmp_path, size):
    path = tmp_path / "file"
    with path.open("wb") as file:
        rng = random.Random(size)
        for start in range(0, size, 8 * MIB):
            file.write(rng.randbytes(min(8 * MIB, size - start)))
    assert str(cid_of(path, profile=V0.name)) == kubo.cid_of(path)


@pytest.mark.long
@pytest.mark.parametrize("change", [0, 1])
def test_a_sparse_file_of_three_levels(kubo, tmp_path, change):
    """7.4 GiB are as much as two levels hold; one byte more needs a third."""
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, V0.links * ROW + change)
    assert str(cid_of(path, profile=V0.name)) == kubo.cid_of(path, timeout=250)


def small_files(path, names):
    path.mkdir()
    for number, name in enumerate(names):
        (path / name).write_text(f"file {number}")


def nested(path):
    (path / "a" / "b" / "c").mkdir(parents=True)
    (path / "a" / "b" / "c" / "deep").write_text("deep")
    (path / "a" / "text").write_text("text")
    (path / "big").write_bytes(random.Random(1).randbytes(MIB + 5))


def empty_folders(path):
    (path / "empty" / "emptier").mkdir(parents=True)
    (path / "other").mkdir()


def symlinks(path):
    (path / "folder").mkdir(parents=True)
    (path / "folder" / "file").write_text("file")
    (path / "to-file").symlink_to("folder/file")
    (path / "to-folder").symlink_to("folder")
    (path / "dangling").symlink_to("../nowhere")
    (path / "absolute").symlink_to("/etc/hostname")
    (path / "folder" / "é").symlink_to("ü" * 100)


def odd_names(path):
    plain = ["a", "a b", "a+b", "a%2Cb", "A", "-x", "\n", "~", "a.", "#", "x" * 255]
    other = ["é", "e\u0301", "ü.txt", "日本語", "\U0001f40d", "ﬀ", "\uffff", "é" * 127]
    small_files(path, [*plain, *other, "Portugal%2C+España=Ibérica"])


def shared_prefixes(path):
    small_files(path, [f"{'p' * 200}{number}" for number in range(50)])


def equal_files(path):
    path.mkdir()
    for number in range(100):
        (path / f"{number}").write_text("the same")


def just_below_the_threshold(path):
    """1,023 entries of 222 characters: each counts 256 bytes, and one more would reach it."""
    small_files(path, [f"{number:0222d}" for number in range(1023)])


def just_above_the_threshold(path):
    """1,417 entries of 151 characters: one byte more than the threshold."""
    small_files(path, [f"{number:0151d}" for number in range(1417)])


def six_thousand_entries(path):
    small_files(path, [f"entry-{number}" for number in range(6000)])


def unicode_entries_sharded(path):
    small_files(path, [f"{'ü' * 100}-{number}" for number in range(1300)])


def sharded_with_folders(path):
    """Sharded, with a folder, a symlink and a large file among its entries, and sharded inside."""
    small_files(path, [f"{number:0250d}" for number in range(1000)])
    small_files(path / "inner", [f"{number:0250d}" for number in range(950)])
    (path / "link").symlink_to("inner")
    (path / "big").write_bytes(random.Random(2).randbytes(MIB))


FOLDERS = [
    nested,
    empty_folders,
    symlinks,
    odd_names,
    shared_prefixes,
    equal_files,
    just_below_the_threshold,
    just_above_the_threshold,
    six_thousand_entries,
    unicode_entries_sharded,
    sharded_with_folders,
]


def no_entries(path):
    path.mkdir()


def one_entry(path):
    small_files(path, ["only"])


@pytest.mark.parametrize("make", [no_entries, one_entry, *FOLDERS], ids=lambda make: make.__name__)
def test_folders(kubo, tmp_path, make):
    path = tmp_path / "folder"
    make(path)
    assert str(cid_of(path, profile=V0.name)) == kubo.cid_of(path)


def test_hidden_entries_where_they_are_asked_for(kubo, tmp_path):
    """The library always adds them; the command asks for them with --hidden."""
    path = tmp_path / "folder"
    small_files(path, [".hidden", "..data", "plain"])
    small_files(path / ".git", ["config", ".inner"])
    assert str(cid_of(path, profile=V0.name, hidden=True)) == kubo.cid_of(path)


def test_at_the_threshold_kubo_is_older_than_the_profile(kubo, tmp_path):
    path = tmp_path / "folder"
    small_files(path, [f"{number:0222d}" for number in range(1024)])
    assert str(cid_of(path, profile=V0.name)) != kubo.cid_of(path)


def a_tree_of_all_kinds(path):
    nested(path)
    small_files(path / "many", [f"{number:0250d}" for number in range(950)])


@pytest.mark.parametrize("profile", ["unixfs-v0-2015", "unixfs-v1-2025"])
def test_what_we_made_kubo_reads(kubo, memory, tmp_path, profile):
    """Our blocks, laid into Kubo's repository, come out as the files they were."""
    source, target = tmp_path / "source", tmp_path / "target"
    a_tree_of_all_kinds(source)
    cid = add_tree(source, memory.put, profile=profile)
    for one, block in memory.blocks.items():
        kubo.put_block(one, block)
    kubo.download(cid, target)
    assert cid_of(target, profile=profile) == cid


def test_what_kubo_made_we_read(kubo, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    nested(source)
    symlinks(source / "links")
    cid = CID.parse(kubo.add(source))
    exporter.download(kubo.block, cid, target, outside=True)
    assert str(cid_of(target, profile=V0.name)) == str(cid)
    assert os.readlink(target / "links" / "to-folder") == "folder"
    found = folders.resolve(kubo.block, f"{cid}/links/to-folder/file")
    assert content(kubo.block, found) == b"file"
