"""Children never outlive who started them, however that one ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from neuronexus_kernel.errors import HubUnavailableError
from neuronexus_kernel.federation.deployment.child import Child

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _children_can_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(HERE), *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))


def are_gone(*pids: int, within: float = 15.0) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not any(psutil.pid_exists(pid) and _lives(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_child_is_told_its_work_and_reports(tmp_path: Path) -> None:
    child = Child("children", {"word": "secret-word"}, folder=tmp_path, name="worker")
    try:
        report = child.wait_for_report(30)
        assert report["word"] == "secret-word"
        assert "secret-word" not in " ".join(psutil.Process(child.pid).cmdline())
    finally:
        child.stop()
    assert are_gone(child.pid, int(str(report["grandchild"])))


def test_a_child_that_fails_to_start_is_told_with_its_log(tmp_path: Path) -> None:
    child = Child("children", {"fail": True}, folder=tmp_path, name="worker")
    with pytest.raises(HubUnavailableError, match="It fails as it was told"):
        child.wait_for_report(30)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_children_end_when_their_parent_is_killed(tmp_path: Path, sign: int) -> None:
    code = (
        "import sys, time; from pathlib import Path; "
        "from neuronexus_kernel.federation.deployment.child import Child; "
        f"c = Child('children', {{'word': 'x'}}, folder=Path({str(tmp_path)!r}), name='worker'); "
        "r = c.wait_for_report(30); print(c.pid, r['grandchild'], flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(sign)
    parent.wait(10)
    parent.stdout.close()
    assert are_gone(*pids)
