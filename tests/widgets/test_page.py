"""The page around the dashboard: its template and its notebook."""

from __future__ import annotations

import json
import re
from pathlib import Path

import neuronexus_server
from neuronexus_widgets.theme import PALETTE, css

ROOT = Path(__file__).parents[2]
TEMPLATE = Path(neuronexus_server.__file__).parent / "templates" / "voila" / "neuronexus"


def test_the_page_has_the_palette_of_the_dashboard():
    page = (TEMPLATE / "index.html.j2").read_text("utf-8")
    found = dict(re.findall(r"--nx-([a-z]+): (#[0-9a-f]{6});", page))
    assert found == PALETTE


def test_neither_page_nor_style_sheet_names_another_host():
    page = (TEMPLATE / "index.html.j2").read_text("utf-8")
    for text in (page, css()):
        addresses = re.findall(r"https?://[^\s'\"]+", text)
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}
        assert "@import" not in text


def test_every_rule_of_the_style_sheet_is_below_the_dashboard():
    rules = re.sub(r"/\*.*?\*/|@keyframes[^{]+\{(?:[^{}]+\{[^{}]*\}\s*)+\}", "", css(), flags=re.S)
    rules = re.sub(r"@(?:media|container)[^{]+\{", "", rules)
    selectors = [part for rule in re.findall(r"([^{}]+)\{", rules) for part in rule.split(",")]
    loose = [s.strip() for s in selectors if not s.strip().startswith(".nx-dashboard")]
    assert loose == []


def test_the_notebook_holds_no_output_and_shows_the_dashboard():
    notebook = json.loads((ROOT / "notebooks" / "dashboard.ipynb").read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert "Dashboard(nx.connect())" in "".join("".join(cell["source"]) for cell in code)
