"""One hub process for everybody: two kernels, a Voila kernel and the command line at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests
from jupyter_client.manager import start_new_kernel

from neuronexus_kernel.errors import HubUnavailableError
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.process import HubProcess, live_hub, start_hub
from neuronexus_kernel.hub.remote import RemoteHub

PASSWORD = "correct horse battery"


@pytest.fixture
def home(new_home: Callable[[], Path]) -> Path:
    return new_home()


@pytest.fixture
def hub(home: Path) -> Iterator[HubProcess]:
    with start_hub(home, port=0) as process:
        yield process


def run_in_kernel(home: Path, code: str) -> str:
    """Run code in a real IPython kernel whose environment names the home, as a notebook would."""
    manager, client = start_new_kernel(
        kernel_name="python3", env={**os.environ, "NEURONEXUS_HOME": str(home)}
    )
    try:
        told: list[str] = []

        def hear(message: dict) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                told.append(content["text"])
            elif message["msg_type"] == "error":
                told.append("\n".join(content["traceback"]))

        client.execute_interactive(code, timeout=60, output_hook=hear)
        return "".join(told)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_two_kernels_a_dashboard_and_the_command_line_share_one_hub(
    home: Path, hub: HubProcess
) -> None:
    for name in ("ada", "grace"):
        code = (
            "import neuronexus_kernel as nx; wb = nx.connect(); "
            f"wb.register({name!r}, {PASSWORD!r}); wb.storage.add({name!r}.encode()); "
            "print(wb.hub.address, wb.user)"
        )
        assert run_in_kernel(home, code).strip() == f"{hub.address} {name}"
    session = RemoteHub(hub.address).login("ada", PASSWORD)
    headers = {"Authorization": f"Bearer {session.token}"}
    page = requests.get(f"{hub.address}/neuronexus/dashboard", headers=headers, timeout=60)
    assert page.status_code == 200
    assert "application/vnd.jupyter.widget" in page.text, "the page holds the dashboard's widgets"
    told = subprocess.run(
        [sys.executable, "-m", "neuronexus_kernel.cli", "hub", "status", "--home", str(home)],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert hub.address in told.stdout
    servers = [
        p for p in psutil.process_iter(["cmdline"]) if str(home) in (p.info["cmdline"] or [])
    ]
    assert [process.pid for process in servers] == [hub.pid], "nobody started another hub"


def test_a_second_hub_on_the_same_folder_is_told_who_holds_it(home: Path, hub: HubProcess) -> None:
    with pytest.raises(HubUnavailableError, match=rf"PID {hub.pid}.*nx\.connect\(\)"):
        LocalHub.open(home)


def test_connecting_starts_a_hub_that_is_found_again(home: Path) -> None:
    code = "import neuronexus_kernel as nx; print(nx.connect().hub.address)"
    try:
        first = run_in_kernel(home, code)
        assert first.startswith("http://127.0.0.1:")
        assert run_in_kernel(home, code) == first
    finally:
        found = live_hub(home)
        assert found is not None
        psutil.Process(found.pid).terminate()
        psutil.wait_procs([psutil.Process(found.pid)], timeout=30)
