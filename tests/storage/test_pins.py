"""Pins: promises that are kept, listed, taken back, and survive damage to their own files."""

import io
import json

import pytest

from neuronexus_kernel.content import CID
from neuronexus_kernel.content.cid import DAG_PB
from neuronexus_kernel.errors import InvalidInputError, NotFoundError, StoreError
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import LocalStore

V0, V1 = "unixfs-v0-2015", "unixfs-v1-2025"
LARGE = bytes(range(256)) * 8200  # three chunks of the newer profile


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store", StorageSettings(fsync="never"))


def names(store):
    return [pin.name for pin in store.pins()]


def pin_files(store):
    return sorted((store.root / "pins").iterdir())


def test_what_is_added_is_pinned_unless_told_otherwise(store):
    cid = store.add(b"kept", name="mine")
    store.add(b"not kept", pin=False)
    [pin] = store.pins()
    assert (pin.cid, pin.name, pin.recursive) == (cid, "mine", True)
    assert pin.created.startswith("20")
    assert pin.created.endswith("Z")


def test_documents_and_car_files_are_pinned_too(store, tmp_path):
    node = store.put_node({"a": store.add(b"linked", pin=False)})
    stream = io.BytesIO()
    store.export_car([node], stream)
    stream.seek(0)
    assert [pin.cid for pin in store.pins()] == [node]
    other = LocalStore(tmp_path / "other")
    assert other.import_car(stream) == [node]
    assert [pin.cid for pin in other.pins()] == [node]


def test_one_root_has_several_names(store):
    cid = store.add(b"weights", name="first")
    store.pin(cid, name="second")
    store.add(b"weights", name="third")
    assert names(store) == ["first", "second", "third"]
    store.unpin(cid, name="second")
    assert names(store) == ["first", "third"]
    store.unpin(cid)
    assert names(store) == []


def test_pinning_again_changes_nothing(store):
    cid = store.add(LARGE, name="x")
    [before] = store.pins()
    assert store.pin(str(cid), name="x") == before
    store.add(LARGE, name="x")
    assert list(store.pins()) == [before]


def test_any_text_may_be_a_name(store):
    odd = ["", "../../etc/passwd", "a.r.b", "Grüße 🌍", "\n", "x" * 500]
    cid = store.add(b"x", pin=False)
    for name in odd:
        store.pin(cid, name=name)
    assert sorted(names(store)) == sorted(odd)
    for name in odd:
        store.unpin(cid, name=name)
    assert pin_files(store) == []


@pytest.mark.parametrize("name", [None, 7, "x" * 501, "\ud800"])
def test_what_is_no_name_is_refused_before_anything_is_kept(store, name):
    with pytest.raises(InvalidInputError, match="name of a pin"):
        store.add(b"content", name=name)
    assert store.usage().blocks == 0


def test_a_pin_that_is_not_there_cannot_be_taken_back(store):
    cid = store.add(b"x", name="x")
    with pytest.raises(NotFoundError, match="under the name 'y'"):
        store.unpin(cid, name="y")
    store.unpin(cid)
    with pytest.raises(NotFoundError, match="not pinned"):
        store.unpin(cid)


def test_both_versions_of_a_cid_are_one_root(store):
    old = store.add(LARGE, profile=V0, name="x")
    new = CID(DAG_PB, old.digest)
    assert old.version == 0
    assert store.pin(new, name="x").cid == old
    store.unpin(new)
    assert names(store) == []


def test_only_what_is_here_and_whole_can_be_pinned(store):
    with pytest.raises(NotFoundError):
        store.pin(CID.of(b"never"))
    cid = store.add(LARGE, pin=False)
    missing = CID.of(LARGE[: 1 << 20])
    next(store.root.glob(f"blocks/*/{missing}")).unlink()
    with pytest.raises(StoreError, match=str(missing)):
        store.pin(cid)
    assert names(store) == []
    assert store.pin(cid, recursive=False).recursive is False


def test_a_pin_of_one_block_becomes_one_of_all_and_not_back(store):
    cid = store.add(LARGE, pin=False)
    store.pin(cid, recursive=False)
    store.pin(cid)
    store.pin(cid, recursive=False)
    assert [pin.recursive for pin in store.pins()] == [True]
    store.unpin(cid)
    assert pin_files(store) == []


def test_what_lies_at_a_path_can_be_pinned(store, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_bytes(b"inside")
    root = store.add(folder, pin=False)
    pin = store.pin(f"{root}/file", name="inside")
    assert store.get(pin.cid) == b"inside"
    store.unpin(f"{root}/file")


def test_the_profile_of_a_root_is_remembered(store):
    old, new = store.add(LARGE, profile=V0), store.add(LARGE, profile=V1, name="a")
    assert (store.profile_of(old), store.profile_of(new)) == (V0, V1)
    store.pin(new, name="b")
    store.unpin(new, name="a")
    assert store.profile_of(str(new)) == V1
    assert store.profile_of(store.put_node({"no": "file"})) is None
    assert store.profile_of(store.add(b"unpinned", pin=False)) is None


def test_pins_are_seen_by_other_stores_on_the_folder_at_once(store):
    other = LocalStore(store.root)
    cid = store.add(b"x", name="x")
    assert list(other.pins()) == list(store.pins())
    other.unpin(cid)
    assert names(store) == []


def test_a_document_may_name_what_lies_elsewhere(store):
    elsewhere, here = CID.of(b"sealed"), store.add(LARGE, pin=False)
    inner = store.put_node({"sealed": elsewhere, "here": here})
    outer = store.put_node({"inner": inner})
    for node in (inner, outer):
        assert store.pin(node, name="again").cid == node
    assert store.verify().ok
    assert store.collect().removed == 0
    with pytest.raises(StoreError, match=str(elsewhere)):
        store.pin(store.put_node([outer, "unpinned"], pin=False))


DAMAGE = [b"", b"{", b"null", b"[1]", b"\xff\xfe", b'{"cid": 7}', b"[" * 100_000]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_pin_keeps_its_promise_and_is_told(store, damage):
    cid = store.add(LARGE, name="precious")
    [file] = pin_files(store)
    file.write_bytes(damage)
    [pin] = store.pins()
    assert (pin.cid, pin.recursive, pin.name) == (cid, True, "")
    assert store.collect().removed == 0
    [problem] = store.verify().problems
    assert (problem.fault, problem.path) == ("pin", file)
    store.unpin(cid)
    assert pin_files(store) == []


def test_a_pin_that_says_another_root_than_its_file_is_damaged(store):
    kept = store.add(LARGE)
    [file] = pin_files(store)
    fields = json.loads(file.read_bytes()) | {"cid": str(store.add(b"other", pin=False))}
    file.write_text(json.dumps(fields))
    assert [pin.cid for pin in store.pins()] == [kept]
    store.collect()
    assert store.get(kept) == LARGE


def test_files_that_are_no_pins_are_told_and_harmless(store):
    cid = store.add(b"x", name="x")
    [file] = pin_files(store)
    for name in ("notes.txt", file.name + "~", "baaaa.r." + "0" * 32):
        (store.root / "pins" / name).write_text("?")
    assert names(store) == ["x"]
    store.collect()
    assert store.has(cid)
    assert [problem.fault for problem in store.verify().problems] == ["stray"] * 3


def test_pins_are_open_to_their_owner_only(store):
    store.add(b"x")
    for path in (store.root / "pins", *pin_files(store)):
        assert path.stat().st_mode & 0o077 == 0
