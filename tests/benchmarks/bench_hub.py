"""Acknowledged writes of a hub with many clients at once, beside one commit for each write.

Both sides are the same database code, durable, on the same disk, and differ in how many changes
may share a commit.  They take turns, and the best of several turns counts.
"""

from __future__ import annotations

import importlib.util
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import sqlalchemy as sa
from measure import Figure

from neuronexus_kernel.hub import schema
from neuronexus_kernel.hub.database import Database, Transaction
from neuronexus_kernel.hub.duckdb_database import DuckDBDatabase
from neuronexus_kernel.hub.postgresql_database import PostgreSQLDatabase

CLIENTS = 32
SECONDS = 2.0
TURNS = 3

Work = Callable[[Database], object]


def figures() -> Iterator[Figure]:
    """Write on each database, together and one by one."""
    with tempfile.TemporaryDirectory(prefix="nx-bench-") as folder:
        here = Path(folder)
        yield from _beside(
            "DuckDB",
            lambda most: DuckDBDatabase(here / f"{most}.duckdb", most_together=most),
            goal=5,
        )
        with _postgresql() as cluster:
            if cluster is not None:
                yield from _beside(
                    "PostgreSQL",
                    lambda most: PostgreSQLDatabase(cluster.new_database(), most_together=most),
                )


def _beside(
    name: str, opening: Callable[[int], Database], goal: float | None = None
) -> Iterator[Figure]:
    together, alone = opening(256), opening(1)
    try:
        for what, work in (("events", _tell), ("rows", _add)):
            best = {"together": 0.0, "alone": 0.0}
            for turn in range(TURNS + 1):
                for side, database in (("together", together), ("alone", alone)):
                    speed = _writes_per_second(database, work)
                    if turn:
                        best[side] = max(best[side], speed)
            yield Figure(
                f"{CLIENTS} clients writing {what}, {name}",
                best["together"],
                best["alone"],
                "a commit for each",
                "writes/s",
                goal=goal,
            )
    finally:
        together.close()
        alone.close()


def _writes_per_second(database: Database, work: Work) -> float:
    until = time.perf_counter() + SECONDS

    def client(_: int) -> int:
        count = 0
        while time.perf_counter() < until:
            work(database)
            count += 1
        return count

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(client, range(CLIENTS))) / (time.perf_counter() - started)


def _tell(database: Database) -> None:
    """Record that something happened."""
    database.write(lambda tx: tx.emit("bench.told", "subject", None, text="a short text"))


def _add(database: Database) -> None:
    """Look whether a name is taken, take it, and tell, as registering does."""
    name = secrets.token_hex(8)
    accounts = schema.accounts

    def change(tx: Transaction) -> None:
        if tx.first(sa.select(accounts).where(accounts.c.name == name)) is None:
            tx.execute(
                accounts.insert().values(
                    name=name, role="member", created=tx.time, password_hash="hash"
                )
            )
            tx.emit("account.registered", name)

    database.write(change)


@contextmanager
def _postgresql() -> Iterator[ModuleType | None]:
    path = Path(__file__).parents[1] / "postgresql_cluster.py"
    spec = importlib.util.spec_from_file_location("postgresql_cluster", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.why_not() is not None:
        yield None
        return
    cluster = module.Cluster(durable=True)
    try:
        yield cluster
    finally:
        cluster.close()
