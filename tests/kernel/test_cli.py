"""The command line, run as a person runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

import neuronexus_kernel as nx
from neuronexus_kernel.content import CID
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.process import start_hub
from neuronexus_kernel.hub.remote import RemoteHub

PASSWORD = "correct horse battery"


def neuronexus(*arguments: str, home: Path | None = None, given: str = "", seconds: float = 60):
    environment = {**os.environ, **({"NEURONEXUS_HOME": str(home)} if home else {})}
    command = [sys.executable, "-m", "neuronexus_kernel.cli", *arguments]
    return subprocess.run(
        command, input=given, env=environment, capture_output=True, text=True, timeout=seconds
    )


def test_it_tells_its_version() -> None:
    assert neuronexus("--version").stdout == f"neuronexus {nx.__version__}\n"


@pytest.mark.parametrize("module", ["neuronexus_kernel", "neuronexus_kernel.cli"])
def test_importing_it_brings_nothing_heavy(module: str) -> None:
    heavy = ["torch", "flwr", "pandas", "numpy", "sqlalchemy", "duckdb", "ipywidgets"]
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_every_name_of_the_package_can_be_imported() -> None:
    for name in nx.__all__:
        assert getattr(nx, name) is not None
    with pytest.raises(AttributeError):
        nx.no_such_name  # type: ignore[attr-defined]


def test_the_first_operator_is_made_on_the_command_line(new_home: Callable[[], Path]) -> None:
    home = new_home()
    told = neuronexus("hub", "operator", "add", "root", home=home, given=PASSWORD + "\n")
    assert told.returncode == 0, told.stderr
    hub = LocalHub.open(home)
    assert hub.login("root", PASSWORD).account.role == "operator"
    hub.close()


def test_a_weak_operator_password_is_refused_with_a_reason(new_home: Callable[[], Path]) -> None:
    told = neuronexus("hub", "operator", "add", "root", home=new_home(), given="short\n")
    assert told.returncode == 1
    assert "too short" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_member_becomes_operator_while_the_hub_runs(new_home: Callable[[], Path]) -> None:
    home = new_home()
    with start_hub(home, port=0) as process:
        hub = RemoteHub(process.address)
        hub.register("grace", PASSWORD)
        told = neuronexus("hub", "operator", "add", "--existing", "grace", home=home)
        assert told.returncode == 0, told.stderr
        assert hub.login("grace", PASSWORD).account.role == "operator"
        status = neuronexus("hub", "status", home=home)
        assert process.address in status.stdout
        assert "1 accounts" in status.stdout or "1 account" in status.stdout
        assert neuronexus("hub", "stop", home=home).returncode == 0
    assert neuronexus("hub", "status", home=home).returncode == 1


def test_the_ledger_of_a_new_hub_verifies(new_home: Callable[[], Path]) -> None:
    told = neuronexus("ledger", "verify", "--json", home=new_home())
    assert json.loads(told.stdout)["ok"] is True


@pytest.mark.timeout(400)
def test_the_story_headless_ends_in_paid_and_refused_contributions() -> None:
    told = neuronexus("demo", "--once", "--json", seconds=390)
    assert told.returncode == 0, told.stderr
    story = json.loads(told.stdout)
    accuracies = [entry["accuracy"] for entry in story["rounds"]]
    assert [entry["round"] for entry in story["rounds"]] == list(range(1, len(accuracies) + 1))
    assert accuracies[-1] > accuracies[0]
    assert story["held_out_accuracy"] >= 0.95
    contributions = story["contributions"]
    assert {each["kind"] for each in contributions} == {
        "code",
        "compute",
        "data",
        "hyperparameters",
    }
    states = {each["state"] for each in contributions}
    assert states == {"rewarded", "rejected"}
    for each in contributions:
        CID.parse(each["receipt"])
        paid = each["state"] == "rewarded"
        assert paid == (each["value"] > 0) == (Decimal(each["reward"]) > 0) == (not each["reason"])
    rewards = sum(Decimal(each["reward"]) for each in contributions)
    assert rewards == sum(Decimal(balance) for balance in story["balances"].values())
    assert story["ledger"]["ok"]
    assert story["ledger"]["entries"] >= 2
    assert re.fullmatch(r"\s*", told.stderr), "nothing is printed beside the object"
