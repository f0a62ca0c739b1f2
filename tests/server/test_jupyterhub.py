"""Signing in by a real JupyterHub, to which this hub is a service."""

from __future__ import annotations

import importlib.util
import re
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from neuronexus_server.jupyterhub import JupyterHub

from neuronexus_kernel.errors import AuthenticationError
from neuronexus_kernel.hub.process import start_hub
from neuronexus_kernel.hub.remote import RemoteHub

PASSWORD = "the password of everybody"
ME = "/neuronexus/api/v1/accounts/me"

# A real JupyterHub; what is left out is the proxy before it, as each is asked at its own address.
CONFIG = """
from jupyterhub.proxy import Proxy

class NoProxy(Proxy):
    should_start = False
    async def add_route(self, routespec, target, data): pass
    async def delete_route(self, routespec): pass
    async def get_all_routes(self): return {{}}

c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.db_url = "sqlite://"
c.JupyterHub.cookie_secret = b"{secret}"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "{password}"
c.Authenticator.allowed_users = {{"ada", "grace", "eve"}}
c.JupyterHub.services = [
    {{
        "name": "neuronexus",
        "api_token": "{token}",
        "oauth_redirect_uri": "{hub}/oauth_callback",
        "oauth_no_confirm": True,
    }}
]
c.JupyterHub.load_roles = [
    {{"name": "user", "scopes": ["self"]}},
    {{
        "name": "nexus",
        "scopes": ["access:services!service=neuronexus"],
        "users": ["ada", "grace"],
    }},
]
"""


@dataclass
class Place:
    """A hub, the JupyterHub it is a service of, and what starts the hub again."""

    hub: str
    owner: RemoteHub
    jupyterhub: str


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address):
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False


@pytest.fixture(scope="module")
def place(tmp_path_factory, dashboard):
    if importlib.util.find_spec("jupyterhub") is None:
        pytest.skip("JupyterHub is not installed (pip install 'neuronexus[test]')")
    folder = tmp_path_factory.mktemp("jupyterhub")
    port, ours, token = free_port(), free_port(), secrets.token_hex(32)
    there, here = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{ours}"
    (folder / "config.py").write_text(
        CONFIG.format(port=port, hub=here, token=token, secret="0" * 32, password=PASSWORD)
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", "config.py"],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    environment = {
        "JUPYTERHUB_API_URL": f"{there}/hub/api",
        "JUPYTERHUB_API_TOKEN": token,
        "JUPYTERHUB_SERVICE_NAME": "neuronexus",
        "JUPYTERHUB_HOST": there,
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{here}/oauth_callback",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        arguments = ("--dashboard", str(dashboard), "--no-warm-kernel")
        hub = start_hub(folder / "home", port=ours, arguments=arguments)
    try:
        assert hub.address == here
        until = time.monotonic() + 60
        while not answers(f"{there}/hub/health"):
            said = (folder / "log").read_text()[-3000:]
            assert process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.2)
        yield Place(here, RemoteHub(hub.address, hub.token), there)
    finally:
        hub.stop()
        process.terminate()
        process.wait(30)


@pytest.fixture
def browser(new_browser, place):
    browser = new_browser()
    browser.address = place.hub
    return browser


def sign_in_there(browser, name, path="/neuronexus/jupyterhub"):
    """Go to JupyterHub, sign in, and come back; return the last page."""
    page = browser.get(path)
    form = re.search(r'action="([^"]*/hub/login[^"]*)"', page.text)
    assert form, page.text[:500]
    parts = urlsplit(page.url)
    return browser.session.post(
        f"{parts.scheme}://{parts.netloc}{form[1].replace('&amp;', '&')}",
        data={
            "username": name,
            "password": PASSWORD,
            "_xsrf": re.search(r'name="_xsrf"\s+value="([^"]+)"', page.text)[1],
        },
    )


def test_whoever_is_known_to_jupyterhub_signs_in_without_a_password_here(place, browser):
    assert "Sign in with JupyterHub" in browser.get("/neuronexus/auth").text
    page = sign_in_there(browser, "ada", "/neuronexus/jupyterhub?next=/neuronexus/account")
    assert page.ok
    assert "url=/neuronexus/account" in page.text
    assert browser.get(ME).json() == {**browser.get(ME).json(), "name": "ada", "role": "member"}
    entries = place.owner.audit("ada")
    assert [entry.kind for entry in entries] == ["signin.ok", "account.registered"]
    assert entries[0].data == {"by": "JupyterHub"}
    browser.get("/neuronexus/logout")
    assert browser.get(ME).json() is None
    browser.get("/neuronexus/jupyterhub")  # JupyterHub still knows this browser
    assert browser.get(ME).json()["name"] == "ada"
    with pytest.raises(AuthenticationError):
        RemoteHub(place.hub).login("ada", PASSWORD)


def test_a_name_that_somebody_has_here_stays_theirs(place, browser):
    stranger = RemoteHub(place.hub)
    stranger.register("grace", "correct horse battery")
    sign_in_there(browser, "grace")
    assert browser.get(ME).json()["name"] == "grace-2"
    assert stranger.login("grace", "correct horse battery").account.name == "grace"


def test_whom_jupyterhub_does_not_let_use_the_service_does_not_get_in(browser):
    page = sign_in_there(browser, "eve")
    assert page.status_code in (401, 403)
    assert browser.get(ME).json() is None


def test_a_way_back_that_was_not_begun_by_this_browser_signs_nobody_in(place, browser, new_browser):
    attacker = new_browser()
    attacker.address = place.hub
    way = attacker.session.get(f"{place.hub}/neuronexus/jupyterhub", allow_redirects=False).headers[
        "Location"
    ]
    state = parse_qs(urlsplit(way).query)["state"][0]
    for query in ({"code": "x", "state": state}, {"code": "x"}, {"code": "x", "state": ""}):
        response = browser.get("/oauth_callback", params=query)
        assert response.status_code == 401
        assert "not begun here" in response.text
    browser.get("/neuronexus/auth")
    forged = attacker.get("/oauth_callback", params={"code": "x", "state": state})
    assert forged.status_code == 401, "a code that JupyterHub did not give"
    assert browser.get(ME).json() is None


def test_a_disabled_account_does_not_come_in_by_jupyterhub_either(place, browser):
    sign_in_there(browser, "ada")
    place.owner.disable("ada")
    assert browser.get(ME).status_code == 401
    page = browser.get("/neuronexus/jupyterhub")
    assert page.status_code == 403
    assert "closed" in page.text
    place.owner.enable("ada")


def test_the_notebook_server_of_somebody_is_no_service():
    theirs = {
        "JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api",
        "JUPYTERHUB_API_TOKEN": "x",
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-ada",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/ada/",
    }
    assert JupyterHub.load(theirs) is None
    assert JupyterHub.load({}) is None
    found = JupyterHub.load({**theirs, "JUPYTERHUB_SERVICE_NAME": "neuronexus"})
    assert found is not None
    assert "x" not in repr(found).replace("nexus", "")


def test_a_hub_answers_below_the_prefix_of_a_service(new_home, dashboard, new_browser, name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTERHUB_SERVICE_NAME", "neuronexus")
        patch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/services/neuronexus/")
        arguments = ("--dashboard", str(dashboard), "--no-warm-kernel")
        process = start_hub(new_home(), port=0, arguments=arguments)
    with process as hub:
        assert hub.address.endswith("/services/neuronexus")
        remote = RemoteHub(hub.address, hub.token)
        assert remote.whoami().role == "operator"
        browser = new_browser()
        browser.address = hub.address
        response = browser.sign_in(name, "correct horse battery", mode="register")
        assert response.headers["Location"] == "/services/neuronexus/neuronexus/dashboard"
        assert browser.get(ME).json()["name"] == name
        _, page = browser.open_dashboard()
        assert f"visitor: {name}" in page or name in page
        assert browser.get("/neuronexus/account").ok
        assert next(remote.follow()).seq == 1
