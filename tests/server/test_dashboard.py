"""The dashboard's page and its kernel, which knows whose it is and ends with the page."""

from __future__ import annotations

import json
import re
import time

import psutil
import pytest
import requests

from neuronexus_kernel.errors import AuthenticationError
from neuronexus_kernel.hub.process import start_hub
from neuronexus_kernel.hub.remote import RemoteHub
from neuronexus_kernel.settings import SECRETS


def told(page):
    """Return what the notebook's last cell printed."""
    return json.loads(re.search(r"told:(\{.*?\})", page.replace("&#34;", '"')).group(1))


def wait_until(condition, seconds=15.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.1)


def end(browser, kernel_id):
    headers = {"X-XSRFToken": browser.xsrf}
    assert browser.post(f"/voila/api/shutdown/{kernel_id}", headers=headers).status_code == 204


def test_two_visitors_get_kernels_that_know_them(new_member, new_browser):
    seen = {}
    for _ in range(2):
        name, _ = new_member()
        browser = new_browser()
        browser.sign_in(name)
        kernel_id, page = browser.open_dashboard()
        seen[kernel_id] = told(page)["account"]
        assert seen[kernel_id] == name
        assert told(page)["cookies"] == []
        end(browser, kernel_id)
    assert len(seen) == 2


def test_the_page_asks_no_other_host_and_loads_what_it_needs(member_browser):
    kernel_id, page = member_browser.open_dashboard()
    end(member_browser, kernel_id)
    config = json.loads(
        re.search(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.S).group(1)
    )
    assert config["fullMathjaxUrl"] is None
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    extensions = {extension["name"] for extension in config["federated_extensions"]}
    assert {"bqplot", "jupyter-threejs", "@voila-dashboards/widgets-manager8"} <= extensions
    assert "@voila-dashboards/jupyterlab-preview" not in extensions


def test_the_kernel_of_a_closed_page_ends_by_itself(member_browser, owner, server):
    kernel_id, _ = member_browser.open_dashboard()
    headers = {"Authorization": f"Bearer {server.token}"}

    def gone():
        kernels = requests.get(f"{server.address}/api/kernels", headers=headers, timeout=30).json()
        return kernel_id not in {kernel["id"] for kernel in kernels}

    assert not gone()
    wait_until(gone)


def test_signing_out_ends_the_kernel_and_its_ticket(member, new_browser, server, connect):
    browser = new_browser()
    browser.sign_in(member[0])
    kernel_id, page = browser.open_dashboard()
    ticket = told(page)["ticket"]
    assert connect(ticket).whoami().name == told(page)["account"]
    browser.get("/neuronexus/logout")
    headers = {"Authorization": f"Bearer {server.token}"}
    response = requests.get(f"{server.address}/api/kernels", headers=headers, timeout=30)
    assert kernel_id not in {kernel["id"] for kernel in response.json()}

    def ended():
        try:
            return connect(ticket).whoami() is None
        except AuthenticationError:
            return True

    wait_until(ended)


def test_a_kernels_ticket_is_not_the_browsers_sign_in(member_browser):
    kernel_id, page = member_browser.open_dashboard()
    assert told(page)["ticket"] not in member_browser.cookies
    end(member_browser, kernel_id)


def test_a_kernel_gets_none_of_the_hubs_own_credentials(tmp_path, dashboard, monkeypatch):
    for name in SECRETS - {"NEURONEXUS_DATABASE", "NEURONEXUS_IPFS"}:
        monkeypatch.setenv(name, "not-for-kernels-0123456789abcdef")
    arguments = ("--dashboard", str(dashboard))
    with start_hub(tmp_path / "home", port=0, arguments=arguments) as server:

        def kernels():
            children = psutil.Process(server.pid).children(recursive=True)
            return [child for child in children if "ipykernel_launcher" in child.cmdline()]

        wait_until(kernels)
        leaked = SECRETS & kernels()[0].environ().keys()
        assert not leaked


def test_a_warm_kernel_learns_whose_it_is_when_it_is_given_away(tmp_path, dashboard, new_browser):
    arguments = ("--dashboard", str(dashboard))
    with start_hub(tmp_path / "home", port=0, arguments=arguments) as hub:
        headers = {"Authorization": f"Bearer {hub.token}"}

        def kernels():
            found = requests.get(f"{hub.address}/api/kernels", headers=headers, timeout=30).json()
            return {kernel["id"] for kernel in found}

        wait_until(lambda: len(kernels()) == 1)
        (warm,) = kernels()
        RemoteHub(hub.address).register("ada", "correct horse battery")
        browser = new_browser()
        browser.address = hub.address
        browser.sign_in("ada")
        assert browser.get(f"/api/kernels/{warm}").status_code == 403
        kernel_id, page = browser.open_dashboard()
        assert kernel_id == warm
        assert told(page)["account"] == "ada"
        assert told(page)["cookies"] == []


@pytest.mark.parametrize("path", ["/neuronexus/static/auth.css", "/voila/static/voila.js"])
def test_styles_and_scripts_are_there_for_the_sign_in_page(new_browser, path):
    assert new_browser().get(path).ok
