"""A real Chromium, headless, and the live demo as a person starts it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=60_000)

FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, as the system's packages install it; gone with the module, and its event loop."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that notes every request to another host than loopback."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    outside: list[str] = []
    page.on(
        "request",
        lambda request: (
            outside.append(request.url)
            if not re.match(r"(http|ws)://127\.0\.0\.1[:/]|data:|blob:", request.url)
            else None
        ),
    )
    yield page
    context.close()
    assert outside == [], "the pages must not ask any other host for anything"


@dataclass(frozen=True, slots=True)
class Demo:
    """A live demo: where it is, and the passwords it printed."""

    address: str
    passwords: dict[str, str]
    process: subprocess.Popen[str]

    def stop(self) -> list[int]:
        """Press Ctrl-C; return the processes of the demo that are still there afterwards."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0
        _, left = psutil.wait_procs(family, timeout=10)
        return [process.pid for process in left]


@pytest.fixture
def demo() -> Iterator[Demo]:
    """The story of three researchers on a hub of its own, waiting for somebody to sign in."""
    command = [sys.executable, "-m", "neuronexus_kernel.cli", "demo", "--port", "8931"]
    process = subprocess.Popen([*command, "--patience", "600"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "Ctrl-C ends everything" in line:
            break
    address = re.search(r"http://\S+", said)
    assert address is not None, said
    yield Demo(address[0], dict(re.findall(r"^ {4}(\w+) +(\S+)$", said, re.M)), process)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)  # a kill would leave its hub behind
        process.wait(60)
