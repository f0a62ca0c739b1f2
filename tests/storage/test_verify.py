"""Looking through a store: every fault is found and named, and repaired where that is possible."""

import io
import random
import threading

import pytest

from neuronexus_kernel.content import CID
from neuronexus_kernel.errors import NotFoundError, StoreError, StoreUnavailable
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import LocalStore
from neuronexus_kernel.storage.car import encode_car

MIB = 1024 * 1024
BIG = random.Random(0).randbytes(3 * MIB + 17)
QUICK = StorageSettings(fsync="never")


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store", QUICK)


@pytest.fixture
def content(store, tmp_path):
    """A folder, a document and a file, all pinned."""
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "big").write_bytes(BIG)
    (folder / "small").write_bytes(b"small")
    root = store.add(folder)
    return [root, store.put_node({"folder": root}), store.add(b"alone")]


@pytest.fixture
def copy(store, content, tmp_path):
    """Another store with the same content."""
    other = LocalStore(tmp_path / "copy", QUICK)
    stream = io.BytesIO()
    store.export_car(content, stream)
    stream.seek(0)
    other.import_car(stream)
    return other


def files_of(store):
    return sorted(store.root.glob("blocks/*/*"))


def damage(path, rng):
    block = bytearray(path.read_bytes())
    block[rng.randrange(len(block))] ^= 1 << rng.randrange(8)
    path.write_bytes(block)


def set_aside(store):
    return sorted((store.root / "corrupt").glob("*"))


def test_a_store_in_good_order_has_no_problems(store, content):
    told = []
    report = store.verify(progress=told.append)
    assert report.ok
    assert report.problems == ()
    assert (report.blocks, report.bytes) == (store.usage().blocks, store.usage().bytes)
    assert sum(told) == report.bytes
    assert report.pins == 3
    assert str(report).endswith("problems: none")


def test_a_flipped_bit_in_any_block_is_found_and_its_roots_are_named(store, content):
    rng = random.Random(1)
    files = files_of(store)
    assert len(files) > 8
    for path in files:
        before = path.read_bytes()
        for _ in range(3):
            damage(path, rng)
            report = store.verify()
            assert not report.ok
            [problem] = [each for each in report.problems if each.fault == "corrupt"]
            assert (str(problem.cid), problem.path) == (path.name, path)
            assert problem.roots
            assert not problem.repaired
            assert path.name in str(report)
            path.write_bytes(before)
    assert store.verify().ok
    assert set_aside(store) == []


@pytest.mark.parametrize("block", [b"", b"short", bytes(3 * MIB)])
def test_a_file_of_another_length_is_found(store, content, block):
    files_of(store)[0].write_bytes(block)
    assert [problem.fault for problem in store.verify().problems] == ["corrupt"]


def test_a_file_that_cannot_be_read_is_found(store, content):
    path = files_of(store)[0]
    path.unlink()
    path.mkdir()
    report = store.verify()
    assert {problem.fault for problem in report.problems} >= {"stray", "missing"}


def test_a_missing_block_is_found_with_every_root_that_needs_it(store, content):
    leaf = CID.of(BIG[:MIB])
    next(store.root.glob(f"blocks/*/{leaf}")).unlink()
    [problem] = store.verify().problems
    assert (problem.fault, problem.cid) == ("missing", leaf)
    assert problem.roots == tuple(sorted(content[:2]))


def test_what_no_pin_needs_may_be_missing(store):
    cid = store.add(BIG, pin=False)
    next(store.root.glob(f"blocks/*/{CID.of(BIG[:MIB])}")).unlink()
    assert store.verify().problems == ()
    store.pin(cid, recursive=False)
    assert store.verify().ok


def test_without_places_to_repair_from_nothing_is_changed(store, content):
    path = files_of(store)[0]
    damage(path, random.Random(2))
    before = path.read_bytes()
    store.verify()
    assert path.read_bytes() == before
    assert set_aside(store) == []


def test_all_damage_is_repaired_from_another_store(store, content, copy):
    rng = random.Random(3)
    files = files_of(store)
    for number, path in enumerate(files):
        if number % 2:
            damage(path, rng)
        else:
            path.unlink()
    report = store.verify(repair=[copy])
    assert report.ok
    assert all(problem.repaired for problem in report.problems)
    assert len(report.problems) == len(files)
    assert len(set_aside(store)) == len(files) // 2
    assert files_of(store) == files
    assert store.verify().problems == ()
    assert store.usage().blocks == len(files)
    assert store.get(f"{content[0]}/inner/big") == BIG


def test_places_stand_in_for_one_another_and_are_not_believed(store, content, copy):
    class Down:
        def block(self, cid):
            raise StoreUnavailable("down")

    class Liar:
        def block(self, cid):
            return b"lies"

    class Empty:
        def block(self, cid):
            raise NotFoundError("nothing")

    class Broken:
        def block(self, cid):
            raise StoreError("corrupt")

    leaf = CID.of(BIG[:MIB])
    damage(next(store.root.glob(f"blocks/*/{leaf}")), random.Random(4))
    assert not store.verify(repair=[Down(), Liar(), Empty(), Broken()]).ok
    assert store.verify(repair=[Down(), Liar(), Empty(), Broken(), copy]).ok
    assert store.block(leaf) == BIG[:MIB]


def test_corrupt_files_are_set_aside_and_never_removed(store, content):
    path = files_of(store)[0]
    kept = []
    for number in range(3):
        block = path.read_bytes() if path.exists() else store.block(CID.parse(path.name))
        path.write_bytes(block[:-1] + bytes([number]) + b"?")
        kept.append(path.read_bytes())
        report = store.verify(repair=[])
        [problem] = [each for each in report.problems if each.fault == "corrupt"]
        assert not problem.repaired
        assert problem.path.read_bytes() == kept[-1]
        assert not path.exists()
        path.write_bytes(block)
    assert sorted(each.read_bytes() for each in set_aside(store)) == sorted(kept)
    store.collect()
    assert len(set_aside(store)) == 3


def test_adding_again_sets_a_corrupt_file_aside_too(store):
    cid = store.add(BIG)
    path = next(store.root.glob(f"blocks/*/{cid}"))
    path.write_bytes(b"damage")
    store.add(BIG)
    assert store.get(cid) == BIG
    assert [each.read_bytes() for each in set_aside(store)] == [b"damage"]
    assert store.usage().bytes == sum(each.stat().st_size for each in files_of(store))


def test_a_corrupt_document_can_be_put_again(store):
    cid = store.put_node({"a": 1})
    next(store.root.glob(f"blocks/*/{cid}")).write_bytes(b"damage")
    assert store.put_node({"a": 1}) == cid
    assert store.verify().ok


def test_a_repair_does_not_fetch_what_was_never_here(store, copy):
    secret = b"sealed elsewhere"
    store.put_node({"secret": CID.of(secret)})
    copy.add(secret)
    assert store.verify(repair=[copy]).problems == ()
    assert not store.has(CID.of(secret))


def test_strange_files_are_told_and_left_alone(store, content):
    strange = [
        store.root / "blocks" / "notes.txt",
        store.root / "blocks" / "aa" / "notes.txt",
        store.root / "blocks" / "aa" / str(CID.of(b"in the wrong folder")),
        store.root / "blocks" / "ab" / ("b" + "a" * 50 + "abc"),
    ]
    for path in strange:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"?")
    report = store.verify(repair=[])
    assert report.ok
    assert {problem.path for problem in report.problems} == set(strange)
    assert {problem.fault for problem in report.problems} == {"stray"}
    store.collect()
    assert [path.name for path in strange if not path.exists()] in ([], [strange[3].name])


def test_valid_bytes_that_make_no_sense_are_named(store):
    block = b"\xff\xff"
    cid = CID.of(block, 0x70)
    with store._blocks.batch() as batch:
        batch.put(cid, block)
    store.pin(cid, recursive=False)
    assert store.verify().ok
    document = store.put_node({"broken": cid})
    [problem] = store.verify().problems
    assert (problem.fault, problem.cid, problem.roots) == ("malformed", cid, (document,))


def test_others_add_remove_and_read_meanwhile(store):
    problems, done = [], threading.Event()

    def work(number):
        rng = random.Random(number)
        while not done.is_set():
            cid = store.add(rng.randbytes(1000), name=str(number))
            store.unpin(cid, name=str(number))
            if rng.random() < 0.2:
                store.collect()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        problems.extend(store.verify(repair=[]).problems)
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []


def test_hidden_corruption_behind_a_car_file_is_refused(store):
    block = b"right"
    stream = io.BytesIO(b"".join(encode_car([CID.of(block)], [(CID.of(block), b"wrong")])))
    with pytest.raises(StoreError):
        store.import_car(stream)
    assert store.usage().blocks == 0
