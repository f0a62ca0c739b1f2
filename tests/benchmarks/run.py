"""Run every benchmark, print a table, and write it as JSON.

Each figure is a ratio against a peer or a limit that is measured in the same run on the same
machine, so that a busy or slow machine moves both sides.  Nothing here fails: a benchmark tells.

    python tests/benchmarks/run.py [--json FILE] [SUBJECT ...]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "peers"))

from measure import Figure

SUBJECTS = ("storage", "starting", "hub", "executors", "federation")


def figures(subjects: Sequence[str]) -> Iterator[Figure]:
    """Measure subject after subject."""
    for subject in subjects:
        yield from import_module(f"bench_{subject}").figures()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(SUBJECTS))
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    unknown = set(options.subjects) - set(SUBJECTS)
    if unknown:
        parser.error(f"no such subject: {', '.join(sorted(unknown))}")
    measured = []
    print(f"{'what':<40}{'ours':>12}{'against':>12}{'ratio':>8}{'goal':>8}")
    for figure in figures(options.subjects or SUBJECTS):
        measured.append(asdict(figure))
        goal = "" if figure.goal is None else f"{'<' if figure.less else '>'} {figure.goal:.2g}"
        mark = {None: " ", True: "+", False: "-"}[figure.reached]
        print(
            f"{figure.what:<40}{figure.ours:>12,.4g}{figure.against:>12,.4g}"
            f"{figure.ratio:>8.2f}{goal:>8} {mark} {figure.peer} ({figure.unit})",
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
