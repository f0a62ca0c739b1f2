"""Child processes under limits: whatever they do, the hub gets an answer and nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from neuronexus_kernel.errors import EvaluationError, RecipeError
from neuronexus_kernel.hub.workers import ChildProcessExecutor
from neuronexus_kernel.settings import MIB, EvaluationLimits

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # children import what they run by name, as they do the kernel's jobs

import jobs_that_misbehave as work  # noqa: E402

LIMITS = EvaluationLimits(seconds=20, memory=512 * MIB)


@pytest.fixture
def executor():
    executor = ChildProcessExecutor(LIMITS)
    yield executor
    executor.shutdown()


def computing_children() -> list[psutil.Process]:
    """Return the children of this process's fork server: those that run jobs."""
    return [
        job
        for server in psutil.Process().children()
        if "forkserver" in " ".join(server.cmdline())
        for job in server.children()
    ]


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_an_answer_comes_back_whole(executor, size):
    assert executor.submit(work.answer, size).result() == b"x" * size


def test_one_that_takes_too_long_is_ended():
    executor = ChildProcessExecutor(EvaluationLimits(seconds=0.5, memory=512 * MIB))
    executor.submit(work.answer, 1).exception()  # the fork server may need longer than that
    with pytest.raises(EvaluationError, match=r"more than 0.5 seconds .*EVALUATION_SECONDS"):
        executor.submit(work.sleep, 60).result()
    assert computing_children() == []
    executor.shutdown()


def test_one_that_takes_too_much_memory_is_told_so(executor):
    with pytest.raises(EvaluationError, match="more than the 512 MiB of memory"):
        executor.submit(work.eat, 2000).result()


def test_one_that_dies_is_told_from_one_that_answers(executor):
    with pytest.raises(EvaluationError, match=r"without a result \(exit code 7\)"):
        executor.submit(work.die).result()


def test_an_error_of_ours_comes_back_as_it_is(executor):
    with pytest.raises(RecipeError, match="learning_rate must be above 0"):
        executor.submit(work.refuse).result()


def test_any_other_error_is_named(executor, capfd):
    with pytest.raises(EvaluationError, match="KeyError: 'a key'"):
        executor.submit(work.blunder).result()
    assert "Traceback" not in capfd.readouterr().err


def test_many_in_a_row_and_at_once_leave_no_process_and_no_file_open(executor):
    executor.submit(work.answer, 1).result()
    before = psutil.Process().num_fds()
    for _ in range(3):
        futures = [executor.submit(work.answer, number) for number in range(5)]
        assert [len(future.result()) for future in futures] == list(range(5))
    until(lambda: computing_children() == [])
    until(lambda: psutil.Process().num_fds() <= before)


def test_shutting_down_ends_what_runs_and_takes_no_more(tmp_path):
    executor = ChildProcessExecutor(LIMITS)
    note = tmp_path / "pid"
    running = executor.submit(work.tell_and_sleep, str(note))
    until(lambda: note.exists() and note.read_text())
    executor.shutdown()
    assert isinstance(running.exception(5), EvaluationError)
    assert not psutil.pid_exists(int(note.read_text())) or computing_children() == []
    with pytest.raises(RuntimeError):
        executor.submit(work.answer, 1)


def test_no_child_starts_while_the_executor_shuts_down():
    """A call that was taken in just before must not go on after it."""
    for _ in range(5):
        executor = ChildProcessExecutor(LIMITS)
        futures = []
        thread = threading.Thread(target=lambda e=executor, f=futures: f.append(submit(e)))
        thread.start()
        executor.shutdown()
        thread.join()
        for future in futures:
            if future is not None:
                assert isinstance(future.exception(10), (RuntimeError, EvaluationError))
    assert computing_children() == []


def submit(executor):
    try:
        return executor.submit(work.sleep, 60)
    except RuntimeError:
        return None


def test_a_child_ends_with_its_parent(tmp_path):
    note = tmp_path / "pid"
    parent = script(
        f"""
        executor = ChildProcessExecutor(EvaluationLimits(seconds=600))
        executor.submit(work.tell_and_sleep, {str(note)!r}).result()
        """
    )
    until(lambda: note.exists() and note.read_text())
    child = psutil.Process(int(note.read_text()))
    server = child.parent()
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    _, alive = psutil.wait_procs([child, server], timeout=10)
    assert alive == []


def test_nothing_is_said_at_the_end_of_a_program_that_evaluated():
    """Semaphores that a child made are cleaned up by the child."""
    program = script(
        """
        executor = ChildProcessExecutor(EvaluationLimits(seconds=60))
        for _ in range(3):
            assert executor.submit(work.show_progress).result() == b"done"
        executor.shutdown()
        print("well")
        """
    )
    out, err = program.communicate(timeout=60)
    assert (program.returncode, out, err) == (0, "well\n", "")


def script(body: str) -> subprocess.Popen:
    """Start a program that may use the executor and the jobs of these tests."""
    code = "import jobs_that_misbehave as work\n"
    code += "from neuronexus_kernel.hub.workers import ChildProcessExecutor\n"
    code += "from neuronexus_kernel.settings import EvaluationLimits\n"
    code += "if __name__ == '__main__':\n"
    code += textwrap.indent(textwrap.dedent(body).strip(), "    ")
    path = [str(HERE), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
    )
