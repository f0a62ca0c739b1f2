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
Connect = Callable[..., Hub]


@pytest.fixture(scope="module", params=["duckdb", "postgresql", "remote"])
def place(
    request: pytest.FixtureRequest, new_home: Callable[[], Path]
) -> Iterator[tuple[Connect, str]]:
    """Return a function that gives views of one hub, which evaluates, and its owner's token."""
    home = new_home()
    if request.param != "remote":
        settings = Settings(home=home)
        if request.param == "postgresql":
            url = request.getfixturevalue("postgresql").new_database()
            settings = replace(settings, database=url)
        hub = LocalHub.open(settings)
        hub.start_evaluator()
        yield hub.visitor, hub.owner_token
        hub.close()
    else:
        with start_hub(home, port=0) as process:
            yield lambda token=None: RemoteHub(process.address, token), process.token


@pytest.fixture(scope="module")
def connect(place: tuple[Connect, str]) -> Connect:
    """Return a function that gives a visitor's view of the hub, new or by a token."""
    return place[0]


@pytest.fixture(scope="module")
def owner(place: tuple[Connect, str]) -> Hub:
    """Return the hub as whoever owns its folder sees it: as an operator."""
    connect, token = place
    return connect(token)


@pytest.fixture
def person(connect: Connect) -> Callable[[str], Workbench]:
    """Return a function that registers a new person, whose name begins as said."""

    def register(stem: str) -> Workbench:
        return Workbench(connect()).register(f"{stem}-{secrets.token_hex(4)}", PASSWORD)

    return register
