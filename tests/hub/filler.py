"""Fills the disk under a hub and frees it again; says what happened.  Run as a program.

``filler.py HOME WAY``: under WAY ``limit`` no file of this process may grow beyond 3 MB; under
``log`` the small file system that holds HOME has room for little more than the start of the
write-ahead log; under ``checkpoint`` it has room for that log, but not for the checkpoint that
DuckDB makes when the log has 16 MiB.
"""

import os
import random
import resource
import sys
from pathlib import Path

import sqlalchemy as sa

from neuronexus_kernel.errors import StoreError
from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.local import LocalHub, Services
from neuronexus_kernel.settings import Settings

PASSWORD = "correct horse battery"
RNG = random.Random(0)


def text() -> str:
    return RNG.randbytes(60_000).hex()


def count(services: Services) -> int:
    query = sa.select(sa.func.count()).select_from(schema.events)
    return services.database.read(lambda tx: tx.scalar(query))


def fill_up(ballast: Path, *, leave: int) -> None:
    free = os.statvfs(ballast.parent)
    ballast.write_bytes(b"x" * (free.f_bavail * free.f_frsize - leave))


def main(home: Path, way: str) -> None:
    ballast, log = home / "ballast", home / "hub.duckdb.wal"
    services = Services(Settings(home=home))
    hub = LocalHub(services)
    hub.register("ada", PASSWORD)
    hub.login("ada", PASSWORD)
    if way == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
    elif way == "log":
        fill_up(ballast, leave=1_500_000)
    acknowledged, errors = 1, []
    # A reader that holds a connection must not stand in the way of opening the database anew.
    with services.database._engine.connect() as reader:
        reader.execute(sa.select(schema.counters)).all()
        reader.rollback()
        while len(errors) < 3:
            try:
                body = text()
                services.database.write(lambda tx, body=body: tx.emit("test", "-", None, text=body))
                acknowledged += 1
                if way == "checkpoint" and log.stat().st_size > 15_500_000:
                    fill_up(ballast, leave=3_000_000)
                    way = "checkpoint is due"
            except StoreError as error:
                errors.append(str(error))
        reader.invalidate()
    print("errors:", *errors)
    assert count(services) == acknowledged, "what failed is not there, what was told is"
    try:
        for _ in range(4):
            hub.put(RNG.randbytes(1_500_000))
        print("stored")
    except StoreError as error:
        print("content error:", error)
    if way == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    else:
        ballast.unlink()
    services.database.write(lambda tx: tx.emit("test", "-", None))
    assert hub.put(b"there is room again").size == 19
    assert hub.verify_ledger().ok
    assert [event.seq for event in hub.events()] == list(range(1, acknowledged + 2))
    hub.close()
    again = LocalHub.open(home)
    assert len(again.events()) == acknowledged + 1
    again.close()
    print("well")


main(Path(sys.argv[1]), sys.argv[2])
