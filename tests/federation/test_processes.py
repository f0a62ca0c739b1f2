"""Worker processes: the same results whatever their number, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import psutil
import pytest

from neuronexus_kernel import models
from neuronexus_kernel.errors import EvaluationError
from neuronexus_kernel.federation import Recipe, train
from neuronexus_kernel.federation.executors.base import Client, Cohort
from neuronexus_kernel.federation.executors.plan import make_executor, make_plan
from neuronexus_kernel.federation.executors.processes import ProcessesExecutor
from neuronexus_kernel.federation.executors.processes.pool import WorkerError

SIZES = (9, 4, 12, 7, 7, 30, 5, 11, 8, 6)


def plan(executor="sequential", **options):
    return make_plan(recipe(), clients=len(SIZES), executor=executor, **options)


def recipe(**fields):
    return Recipe(models.mlp(6, (8,), 3), batch_size=5, local_epochs=2, **fields)


def cohort_of(blobs, *, round=1, sizes=SIZES, **fields):
    clients = tuple(Client(place, blobs(size, seed=place)) for place, size in enumerate(sizes))
    given = fields.pop("recipe", recipe())
    weights = given.architecture.initial_weights(0)
    return Cohort(given, weights, clients, seed=3, round=round, **fields)


def same(first, second):
    assert [each.partition_id for each in first] == [each.partition_id for each in second]
    for mine, theirs in zip(first, second, strict=True):
        assert (mine.num_examples, mine.steps) == (theirs.num_examples, theirs.steps)
        assert mine.loss == theirs.loss
        assert all(
            np.array_equal(mine.weights[name], theirs.weights[name]) for name in mine.weights
        )
    return True


@pytest.fixture(scope="module")
def pool():
    """An executor with two workers that follow the sequential plan."""
    with ProcessesExecutor(plan(), 2) as executor:
        yield executor


def test_the_workers_give_what_their_executor_gives_alone(blobs, pool):
    cohort = cohort_of(blobs)
    same(pool.train(cohort), make_executor(plan()).train(cohort))


def test_workers_are_started_once_and_data_are_sent_once(blobs, pool):
    cohort = cohort_of(blobs)
    pool.train(cohort)
    before, filled = pool.processes, pool._filled
    for number in (2, 3):
        later = Cohort(cohort.recipe, cohort.weights, cohort.clients, seed=3, round=number)
        same(pool.train(later), make_executor(plan()).train(later))
    assert pool.processes == before
    assert pool._filled == filled


def test_own_tensors_corrections_and_the_proximal_term_reach_the_workers(blobs, pool):
    plain = cohort_of(blobs)
    random = np.random.default_rng(5)
    name, array = next(iter(plain.weights.items()))
    noise = {place: {name: random.normal(size=array.shape).astype("f4")} for place in (1, 3)}
    full = cohort_of(blobs, own=noise, corrections=noise, proximal_mu=0.3)
    found = pool.train(full)
    same(found, make_executor(plan()).train(full))
    assert not np.array_equal(found[1].weights[name], pool.train(plain)[1].weights[name])


def test_updates_belong_to_the_receiver(blobs, pool):
    first = pool.train(cohort_of(blobs))
    kept = {name: array.copy() for name, array in first[0].weights.items()}
    pool.train(cohort_of(blobs, round=2))
    assert all(np.array_equal(first[0].weights[name], kept[name]) for name in kept)
    first[0].weights[next(iter(kept))][...] = 7.0


@pytest.mark.parametrize("inner", ["vectorized", "fused"])
def test_results_do_not_depend_on_the_number_of_workers(blobs, inner):
    found = []
    for workers in (1, 2):
        with ProcessesExecutor(plan(inner), workers) as executor:
            found.append(executor.train(cohort_of(blobs)))
            pids = executor.processes
            assert len(pids) == workers
        assert not any(psutil.pid_exists(pid) for pid in pids)
    same(*found)
    alone = make_executor(plan("sequential")).train(cohort_of(blobs))
    for mine, theirs in zip(found[0], alone, strict=True):
        for name, array in theirs.weights.items():
            np.testing.assert_allclose(mine.weights[name], array, atol=1e-5)


def test_float64_comes_back_as_float64_and_closing_twice_does_no_harm(blobs):
    with ProcessesExecutor(plan(dtype="float64"), 1) as executor:
        (update,) = executor.train(cohort_of(blobs, sizes=(6,)))
        executor.close()
    assert all(array.dtype == np.float64 for array in update.weights.values())


def test_a_run_by_processes_is_the_run_by_its_inner_plan(blobs):
    data = [blobs(12, seed=place) for place in range(4)]
    options = {"rounds": 2, "progress": False, "validation": blobs(20, seed=9)}
    before = children()
    found = train(recipe(momentum=0.5), data, executor="processes", **options)
    assert found.executor == "processes"
    again = train(recipe(momentum=0.5), data, plan=found.plan, **options)
    assert all(np.array_equal(found.arrays[name], again.arrays[name]) for name in found.arrays)
    inner = train(recipe(momentum=0.5), data, plan=found.plan["inner"], **options)
    for name, array in inner.arrays.items():
        np.testing.assert_allclose(found.arrays[name], array, atol=1e-6)
    assert children() == before


def children():
    me = psutil.Process()
    return {
        child.pid for child in me.children(recursive=True) if "processes.worker" in command(child)
    }


def command(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_worker_that_is_killed_is_replaced_and_its_chunk_repeated(blobs, pool):
    cohort = cohort_of(blobs)
    expected = pool.train(cohort)
    victim = pool.processes[0]
    os.kill(victim, signal.SIGKILL)
    same(pool.train(cohort), expected)
    assert victim not in pool.processes
    assert len(pool.processes) == 2


@pytest.mark.long
def test_a_worker_killed_at_work_is_replaced_too(blobs):
    long = recipe().with_changes(local_epochs=300)
    cohort = cohort_of(blobs, recipe=long)
    expected = make_executor(plan()).train(cohort)
    with ProcessesExecutor(plan(), 2) as executor:
        executor.train(cohort_of(blobs))
        victim = executor.processes[1]
        threading.Timer(0.15, os.kill, (victim, signal.SIGKILL)).start()
        same(executor.train(cohort), expected)
        assert victim not in executor.processes


@pytest.mark.long
def test_clients_that_end_every_worker_end_the_training_with_a_reason(blobs):
    cohort = cohort_of(blobs)
    with ProcessesExecutor(plan(), 2) as executor:
        executor.train(cohort)
        stop = threading.Event()

        def slay():
            while not stop.is_set():
                for pid in executor.processes:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.005)

        killer = threading.Thread(target=slay)
        killer.start()
        try:
            with pytest.raises(EvaluationError, match="ended twice"):
                executor.train(cohort)
        finally:
            stop.set()
            killer.join()
        same(executor.train(cohort), make_executor(plan()).train(cohort))


def test_what_a_worker_raises_is_raised_here_and_the_workers_go_on(blobs, pool):
    cohort = cohort_of(blobs)
    name = next(iter(cohort.weights))
    broken = Cohort(
        cohort.recipe, {**cohort.weights, name: np.zeros((1, 2, 3))}, cohort.clients, 3, 1
    )
    before = pool.processes
    with pytest.raises(WorkerError):
        pool.train(broken)
    same(pool.train(cohort), make_executor(plan()).train(cohort))
    assert pool.processes == before or before == ()


SCRIPT = """
    import sys, time
    from neuronexus_kernel import models
    from neuronexus_kernel.datasets import digits, partition
    from neuronexus_kernel.federation import Recipe, train

    def told(report):
        import psutil
        pids = [each.pid for each in psutil.Process().children(recursive=True)]
        print("pids", *pids, flush=True)

    recipe = Recipe(models.mlp(64, (8,), 10), local_epochs=1)
    result = train(recipe, digits(), partition=partition.iid(4), executor="processes",
                   rounds=ROUNDS, progress=False, evaluate_every=0, on_round=told)
    print("done", result.interrupted, flush=True)
"""


def started(rounds, *arguments):
    code = textwrap.dedent(SCRIPT).replace("ROUNDS", str(rounds))
    return subprocess.Popen(
        [sys.executable, *(arguments or ("-c", code))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def workers_of(child):
    """Read what the child prints until it names its workers."""
    for line in child.stdout:
        if line.startswith("pids ") and len(line.split()) > 1:
            return [int(pid) for pid in line.split()[1:]]
    raise AssertionError(child.stderr.read())


def gone(pids, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) and alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_a_script_without_a_main_guard_works_and_ends_silently(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("ROUNDS", "2"))
    child = started(2, str(script))
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0
    assert "done False" in out
    assert err == ""


def test_no_worker_outlives_a_killed_parent():
    child = started(100_000)
    pids = workers_of(child)
    child.kill()
    child.communicate(timeout=60)
    assert pids
    assert gone(pids)


def test_an_interrupt_ends_run_and_workers_cleanly():
    child = started(100_000)
    pids = workers_of(child)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0
    assert "done True" in out
    assert err == ""
    assert gone(pids)
