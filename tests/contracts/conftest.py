"""All hubs under one contract: the hub itself on each database, and its stand-in over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neuronexus_kernel.hub import Hub
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.process import start_hub
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.settings import Settings
from neuronexus_kernel.workbench import Workbench

PASSWORD = "correct horse battery"
Connect = Callable[[], Hub]


@pytest.fixture(scope="module", params=["duckdb", "postgresql", "remote"])
def connect(request: pytest.FixtureRequest, new_home: Callable[[], Path]) -> Iterator[Connect]:
    """Return a function that gives a new visitor's view of one hub, which evaluates."""
    home = new_home()
    if request.param != "remote":
        settings = Settings(home=home)
        if request.param == "postgresql":
            url = request.getfixturevalue("postgresql").new_database()
            settings = replace(settings, database=url)
        hub = LocalHub.open(settings)
        hub.start_evaluator()
        yield hub.visitor
        hub.close()
    else:
        with start_hub(home, port=0) as process:
            yield lambda: RemoteHub(process.address)


@pytest.fixture
def person(connect: Connect) -> Callable[[str], Workbench]:
    """Return a function that registers a new person, whose name begins as said."""

    def register(stem: str) -> Workbench:
        return Workbench(connect()).register(f"{stem}-{secrets.token_hex(4)}", PASSWORD)

    return register
