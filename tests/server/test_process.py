"""The hub's process: starting, being found, making way, and ending with all that it started."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time

import psutil
import pytest

from neuronexus_kernel.errors import HubUnavailableError
from neuronexus_kernel.hub.process import live_hub, start_hub
from neuronexus_kernel.hub.remote import RemoteHub

COLD = ("--no-warm-kernel",)


def test_hub_json_is_for_its_owner_only(server, home):
    path = home / "hub.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = json.loads(path.read_text())
    assert (document["address"], document["pid"]) == (server.address, server.pid)
    assert RemoteHub(server.address, document["token"]).whoami().role == "operator"


def test_a_live_hub_is_found(server, home):
    found = live_hub(home)
    assert (found.address, found.pid) == (server.address, server.pid)
    assert found.token not in repr(found)


def test_starting_a_hub_twice_gives_the_one_that_runs(server, home):
    with start_hub(home, port=0, arguments=COLD) as other:
        assert other.pid == server.pid
    assert server.alive()


def test_a_database_that_is_open_elsewhere_is_said_to_be(server, home):
    result = subprocess.run(
        [sys.executable, "-m", "neuronexus_server", "--home", str(home), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode != 0
    assert "another process" in result.stderr
    assert str(server.pid) in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"address": "http://127.0.0.1:9", "pid": 1, "token": "x"}',
        '{"address": "http://127.0.0.1:9", "pid": 99999999, "token": "x"}',
        '{"address": "nonsense", "pid": 1, "token": "x"}',
    ],
)
def test_a_stale_hub_json_is_no_hub(tmp_path, text):
    (tmp_path / "hub.json").write_text(text)
    assert live_hub(tmp_path) is None


def test_a_hub_json_of_another_hub_is_no_hub(server, tmp_path):
    forged = {"address": server.address, "pid": server.pid, "token": "not its token"}
    (tmp_path / "hub.json").write_text(json.dumps(forged))
    assert live_hub(tmp_path) is None


def test_a_taken_port_is_left_for_the_next_free_one(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with start_hub(tmp_path, port=port, arguments=COLD) as hub:
            assert port < int(hub.address.rsplit(":", 1)[1]) <= port + 50
            assert RemoteHub(hub.address).projects() == []


def test_a_hub_that_cannot_start_says_why(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(HubUnavailableError, match=f"No port from {port}"):
            start_hub(tmp_path, port=port, arguments=("--port-retries", "0"))


def test_a_signal_ends_the_hub_and_all_that_it_started(tmp_path, dashboard, new_browser):
    hub = start_hub(tmp_path, port=0, arguments=("--dashboard", str(dashboard)))
    browser = new_browser()
    browser.address = hub.address
    RemoteHub(hub.address).register("ada", "correct horse battery")
    browser.sign_in("ada")
    browser.open_dashboard()
    started = psutil.Process(hub.pid).children(recursive=True)
    assert len(started) >= 1
    os.kill(hub.pid, signal.SIGTERM)
    _, left = psutil.wait_procs(started, timeout=15)
    assert left == []
    hub.stop()
    assert not (tmp_path / "hub.json").exists()
    assert "Traceback" not in (tmp_path / "hub.log").read_text()


def test_an_idle_hub_ends_itself_but_not_while_it_is_used(tmp_path):
    hub = start_hub(tmp_path, port=0, idle_seconds=1)
    remote = RemoteHub(hub.address)
    follower = remote.follow()
    remote.register("ada", "correct horse battery")
    assert next(follower).subject == "ada"
    time.sleep(2)
    assert hub.alive()
    follower.close()
    remote.close()
    until = time.monotonic() + 15
    while hub.alive() and time.monotonic() < until:
        time.sleep(0.1)
    assert not hub.alive()
    assert not (tmp_path / "hub.json").exists()
    assert live_hub(tmp_path) is None


def test_importing_the_client_is_quick_and_needs_no_torch():
    code = (
        "import sys, neuronexus_kernel.hub.remote, neuronexus_kernel.hub.process;"
        "assert not {'torch', 'sqlalchemy', 'duckdb', 'pandas', 'requests'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
