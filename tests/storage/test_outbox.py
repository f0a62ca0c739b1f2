"""What waits to be brought to a node: in order, once, and through crashes."""

import json
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from neuronexus_kernel.content.cid import CID, DAG_PB
from neuronexus_kernel.errors import NotFoundError, StoreError, StoreUnavailable
from neuronexus_kernel.storage import outbox as module
from neuronexus_kernel.storage.outbox import Action, Outbox

ONE, TWO, THREE = (CID.of(bytes([number])) for number in range(3))


@pytest.fixture
def outbox(tmp_path):
    return Outbox(tmp_path / "outbox", sync=False)


class Node:
    """Does what it is told, or fails as it is told."""

    def __init__(self):
        self.done = []
        self.problems = {}

    def __call__(self, task):
        problem = self.problems.get(task.root) or self.problems.get(None)
        if problem is not None:
            raise problem
        self.done.append((task.root, task.action, task.name))


@pytest.fixture
def node():
    return Node()


def test_tasks_are_carried_out_in_their_order_and_then_gone(outbox, node):
    for root in (TWO, ONE, THREE):
        outbox.put(root, Action.KEEP, name="n")
    pushed = outbox.push(node)
    assert [root for root, _, _ in node.done] == [TWO, ONE, THREE]
    assert pushed.done == (TWO, ONE, THREE)
    assert pushed.waiting == 0
    assert outbox.waiting() == []


def test_a_root_has_one_task_and_keeps_its_place(outbox, node):
    outbox.put(ONE, Action.KEEP, name="a")
    outbox.put(TWO, Action.SEND)
    outbox.put(ONE, Action.DROP)
    outbox.put(CID(DAG_PB, THREE.digest, version=0), Action.SEND)
    outbox.put(CID(DAG_PB, THREE.digest), Action.KEEP)
    outbox.push(node)
    assert node.done == [
        (ONE, Action.DROP, ""),
        (TWO, Action.SEND, ""),
        (CID(DAG_PB, THREE.digest), Action.KEEP, ""),
    ]


def test_what_waits_survives_the_process(outbox, node, tmp_path):
    outbox.put(ONE, Action.KEEP, name="Gewichte für heute")
    (task,) = Outbox(tmp_path / "outbox").waiting()
    assert (task.root, task.action, task.name) == (ONE, Action.KEEP, "Gewichte für heute")


def test_a_node_that_does_not_answer_ends_the_attempt(outbox, node):
    for root in (ONE, TWO, THREE):
        outbox.put(root, Action.KEEP)
    node.problems[TWO] = StoreUnavailable("it is down")
    pushed = outbox.push(node)
    assert pushed.done == (ONE,)
    assert pushed.problem == "it is down"
    assert pushed.waiting == 2
    del node.problems[TWO]
    assert outbox.push(node).done == (TWO, THREE)


def test_the_node_is_left_in_peace_longer_each_time(outbox, node, monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    node.problems[None] = StoreUnavailable("it is down")
    outbox.put(ONE, Action.KEEP)
    waits = []
    for _ in range(12):
        start = now[0]
        while outbox.push(node, due=True).problem == "":
            now[0] += 0.5
        waits.append(now[0] - start)
    assert waits[:5] == [0.0, 1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == 300.0


def test_whoever_asks_for_it_need_not_wait(outbox, node):
    node.problems[None] = StoreUnavailable("it is down")
    outbox.put(ONE, Action.KEEP)
    outbox.push(node)
    node.problems.clear()
    assert outbox.push(node, due=True).done == ()
    assert outbox.push(node).done == (ONE,)


def test_a_node_that_answers_is_asked_again_at_once(outbox, node):
    node.problems[None] = StoreUnavailable("it is down")
    outbox.put(ONE, Action.KEEP)
    outbox.push(node)
    node.problems.clear()
    outbox.awake()
    assert outbox.push(node, due=True).done == (ONE,)


def test_it_tells_when_something_is_due(outbox, node, monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    assert outbox.due_in() is None
    outbox.put(ONE, Action.KEEP)
    assert (outbox.due_in(), len(outbox)) == (0.0, 1)
    node.problems[ONE] = StoreError("it is broken")
    outbox.push(node)
    assert outbox.due_in() == 1.0
    outbox.put(TWO, Action.KEEP)
    assert outbox.due_in() == 0.0
    for seconds in (1.0, 2.0):
        outbox.rest()
        assert outbox.resting() == outbox.due_in() == seconds
        now[0] += seconds
    assert outbox.resting() == 0.0
    assert outbox.push(node, due=True).done == (TWO,)


def test_a_task_that_fails_waits_alone(outbox, node):
    outbox.put(ONE, Action.KEEP)
    outbox.put(TWO, Action.KEEP)
    node.problems[ONE] = StoreError("its block is corrupt")
    pushed = outbox.push(node, due=True)
    assert pushed.done == (TWO,)
    assert pushed.failed == ((ONE, "its block is corrupt"),)
    (task,) = outbox.waiting()
    assert (task.tries, task.problem) == (1, "its block is corrupt")
    assert outbox.push(node, due=True).failed == ()
    del node.problems[ONE]
    assert outbox.push(node).done == (ONE,)


def test_a_task_whose_content_is_gone_is_dropped(outbox, node):
    outbox.put(ONE, Action.SEND)
    node.problems[ONE] = NotFoundError("it was collected")
    assert outbox.push(node).failed == ((ONE, "it was collected"),)
    assert outbox.waiting() == []


def test_a_task_that_was_changed_meanwhile_is_not_lost(outbox):
    outbox.put(ONE, Action.KEEP, name="a")
    done = []

    def deliver(task):
        if not done:
            outbox.put(ONE, Action.DROP)
        done.append(task.action)

    assert outbox.push(deliver).waiting == 0
    assert done == [Action.KEEP, Action.DROP]


def test_what_is_put_while_others_push_is_pushed_too(outbox):
    outbox.put(ONE, Action.KEEP)
    done = []

    def deliver(task):
        if task.root == ONE:
            outbox.put(TWO, Action.KEEP)
            assert outbox.push(deliver, due=True).done == ()  # Somebody is at it.
        done.append(task.root)

    outbox.push(deliver, due=True)
    assert done == [ONE, TWO]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"root": 1}', b"\xff" * 100, b"[" * 9000])
def test_a_damaged_file_still_says_what_must_not_be_lost(outbox, node, tmp_path, damage):
    outbox.put(ONE, Action.SEND)
    (tmp_path / "outbox" / str(ONE)).write_bytes(damage)
    (task,) = outbox.waiting()
    assert (task.root, task.action) == (ONE, Action.KEEP)
    assert outbox.push(node).done == (ONE,)
    assert outbox.waiting() == []


def test_files_that_are_no_tasks_are_left_alone(outbox, node, tmp_path):
    folder = tmp_path / "outbox"
    (folder / "notes.txt").write_text("mine")
    (folder / "rest").write_text("nonsense")
    (folder / "new").write_text("half")
    (folder / "a folder").mkdir()
    outbox.put(ONE, Action.KEEP)
    assert outbox.push(node, due=True).done == (ONE,)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_clock_that_was_set_back_blocks_nothing(outbox, node, tmp_path):
    outbox.put(ONE, Action.KEEP)
    path = tmp_path / "outbox" / str(ONE)
    path.write_text(json.dumps({**json.loads(path.read_text()), "until": time.time() + 1e9}))
    (tmp_path / "outbox" / "rest").write_text(json.dumps({"tries": 9, "until": time.time() + 1e9}))
    assert outbox.push(node, due=True).done == (ONE,)


def test_a_full_disk_is_told(outbox, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "create", full)
    with pytest.raises(StoreError, match="full"):
        outbox.put(ONE, Action.KEEP)
    monkeypatch.undo()
    assert outbox.waiting() == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        Outbox(tmp_path / "file" / "outbox")


# -- several at once -------------------------------------------------------------------------


def fill(folder, numbers):
    outbox = Outbox(Path(folder), sync=False)
    for number in numbers:
        outbox.put(CID.of(b"%d" % number), Action.KEEP)


def empty(folder, log, seconds):
    outbox = Outbox(Path(folder), sync=False)

    def deliver(task):
        with open(log, "a") as file:
            file.write(f"{task.root}\n")
        if os.urandom(1)[0] < 20:
            raise StoreUnavailable("now and then")

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        outbox.push(deliver, due=False)


def test_processes_fill_and_empty_it_at_once_and_nothing_is_lost(outbox, tmp_path):
    context = multiprocessing.get_context("fork")
    folder, log = tmp_path / "outbox", tmp_path / "log"
    log.touch()
    writers = [
        context.Process(target=fill, args=(folder, range(start, 120, 3))) for start in range(3)
    ]
    pushers = [context.Process(target=empty, args=(folder, log, 1.0)) for _ in range(2)]
    for process in (*writers, *pushers):
        process.start()
    for process in (*writers, *pushers):
        process.join()
    left = {str(task.root) for task in outbox.waiting()}
    assert {*log.read_text().split(), *left} == {
        str(CID.of(b"%d" % number)) for number in range(120)
    }


def test_one_pushes_at_a_time(outbox):
    for root in (ONE, TWO, THREE):
        outbox.put(root, Action.KEEP)
    at_once, most = [0], [0]

    def deliver(task):
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.05)
        at_once[0] -= 1

    threads = [threading.Thread(target=outbox.push, args=(deliver,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert outbox.waiting() == []


def forever(folder):
    outbox = Outbox(Path(folder), sync=False)
    number = 0
    while True:
        root = CID.of(b"%d" % (number % 40))
        outbox.put(root, Action.KEEP if number % 3 else Action.DROP, name=str(number))
        outbox.push(lambda task: None)
        number += 1


def test_a_process_that_is_killed_leaves_it_whole(outbox, node, tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(8):
        process = context.Process(target=forever, args=(tmp_path / "outbox",))
        process.start()
        time.sleep(0.05 + 0.01 * attempt)
        process.kill()
        process.join()
        for task in outbox.waiting():
            assert task.token
            assert task.action in Action
        outbox.put(ONE, Action.KEEP)
        assert ONE in outbox.push(node).done
