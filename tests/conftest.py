"""Fixtures that many rooms need: people, a small project, and places to keep a hub."""

from __future__ import annotations

import atexit
import importlib.util
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
for _variable in ("IPFS", "PINNING", "PINNING_TOKEN"):  # No hub of a test brings anything there.
    os.environ.pop(f"NEURONEXUS_{_variable}", None)
for _variable in ("ID", "SECRET"):
    os.environ.pop(f"INFURA_IPFS_{_variable}", None)

_PLACES = ("NEURONEXUS_DATABASE", "NEURONEXUS_STORE_FOLDER")
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def _no_hub_of_the_person_who_runs_the_tests(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep tests away from the home, the hub and the token of whoever runs them."""
    for variable in ("NEURONEXUS_HUB", "NEURONEXUS_TOKEN", "NEURONEXUS_USER", *_PLACES):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NEURONEXUS_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(scope="session")
def new_home() -> Iterator[Callable[[], Path]]:
    """Return a function that makes a new, empty folder for a hub."""
    with tempfile.TemporaryDirectory(prefix="nx-test-") as folder:

        def make() -> Path:
            return Path(tempfile.mkdtemp(dir=folder))

        yield make


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A PostgreSQL server for all tests, with `new_database()`, `stop(mode)` and `start()`."""
    path = Path(__file__).with_name("postgresql_cluster.py")
    spec = importlib.util.spec_from_file_location("postgresql_cluster", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reason = module.why_not()
    if reason is not None:
        pytest.skip(reason)
    cluster = module.Cluster()
    yield cluster
    cluster.close()


def fresh_name(stem: str) -> str:
    """Return a name that no other test uses."""
    return f"{stem}-{secrets.token_hex(4)}"


@atexit.register
def _end_quietly() -> None:
    """Close standard error before the interpreter ends.

    DuckDB's bindings print pages about leaked references when they end in one process with torch,
    where the tests alone put them together; it would hide the result above it.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
