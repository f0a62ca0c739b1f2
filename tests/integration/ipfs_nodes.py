"""Real IPFS nodes with an RPC, each in a process and with a repository of its own.

All of them know nobody, ask nobody for routes, and listen on loopback alone.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

JS_IPFS = Path(__file__).with_name("js_ipfs")
_PATIENCE = 60.0


def has_kubo() -> bool:
    """Tell whether Kubo's program is installed."""
    return shutil.which("ipfs") is not None


def has_js_ipfs() -> bool:
    """Tell whether js-ipfs is installed; ``.ci/run`` says how."""
    return shutil.which("node") is not None and (JS_IPFS / "node_modules" / "ipfs-core").is_dir()


@contextmanager
def kubo(repository: Path) -> Iterator[str]:
    """Run Kubo's daemon; give the address of its RPC."""
    environment = {**os.environ, "IPFS_PATH": str(repository), "IPFS_TELEMETRY": "off"}
    subprocess.run(
        ["ipfs", "init", "--empty-repo", "--profile=test"],
        env=environment,
        check=True,
        capture_output=True,
        timeout=_PATIENCE,
    )
    _keep_private(repository / "config")
    with (repository / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(
            ["ipfs", "daemon"], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield _address_of(daemon, repository)
    finally:
        _end(daemon)


def _keep_private(file: Path) -> None:
    config = json.loads(file.read_text())
    config["Bootstrap"] = []
    config["Discovery"] = {"MDNS": {"Enabled": False}}
    config.setdefault("Routing", {})["Type"] = "none"
    config["Addresses"] |= {
        "API": "/ip4/127.0.0.1/tcp/0",
        "Gateway": "/ip4/127.0.0.1/tcp/0",
        "Swarm": ["/ip4/127.0.0.1/tcp/0"],
    }
    config["AutoNAT"] = {"ServiceMode": "disabled"}
    config["Swarm"] |= {
        "DisableNatPortMap": True,
        "RelayClient": {"Enabled": False},
        "RelayService": {"Enabled": False},
    }
    if "AutoConf" in config:  # From Kubo 0.37 on
        config["AutoConf"]["Enabled"] = False
    file.write_text(json.dumps(config))


def _address_of(daemon: subprocess.Popen[bytes], repository: Path) -> str:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if daemon.poll() is not None:
            break
        with suppress(FileNotFoundError):
            address = (repository / "api").read_text().strip()
            if "Daemon is ready" in (repository / "daemon.log").read_text():
                return address
        time.sleep(0.05)
    raise AssertionError(f"Kubo did not start: {(repository / 'daemon.log').read_text()}")


@contextmanager
def js_ipfs(repository: Path) -> Iterator[str]:
    """Run js-ipfs, which is written apart from Kubo; give the address of its RPC."""
    log = repository.with_suffix(".log")
    with log.open("wb") as errors:
        node = subprocess.Popen(
            ["node", str(JS_IPFS / "serve.mjs"), str(repository)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        ready, _, _ = select.select([node.stdout], [], [], _PATIENCE)
        address = node.stdout.readline().decode().strip() if ready else ""
        if not address.startswith("/"):
            raise AssertionError(f"js-ipfs did not start: {log.read_text()}")
        yield address
    finally:
        _end(node)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
