"""``neuronexus add``, ``get``, ``ls``, ``pin``, ``verify``, ``gc``, ``export`` and ``import``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuronexus_kernel.cli import main
from neuronexus_kernel.content import CID
from neuronexus_kernel.hub.local import LocalHub
from neuronexus_kernel.storage import cid_of
from neuronexus_kernel.storage.car import encode_car

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on a home of its own; return its exit status and the lines it printed."""

    def run(name: str, *arguments: object, home: str = "home") -> tuple[int, list[str]]:
        capsys.readouterr()
        status = main([name, "--home", str(tmp_path / home), *map(str, arguments)])
        told = capsys.readouterr()
        return status, (told.out if status == 0 else told.out + told.err).splitlines()

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a folder in it."""
    root = tmp_path / "data"
    (root / "inner").mkdir(parents=True)
    (root / "rows.csv").write_text("a,b\n1,2\n")
    (root / "inner" / "large.bin").write_bytes(bytes(range(256)) * 8192)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_what_was_added_comes_out_again(run: Run, folder: Path, tmp_path: Path) -> None:
    _, (cid,) = run("add", folder)
    assert cid == str(cid_of(folder))
    assert run("get", cid, "-o", tmp_path / "again") == (0, [str(tmp_path / "again")])
    assert files(tmp_path / "again") == files(folder)
    assert run("get", f"{cid}/rows.csv", "-o", "-") == (0, ["a,b", "1,2"])


def test_a_folder_is_listed(run: Run, folder: Path) -> None:
    _, (cid,) = run("add", folder)
    _, lines = run("ls", cid)
    assert [line.split()[1::2] for line in lines] == [["folder", "inner"], ["file", "rows.csv"]]
    assert run("ls", f"{cid}/inner")[1][0].split()[2] == "2,097,152"


@pytest.mark.parametrize("profile", ["unixfs-v0-2015", "unixfs-v1-2025"])
def test_only_hashing_prints_the_cid_alone_and_keeps_nothing(
    run: Run, folder: Path, tmp_path: Path, profile: str
) -> None:
    path = folder / "inner" / "large.bin"
    expected = str(cid_of(path, profile=profile))
    assert run("add", "--only-hash", "--profile", profile, path) == (0, [expected])
    assert not (tmp_path / "home").exists()


def test_only_what_is_pinned_survives_a_collection(run: Run, folder: Path) -> None:
    _, (kept,) = run("add", folder / "rows.csv", "--name", "rows")
    _, (dropped,) = run("add", folder / "inner")
    _, (loose,) = run("add", folder, "--no-pin")
    assert [line.split()[0] for line in run("ls")[1]] == [kept, dropped]
    run("pin", "--remove", dropped)
    assert "would be removed" in run("gc", "--dry-run")[1][0]
    run("gc")
    assert run("get", kept, "-o", "-") == (0, ["a,b", "1,2"])
    assert run("ls", dropped)[0] == run("ls", loose)[0] == 1
    assert run("ls") == (0, [line for line in run("ls")[1] if line.endswith("rows")])


@pytest.fixture
def recorded(tmp_path: Path) -> str:
    """The CID of what a hub in the home has recorded, and an account promised to keep."""
    hub = LocalHub.open(tmp_path / "home")
    visitor = hub.visitor()
    visitor.register("ada", "correct horse battery")
    visitor.login("ada", "correct horse battery")
    root = visitor.put(b"what the hub records", visibility="project")
    visitor.keep(root.cid)
    hub.close()
    return root.cid


def test_the_pins_of_a_hub_and_its_accounts_are_not_taken_back(run: Run, recorded: str) -> None:
    for name, told in ((None, "--name NAME"), ("hub", "'hub'"), ("account:ada", "'account:ada'")):
        named = () if name is None else ("--name", name)
        status, lines = run("pin", "--remove", recorded, *named)
        assert (status, told in lines[-1]) == (1, True)
    assert [line.split()[-1] for line in run("ls")[1]] == ["hub", "account:ada"]


def test_own_pins_beside_a_hub_come_and_go(run: Run, recorded: str, folder: Path) -> None:
    _, (own,) = run("add", folder / "rows.csv")
    for cid in (recorded, own):
        run("pin", cid, "--name", "mine")
        run("pin", cid)
        assert run("pin", "--remove", cid)[0] == 0
        status, lines = run("pin", "--remove", cid)
        assert (status, "mine" in lines[-1]) == (1, True)
        assert run("pin", "--remove", cid, "--name", "mine")[0] == 0
    run("gc")
    assert run("get", recorded, "-o", "-") == (0, ["what the hub records"])
    assert run("get", own, "-o", "-")[0] == 1


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """A node that the environment names."""
    path = Path(__file__).parent.parent / "storage" / "loopback_rpc.py"
    spec = importlib.util.spec_from_file_location("loopback_rpc", path)
    rpc = sys.modules["loopback_rpc"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rpc)
    with rpc.loopback_node(tmp_path / "node") as node:
        monkeypatch.setenv("NEURONEXUS_IPFS", node.address)
        yield node


def test_only_own_files_travel_from_the_home_of_a_hub(
    run: Run, recorded: str, folder: Path, tmp_path: Path, node
) -> None:
    rows = folder / "rows.csv"
    root = CID.parse(recorded)
    leaning = tmp_path / "leaning.car"  # It holds no block: all of it is in the hub's store.
    leaning.write_bytes(b"".join(encode_car([root], [])))
    assert run("import", leaning, "--name", "imported") == (0, [recorded])
    assert run("pin", recorded, "--name", "mine") == (0, [recorded])
    assert run("pin", "--remove", recorded, "--name", "mine")[0] == 0
    assert run("export", recorded, "-o", tmp_path / "mine.car")[0] == 0
    assert run("get", recorded, "-o", "-") == (0, ["what the hub records"])
    assert node.digests() == set()
    _, (own,) = run("add", rows)
    assert node.digests() == {CID.parse(own).digest}
    assert list(node.pins) == [CID.parse(own)]
    run("pin", "--remove", own)
    assert not node.pins


def test_what_the_home_of_a_hub_lacks_comes_from_the_node(
    run: Run, recorded: str, folder: Path, node
) -> None:
    _, (elsewhere,) = run("add", folder, home="elsewhere")
    assert run("pin", elsewhere) == (0, [elsewhere])
    assert run("get", f"{elsewhere}/rows.csv", "-o", "-") == (0, ["a,b", "1,2"])


def test_the_names_of_a_hubs_pins_are_free_where_there_is_none(
    run: Run, recorded: str, folder: Path, tmp_path: Path
) -> None:
    car = tmp_path / "rows.car"
    run("add", folder / "rows.csv", "--name", "hub", home="elsewhere")
    run("export", cid_of(folder / "rows.csv"), "-o", car, home="elsewhere")
    assert run("import", car, "--name", "account:ada", home="elsewhere")[0] == 0
    refused = [("add", folder / "rows.csv"), ("import", car), ("pin", recorded)]
    for command in refused:
        status, lines = run(*command, "--name", "hub")
        assert (status, "another name" in lines[-1]) == (1, True)


def test_a_car_file_carries_content_to_another_computer(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    _, (cid,) = run("add", folder)
    car = tmp_path / "data.car"
    assert run("export", cid, "-o", car, "--version", "2") == (0, [str(car)])
    assert run("import", car, home="elsewhere") == (0, [cid])
    run("get", cid, "-o", tmp_path / "again", home="elsewhere")
    assert files(tmp_path / "again") == files(folder)


def test_a_damaged_car_file_is_refused_whole(run: Run, folder: Path, tmp_path: Path) -> None:
    _, (cid,) = run("add", folder)
    car = tmp_path / "data.car"
    run("export", cid, "-o", car)
    car.write_bytes(car.read_bytes()[:-1])
    assert run("import", car, home="elsewhere")[0] == 1
    assert run("ls", home="elsewhere") == (0, [])


def test_an_export_overwrites_nothing_and_leaves_no_half_file(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    _, (cid,) = run("add", folder)
    (tmp_path / "mine.car").write_text("mine")
    assert run("export", cid, "-o", tmp_path / "mine.car")[0] == 1
    assert (tmp_path / "mine.car").read_text() == "mine"
    run("pin", "--remove", cid)
    run("gc")
    assert run("export", cid, "-o", tmp_path / "new.car")[0] == 1
    assert sorted(each.name for each in tmp_path.glob("*.car*")) == ["mine.car"]


def test_a_flipped_byte_is_found_and_told(run: Run, folder: Path, tmp_path: Path) -> None:
    _, (cid,) = run("add", folder / "rows.csv")
    assert run("verify")[0] == 0
    (block,) = (tmp_path / "home" / "content" / "blocks").rglob(f"{cid}*")
    block.chmod(0o600)
    block.write_bytes(b"A" + block.read_bytes()[1:])
    status, lines = run("verify")
    assert status == 1
    assert any("corrupt" in line and cid in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "missing.txt"), "There is no file or folder missing.txt."),
        (("get", "bafynonsense"), "is not a CID"),
        (("import", "missing.car"), "There is no file or folder missing.car."),
        (("get", str(cid_of(b"never added"))), "There is no content"),
    ],
)
def test_a_wrong_name_is_told_plainly(run: Run, arguments: tuple[str, ...], told: str) -> None:
    status, lines = run(*arguments)
    assert status == 1
    assert told in lines[-1]
