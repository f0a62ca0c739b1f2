"""The count of bytes, and the quota that bounds them: right for all processes and after crashes."""

import io
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from neuronexus_kernel.content import CID
from neuronexus_kernel.errors import InvalidInputError, QuotaError
from neuronexus_kernel.settings import Settings, StorageSettings
from neuronexus_kernel.storage import LocalStore, usage

MIB = 1024 * 1024


def data(seed, size):
    return random.Random(seed).randbytes(size)


def opened(folder, quota=None):
    return LocalStore(folder, StorageSettings(quota=quota, fsync="never"))


def counted(store):
    """What is really on the disk."""
    sizes = [path.stat().st_size for path in store.root.glob("blocks/*/*")]
    return sum(sizes), len(sizes)


def told(store):
    return store.usage().bytes, store.usage().blocks


def test_the_count_follows_what_is_added_and_removed(tmp_path):
    store = opened(tmp_path)
    assert told(store) == (0, 0)
    cids = [store.add(data(seed, 100_000 * seed)) for seed in range(20)]
    store.add(data(7, 700_000))
    store.put_node({"all": cids})
    assert told(store) == counted(store)
    for cid in cids[::2]:
        store.unpin(cid)
    store.unpin(store.put_node({"all": cids}))
    assert store.collect().removed
    assert told(store) == counted(store) == told(opened(tmp_path))


def test_what_fits_exactly_is_taken_and_no_byte_more(tmp_path):
    store = opened(tmp_path, 1000)
    kept = store.add(data(0, 600))
    with pytest.raises(QuotaError):
        store.add(data(1, 401))
    store.add(data(2, 400))
    with pytest.raises(QuotaError):
        store.add(b"x")
    assert store.usage() == usage.Usage(bytes=1000, blocks=2, reserved=0, quota=1000)
    assert store.get(kept) == data(0, 600)
    assert store.add(data(0, 600)) == kept  # It is here already.


def test_the_error_says_how_much_is_used_and_what_to_do(tmp_path):
    store = opened(tmp_path, 3 * MIB)
    store.add(data(0, MIB))
    with pytest.raises(QuotaError) as raised:
        store.add(data(1, 5 * MIB))
    message = str(raised.value)
    assert "1,048,576 of 3,145,728 bytes" in message
    assert "collect" in message
    assert "NEURONEXUS_STORE_QUOTA_MIB" in message


@pytest.mark.parametrize("size", [3 * MIB, 40 * MIB])
def test_what_does_not_fit_leaves_nothing(tmp_path, size):
    store = opened(tmp_path, 2 * MIB)
    with pytest.raises(QuotaError):
        store.add(io.BytesIO(data(0, size)))
    assert told(store) == counted(store) == (0, 0)
    assert list(store.pins()) == []
    assert list((tmp_path / "staging").iterdir()) == []
    store.add(data(1, MIB))


def test_room_is_made_by_unpinning_and_collecting(tmp_path):
    store = opened(tmp_path, MIB)
    old = store.add(data(0, MIB))
    store.unpin(old)
    with pytest.raises(QuotaError):
        store.add(data(1, MIB))
    store.collect()
    assert store.get(store.add(data(1, MIB))) == data(1, MIB)


def test_a_store_above_a_new_quota_can_be_read_and_collected(tmp_path):
    cid = opened(tmp_path).add(data(0, MIB))
    store = opened(tmp_path, 1000)
    assert store.get(cid) == data(0, MIB)
    with pytest.raises(QuotaError):
        store.put_node({"small": 1})
    store.unpin(cid)
    assert store.collect().freed == MIB
    store.put_node({"small": 1})


def test_many_threads_fill_a_store_to_the_brim_and_not_further(tmp_path):
    quota = 100 * 10_000
    store = opened(tmp_path, quota)
    outcomes = []

    def fill(first):
        for number in range(40):
            try:
                outcomes.append(store.add(data(first * 1000 + number, 10_000)))
            except QuotaError:
                outcomes.append(None)

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = [cid for cid in outcomes if cid]
    assert told(store) == counted(store)
    # Who was refused while another's reservation stood might have fitted; later ones do.
    assert len(kept) <= 100
    while len(kept) < 100:
        kept.append(store.add(data(10**6 + len(kept), 10_000)))
    with pytest.raises(QuotaError):
        store.add(b"x")
    assert told(store) == (quota, 100)


FILLER = """
import random, sys
from pathlib import Path
from neuronexus_kernel.errors import QuotaError
from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import LocalStore
store = LocalStore(Path(sys.argv[1]), StorageSettings(quota=int(sys.argv[2]), fsync="never"))
rng = random.Random(int(sys.argv[3]))
print("ready", flush=True)
refused = 0
while refused < 20:
    try:
        cid = store.add(rng.randbytes(rng.randrange(1, 3 << 20)))
        print(cid, flush=True)
        if rng.random() < 0.3:
            store.unpin(cid)
        if rng.random() < 0.1:
            store.collect()
    except QuotaError:
        refused += 1
"""


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", FILLER, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def test_several_processes_never_exceed_the_quota(tmp_path):
    quota = 30 * MIB
    fillers = [start(tmp_path, quota, seed) for seed in range(3)]
    most = 0
    while any(filler.poll() is None for filler in fillers):
        sizes = []
        for path in tmp_path.glob("blocks/*/*"):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                continue
        most = max(most, sum(sizes))
        time.sleep(0.01)
    assert [filler.communicate() and filler.returncode for filler in fillers] == [0, 0, 0]
    store = opened(tmp_path, quota)
    assert told(store) == counted(store)
    assert quota / 2 < most <= quota
    assert store.usage().reserved == 0
    assert store.verify().ok


@pytest.mark.parametrize("seed", range(3))
def test_the_count_is_right_after_a_crash(tmp_path, seed):
    quota = 200 * MIB
    fillers = [start(tmp_path, quota, number) for number in range(2)]
    for filler in fillers:
        assert filler.stdout.readline() == "ready\n"
    time.sleep(random.Random(seed).uniform(0.1, 0.5))
    for filler in fillers:
        filler.send_signal(signal.SIGKILL)
        filler.communicate()
    store = opened(tmp_path, quota)
    assert told(store) == counted(store)
    assert store.usage().reserved == 0


def test_what_a_dead_process_had_reserved_is_given_back(tmp_path):
    store = opened(tmp_path, 10_000)
    dead = tmp_path / "staging" / "0123456789abcdef"
    dead.mkdir()
    (dead / usage.RESERVED).write_bytes(b"9000")
    assert store.usage().reserved == 9000
    store.add(data(0, 5000))
    assert store.usage() == usage.Usage(5000, 1, 0, 10_000)


def test_the_count_is_taken_anew_after_the_computer_was_started_again(tmp_path, monkeypatch):
    store = opened(tmp_path)
    store.add(data(0, 5000))
    (tmp_path / "locks" / "count").write_bytes(b"1 1 another-start\n")
    assert told(store) == (5000, 1)


@pytest.mark.parametrize("text", [b"", b"nonsense", b"1 2", b"-1 2 3", b"\xff" * 128])
def test_a_damaged_count_is_taken_anew(tmp_path, text):
    store = opened(tmp_path, 10_000)
    store.add(data(0, 5000))
    (tmp_path / "locks" / "count").write_bytes(text)
    store.add(data(1, 1000))
    assert told(store) == (6000, 2)


def test_two_writers_of_the_same_content_count_it_once(tmp_path):
    store = opened(tmp_path, 10 * MIB)
    content = data(0, 3 * MIB)
    threads = [threading.Thread(target=store.add, args=(content,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told(store) == counted(store)
    assert counted(store)[1] == 4


def test_settings_come_from_the_environment(tmp_path, monkeypatch):
    assert Settings.load(tmp_path).storage == StorageSettings(quota=None, fsync="always")
    monkeypatch.setenv("NEURONEXUS_STORE_QUOTA_MIB", "1.5")
    monkeypatch.setenv("NEURONEXUS_STORE_FSYNC", "never")
    assert Settings.load(tmp_path).storage == StorageSettings(quota=3 * MIB // 2, fsync="never")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NEURONEXUS_STORE_QUOTA_MIB", "much"),
        ("NEURONEXUS_STORE_QUOTA_MIB", "-1"),
        ("NEURONEXUS_STORE_QUOTA_MIB", "0"),
        ("NEURONEXUS_STORE_FSYNC", "sometimes"),
    ],
)
def test_settings_that_make_no_sense_are_named(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInputError, match=variable):
        StorageSettings.load()


def test_a_quota_of_the_settings_holds_for_documents_and_car_files(tmp_path):
    source = opened(tmp_path / "source")
    stream = io.BytesIO()
    source.export_car([source.add(data(0, 3 * MIB))], stream)
    stream.seek(0)
    store = opened(tmp_path / "store", MIB)
    with pytest.raises(QuotaError):
        store.import_car(stream)
    assert told(store) == (0, 0)
    with pytest.raises(QuotaError):
        store.put_node({"large": bytes(MIB)})
    assert not store.has(CID.of(data(0, 3 * MIB)))
