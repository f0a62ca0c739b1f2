"""``neuronexus hub``: looking after accounts on the command line, run as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuronexus_kernel.errors import AuthenticationError, ForbiddenError
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.process import HubProcess, start_hub
from neuronexus_kernel.hub.remote import RemoteHub

PASSWORD = "correct horse battery"
ANOTHER = "staple clouds river"


def hub_command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "neuronexus_kernel.cli", "hub", *arguments, "--home", str(home)],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def home(new_home: Callable[[], Path]) -> Path:
    return new_home()


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[HubProcess]:
    with start_hub(home, port=0, arguments=("--no-warm-kernel",)) as process:
        yield process


def test_an_invitation_is_a_link_of_the_hub_that_runs(home: Path, running: HubProcess) -> None:
    told = hub_command(home, "invite", "for ada", "--days", "2")
    assert told.returncode == 0, told.stderr
    address, _, code = told.stdout.strip().partition("#")
    assert address == f"{running.address}/neuronexus/auth?mode=register"
    assert "works once" in told.stderr
    assert RemoteHub(running.address).register("ada", PASSWORD, code).name == "ada"
    with pytest.raises(ForbiddenError):
        RemoteHub(running.address).register("eve", PASSWORD, code)


def test_a_forgotten_password_is_set_by_a_link(home: Path, running: HubProcess) -> None:
    hub = RemoteHub(running.address)
    hub.register("grace", PASSWORD)
    hub.login("grace", PASSWORD)
    link = hub_command(home, "reset-password", "grace").stdout.strip()
    assert link.startswith(f"{running.address}/neuronexus/reset#")
    hub.reset_password(link.partition("#")[2], ANOTHER)
    with pytest.raises(AuthenticationError):
        hub.whoami()
    assert hub.login("grace", ANOTHER).account.name == "grace"
    told = hub_command(home, "reset-password", "nobody-at-all")
    assert (told.returncode, told.stdout) == (1, "")
    assert "no account" in told.stderr


def test_an_account_is_closed_and_opened(home: Path, running: HubProcess) -> None:
    hub = RemoteHub(running.address)
    hub.register("alan", PASSWORD)
    hub.login("alan", PASSWORD)
    assert "closed" in hub_command(home, "disable", "alan").stdout
    with pytest.raises(AuthenticationError):
        hub.whoami()
    assert "open" in hub_command(home, "enable", "alan").stdout
    assert hub.login("alan", PASSWORD)
    trail = hub_command(home, "audit", "--account", "alan", "--json").stdout.splitlines()
    kinds = [json.loads(line)["kind"] for line in trail]
    assert kinds == [
        "account.registered",
        "signin.ok",
        "account.disabled",
        "account.enabled",
        "signin.ok",
    ]
    text = hub_command(home, "audit", "--kind", "account.disabled").stdout
    assert "alan by nx:owner from 127.0.0.1" in text


def test_without_a_running_hub_the_folder_itself_is_asked(new_home: Callable[[], Path]) -> None:
    home = new_home()
    link = hub_command(home, "invite").stdout.strip()
    assert link.startswith("/neuronexus/auth")
    hub = LocalHub.open(home)
    assert hub.register("ada", PASSWORD, link.partition("#")[2]).name == "ada"
    hub.visitor(hub.owner_token).add_operator("ada")
    hub.close()
    assert "member" in hub_command(home, "operator", "remove", "ada").stdout
    assert "role.taken ada by nx:owner" in hub_command(home, "audit").stdout
