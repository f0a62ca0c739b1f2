"""A hub inside a person's own Jupyter server: Jupyter's token counts, its user is operator."""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import uuid

import pytest
import requests
import websocket
from jupyter_client.session import Session

from neuronexus_kernel.errors import AuthenticationError, StoreError
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.hub.process import live_hub
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.hub.routes import API

TOKEN = secrets.token_hex(24)
CODE = """
import neuronexus_kernel as nx
wb = nx.connect()
print("told:" + wb.user + ":" + wb.hub.whoami().role)
"""


def start(folder, port):
    environment = {
        **os.environ,
        "NEURONEXUS_HOME": str(folder / "home"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "run"),
        "IPYTHONDIR": str(folder / "ipython"),
        "LOGNAME": "ada",
    }
    command = [sys.executable, "-m", "jupyter_server", "--no-browser", f"--port={port}"]
    command += [f"--IdentityProvider.token={TOKEN}", "--ServerApp.port_retries=0", "--allow-root"]
    command += ["--ServerApp.jpserver_extensions={'neuronexus_server': True}"]
    command += [f"--ServerApp.root_dir={folder}", "--ServerApp.terminals_enabled=False"]
    log = (folder / "log").open("ab")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    log.close()
    until = time.monotonic() + 60
    while live_hub(folder / "home") is None:
        said = (folder / "log").read_text()[-3000:]
        assert process.poll() is None, said
        assert time.monotonic() < until, said
        time.sleep(0.1)
    return process


def stop(process):
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) is not None


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """The address of a person's own Jupyter server, and its folder."""
    folder = tmp_path_factory.mktemp("jupyter")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(folder, port)
    yield f"http://127.0.0.1:{port}", folder
    if process.poll() is None:
        stop(process)


def test_jupyters_token_signs_its_one_user_in_as_operator(jupyter):
    address, folder = jupyter
    hub = RemoteHub(address, TOKEN)
    me = hub.whoami()
    assert (me.name, me.role) == ("ada", "operator")
    assert hub.put(b"mine").owner == "ada"
    assert hub.audit(kind="role.given")
    assert [account.name for account in hub.accounts()] == ["ada"]
    found = live_hub(folder / "home")
    assert found.address == address
    assert RemoteHub(found.address, found.token).whoami().role == "operator"
    assert TOKEN not in (folder / "home" / "hub.json").read_text()
    assert next(hub.follow()).seq == 1


def test_the_whole_interface_is_there(jupyter, tmp_path):
    address, _ = jupyter
    hub = RemoteHub(address, TOKEN)
    large = secrets.token_bytes(9_000_000)
    root = hub.put(io.BytesIO(large), name="large")
    assert (root.size, hub.get(root.cid)) == (len(large), large)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    answer = requests.get(f"{address}{API}/openapi.json", headers=bearer, timeout=30)
    assert answer.json()["openapi"].startswith("3.1")
    with pytest.raises(StoreError, match="CAR file"):
        hub.import_project(io.BytesIO(b"none"))
    key = {**bearer, "Idempotency-Key": str(uuid.uuid4())}
    keep = [
        requests.post(f"{address}{API}/pins", json={"cid": root.cid}, headers=key, timeout=30)
        for _ in range(2)
    ]
    assert keep[1].headers["Idempotency-Replayed"] == "true"
    assert keep[0].json() == keep[1].json()


def test_nobody_else_is_let_in_not_even_to_look(jupyter):
    address, _ = jupyter
    for token in (None, "not the token", secrets.token_hex(24)):
        with pytest.raises(AuthenticationError):
            RemoteHub(address, token).projects()
        with pytest.raises(AuthenticationError):
            next(RemoteHub(address, token).follow())
    stranger = RemoteHub(address)
    with pytest.raises(AuthenticationError):
        stranger.register("eve", "correct horse battery")
    for path in ("/ipfs/bafkqaaa?format=raw", f"{API}/openapi.json", f"{API}/content/bafkqaaa"):
        assert requests.get(address + path, timeout=30).status_code == 401


def test_a_token_of_the_hub_is_let_in_as_what_it_is(jupyter):
    address, _ = jupyter
    mine = RemoteHub(address, TOKEN)
    script = RemoteHub(address, mine.create_token("script", ("contribute",)).token)
    assert script.whoami().role == "member"
    assert script.put(b"by a script").owner == "ada"
    mine.logout()
    assert RemoteHub(address, TOKEN).whoami().name == "ada", "Jupyter's token goes on"
    mine = RemoteHub(address, TOKEN)
    (listed,) = [each for each in mine.tokens() if each.label == "script"]
    mine.revoke(listed.id)
    with pytest.raises(AuthenticationError):
        script.whoami()


def test_jupyters_cookie_does_not_change_anything_without_its_xsrf_token(jupyter):
    address, _ = jupyter
    browser = requests.Session()
    browser.get(f"{address}/login")
    browser.get(f"{address}/api/me", params={"token": TOKEN})
    assert browser.get(f"{address}{API}/accounts/me").json()["name"] == "ada"
    body = {"label": "forged"}
    assert browser.post(f"{address}{API}/tokens", json=body).status_code == 403
    headers = {"X-XSRFToken": browser.cookies["_xsrf"]}
    assert browser.post(f"{address}{API}/tokens", json=body, headers=headers).ok


def test_a_notebook_is_signed_in(jupyter):
    address, _ = jupyter
    headers = {"Authorization": f"token {TOKEN}"}
    kernel = requests.post(f"{address}/api/kernels", headers=headers, timeout=60).json()["id"]
    channel = websocket.create_connection(
        f"{address.replace('http', 'ws')}/api/kernels/{kernel}/channels?session_id={uuid.uuid4()}",
        header=[f"Authorization: token {TOKEN}"],
        timeout=60,
    )
    message = Session().msg("execute_request", {"code": CODE, "silent": False})
    channel.send(json.dumps({**message, "channel": "shell"}, default=str))
    said = ""
    while "told:" not in said:
        reply = json.loads(channel.recv())
        said = reply["content"].get("text", "")
        assert reply["header"]["msg_type"] != "error", reply["content"]
    assert said.strip() == "told:ada:operator"
    channel.close()
    requests.delete(f"{address}/api/kernels/{kernel}", headers=headers, timeout=30)


def test_a_server_started_again_goes_on_and_lets_the_home_go_when_it_ends(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        process = start(tmp_path, port)
        hub = RemoteHub(f"http://127.0.0.1:{port}", TOKEN)
        assert hub.whoami().name == "ada"
        assert len([each for each in hub.tokens() if "JupyterLab" in each.label]) == 1
        stop(process)
        assert live_hub(tmp_path / "home") is None
    again = LocalHub.open(tmp_path / "home")
    assert [account.name for account in again.accounts()] == ["ada"]
    again.close()
