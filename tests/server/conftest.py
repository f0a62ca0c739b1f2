"""A real server process with a small dashboard, and the people who use it."""

from __future__ import annotations

import importlib.util
import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from neuronexus_kernel.hub.process import HubProcess, start_hub
from neuronexus_kernel.hub.remote import RemoteHub

if TYPE_CHECKING:
    from breaking_proxy import BreakingProxy

PASSWORD = "correct horse battery"

_CELL = """
import os
import ipywidgets
label = ipywidgets.Label(f"visitor: {os.environ['NEURONEXUS_USER']}")
button = ipywidgets.Button(description="press")
button.on_click(lambda _: setattr(label, "value", "pressed"))
ipywidgets.VBox([label, button])
"""

_SECRETS = """
import os, json
from neuronexus_kernel.hub.remote import RemoteHub
hub = RemoteHub(os.environ["NEURONEXUS_HUB"], os.environ["NEURONEXUS_TOKEN"])
cookies = sorted(name for name, text in os.environ.items() if "cookie" in name.lower())
told = {"account": hub.whoami().name, "cookies": cookies, "ticket": os.environ["NEURONEXUS_TOKEN"]}
print("told:" + json.dumps(told))
"""


@dataclass
class Browser:
    """A browser without a screen: cookies, and forms with their XSRF token."""

    address: str
    session: requests.Session

    def get(self, path: str, **kwargs: object) -> requests.Response:
        return self.session.get(self.address + path, **kwargs)

    def post(self, path: str, **kwargs: object) -> requests.Response:
        return self.session.post(self.address + path, **kwargs)

    @property
    def xsrf(self) -> str:
        return self.session.cookies.get("_xsrf", "")

    @property
    def cookies(self) -> str:
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.session.cookies)

    def sign_in(self, name: str, password: str = PASSWORD, **fields: str) -> requests.Response:
        self.get("/neuronexus/auth")
        data = {"mode": "login", "name": name, "password": password, "_xsrf": self.xsrf, **fields}
        return self.post("/neuronexus/auth", data=data, allow_redirects=False)

    def open_dashboard(self) -> tuple[str, str]:
        """Return the dashboard's kernel id and its page."""
        page = self.get("/neuronexus/dashboard").text
        match = re.search(r'"kernelId": "([\w-]+)"', page)
        assert match, page[-2000:]
        return match.group(1), page


def write_notebook(path: Path, *cells: str) -> Path:
    path.write_text(
        json.dumps(
            {
                "cells": [
                    {
                        "cell_type": "code",
                        "id": f"cell-{number}",
                        "execution_count": None,
                        "metadata": {},
                        "outputs": [],
                        "source": source,
                    }
                    for number, source in enumerate(cells)
                ],
                "metadata": {},
                "nbformat": 4,
                "nbformat_minor": 5,
            }
        )
    )
    return path


@pytest.fixture(scope="session")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_notebook(tmp_path_factory.mktemp("notebook") / "small.ipynb", _CELL, _SECRETS)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="session")
def server(home: Path, dashboard: Path) -> Iterator[HubProcess]:
    arguments = ("--dashboard", str(dashboard), "--kernel-grace", "4")
    arguments += ("--upload-limit", str(3 * 1024 * 1024), "--no-warm-kernel")
    with start_hub(home, port=0, arguments=arguments) as process:
        yield process


@pytest.fixture(scope="session")
def new_proxy() -> Iterator[Callable[[str], BreakingProxy]]:
    """Return a function that puts a proxy before a hub, whose connections a test can break."""
    path = Path(__file__).with_name("breaking_proxy.py")
    spec = importlib.util.spec_from_file_location("breaking_proxy", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    proxies: list[BreakingProxy] = []

    def new_proxy(address: str) -> BreakingProxy:
        proxies.append(module.BreakingProxy(address))
        return proxies[-1]

    yield new_proxy
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def proxy(server: HubProcess, new_proxy: Callable[[str], BreakingProxy]) -> BreakingProxy:
    return new_proxy(server.address)


@pytest.fixture(scope="session")
def connect(server: HubProcess) -> Iterator[Callable[..., RemoteHub]]:
    hubs: list[RemoteHub] = []

    def connect(token: str | None = None) -> RemoteHub:
        hubs.append(RemoteHub(server.address, token))
        return hubs[-1]

    yield connect
    for hub in hubs:
        hub.close()


@pytest.fixture
def name() -> str:
    return f"ada-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def new_member(connect: Callable[..., RemoteHub]) -> Callable[[], tuple[str, RemoteHub]]:
    def new_member() -> tuple[str, RemoteHub]:
        hub = connect()
        member = f"member-{uuid.uuid4().hex[:8]}"
        hub.register(member, PASSWORD)
        hub.login(member, PASSWORD)
        return member, hub

    return new_member


@pytest.fixture(scope="session")
def member(new_member: Callable[[], tuple[str, RemoteHub]]) -> tuple[str, RemoteHub]:
    """Return a member that many tests share: its name, and the hub as it sees it."""
    return new_member()


@pytest.fixture(scope="session")
def owner(server: HubProcess, connect: Callable[..., RemoteHub]) -> RemoteHub:
    return connect(server.token)


@pytest.fixture(scope="session")
def new_browser(server: HubProcess) -> Iterator[Callable[[], Browser]]:
    browsers: list[Browser] = []

    def new_browser() -> Browser:
        browsers.append(Browser(server.address, requests.Session()))
        return browsers[-1]

    yield new_browser
    for browser in browsers:
        browser.session.close()


@pytest.fixture(scope="session")
def member_browser(member: tuple[str, RemoteHub], new_browser: Callable[[], Browser]) -> Browser:
    """Return the shared member's browser; tests that sign out use one of their own."""
    browser = new_browser()
    browser.sign_in(member[0])
    return browser
