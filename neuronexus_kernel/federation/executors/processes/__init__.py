"""The executor of worker processes: they train chunks of a cohort side by side.

Each worker follows an inner plan (sequential, vectorized or fused) on its own processors.  What a
chunk holds depends on the cohort and the inner plan only, so results do not depend on how many
workers there are or who takes which chunk.  Clients' data, weights and updates lie in shared
memory; data are written there once.

Workers are started as plain child processes, not through `multiprocessing`: they import neither
the caller's ``__main__`` nor anything from a notebook, and need no server and no tracker process.
"""

from neuronexus_kernel.federation.executors.processes.executor import ProcessesExecutor

__all__ = ["ProcessesExecutor"]
