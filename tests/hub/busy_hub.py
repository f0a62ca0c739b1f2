"""A hub under load, to be killed.  Run as a program.

It imports what is slow once; then for each line ``HOME WEIGHTS SEED`` on its standard input it
forks a hub on HOME that registers accounts, puts content, records rounds, submits contributions
and mints, all at once in threads, until it is killed.  Whatever the hub has acknowledged is said
on standard output in one line, written in one piece.
"""

import os
import random
import sys
import threading
from concurrent.futures import Executor, Future
from pathlib import Path

from neuronexus_kernel import nx_load  # replaced below


def main() -> None:
    pass
