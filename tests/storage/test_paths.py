"""Paths through folders and documents, and the blocks on the way."""

import pytest

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.cid import DAG_CBOR, IDENTITY, RAW
from neuronexus_kernel.errors import NotFoundError, StoreError
from neuronexus_kernel.storage import importer, paths


@pytest.fixture
def file(memory):
    return memory.keep(b"file", RAW)


@pytest.fixture
def folder(memory, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.txt").write_bytes(b"file")
    (tmp_path / "link").symlink_to("deep/file.txt")
    (tmp_path / "way").symlink_to("deep")
    return importer.add_tree(tmp_path, memory.put, profile="unixfs-v1-2025")


def document(memory, node):
    return memory.keep(dagcbor.encode(node), DAG_CBOR)


def test_no_path_leads_to_the_root_itself(memory, file):
    trace = paths.trace(memory.fetch, file, [])
    assert (trace.end, trace.roots, trace.way) == (file, (file,), ())
    assert memory.asked == []


def test_the_way_through_folders_is_remembered(memory, folder, file):
    trace = paths.trace(memory.fetch, folder, ["deep", "file.txt"])
    deep = paths.trace(memory.fetch, folder, ["deep"]).end
    assert trace.roots == (folder, deep, file)
    assert trace.way == (folder, deep)


def test_a_symlink_on_the_way_is_followed_and_one_at_the_end_is_not(memory, folder, file):
    assert paths.trace(memory.fetch, folder, ["way", "file.txt"]).end == file
    link = paths.trace(memory.fetch, folder, ["link"])
    assert link.end != file
    assert link.way == (folder,)


def test_documents_and_folders_may_alternate(memory, folder, file):
    inner = document(memory, {"files": [None, folder], "odd/name": file, "0": file})
    root = document(memory, {"inner": inner})
    trace = paths.trace(memory.fetch, root, ["inner", "files", "1", "deep", "file.txt"])
    assert trace.end == file
    assert trace.way[:3] == (root, inner, folder)
    assert paths.trace(memory.fetch, root, ["inner", "odd/name"]).end == file
    assert paths.trace(memory.fetch, root, ["inner", "0"]).end == file


def test_the_links_of_an_identity_cid_are_followed(memory, file):
    inline = CID(DAG_CBOR, dagcbor.encode({"file": file}), IDENTITY)
    assert paths.trace(memory.fetch, inline, ["file"]).end == file


@pytest.mark.parametrize(
    "names", [["x"], ["list", "2"], ["list", "-1"], ["list", "01"], ["list", "x"]]
)
def test_a_name_that_is_not_there_is_not_found(memory, file, names):
    root = document(memory, {"list": [file, file]})
    with pytest.raises(NotFoundError):
        paths.trace(memory.fetch, root, names)


@pytest.mark.parametrize("names", [["number"], ["list"], ["list", "0"]])
def test_a_value_inside_a_document_has_no_address(memory, names):
    root = document(memory, {"number": 1, "list": ["text"]})
    with pytest.raises(paths.EndsInsideError, match="inside the document"):
        paths.trace(memory.fetch, root, names)


def test_nothing_lies_below_a_value_or_a_file(memory, file, folder):
    root = document(memory, {"number": 1, "file": file})
    for names in (["number", "x"], ["file", "x"]):
        with pytest.raises(NotFoundError):
            paths.trace(memory.fetch, root, names)
    for names in (["deep/file.txt"], ["deep", "file.txt", "x"], ["nothing"]):
        with pytest.raises(NotFoundError):
            paths.trace(memory.fetch, folder, names)


def test_a_malformed_document_is_refused(memory):
    root = memory.keep(b"\xff", DAG_CBOR)
    with pytest.raises(StoreError):
        paths.trace(memory.fetch, root, ["x"])
