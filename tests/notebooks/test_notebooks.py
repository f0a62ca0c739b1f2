"""Every tutorial runs from top to bottom, as nbval runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    "notebook", ["01_quickstart.ipynb", "02_federation.ipynb", "03_content.ipynb"]
)
def test_the_tutorial_runs(notebook: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--nbval-lax", str(ROOT / "notebooks" / notebook)]
    command += ["--nbval-cell-timeout", "400", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    try:
        told = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert told.returncode == 0, told.stdout[-5000:]
    finally:
        for record in tmp_path.glob("*/hub.json"):
            process = psutil.Process(json.loads(record.read_text())["pid"])
            process.terminate()
            process.wait(30)
