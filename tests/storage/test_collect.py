"""Garbage collection: what is pinned or in use stays, whatever comes in between; the rest goes."""

import errno
import io
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from neuronexus_kernel.content import CID
from neuronexus_kernel.errors import StoreError
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import LocalStore, collect, locking
from neuronexus_kernel.storage.car import encode_car

MIB = 1024 * 1024
BIG = random.Random(0).randbytes(3 * MIB + 17)
LONG = random.Random(1).randbytes(12 * MIB)  # An adder reads some MiB before it puts the first.
QUICK = StorageSettings(fsync="never")


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store", QUICK)


def block_names(store):
    return {path.name for path in (store.root / "blocks").rglob("b*") if path.is_file()}


def test_nothing_is_removed_that_a_pin_needs(store, tmp_path):
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "big").write_bytes(BIG)
    roots = [store.add(BIG), store.add(folder), store.put_node({"x": store.add(b"y", pin=False)})]
    before = block_names(store)
    report = store.collect()
    assert (report.removed, report.freed, report.kept) == (0, 0, len(before))
    assert report.references > len(before)
    assert block_names(store) == before
    assert all(store.has(root) for root in roots)


def test_what_no_pin_needs_is_removed_and_counted(store):
    kept, gone = store.add(b"kept"), store.add(BIG)
    store.unpin(gone)
    size = sum(path.stat().st_size for path in store.root.glob("blocks/*/*"))
    seen = []
    report = store.collect(progress=seen.append)
    assert (report.removed, report.kept, report.in_use) == (5, 1, 0)
    assert report.freed == sum(seen) == size - len(b"kept")
    assert (store.has(kept), store.has(gone)) == (True, False)
    assert (store.usage().bytes, store.usage().blocks) == (4, 1)
    assert "5 blocks" in str(report)


def test_a_dry_run_only_tells(store):
    store.unpin(store.add(BIG))
    before = block_names(store)
    told = store.collect(dry_run=True)
    assert told.dry_run
    assert "would be" in str(told)
    assert block_names(store) == before
    done = store.collect()
    assert (told.removed, told.freed, told.kept) == (done.removed, done.freed, done.kept)


def test_blocks_that_two_roots_share_stay_for_the_other(store):
    one, other = store.add(BIG), store.add(BIG + b"and more")
    store.unpin(one)
    assert store.collect().removed == 2  # The root, and the chunk that the other has longer.
    assert store.get(other) == BIG + b"and more"


def test_a_second_name_keeps_a_root(store):
    cid = store.add(BIG, name="a")
    store.pin(cid, name="b")
    store.unpin(cid, name="a")
    assert store.collect().removed == 0


def test_a_pin_of_one_block_keeps_that_block_alone(store):
    cid = store.add(BIG, pin=False)
    store.pin(cid, recursive=False)
    assert store.collect().removed == 4
    assert store.stat(cid).size == len(BIG)


def test_an_empty_store_can_be_collected(store):
    assert store.collect().removed == 0


def test_links_of_documents_are_followed(store):
    leaf = store.add(BIG, pin=False)
    chain = leaf
    for number in range(50):
        chain = store.put_node({"number": number, "before": chain}, pin=number == 49)
    assert store.collect().removed == 0
    store.unpin(chain)
    assert store.collect().kept == 0


def test_nothing_is_removed_while_a_pinned_root_cannot_be_read(store):
    cid = store.add(BIG)
    store.add(b"garbage", pin=False)
    path = next(store.root.glob(f"blocks/*/{cid}"))
    block = path.read_bytes()
    before = block_names(store)
    for damage in (lambda: path.write_bytes(b"damage"), path.unlink):
        damage()
        with pytest.raises(StoreError, match="Nothing was removed") as raised:
            store.collect()
        assert str(cid) in str(raised.value)
        assert block_names(store) | {str(cid)} == before
    path.write_bytes(block)
    assert store.collect().removed == 1


def test_a_missing_leaf_keeps_nobody_from_collecting(store):
    cid = store.add(BIG)
    next(store.root.glob(f"blocks/*/{CID.of(BIG[:MIB])}")).unlink()
    store.add(b"garbage", pin=False)
    assert store.collect().removed == 1
    assert store.has(cid)


def test_garbage_that_is_corrupt_is_removed_too(store):
    cid = store.add(BIG, pin=False)
    next(store.root.glob(f"blocks/*/{cid}")).write_bytes(b"damage")
    assert store.collect().removed == 5


def test_a_root_goes_before_what_lies_below_it(store, monkeypatch):
    cid = store.add(random.Random(1).randbytes(20 * MIB), profile="unixfs-v0-2015", pin=False)
    store.put_node({"file": cid}, pin=False)
    order = []
    remove = store._blocks.remove
    monkeypatch.setattr(
        store._blocks, "remove", lambda name, tally: (order.append(name), remove(name, tally))
    )
    links = {}
    for name in block_names(store):
        block = CID.parse(name)
        links[name] = [
            store._blocks.name_of(c) for c in collect.dag.links_of(block, store.block(block))
        ]
    assert store.collect().kept == 0
    place = {name: number for number, name in enumerate(order)}
    assert all(place[name] < place[below] for name in links for below in links[name])


# Between the steps of a collection. Each action happens at each moment at which the collector
# lets others in; what it promises must be whole when the collection is over.


def garbage(store):
    """Content that was complete before the collection began, and that nobody needs."""
    return store.add(BIG, pin=False)


def add_again(store, cid):
    store.add(BIG)
    return lambda: store.get(cid) == BIG


def add_something_that_shares_blocks(store, cid):
    other = store.add(BIG[: 2 * MIB])
    return lambda: store.get(other) == BIG[: 2 * MIB]


def add_again_without_a_pin_and_then_pin(store, cid):
    store.add(BIG, pin=False)
    store.pin(cid)
    return lambda: store.get(cid) == BIG


def pin_garbage(store, cid):
    store.pin(cid)
    return lambda: store.get(cid) == BIG


def name_garbage_in_a_document(store, cid):
    node = store.put_node({"file": cid})
    return lambda: store.get_node(node) == {"file": cid} and store.get(cid) == BIG


def name_garbage_in_a_document_of_a_document(store, cid):
    inner = store.put_node({"file": cid}, pin=False)
    store.put_node({"inner": inner})
    return lambda: store.has(inner) and store.get(cid) == BIG


def open_garbage(store, cid):
    stream = store.open(cid)
    return lambda: stream.read() == BIG


def import_a_part_of_garbage(store, cid):
    store.import_car(io.BytesIO(b"".join(encode_car([cid], [(cid, store.block(cid))]))))
    return lambda: store.get(cid) == BIG


ACTIONS = [
    add_again,
    add_something_that_shares_blocks,
    add_again_without_a_pin_and_then_pin,
    pin_garbage,
    name_garbage_in_a_document,
    name_garbage_in_a_document_of_a_document,
    open_garbage,
    import_a_part_of_garbage,
]
MOMENTS = ["_begin", "_list", "_mark", "_count_garbage"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("action", ACTIONS)
def test_what_comes_into_use_during_a_collection_stays(store, monkeypatch, action, moment):
    cid = garbage(store)
    store.add(b"other garbage", pin=False)
    held = []
    step = getattr(collect._Collector, moment)

    def then_act(collector):
        result = step(collector)
        held.append(action(LocalStore(store.root, QUICK), cid))
        return result

    monkeypatch.setattr(collect._Collector, moment, then_act)
    report = store.collect()
    assert report.removed >= 1
    assert not store.has(CID.of(b"other garbage"))
    assert held[0]()
    assert store.verify().ok


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_is_added_without_a_pin_during_a_collection_is_whole(store, monkeypatch, moment):
    cid = garbage(store)
    step = getattr(collect._Collector, moment)

    def then_add(collector):
        result = step(collector)
        store.add(BIG, pin=False)
        return result

    monkeypatch.setattr(collect._Collector, moment, then_add)
    store.collect()
    assert store.get(cid) == BIG


def test_a_pin_that_was_taken_back_and_given_again_is_seen(store, monkeypatch):
    cid = store.add(BIG)
    names, taken = store._pins.names, []

    def names_before_it_is_taken_back():
        found = names()
        if not taken:
            taken.append(cid)
            store.unpin(cid)
        return found

    def then_given_again(collector):
        mark(collector)
        store.pin(cid)

    mark = collect._Collector._mark
    monkeypatch.setattr(store._pins, "names", names_before_it_is_taken_back)
    monkeypatch.setattr(collect._Collector, "_mark", then_given_again)
    store.collect()
    assert store.get(cid) == BIG


def test_adds_go_on_between_the_steps_of_a_collection(store, monkeypatch):
    for number in range(200):
        store.add(b"garbage %d" % number, pin=False)
    monkeypatch.setattr(collect, "_STEP", 0.0)  # One look, one step: 200 of them at least.
    added, done = [], threading.Event()

    def add():
        while not done.is_set():
            added.append(store.add(b"new %d" % len(added)))

    adder = threading.Thread(target=add)
    adder.start()
    monkeypatch.setattr(collect._Collector, "_step", slow_step(collect._Collector._step))
    before = len(added)
    report = store.collect()
    during = len(added) - before
    done.set()
    adder.join()
    assert report.removed == 200
    assert during > 3
    assert all(store.has(cid) for cid in added)


def slow_step(step):
    def one(self, ready, end):
        step(self, ready, time.monotonic() + 0.001)

    return one


def test_a_clock_that_is_set_back_keeps_too_much_rather_than_too_little(store, monkeypatch):
    cid = garbage(store)
    assert store.collect(dry_run=True).removed == 5
    real = time.time_ns
    monkeypatch.setattr(locking.time, "time_ns", lambda: real() - 3600 * 10**9)
    assert store.collect().removed == 0
    step = collect._Collector._count_garbage

    def then_add(collector):
        result = step(collector)
        store.add(b"added an hour ago", pin=False)
        return result

    monkeypatch.setattr(collect._Collector, "_count_garbage", then_add)
    store.collect()
    assert store.has(CID.of(b"added an hour ago"))
    monkeypatch.undo()
    store.collect()
    assert not store.has(cid)


# Several processes


ADDER = """
import sys
from pathlib import Path
from neuronexus_kernel.storage import LocalStore
print(LocalStore(Path(sys.argv[1])).add(sys.stdin.buffer), flush=True)
"""
READER = """
import sys
from pathlib import Path
from neuronexus_kernel.storage import LocalStore
stream = LocalStore(Path(sys.argv[1])).open(sys.argv[2])
print(len(stream.read(10)), flush=True)
sys.stdin.readline()
print(len(stream.read()), flush=True)
"""


@contextmanager
def running(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_process_that_adds_can_rely_on_blocks_it_found(store):
    cid = store.add(LONG, pin=False)
    first = next(store.root.glob(f"blocks/*/{CID.of(LONG[:MIB])}"))
    with running(ADDER, store.root) as adder:
        adder.stdin.write(LONG[: 10 * MIB])
        adder.stdin.flush()
        wait_for(lambda: first.stat().st_nlink == 2)
        report = store.collect()
        assert report.in_use >= 1
        assert first.exists()
        adder.stdin.write(LONG[10 * MIB :])
        adder.stdin.close()
        assert adder.stdout.readline().decode().strip() == str(cid)
    assert store.collect().removed == 0
    assert store.get(cid) == LONG


def test_blocks_that_a_killed_process_relied_on_are_removed(store):
    store.add(LONG, pin=False)
    first = next(store.root.glob(f"blocks/*/{CID.of(LONG[:MIB])}"))
    with running(ADDER, store.root) as adder:
        adder.stdin.write(LONG[: 10 * MIB])
        adder.stdin.flush()
        wait_for(lambda: first.stat().st_nlink == 2)
    assert store.collect().kept == 0


def test_what_another_process_reads_stays_until_it_is_done(store):
    cid = garbage(store)
    with running(READER, store.root, cid) as reader:
        assert reader.stdout.readline() == b"10\n"
        report = store.collect()
        assert (report.removed, report.kept) == (0, 5)
        reader.stdin.write(b"\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == b"%d\n" % (len(BIG) - 10)
        reader.wait(30)
    assert store.collect().kept == 0
    assert list((store.root / "reading").iterdir()) == []


def test_what_a_killed_process_read_is_removed(store):
    cid = garbage(store)
    with running(READER, store.root, cid) as reader:
        assert reader.stdout.readline() == b"10\n"
    assert store.collect().kept == 0


def test_a_stream_keeps_its_file_until_it_is_closed_or_forgotten(store):
    cid = garbage(store)
    streams = [store.open(cid) for _ in range(3)]
    for stream in streams[:2]:
        stream.close()
        stream.close()
        assert store.collect().removed == 0
    streams.clear()
    del stream
    assert store.collect().removed == 5


def test_a_failing_open_keeps_nothing(store):
    cid = garbage(store)
    path = next(store.root.glob(f"blocks/*/{cid}"))
    path.write_bytes(b"damage")
    with pytest.raises(StoreError, match="corrupt"):
        store.open(cid)
    assert store.collect().kept == 0


def test_a_stream_stays_readable_where_nothing_can_be_written(store, monkeypatch):
    cid = garbage(store)
    monkeypatch.setattr(store._blocks.readers, "_parent", store.root / "nowhere")
    stream = store.open(cid)
    lock = LocalStore(store.root)._blocks.lock
    with pytest.raises(StoreError, match="without end"), lock.exclusive(patience=0.1):
        pass
    assert stream.read() == BIG
    stream.close()
    monkeypatch.undo()
    assert store.collect().kept == 0


def test_a_stream_may_be_forgotten_while_another_is_opened(store, monkeypatch):
    """As the interpreter does it: in the same thread, in the midst of `hold`."""
    cid, other = garbage(store), store.add(b"other", pin=False)
    forgotten = [store.open(cid)]
    own_folder = store._blocks.readers._own_folder

    def forget_meanwhile():
        forgotten.clear()
        return own_folder()

    monkeypatch.setattr(store._blocks.readers, "_own_folder", forget_meanwhile)
    with store.open(other) as stream:
        assert store.collect().removed == 5
        assert stream.read() == b"other"
    assert store.collect().removed == 1


def test_what_may_only_be_read_is_read_without_a_lock(store, monkeypatch):
    cid = store.add(BIG)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "only read")

    monkeypatch.setattr(locking, "hold", refuse)
    assert store.get(cid) == BIG
    with store.open(cid) as stream:
        assert stream.read() == BIG
    with pytest.raises(StoreError, match="permissions"):
        store.add(b"new")


def test_too_many_open_files_are_explained(store, monkeypatch):
    cid = store.add(BIG)

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(locking, "hold", refuse)
    with pytest.raises(StoreError, match="Too many files are open"):
        store.get(cid)


def test_a_forked_process_lets_its_parent_read_on(store):
    cid = garbage(store)
    stream = store.open(cid)
    child = os.fork()
    if child == 0:
        stream.close()
        store.open(cid).close()
        os._exit(0)
    os.waitpid(child, 0)
    assert store.collect().removed == 0
    assert stream.read() == BIG


def test_one_collection_waits_for_another(store):
    for number in range(30):
        store.add(b"garbage %d" % number, pin=False)
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(store.collect())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.removed for report in reports) == 30
    assert store.usage().blocks == 0
