"""The locks below a store: between threads, between processes, and past the death of an owner."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from neuronexus_kernel.errors import StoreError
from neuronexus_kernel.storage import locking
from neuronexus_kernel.storage.locking import TICK, ContentLock, OwnedFolder, remove_remains


@pytest.fixture
def lock(tmp_path):
    return ContentLock(tmp_path)


def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_many_may_add_at_once(lock):
    with lock.shared(), lock.shared():
        thread = in_thread(lambda: lock.shared().__enter__())
        thread.join(5)
        assert not thread.is_alive()


def test_one_removes_and_nobody_adds_meanwhile(lock):
    order = []

    def add():
        with lock.shared():
            order.append("added")

    with lock.exclusive():
        thread = in_thread(add)
        time.sleep(0.05)
        order.append("removed")
    thread.join()
    assert order == ["removed", "added"]


def test_a_remover_waits_until_all_have_added(lock):
    order = []

    def remove():
        with lock.exclusive():
            order.append("removed")

    with lock.shared():
        thread = in_thread(remove)
        time.sleep(0.05)
        order.append("added")
    thread.join()
    assert order == ["added", "removed"]


def test_a_remover_gets_its_turn_among_adders_without_a_gap(lock):
    done = threading.Event()

    def add(wait):
        time.sleep(wait)
        while not done.is_set():
            with lock.shared():
                time.sleep(0.02)

    threads = [in_thread(lambda wait=number * 0.005: add(wait)) for number in range(4)]
    time.sleep(0.05)
    for _ in range(3):
        with lock.exclusive(patience=20):
            pass
    done.set()
    for thread in threads:
        thread.join()


def test_adders_go_on_while_a_remover_waits_for_one_that_takes_long(lock):
    done = threading.Event()
    waited = []

    def remove():
        with lock.exclusive():
            waited.append(done.is_set())

    with lock.shared():
        thread = in_thread(remove)
        start = time.monotonic()
        for _ in range(10):
            with lock.shared():
                pass
        assert time.monotonic() - start < 20
        done.set()
    thread.join()
    assert waited == [True]


def test_a_remover_that_waits_in_vain_says_so(lock, tmp_path):
    with lock.shared(), pytest.raises(StoreError, match="without end"):
        lock.exclusive(patience=0.01).__enter__()
    with lock.exclusive():
        pass


def test_what_appears_after_an_epoch_began_is_stamped_after_it(lock):
    with lock.shared() as stamp:
        before = stamp
    epoch = lock.new_epoch()
    assert before < epoch
    assert epoch % TICK == 0
    assert epoch - before <= TICK
    with lock.shared() as stamp:
        assert stamp >= epoch
    assert lock.new_epoch() > epoch


def test_epochs_go_on_when_the_clock_is_set_back(lock, monkeypatch):
    epoch = lock.new_epoch()
    monkeypatch.setattr(locking.time, "time_ns", lambda: 1)
    with lock.shared() as stamp:
        assert stamp == epoch
    assert lock.new_epoch() == epoch + TICK


def test_coarse_times_of_a_file_system_keep_the_order(lock, monkeypatch):
    now = [10**18 + 1]
    monkeypatch.setattr(locking.time, "time_ns", lambda: now[0])
    for step in (1, TICK // 3, TICK - 2, TICK, 5):
        with lock.shared() as stamp:
            before = stamp // TICK * TICK
        epoch = lock.new_epoch()
        assert before < epoch
        now[0] += step
        with lock.shared() as stamp:
            assert stamp // TICK * TICK >= epoch


@pytest.mark.parametrize("text", ["", "nonsense", "12345"])
def test_a_damaged_epoch_begins_anew(lock, tmp_path, text):
    (tmp_path / "content").write_text(text)
    with lock.shared() as stamp:
        assert abs(stamp - time.time_ns()) < 10 * TICK
    assert lock.new_epoch() > stamp


HOLDER = """
import sys, time
from pathlib import Path
from neuronexus_kernel.storage.locking import ContentLock, OwnedFolder
root = Path(sys.argv[1])
lock = ContentLock(root)
alone = lock.exclusive()
lock.hold_shared() if sys.argv[2] == "shared" else alone.__enter__()
folder = OwnedFolder(root / "owned")
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["shared", "alone"])
def test_a_killed_process_holds_no_lock_and_no_folder(lock, tmp_path, how):
    (tmp_path / "owned").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path, how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(StoreError):
        lock.exclusive(patience=0.01).__enter__()
    assert remove_remains(tmp_path / "owned") == 0
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with lock.exclusive(patience=0.01):
        pass
    assert remove_remains(tmp_path / "owned") == 1


def test_a_forked_child_does_not_hold_on_to_a_lock(lock):
    with lock.shared():
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        with lock.exclusive(patience=0.01):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_folders_of_the_living_are_left_alone(tmp_path):
    owned = OwnedFolder(tmp_path)
    (owned.path / "file").write_text("mine")
    (tmp_path / "stray").write_text("no folder")
    assert remove_remains(tmp_path) == 0
    assert (owned.path / "file").exists()
    owned.remove()
    assert not owned.path.exists()


def test_making_and_cleaning_folders_at_once_takes_none_from_its_owner(tmp_path):
    problems, done = [], threading.Event()

    def make():
        while not done.is_set():
            owned = OwnedFolder(tmp_path)
            try:
                (owned.path / "file").write_text("mine")
            except OSError as problem:
                problems.append(problem)
            owned.remove()

    threads = [in_thread(make) for _ in range(3)]
    for _ in range(300):
        remove_remains(tmp_path)
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert list(tmp_path.iterdir()) == []
