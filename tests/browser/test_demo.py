"""`make demo` as somebody who watches it sees it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from conftest import Demo

pytestmark = [pytest.mark.browser, pytest.mark.timeout(420)]

PATIENCE = 240_000

COLOURS_IN_CANVAS = """
canvas => {
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [canvas.width, canvas.height];
    const pen = copy.getContext("2d");
    return new Promise(done => requestAnimationFrame(() => {
        pen.drawImage(canvas, 0, 0);
        const pixels = new Uint32Array(pen.getImageData(0, 0, copy.width, copy.height).data.buffer);
        done(new Set(pixels).size);
    }));
}
"""


def sign_in(page: Page, demo: Demo, name: str) -> None:
    page.goto(demo.address)
    page.locator("input[name=name]:visible").fill(name)
    page.locator("input[name=password]:visible").fill(demo.passwords[name])
    page.keyboard.press("Enter")


def number(page: Page, figure: str) -> float:
    text = page.locator(f".nx-figure-{figure} .nx-number").inner_text()
    return float(re.sub(r"[^0-9.]", "", text) or 0)


def test_ada_signs_in_and_sees_the_story_happen_without_reloading(page: Page, demo: Demo) -> None:
    assert set(demo.passwords) == {"ada", "grace", "alan"}
    sign_in(page, demo, "ada")
    expect(page.locator(".nx-visitor")).to_have_text("ada")
    page.evaluate("window.stayed = true")
    assert number(page, "balance") == 0

    canvas = page.locator(".nx-scene canvas").first
    expect(canvas).to_be_visible()
    page.wait_for_function(
        f"async () => await ({COLOURS_IN_CANVAS})(document.querySelector('.nx-scene canvas')) > 50"
    )

    # The curve rises while the three train.
    training = page.locator(".nx-training")
    expect(training).to_contain_text(re.compile(r"round \d+"), timeout=PATIENCE)
    reached = page.wait_for_function(
        """() => {
            const found = document.querySelector(".nx-training").innerText.match(/([0-9.]+) ?%/);
            return found && parseFloat(found[1]) > 60 ? found[1] : null;
        }""",
        timeout=PATIENCE,
    )
    assert float(str(reached.json_value())) > 60

    # Their weights are measured, become the head, and ada is paid.
    row = page.locator('.nx-contributions tr[data-kind="compute"]').first
    expect(row).to_have_attribute("data-state", "rewarded", timeout=PATIENCE)
    page.wait_for_function(
        "parseFloat(document.querySelector('.nx-figure-balance .nx-number').innerText"
        ".replace(/[^0-9.]/g, '')) > 100",
        timeout=PATIENCE,
    )
    assert number(page, "accuracy") > 60

    # Somebody's proposal is refused, and says why.
    refused = page.locator('.nx-contributions tr[data-state="rejected"]').first
    expect(refused).to_contain_text("No sure improvement", timeout=PATIENCE)
    assert page.evaluate("window.stayed"), "all of it happened without reloading"
    assert demo.stop() == [], "Ctrl-C ends every process that the demo started"


def test_a_wrong_password_is_told_and_a_stranger_sees_no_dashboard(page: Page, demo: Demo) -> None:
    page.goto(f"{demo.address}/neuronexus/dashboard")
    assert "/neuronexus/auth" in page.url
    page.locator("input[name=name]:visible").fill("ada")
    page.locator("input[name=password]:visible").fill("not the password")
    page.keyboard.press("Enter")
    expect(page.locator("body")).to_contain_text("do not match")
    assert "/neuronexus/auth" in page.url
