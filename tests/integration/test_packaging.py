"""What is shipped, and what the repository promises about itself."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_one_wheel_holds_the_packages_and_the_notebooks_of_the_demo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run([*command, "--no-isolation"], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("neuronexus-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "neuronexus_kernel/__init__.py",
        "neuronexus_kernel/hub/migrations/versions/0001_first.py",
        "neuronexus_widgets/dashboard.py",
        "neuronexus_widgets/style.css",
        "neuronexus_server/__main__.py",
        "neuronexus_server/notebooks/dashboard.ipynb",
        "neuronexus_server/notebooks/01_quickstart.ipynb",
        "neuronexus_server/templates/auth.html",
        "neuronexus_server/templates/voila/neuronexus/conf.json",
    ):
        assert needed in names, needed
    assert not [name for name in names if name.startswith(("tests/", "shared/"))]


def test_the_tested_versions_name_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line) for line in pins)


def test_the_quickstart_is_short_and_says_what_each_cell_does() -> None:
    cells = json.loads((ROOT / "notebooks/01_quickstart.ipynb").read_text())["cells"]
    assert len(cells) < 25
    for before, cell in itertools.pairwise(cells):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown"
            assert len("".join(cell["source"]).splitlines()) <= 12


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=str)
def test_notebooks_are_kept_without_outputs(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text())["cells"]:
        assert not cell.get("outputs"), cell["id"]
