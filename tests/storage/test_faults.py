"""Processes that die, disks that fill up, two processes at once: all for real."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neuronexus_kernel.content import CID
from neuronexus_kernel.storage import LocalStore

MIB = 1024 * 1024

# Adds content of growing size for ever and says so after each acknowledgement.
WRITER = """
import random, sys
from pathlib import Path
from neuronexus_kernel.storage import LocalStore
store, seed = LocalStore(Path(sys.argv[1])), int(sys.argv[2])
for number in range(int(sys.argv[3])):
    data = random.Random(seed * 100000 + number).randbytes(number * 200_003 % (4 << 20))
    print(number, store.add(data), store.put_node({"number": number}), flush=True)
"""


def start(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def content(seed, number):
    return random.Random(seed * 100_000 + number).randbytes(number * 200_003 % (4 << 20))


def check_every_block(root):
    for path in (root / "blocks").rglob("b*"):
        if path.is_file():
            assert CID.parse(path.name).matches(path.read_bytes()), path


def killed_writer(root, seed):
    """Kill a writing process at a random moment; return what it had acknowledged."""
    writer = start(WRITER, root, seed, 10_000)
    first = writer.stdout.readline()
    time.sleep(random.Random(seed).uniform(0, 0.6))
    writer.send_signal(signal.SIGKILL)
    rest, _ = writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    return [line.split() for line in (first + rest).splitlines(keepends=True) if line[-1] == "\n"]


def kill_and_check(root, seed):
    acknowledged = killed_writer(root, seed)
    assert acknowledged
    store = LocalStore(root)
    for number, file_cid, node_cid in acknowledged:
        assert store.get(file_cid) == content(seed, int(number))
        assert store.get_node(node_cid) == {"number": int(number)}
    check_every_block(root)
    assert list((root / "staging").iterdir()) == []


@pytest.mark.parametrize("seed", range(5))
def test_what_a_killed_process_had_acknowledged_is_there(tmp_path, seed):
    kill_and_check(tmp_path, seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5, 55))
def test_what_a_killed_process_had_acknowledged_is_there_fifty_times(tmp_path, seed):
    kill_and_check(tmp_path, seed)


def test_two_processes_write_the_same_content_at_once(tmp_path):
    writers = [start(WRITER, tmp_path, 3, 12) for _ in range(2)]
    answers = [writer.communicate(timeout=60) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    store = LocalStore(tmp_path)
    for line in answers[0][0].splitlines():
        number, file_cid, _ = line.split()
        assert store.get(file_cid) == content(3, int(number))
    check_every_block(tmp_path)
    assert list((tmp_path / "staging").iterdir()) == []


# Adds a small file, then one that does not fit, then a small one again.
FILLER = """
import random, resource, sys
from pathlib import Path
from neuronexus_kernel.errors import StoreError
from neuronexus_kernel.storage import LocalStore
root = Path(sys.argv[1])
if len(sys.argv) > 3:
    limit = int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store = LocalStore(root)
small = store.add(b"small")
before = sorted(path for path in root.rglob("*") if path.is_file())
try:
    store.add(random.Random(0).randbytes(int(sys.argv[2])))
except StoreError as error:
    print("error:", error)
after = sorted(path for path in root.rglob("*") if path.is_file())
assert before == after, (before, after)
assert not list((root / "staging").iterdir())
assert store.get(small) == b"small"
assert store.get(store.add(b"small again")) == b"small again"
print("well")
"""


def test_a_file_size_limit_is_explained_and_leaves_nothing(tmp_path):
    process = start(FILLER, tmp_path, 3 * MIB, 300_000)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "error:" in out
    assert "ulimit" in out
    assert out.endswith("well\n")


def in_own_mount(folder: Path, size: str) -> list[str]:
    """Command that mounts a tiny file system for one process, or [] where that is forbidden."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return []
    script = f'mount -t tmpfs -o size={size} tmpfs "{folder}" && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    probe = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if probe.returncode == 0 else []


# Fills a store, and then the last byte beside it; collects, and has room again.
COLLECTOR = """
import random, sys
from pathlib import Path
from neuronexus_kernel.errors import StoreError
from neuronexus_kernel.storage import LocalStore
root = Path(sys.argv[1])
store = LocalStore(root / "store")
for number in range(100):
    try:
        store.add(random.Random(number).randbytes(100_000))
    except StoreError:
        break
assert number > 5
try:
    with (root / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(512)):
            pass
except OSError:
    pass
kept, *others = list(store.pins())
for pin in others:
    store.unpin(pin.cid)
assert store.open(kept.cid).read() == random.Random(0).randbytes(100_000)
assert store.collect().removed == len(others)
assert (store.usage().blocks, store.usage().bytes) == (1, 100_000)
assert store.verify().ok
store.add(random.Random(100).randbytes(100_000))
assert store.usage().blocks == 2
print("well")
"""


def test_a_full_disk_can_be_collected(tmp_path):
    command = in_own_mount(tmp_path, "2m")
    if not command:
        pytest.skip("this system lets no ordinary process mount a small file system")
    result = subprocess.run(
        [*command, sys.executable, "-c", COLLECTOR, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "well\n"


def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path):
    command = in_own_mount(tmp_path, "2m")
    if not command:
        pytest.skip("this system lets no ordinary process mount a small file system")
    result = subprocess.run(
        [*command, sys.executable, "-c", FILLER, str(tmp_path), str(5 * MIB)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "The disk is full" in result.stdout
    assert result.stdout.endswith("well\n")
