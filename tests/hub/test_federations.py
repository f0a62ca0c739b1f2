"""What a hub keeps of federations that ended early, and for how long."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.errors import ConflictError
from neuronexus_kernel.hub.federations import KEPT_DAYS


def age(path: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    os.utime(path, (then, then))


def test_files_of_federations_that_will_not_go_on_are_removed(open_bench, task: nx.Task) -> None:
    bench = open_bench()
    project = bench.project(task)
    given_up = project.serve(nodes=1).stop()
    assert given_up.record.resumable
    served = project.serve(nodes=1)
    assert not given_up.record.resumable, "its project is served anew"
    with pytest.raises(ConflictError, match="no longer be resumed"):
        given_up.resume()
    folder = bench.home / "federations" / served.id
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder.parent / "stray").mkdir()
    bench.close()

    bench = open_bench()
    record = bench.hub.federation(served.id)
    assert (record.state, record.resumable) == ("interrupted", True)
    assert list(folder.parent.iterdir()) == [folder]
    age(folder, KEPT_DAYS - 1)
    bench.close()

    bench = open_bench()
    assert bench.hub.federation(served.id).resumable
    age(folder, KEPT_DAYS + 1)
    bench.close()

    bench = open_bench()
    assert not bench.hub.federation(served.id).resumable
    assert not folder.exists()
