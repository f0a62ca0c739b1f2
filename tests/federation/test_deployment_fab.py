"""The app that a node agrees to run: the installed package, named by a hash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import neuronexus_kernel
from neuronexus_kernel.federation.deployment import fab

PACKAGE = Path(neuronexus_kernel.__file__).parent
HASH = "from neuronexus_kernel.federation.deployment.fab import build; print(build().sha256)"


def hash_elsewhere(root: Path, **environment: str) -> str:
    """Return the FAB's hash as another process finds it, for the package below `root`."""
    told = subprocess.run(
        [sys.executable, "-c", HASH],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.strip()


def copied(folder: Path) -> Path:
    """Return a folder that holds a copy of the package, with other times and modes."""
    target = folder / "neuronexus_kernel"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in target.rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o644)
    return folder


def test_a_copy_of_the_package_elsewhere_gives_the_same_hash(tmp_path: Path) -> None:
    root = copied(tmp_path)
    first = hash_elsewhere(root, PYTHONHASHSEED="1", TZ="Asia/Tokyo")
    (root / "neuronexus_kernel" / "notes.txt").write_text("not code")
    assert first == hash_elsewhere(root, PYTHONHASHSEED="2", TZ="UTC")


def test_a_change_of_any_source_file_changes_the_hash(tmp_path: Path) -> None:
    root = copied(tmp_path)
    before = hash_elsewhere(root)
    with (root / "neuronexus_kernel" / "content" / "cid.py").open("a") as file:
        file.write("\n")
    assert hash_elsewhere(root) != before


def test_it_holds_no_code_and_names_installed_apps_only() -> None:
    names = zipfile.ZipFile(BytesIO(fab.build().data)).namelist()
    assert names == ["pyproject.toml", "neuronexus.json", ".info/CONTENT"]


def test_flower_installs_it_and_finds_both_apps(tmp_path: Path) -> None:
    from flwr.cli.install import install_from_fab
    from flwr.clientapp import ClientApp
    from flwr.common.config import get_project_config
    from flwr.serverapp import ServerApp
    from flwr.supercore.object_ref import load_app

    place = install_from_fab(fab.build().data, tmp_path, skip_prompt=True)
    components = get_project_config(place)["tool"]["flwr"]["app"]["components"]
    assert isinstance(load_app(components["clientapp"], ValueError, place), ClientApp)
    assert isinstance(load_app(components["serverapp"], ValueError, place), ServerApp)
