"""Accounts in a real browser: invited, signed in, a new password by a link."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from neuronexus_kernel.hub.process import HubProcess, start_hub
from neuronexus_kernel.hub.remote import RemoteHub

pytestmark = [pytest.mark.browser]

PASSWORD = "correct horse battery"
ANOTHER = "staple clouds river"
HOSTILE = "<img src=x onerror=window.harmed=1><script>window.harmed=1</script>"


@pytest.fixture
def hub(new_home: Callable[[], Path]) -> Iterator[HubProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEURONEXUS_REGISTRATION", "invited")
        process = start_hub(new_home(), port=0, arguments=("--no-warm-kernel",))
    with process:
        yield process


def test_an_invited_person_comes_in_and_looks_after_their_account(
    page: Page, hub: HubProcess
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.url} {request.headers}"))
    owner = RemoteHub(hub.address, hub.token)
    code = owner.invite(note=HOSTILE)
    page.goto(hub.address + code.path)
    expect(page.get_by_label("Invitation")).to_have_value(code.code)
    assert code.code not in page.url, "it does not stay in the address"
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()
    page.wait_for_url("**/neuronexus/dashboard")
    assert not [request for request in asked if code.code in request], "nor was it asked with"

    page.goto(f"{hub.address}/neuronexus/account")
    page.get_by_label("For", exact=True).fill(HOSTILE)
    page.get_by_role("button", name="Make a token").click()
    token = page.get_by_label("The token").input_value()
    assert RemoteHub(hub.address, token).whoami() is not None
    expect(page.locator("td.text")).to_have_text(HOSTILE)
    owner.add_operator("ada")
    page.goto(f"{hub.address}/neuronexus/account")
    expect(page.get_by_text("For operators")).to_be_visible()
    assert page.evaluate("window.harmed") is None, "what others wrote is text"

    reset = owner.issue_reset("ada")
    page.goto(hub.address + reset.path)
    expect(page.get_by_label("Code")).to_have_value(reset.code)
    page.get_by_label("New password").fill(ANOTHER)
    page.get_by_role("button", name="Set the password").click()
    expect(page.get_by_text("The password is set")).to_be_visible()
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(ANOTHER)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/neuronexus/dashboard")
