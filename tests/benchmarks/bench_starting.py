"""Starting: our import and our help against a bare Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from measure import Figure, best_seconds


def figures() -> Iterator[Figure]:
    """Time whole processes."""

    def run(*arguments: str) -> float:
        return best_seconds(
            lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        )

    bare = run("-c", "pass")
    ours = run("-c", "import neuronexus_kernel")
    yield Figure("import neuronexus_kernel", ours, bare, "python -c pass", "s")
    ours = run("-m", "neuronexus_kernel.cli", "--help")
    yield Figure("neuronexus --help", ours, bare, "python -c pass", "s")
