"""What a hub has recorded stays, whoever unpins and collects in its folder."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.storage import LocalStore

PASSWORD = "correct horse battery"


@pytest.fixture
def home(new_home: Callable[[], Path]) -> Path:
    """The folder of a hub that is closed again, with some content in it."""
    home = new_home()
    hub = LocalHub.open(home)
    hub.register("ada", PASSWORD)
    hub.login("ada", PASSWORD)
    for visibility in ("public", "project", "sealed"):
        hub.put(secrets.token_bytes(2_000_000), visibility=visibility)
    hub.put(b"\xa1aa\x01", codec="dag-cbor")
    hub.close()
    return home


def blocks(home: Path) -> list[Path]:
    return sorted(
        path for store in ("content", "sealed") for path in home.glob(f"{store}/blocks/*/*")
    )


def collect(home: Path) -> int:
    return sum(LocalStore(home / store).collect().removed for store in ("content", "sealed"))


def test_a_collection_takes_nothing_from_a_hub(home: Path) -> None:
    before = blocks(home)
    assert len(before) == 10
    assert collect(home) == 0
    assert blocks(home) == before


def test_what_was_unpinned_by_somebody_is_pinned_again_when_the_hub_opens(home: Path) -> None:
    before = blocks(home)
    for name in ("content", "sealed"):
        store = LocalStore(home / name)
        for pin in list(store.pins()):
            store.unpin(pin.cid)
    LocalHub.open(home).close()
    assert collect(home) == 0
    assert blocks(home) == before


def test_pins_without_a_name_of_an_earlier_version_are_no_longer_needed(home: Path) -> None:
    """Nor are they taken away: somebody else may have made them."""
    before = blocks(home)
    for name in ("content", "sealed"):
        store = LocalStore(home / name)
        for pin in list(store.pins()):
            store.pin(pin.cid)
            store.unpin(pin.cid, name=pin.name)
    LocalHub.open(home).close()
    store = LocalStore(home / "content")
    own = store.add(b"of somebody who uses the store")
    for name in ("content", "sealed"):
        unnamed = [pin for pin in LocalStore(home / name).pins() if not pin.name]
        assert unnamed
        for pin in unnamed:
            LocalStore(home / name).unpin(pin.cid, name="")
    assert collect(home) == 1
    assert not store.has(own)
    assert blocks(home) == before


def test_a_document_is_pinned_again_though_it_names_what_is_sealed(new_home) -> None:
    home = new_home()
    hub = LocalHub.open(home)
    hub.register("ada", PASSWORD)
    hub.login("ada", PASSWORD)
    sealed = hub.put(b"sealed", visibility="sealed")
    receipt = hub.put(dagcbor.encode([CID.parse(sealed.cid)]), codec="dag-cbor")
    hub.close()
    LocalStore(home / "content").unpin(receipt.cid)
    LocalHub.open(home).close()
    assert collect(home) == 0
    assert LocalStore(home / "content").has(receipt.cid)


def test_a_hub_of_an_earlier_version_loses_nothing(home: Path) -> None:
    before = blocks(home)
    for name in ("content", "sealed"):
        shutil.rmtree(home / name / "pins")
    assert collect(home) == 0
    LocalHub.open(home).close()
    assert collect(home) == 0
    assert blocks(home) == before


def test_a_hub_opens_also_if_recorded_content_is_gone(home: Path) -> None:
    for path in blocks(home):
        path.unlink()
    hub = LocalHub.open(home)
    assert len(hub.roots()) == 2
    hub.close()
