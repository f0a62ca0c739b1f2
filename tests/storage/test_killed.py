"""kill -9 at random moments of concurrent adds and collections, in several processes.

Three processes add files, folders and documents that share blocks, pin and unpin them, and two
collect all the while.  Each writes down what was acknowledged, and what it is about to take back
before it does so.  Then they are killed, one after another, and whatever was acknowledged and not
taken back must be there, whole.
"""

import json
import random
import signal
import subprocess
import sys
import time

import pytest

from neuronexus_kernel.settings import StorageSettings
from neuronexus_kernel.storage import LocalStore

ADDER = """
import json, random, sys
from pathlib import Path
from neuronexus_kernel.storage import LocalStore

def tell(sign, cid, what):
    print(json.dumps([sign, str(cid), what]), flush=True)

root, seed = Path(sys.argv[1]), int(sys.argv[2])
store, rng = LocalStore(root / "store"), random.Random(seed)
# A few pieces, the same for all processes, so that most blocks are needed by several roots.
pieces = [random.Random(number).randbytes(1 << 20) for number in range(4)]
folder = root / f"folder-{seed}"
folder.mkdir()
mine = []
for number in range(10_000):
    name = f"{seed}-{number}"
    chosen = [rng.randrange(4) for _ in range(rng.randrange(4))]
    tail = rng.randrange(3)
    data = b"".join(pieces[piece] for piece in chosen) + b"tail" * tail
    kind = rng.randrange(4)
    if kind == 0:
        cid = store.add(data, name=name)
        tell("+", cid, ["file", name, chosen, tail])
    elif kind == 1:
        (folder / "file").write_bytes(data)
        cid = store.add(folder, name=name)
        tell("+", cid, ["folder", name, chosen, tail])
    elif kind == 2:
        store.add(data, pin=False)
        continue
    else:
        linked = store.add(data, name=name)
        cid = store.put_node({"name": name, "file": linked})
        # The document keeps the file from here on.
        store.unpin(linked, name=name)
        tell("+", cid, ["node", "", chosen, tail, name])
        name = ""
    mine.append((cid, name))
    if len(mine) > 3:
        old, name = mine.pop(rng.randrange(len(mine)))
        tell("-", old, name)
        store.unpin(old, name=name)
"""

COLLECTOR = """
import sys
from pathlib import Path
from neuronexus_kernel.storage import LocalStore
store = LocalStore(Path(sys.argv[1]) / "store")
print("ready", flush=True)
while True:
    store.collect()
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def content(chosen, tail):
    pieces = [random.Random(number).randbytes(1 << 20) for number in chosen]
    return b"".join(pieces) + b"tail" * tail


def kept(outputs):
    """What was acknowledged and not about to be taken back."""
    found = {}
    for output in outputs:
        for line in output.splitlines(keepends=True):
            if line.endswith("\n") and line.startswith("["):
                sign, cid, what = json.loads(line)
                if sign == "+":
                    found[cid, what[1]] = what
                else:
                    found.pop((cid, what))
    return found


def kill_and_check(root, seed):
    rng = random.Random(seed)
    store = root / "store"
    processes = [start(ADDER, root, number) for number in range(3)]
    processes += [start(COLLECTOR, root) for _ in range(2)]
    first = [process.stdout.readline() for process in processes]
    time.sleep(rng.uniform(0, 0.7))
    rng.shuffle(processes)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        time.sleep(rng.choice([0, 0, 0.05]))
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 5

    opened = LocalStore(store, StorageSettings(fsync="never"))
    acknowledged = kept([*first, *outputs])
    assert acknowledged
    pins = {(str(pin.cid), pin.name) for pin in opened.pins()}
    for moment in ("now", "after a collection"):
        for (cid, name), (kind, _, chosen, tail, *rest) in acknowledged.items():
            assert (cid, name) in pins, moment
            expected = content(chosen, tail)
            if kind == "node":
                node = opened.get_node(cid)
                assert node["name"] == rest[0]
                assert opened.get(node["file"]) == expected, moment
            else:
                assert opened.get(cid if kind == "file" else f"{cid}/file") == expected, moment
        report = opened.verify()
        assert report.problems == (), moment
        sizes = [path.stat().st_size for path in store.glob("blocks/*/*")]
        assert (opened.usage().bytes, opened.usage().blocks) == (sum(sizes), len(sizes)), moment
        assert list((store / "staging").iterdir()) == []
        opened.collect()


@pytest.mark.parametrize("seed", range(5))
def test_no_acknowledged_root_is_lost_when_everybody_is_killed(tmp_path, seed):
    kill_and_check(tmp_path, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5, 55))
def test_no_acknowledged_root_is_lost_at_fifty_moments(tmp_path, seed):
    kill_and_check(tmp_path, seed)
