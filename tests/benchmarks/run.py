"""Run every benchmark, print a table, and write it as JSON.

Each figure is a ratio against a peer or a limit that is measured in the same run on the same
machine, so that a busy or slow machine moves both sides.  Nothing here fails: a benchmark tells.

    python tests/benchmarks/run.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measure import Figure

SUBJECTS = ("storage", "starting", "training")


def figures() -> Iterator[Figure]:
    """Measure every subject, one after the other."""
    for subject in SUBJECTS:
        yield from import_module(f"bench_{subject}").figures()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    measured = []
    print(f"{'what':<52}{'ours':>14}{'against':>14}{'ratio':>8}")
    for figure in figures():
        measured.append(asdict(figure))
        print(
            f"{figure.what:<52}{figure.ours:>14,.3g}{figure.against:>14,.3g}"
            f"{figure.ratio:>8.2f}  {figure.peer} ({figure.unit})",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
