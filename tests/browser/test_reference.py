"""The page of the API, as a person sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from neuronexus_kernel.hub.process import HubProcess, start_hub

pytestmark = pytest.mark.browser


@pytest.fixture
def hub(new_home: Callable[[], Path]) -> Iterator[HubProcess]:
    with start_hub(new_home(), port=0, arguments=("--no-warm-kernel",)) as process:
        yield process


def test_the_page_of_the_api_leads_to_what_is_looked_for(page: Page, hub: HubProcess) -> None:
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("console", lambda message: failed.append(message.text))
    page.goto(f"{hub.address}/neuronexus/api")
    expect(page.get_by_role("heading", name="NeuroNexus hub")).to_be_visible()
    page.get_by_role("navigation").get_by_role("link", name="submit").click()
    submit = page.locator("#submit")
    expect(submit).to_be_in_viewport()
    expect(submit).to_contain_text("Submit a contribution and queue its evaluation.")
    expect(submit).to_contain_text("If the same content was submitted to this project before.")
    submit.get_by_role("link", name="NewContribution").click()
    expect(page.locator("#NewContribution")).to_be_in_viewport()
    expect(page.locator("#NewContribution")).to_contain_text("CID of the DAG-CBOR document")
    # Nothing is wider than the window, also not on a telephone.
    for width in (1440, 380):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert failed == []
