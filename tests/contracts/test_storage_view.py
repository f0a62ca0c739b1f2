"""``wb.storage`` on both hubs: what goes in comes out, under names, licences and promises."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import neuronexus_kernel as nx
from neuronexus_kernel.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
)
from neuronexus_kernel.hub import Hub
from neuronexus_kernel.workbench import Workbench

Person = Callable[[str], Workbench]
Connect = Callable[[], Hub]


@pytest.fixture
def ada(person: Person) -> Workbench:
    return person("ada")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with content that no test before had."""
    root = tmp_path / f"data-{secrets.token_hex(4)}"
    (root / "inner").mkdir(parents=True)
    (root / "notes.txt").write_bytes(b"notes " + secrets.token_bytes(8))
    (root / "inner" / "large.bin").write_bytes(secrets.token_bytes(3_000_000))
    return root


def test_a_folder_goes_in_and_comes_out(ada: Workbench, folder: Path, tmp_path: Path) -> None:
    cid = ada.storage.add(folder, license="CC0-1.0")
    assert cid == str(nx.storage.cid_of(folder))
    entries = ada.storage.ls(cid)
    assert entries[["name", "kind"]].values.tolist() == [
        ["inner", "folder"],
        ["notes.txt", "file"],
    ]
    where = ada.storage.download(cid, tmp_path / "again")
    assert where == tmp_path / "again" / folder.name
    assert (where / "inner/large.bin").read_bytes() == (folder / "inner/large.bin").read_bytes()
    with pytest.raises(ConflictError):
        ada.storage.download(cid, tmp_path / "again")


def test_a_link_in_a_folder_leads_to_what_it_names(
    ada: Workbench, folder: Path, tmp_path: Path
) -> None:
    (folder / "latest").symlink_to("inner/large.bin")
    address = f"{ada.storage.add(folder)}/latest"
    data = (folder / "inner/large.bin").read_bytes()
    assert ada.storage.get(address) == data
    assert ada.storage.download(address, tmp_path).read_bytes() == data


def test_a_file_is_read_in_the_middle(ada: Workbench, folder: Path) -> None:
    cid = ada.storage.add(folder)
    whole = (folder / "inner/large.bin").read_bytes()
    with ada.storage.open(f"{cid}/inner/large.bin") as stream:
        stream.seek(1_500_000)
        assert stream.read(1000) == whole[1_500_000:1_501_000]
        assert stream.seek(-5, 2) == len(whole) - 5
        assert stream.read() == whole[-5:]
    assert ada.storage.get(f"{cid}/notes.txt") == (folder / "notes.txt").read_bytes()


def test_tables_weights_and_data_sets_are_stored_as_what_they_are(
    ada: Workbench, tmp_path: Path
) -> None:
    table = pd.DataFrame({"a": [1, 2], "b": ["x", secrets.token_hex(4)]})
    weights = {"w": torch.randn(2, 3), "b": np.ones(3, np.float32)}
    data = nx.Dataset(np.random.rand(6, 4).astype(np.float32), np.arange(6) % 2, classes=2)
    cids = [ada.storage.add(each, name=str(n)) for n, each in enumerate((table, weights, data))]
    listed = ada.storage.ls(author=ada.user).set_index("cid").loc[cids]
    assert list(listed.kind) == ["table", "weights", "dataset"]
    path = ada.storage.download(cids[0], tmp_path)
    import duckdb

    pd.testing.assert_frame_equal(
        duckdb.read_parquet(str(path)).df(), table, check_dtype=False, check_column_type=False
    )
    from neuronexus_kernel.models.weights import deserialize

    read = deserialize(ada.storage.get(cids[1]), {"b": (3,), "w": (2, 3)})
    assert np.array_equal(read["w"], weights["w"].numpy())
    assert nx.Dataset.decode(ada.storage.get(cids[2])).cid == data.cid


def test_a_name_has_versions_that_do_not_change(ada: Workbench, person: Person) -> None:
    name = f"corpus-{secrets.token_hex(4)}"
    contents = [secrets.token_bytes(20) for _ in range(3)]
    first, second = (ada.storage.add(each, name=name, license="MIT") for each in contents[:2])
    assert ada.storage.add(contents[1], name=name, license="MIT") == second
    person("grace").storage.add(contents[2], name=name)
    assert ada.storage.add(contents[0], name=name, license="MIT") == first
    history = ada.storage.history(name)
    assert history[["number", "cid", "license"]].values.tolist() == [
        [1, first, "MIT"],
        [2, second, "MIT"],
        [3, first, "MIT"],
    ]
    grace = ada.storage.ls(name=name).owner.tolist()
    assert len(grace) == 3
    assert len(set(grace)) == 2
    with pytest.raises(NotFoundError, match="stored nothing"):
        ada.storage.history("never stored")


def test_content_is_found_by_kind_name_author_and_text(ada: Workbench) -> None:
    word = secrets.token_hex(6)
    cid = ada.storage.add(secrets.token_bytes(9), name=f"Leaves-{word}", kind="photos")
    other = ada.storage.add(secrets.token_bytes(9), license=f"100%_{word}", name="x")
    search = ada.storage.ls
    assert search(kind="photos", author=ada.user).cid.tolist() == [cid]
    assert search(name=f"Leaves-{word}").cid.tolist() == [cid]
    assert search(text=f"leaves-{word.upper()}").cid.tolist() == [cid]
    assert search(text=f"100%_{word}").cid.tolist() == [other]
    assert search(text=f"100__{word}").empty
    assert set(search(text=word).cid) == {cid, other}


def test_a_promise_to_keep_can_be_given_and_taken_back(ada: Workbench, person: Person) -> None:
    cid = person("grace").storage.add(secrets.token_bytes(9))
    ada.storage.pin(cid, name="useful")
    ada.storage.pin(cid)
    assert ada.storage.pins()[["name", "cid"]].values.tolist() == [["useful", cid]]
    ada.storage.unpin(cid)
    assert ada.storage.pins().empty
    with pytest.raises(NotFoundError):
        ada.storage.unpin(cid)
    with pytest.raises(NotFoundError):
        ada.storage.pin(str(nx.storage.cid_of(secrets.token_bytes(9))))


def test_project_content_is_for_accounts_only(ada: Workbench, connect: Connect) -> None:
    stranger = Workbench(connect())
    secret, public = secrets.token_bytes(30), secrets.token_bytes(30)
    cid = ada.storage.add(secret, name="draft", visibility="project")
    shown = ada.storage.add(public, name="paper")
    assert ada.storage.get(cid) == secret
    with ada.storage.open(cid) as stream:
        assert stream.read() == secret
    with stranger.storage.open(shown) as stream:
        assert stream.read() == public
    with pytest.raises(NotFoundError):
        stranger.storage.open(cid).read()
    with pytest.raises(ForbiddenError, match="signed-in accounts only"):
        ada.storage.share(cid)
    with pytest.raises(AuthenticationError):
        stranger.storage.history("draft")
    with pytest.raises(NotFoundError):
        stranger.storage.history("draft", author=ada.user)
    assert cid not in set(stranger.storage.ls().cid)


def test_what_cannot_be_stored_is_refused_plainly(ada: Workbench, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no file or folder"):
        ada.storage.add(tmp_path / "missing")
    with pytest.raises(InvalidInputError, match="not a int"):
        ada.storage.add(7)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="Sealed content"):
        ada.storage.add(b"x", visibility="sealed")


def test_nobody_learns_from_a_car_file_what_is_sealed(ada: Workbench, person: Person) -> None:
    from neuronexus_kernel.content import CID, dagpb
    from neuronexus_kernel.storage.car import encode_car

    guessed = secrets.token_bytes(30)
    ada.hub.put(guessed, visibility="sealed")
    node = dagpb.encode(
        dagpb.PBNode((dagpb.Link(CID.of(guessed), 30),), b"\x08\x02\x18\x1e\x20\x1e")
    )
    root = CID.of(node, 0x70)
    car = b"".join(encode_car([root], [(root, node)]))
    with pytest.raises(InvalidInputError, match="not as CAR"):
        person("eve").hub.put(car, codec="car", visibility="sealed")
    with pytest.raises(nx.errors.StoreError, match=r"incomplete|missing"):
        person("eve").hub.put(car, codec="car")
