"""From paths and streams to blocks."""

import io
import os
import random
import socket
from pathlib import Path

import pytest

from neuronexus_kernel.content import CID
from neuronexus_kernel.content.unixfs import V0, V1
from neuronexus_kernel.errors import ConflictError, ContentError, InvalidInputError, NotFoundError
from neuronexus_kernel.storage import cid_of, folders, importer
from neuronexus_kernel.storage.importer import add_tree
from neuronexus_kernel.storage.interface import Kind

MIB = 1024 * 1024
BIG = random.Random(0).randbytes(3 * MIB + 17)
PROFILES = ["unixfs-v0-2015", "unixfs-v1-2025"]


@pytest.fixture
def tree(tmp_path):
    """A folder of files, folders, symlinks and hidden things."""
    top = tmp_path / "tree"
    (top / "b" / "empty").mkdir(parents=True)
    (top / ".hidden").mkdir()
    (top / "a.txt").write_text("a")
    (top / "b" / "big").write_bytes(BIG)
    (top / "b" / ".secret").write_text("s")
    (top / ".hidden" / "inside").write_text("i")
    (top / "link").symlink_to("b/big")
    (top / "nowhere").symlink_to("../../nowhere")
    (top / "é").write_text("é")
    return top


@pytest.mark.parametrize("profile", PROFILES)
def test_bytes_views_paths_and_streams_give_one_cid(memory, tmp_path, profile):
    path = tmp_path / "file"
    for data in (b"", b"x", BIG[:MIB], BIG):
        path.write_bytes(data)
        expected = cid_of(data, profile=profile)
        assert cid_of(memoryview(data), profile=profile) == expected
        assert cid_of(bytearray(data), profile=profile) == expected
        assert cid_of(io.BytesIO(data), profile=profile) == expected
        assert cid_of(path, profile=profile) == expected
        assert add_tree(path, memory.put, profile=profile) == expected
        assert memory.order[-1] == expected
        with path.open("rb") as stream:
            assert cid_of(stream, profile=profile) == expected


def test_the_default_profile_is_that_of_2025():
    assert str(cid_of(b"hello world")).startswith("bafkrei")
    assert cid_of(b"x") == cid_of(b"x", profile="unixfs-v1-2025")
    assert str(cid_of(b"x", profile="unixfs-v0-2015")).startswith("Qm")
    with pytest.raises(InvalidInputError, match="profile"):
        cid_of(b"x", profile="unixfs-v3")


@pytest.mark.parametrize("data", ["text", None, 7, ["list"]])
def test_what_is_no_source_of_bytes_is_refused(data):
    with pytest.raises(InvalidInputError, match=type(data).__name__):
        cid_of(data)
    with pytest.raises(ContentError, match="binary"):
        cid_of(io.StringIO("text"))


@pytest.mark.parametrize("profile", PROFILES)
def test_a_folder_is_kept_with_all_that_is_in_it(memory, tree, profile):
    root = add_tree(tree, memory.put, profile=profile)
    assert memory.order[-1] == root
    listed = list(folders.entries(memory.fetch, root))
    assert [(one.name, one.kind) for one in listed] == [
        ("a.txt", Kind.FILE),
        ("b", Kind.FOLDER),
        ("link", Kind.SYMLINK),
        ("nowhere", Kind.SYMLINK),
        ("é", Kind.FILE),
    ]
    assert listed[0].cid == cid_of(b"a", profile=profile)
    inner = list(folders.entries(memory.fetch, listed[1].cid))
    assert [(one.name, one.kind) for one in inner] == [("big", Kind.FILE), ("empty", Kind.FOLDER)]
    assert inner[0].cid == cid_of(BIG, profile=profile)
    assert folders.target_of(memory.fetch, listed[2].cid) == b"b/big"
    assert cid_of(tree, profile=profile) == root


def test_hidden_files_are_added_on_demand(memory, tree):
    root = add_tree(tree, memory.put, hidden=True)
    names = [one.name for one in folders.entries(memory.fetch, root)]
    assert names == [".hidden", "a.txt", "b", "link", "nowhere", "é"]
    assert folders.resolve(memory.fetch, f"{root}/b/.secret") == cid_of(b"s")
    assert cid_of(tree, hidden=True) == root != cid_of(tree)
    # A path that is named itself is added whatever its name.
    assert cid_of(tree / ".hidden") == cid_of(tree / ".hidden", hidden=True)


def test_a_path_that_is_a_symlink_is_followed(tree):
    assert cid_of(tree / "link") == cid_of(BIG)
    other = tree.parent / "other"
    other.symlink_to(tree, target_is_directory=True)
    assert cid_of(other) == cid_of(tree)


def test_links_come_after_what_they_lead_to(memory, tree):
    add_tree(tree, memory.put, hidden=True)
    place = {cid: number for number, cid in reversed(list(enumerate(memory.order)))}
    from neuronexus_kernel.content import dagpb

    for cid, block in memory.blocks.items():
        assert cid.matches(block)
        if cid.codec == 0x70:
            assert all(place[link.cid] < place[cid] for link in dagpb.decode(block).links)


def test_progress_tells_every_byte_once(tree):
    told = []
    add_tree(tree, None, progress=told.append)
    assert sum(told) == len(BIG) + 1 + 2
    assert max(told) <= MIB
    told.clear()
    add_tree(BIG, None, progress=told.append, profile="unixfs-v0-2015")
    assert sum(told) == len(BIG)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        cid_of(tmp_path / "nowhere")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(NotFoundError, match="dangling"):
        cid_of(tmp_path / "dangling")
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="below"):
        cid_of(tmp_path / "file" / "below")


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_special_files_are_refused(tmp_path, kind, monkeypatch):
    special = tmp_path / "folder" / "special"
    special.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(special)
    else:
        monkeypatch.chdir(special.parent)  # the path of a socket is short
        socket.socket(socket.AF_UNIX).bind("special")
    for path in (special.parent, *([special] if kind == "fifo" else [])):
        with pytest.raises(InvalidInputError, match="special is neither"):
            cid_of(path)


def test_a_device_is_refused():
    with pytest.raises(InvalidInputError, match="neither"):
        cid_of(Path("/dev/zero"))


@pytest.mark.parametrize("when", ["open", "read", "readlink", "scandir"])
def test_what_cannot_be_read_is_named(tree, monkeypatch, when):
    """Root, who runs the tests in places, may read everything: the answer is made up."""

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(importer.os, when, refuse)
    with pytest.raises(InvalidInputError, match=r"tree.* cannot be read: Permission denied"):
        cid_of(tree)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff\xfe", "wb"):
        pass
    with pytest.raises(InvalidInputError, match="UTF-8"):
        cid_of(tmp_path)


def test_folders_within_folders_have_an_end(tmp_path):
    path = tmp_path
    for _ in range(importer.MAX_DEPTH - 1):
        path /= "d"
    path.mkdir(parents=True)
    cid_of(tmp_path)
    (path / "d").mkdir()
    with pytest.raises(InvalidInputError, match="deeper"):
        cid_of(tmp_path)


# Changes while something is read


class Meddling:
    """A `put` that does something when a certain block comes."""

    def __init__(self, when, action):
        self.when, self.action = when, action

    def __call__(self, cid, block):
        if self.when and cid == self.when:
            self.when = None
            self.action()


@pytest.mark.parametrize("profile", [V0, V1], ids=lambda profile: profile.name)
@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
@pytest.mark.parametrize("size", [1000, 12 * MIB])
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, profile, change, size):
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    data = random.Random(1).randbytes(size)
    path.write_bytes(data)
    os.utime(path, (1, 1))

    def meddle():
        with path.open("r+b") as file:
            if change == "longer":
                file.seek(size)
                file.write(b"more")
            elif change == "shorter":
                file.truncate(size - 1)
            else:
                file.write(b"other")

    first = cid_of(data[: profile.chunk], profile=profile.name)
    with pytest.raises(ConflictError, match="file changed while it was read"):
        add_tree(path.parent, Meddling(first, meddle), profile=profile.name)


def test_a_file_that_goes_away_after_it_was_listed_is_noticed(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(ConflictError, match="b went away"):
        add_tree(tmp_path, Meddling(cid_of(b"a"), (tmp_path / "b").unlink))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_entry_that_becomes_a_symlink_is_not_followed(tmp_path, kind):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("key")
    top = tmp_path / "top"
    (top / "b").mkdir(parents=True)
    (top / "a").write_text("a")
    (top / "c").write_text("c")

    def replace():
        if kind == "folder":
            (top / "b").rmdir()
            (top / "b").symlink_to(secret)
        else:
            (top / "c").unlink()
            (top / "c").symlink_to(secret / "key")

    with pytest.raises((InvalidInputError, ConflictError)):
        add_tree(top, Meddling(cid_of(b"a"), replace))


def test_a_folder_that_is_moved_meanwhile_cannot_lead_elsewhere(tmp_path):
    """The rest of a folder is read where it was opened, not where its path leads now."""
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    (top / "d" / "a").write_text("a")
    (top / "d" / "b").write_text("b")
    before = cid_of(top)
    other = tmp_path / "other"
    other.mkdir()
    (other / "b").write_text("not this one")

    def move():
        (top / "d").rename(tmp_path / "moved")
        (top / "d").symlink_to(other)

    assert add_tree(top, Meddling(cid_of(b"a"), move)) == before


def test_an_entry_that_becomes_a_fifo_does_not_hang(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")

    def replace():
        (tmp_path / "b").unlink()
        os.mkfifo(tmp_path / "b")

    with pytest.raises(InvalidInputError, match="b is neither"):
        add_tree(tmp_path, Meddling(cid_of(b"a"), replace))


def test_an_error_of_the_sink_comes_out_as_it_is(tree):
    def full(cid, block):
        raise BrokenPipeError("full")

    with pytest.raises(BrokenPipeError):
        add_tree(tree, full)


def test_no_handle_is_left_open(tree):
    before = len(os.listdir("/proc/self/fd"))
    cid_of(tree)
    with pytest.raises(ZeroDivisionError):
        add_tree(tree, lambda cid, block: 1 / 0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_large_sparse_file_is_read_in_constant_memory(tmp_path):
    """Measured in a process of its own; the benchmark does it with 2 GiB."""
    import subprocess
    import sys

    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 256 * MIB)
    code = (
        "import sys; from pathlib import Path\n"
        "from neuronexus_kernel.storage import cid_of\n"
        "def told(what):\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith(what))\n"
        "idle = told('VmRSS')\n"
        "print(cid_of(Path(sys.argv[1]), profile=sys.argv[2]))\n"
        "print(told('VmHWM') - idle)"
    )
    for profile in PROFILES:
        out = subprocess.run(
            [sys.executable, "-c", code, str(path), profile],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        assert CID.parse(out[0])
        assert int(out[1]) < 32 * 1024  # KiB
