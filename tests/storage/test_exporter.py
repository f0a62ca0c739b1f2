"""Writing content to disk."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from neuronexus_kernel.content import CID, dagcbor, dagpb, unixfs
from neuronexus_kernel.content.cid import DAG_CBOR
from neuronexus_kernel.content.dagpb import Link, PBNode
from neuronexus_kernel.content.directory import build_folder, symlink
from neuronexus_kernel.content.unixfs import V0, V1, Message, build_leaf
from neuronexus_kernel.errors import ConflictError, ContentError, NotFoundError, StoreError
from neuronexus_kernel.storage import exporter
from neuronexus_kernel.storage.exporter import Limits
from neuronexus_kernel.storage.importer import add_tree

MIB = 1024 * 1024
BIG = random.Random(0).randbytes(3 * MIB + 17)


@pytest.fixture
def download(memory):
    return lambda cid, target, **options: exporter.download(memory.fetch, cid, target, **options)


def folder(memory, profile=V1, **entries):
    return build_folder([one.link(name) for name, one in entries.items()], memory.put, profile)


def file(memory, data=b"text"):
    return build_leaf(data, memory.put)


def listing(path):
    return sorted(str(one.relative_to(path)) for one in path.rglob("*"))


@pytest.mark.parametrize("profile", ["unixfs-v0-2015", "unixfs-v1-2025"])
def test_a_file_is_written(memory, download, tmp_path, profile):
    for data in (b"", b"text", BIG):
        cid = add_tree(data, memory.put, profile=profile)
        told = []
        target = tmp_path / "new" / f"{len(data)}"
        assert download(cid, target, progress=told.append) == target
        assert target.read_bytes() == data
        assert sum(told) == len(data)
    assert len(listing(tmp_path / "new")) == 3


@pytest.mark.parametrize("profile", [V0, V1, replace(V1, threshold=0)])
def test_a_folder_is_written(memory, download, tmp_path, profile):
    inner = folder(memory, profile, text=file(memory), up=symlink(b"../empty", memory.put))
    cid = folder(
        memory,
        profile,
        inner=inner,
        empty=folder(memory, profile),
        link=symlink(b"inner/text", memory.put),
        dangling=symlink(b"inner/nothing", memory.put),
    ).cid
    target = download(cid, tmp_path / "out")
    assert listing(target) == ["dangling", "empty", "inner", "inner/text", "inner/up", "link"]
    assert (target / "link").read_text() == "text"
    assert os.readlink(target / "inner" / "up") == "../empty"
    assert os.readlink(target / "dangling") == "inner/nothing"
    assert os.listdir(tmp_path) == ["out"]


def test_permissions_are_those_of_new_files(memory, download, tmp_path):
    old = os.umask(0o027)
    try:
        target = download(folder(memory, text=file(memory)).cid, tmp_path / "out")
        alone = download(file(memory).cid, tmp_path / "alone")
    finally:
        os.umask(old)
    modes = [path.stat().st_mode & 0o777 for path in (target, target / "text", alone)]
    assert modes == [0o750, 0o640, 0o640]


def test_in_a_folder_that_exists_content_lies_under_its_name(memory, download, tmp_path):
    cid = file(memory).cid
    assert download(cid, tmp_path) == tmp_path / str(cid)
    assert download(cid, tmp_path, name="name") == tmp_path / "name"
    for wrong in ("..", "a/b", "."):
        with pytest.raises(ContentError):
            download(cid, tmp_path, name=wrong)
    with pytest.raises(ConflictError, match="name exists already"):
        download(cid, tmp_path, name="name")


def test_a_document_is_written_as_its_bytes(memory, download, tmp_path):
    block = dagcbor.encode({"a": 1})
    assert download(memory.keep(block, DAG_CBOR), tmp_path / "d").read_bytes() == block


def test_each_block_is_fetched_once(memory, download, tmp_path):
    cid = folder(memory, a=file(memory, b"a"), b=file(memory, b"b"), c=folder(memory)).cid
    download(cid, tmp_path / "out")
    assert len(memory.asked) == len(set(memory.asked)) == 4


# Nothing is overwritten


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling symlink"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_exists_is_not_overwritten(memory, download, tmp_path, kind, what):
    cid = (file(memory) if what == "file" else folder(memory, text=file(memory))).cid
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("precious")
    else:
        target.symlink_to(tmp_path / "elsewhere")
        if kind == "symlink":
            (tmp_path / "elsewhere").mkdir()
    before = listing(tmp_path)
    with pytest.raises(ConflictError, match="exists already"):
        download(cid, target)
    assert listing(tmp_path) == before
    assert not memory.asked


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_appears_meanwhile_is_not_overwritten(memory, download, tmp_path, what):
    cid = (file(memory) if what == "file" else folder(memory, text=file(memory))).cid
    target = tmp_path / "target"
    with pytest.raises(ConflictError):
        download(cid, target, progress=lambda count: target.write_text("precious"))
    assert target.read_text() == "precious"
    assert os.listdir(tmp_path) == ["target"]


def test_where_files_cannot_be_linked_they_are_moved(memory, download, tmp_path, monkeypatch):
    def unable(*arguments, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(exporter.os, "link", unable)
    target = download(file(memory).cid, tmp_path / "a")
    assert target.read_text() == "text"
    with pytest.raises(ConflictError):
        download(file(memory).cid, target)


# Whole or not at all


def test_an_incomplete_folder_leaves_nothing(memory, download, tmp_path):
    missing = CID.of(b"never")
    cid = build_folder([file(memory).link("a"), Link(missing, 5, "b")], memory.put).cid
    with pytest.raises(StoreError, match=f"{cid} is incomplete.*{missing}"):
        download(cid, tmp_path / "out")
    with pytest.raises(NotFoundError):
        download(missing, tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConnectionError, StoreError])
def test_an_interrupted_download_leaves_nothing(memory, download, tmp_path, error):
    cid = add_tree(BIG, memory.put)

    def interrupt(count):
        raise error("stop")

    for root in (cid, build_folder([Link(cid, 1, "a")], memory.put).cid):
        with pytest.raises(error):
            download(root, tmp_path / "out", progress=interrupt)
    assert os.listdir(tmp_path) == []


KILLED = """
import sys, time
from pathlib import Path
from neuronexus_kernel.content.unixfs import build_leaf
from neuronexus_kernel.content.directory import build_folder
from neuronexus_kernel.storage.exporter import download
blocks = {}
put = lambda cid, block: blocks.update({cid: block})
links = [build_leaf(b"%d" % number, put).link(str(number)) for number in range(50)]
cid = build_folder(links, put).cid
def fetch(asked):
    print(flush=True)
    time.sleep(0.1 if asked != cid else 0)
    return blocks[asked]
download(fetch, cid, Path(sys.argv[1]))
"""


def test_a_killed_download_leaves_no_target_and_its_remains_are_removed(memory, download, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "out")], stdout=subprocess.PIPE
    )
    for _ in range(5):
        child.stdout.readline()
    # While it writes, another download beside it leaves it alone.
    download(file(memory).cid, tmp_path / "beside")
    assert len(os.listdir(tmp_path)) == 2
    child.send_signal(signal.SIGKILL)
    child.communicate()
    (remains,) = set(os.listdir(tmp_path)) - {"beside"}
    assert remains.startswith(".neuronexus-download-")
    assert not (tmp_path / "out").exists()
    assert download(file(memory).cid, tmp_path / "out").read_text() == "text"
    assert sorted(os.listdir(tmp_path)) == ["beside", "out"]


def test_a_full_disk_is_explained(memory, download, tmp_path, monkeypatch):
    cid = folder(memory, a=file(memory, b"x" * 1000)).cid
    full = SimpleNamespace(f_bavail=0, f_frsize=4096)
    with monkeypatch.context() as patch:
        patch.setattr(exporter.os, "fstatvfs", lambda handle: full)
        with pytest.raises(StoreError, match="no room"):
            download(cid, tmp_path / "out")

    def no_more(handle, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(exporter.os, "write", no_more)
        with pytest.raises(StoreError, match="no room"):
            download(cid, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_names_that_the_file_system_does_not_take_are_explained(memory, download, tmp_path):
    cid = build_folder([file(memory).link("x" * 300)], memory.put).cid
    with pytest.raises(StoreError, match="longer"):
        download(cid, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="in the way"):
        download(cid, tmp_path / "file" / "out")
    assert os.listdir(tmp_path) == ["file"]


# Nothing leads out


def hostile(memory, *links):
    """A folder with links as they are, not as `build_folder` would allow them."""
    body = unixfs.encode_message(Message(1))
    return memory.keep(dagpb.encode(PBNode(tuple(links), body)))


@pytest.mark.parametrize("name", ["..", ".", "", "/tmp/x", "../x", "a/../../x", "a/b", "x\0"])
def test_names_cannot_lead_out(memory, download, tmp_path, name):
    leaf = file(memory).cid
    cid = hostile(memory, Link(leaf, 4, "ok"), Link(leaf, 4, name))
    with pytest.raises(StoreError, match="cannot be the name"):
        download(cid, tmp_path / "deep" / "out")
    with pytest.raises(StoreError, match="cannot be the name"):
        download(hostile(memory, Link(cid, 4, "inner")), tmp_path / "deep" / "out")
    assert listing(tmp_path) == ["deep"]


def test_a_symlink_and_a_folder_of_one_name_are_refused(memory, download, tmp_path):
    """The classic: a symlink to elsewhere, then a file "through" it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    link = symlink(os.fsencode(outside), memory.put)
    inner = folder(memory, planted=file(memory))
    for links in ([link, inner], [inner, link]):
        cid = hostile(memory, *(one.link("same") for one in links))
        with pytest.raises(StoreError, match="twice"):
            download(cid, tmp_path / "out", outside=True)
    assert listing(tmp_path) == ["outside"]


def test_where_two_names_are_one_nothing_is_opened_through_the_other(
    memory, download, tmp_path, monkeypatch
):
    """As on file systems that do not tell "a" from "A"; here names are folded on the way."""
    real_mkdir, real_symlink = os.mkdir, os.symlink

    def mkdir(path, *arguments, **options):
        lower = path.lower() if isinstance(path, str) else path
        return real_mkdir(lower, *arguments, **options)

    outside = tmp_path / "outside"
    outside.mkdir()
    cid = folder(
        memory, a=symlink(os.fsencode(outside), memory.put), A=folder(memory, x=file(memory))
    ).cid
    cid = hostile(memory, *reversed(dagpb.decode(memory.blocks[cid]).links))
    monkeypatch.setattr(exporter.os, "mkdir", mkdir)
    monkeypatch.setattr(exporter.os, "symlink", real_symlink)
    with pytest.raises(StoreError, match="for the same"):
        download(cid, tmp_path / "out", outside=True)
    assert listing(tmp_path) == ["outside"]


OUTSIDE = [b"/etc/passwd", b"..", b"../x", b"inner/../../x", b"inner/../x", b"./../x"]


@pytest.mark.parametrize("target", OUTSIDE)
def test_symlinks_that_lead_outside_are_refused_unless_allowed(memory, download, tmp_path, target):
    cid = folder(memory, link=symlink(target, memory.put), inner=folder(memory)).cid
    with pytest.raises(StoreError, match="outside"):
        download(cid, tmp_path / "out")
    assert os.listdir(tmp_path) == []
    out = download(cid, tmp_path / "out", outside=True)
    assert os.fsencode(os.readlink(out / "link")) == target


def test_symlinks_may_lead_up_to_the_top_and_no_further(memory, download, tmp_path):
    def nested(target):
        inner = folder(memory, link=symlink(target, memory.put))
        return folder(memory, a=folder(memory, b=inner), top=file(memory)).cid

    for target in (b"../../top", b"../..", b"./..//../top", b"x/y", b"."):
        out = download(nested(target), tmp_path / f"{random.random()}")
        assert (out / "a" / "b" / "link").is_symlink()
    for target in (b"../../..", b"../../../out", b"x/../../../../y"):
        with pytest.raises(StoreError, match="outside"):
            download(nested(target), tmp_path / "out")


def test_a_symlink_alone_leads_outside_always(memory, download, tmp_path):
    cid = symlink(b"text", memory.put).cid
    with pytest.raises(StoreError, match="outside"):
        download(cid, tmp_path / "out")
    assert os.readlink(download(cid, tmp_path / "out", outside=True)) == "text"


def test_symlinks_that_lead_out_together_are_refused(memory, download, tmp_path):
    """`up` leads to the top; `up/..` would lead above it."""
    deep = folder(memory, up=symlink(b"../..", memory.put))
    inner = folder(memory, deep=deep, out=symlink(b"deep/up/../x", memory.put))
    with pytest.raises(StoreError, match="outside"):
        download(folder(memory, inner=inner).cid, tmp_path / "out")


# Bombs


def test_a_folder_that_declares_endless_entries_is_refused(memory, download, tmp_path):
    cid = folder(memory).cid
    for _ in range(12):
        cid = hostile(memory, *(Link(cid, 0, f"{number}") for number in range(10)))
    with pytest.raises(StoreError, match="more than 500 entries"):
        download(cid, tmp_path / "out", limits=Limits(entries=500))
    assert os.listdir(tmp_path) == []


def test_a_file_that_declares_more_than_the_disk_has_is_refused_at_once(memory, download, tmp_path):
    cid, size = file(memory).cid, 4
    for _ in range(4):
        body = unixfs.encode_message(Message(2, 1000 * size, (size,) * 1000))
        cid = memory.keep(dagpb.encode(PBNode((Link(cid, 0),) * 1000, body)))
        size *= 1000
    started = time.perf_counter()
    with pytest.raises(StoreError, match="more than 1,099,511,627,776 bytes"):
        download(cid, tmp_path / "out")
    with pytest.raises(StoreError, match="no room"):
        download(cid, tmp_path / "out", limits=Limits(size=1 << 62))
    three = folder(memory, a=file(memory), b=file(memory), c=file(memory))
    with pytest.raises(StoreError, match="more than 9 bytes"):
        download(three.cid, tmp_path / "out", limits=Limits(size=9))
    assert time.perf_counter() - started < 5
    assert os.listdir(tmp_path) == []


def test_endless_folders_within_folders_are_refused(memory, download, tmp_path):
    one = folder(memory)
    for _ in range(exporter.MAX_DEPTH - 1):
        one = folder(memory, d=one)
    download(one.cid, tmp_path / "deep")
    with pytest.raises(StoreError, match="folders within folders"):
        download(folder(memory, d=one).cid, tmp_path / "out")


def test_a_codec_that_is_not_read_is_named(memory, download, tmp_path):
    other = memory.keep(b"{}", 0x0129)
    for cid in (other, hostile(memory, Link(other, 2, "a"))):
        with pytest.raises(StoreError, match="0x129"):
            download(cid, tmp_path / "out")
    assert os.listdir(tmp_path) == []
