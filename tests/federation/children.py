"""A child that says who it is, starts a child of its own, and then does nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from neuronexus_kernel.federation.deployment.child import Reporter, instructions

if __name__ == "__main__":
    told = instructions()
    if told.get("fail"):
        raise SystemExit("It fails as it was told.")
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Reporter(Path(str(told["report"]))).say(grandchild=grandchild.pid, word=told["word"])
    while True:
        time.sleep(60)
