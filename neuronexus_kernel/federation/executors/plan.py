"""The plan: which executor trains, in chunks of how many clients, on which versions.

The choice depends on the architecture, the recipe and the cohort's size only, never on free
memory or on a measured time, so that it is the same whenever and wherever the run is repeated.
What it depends on beyond that (threads, versions, instruction set) is recorded: with those equal,
results are bitwise equal.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from neuronexus_kernel.errors import InvalidInputError

if TYPE_CHECKING:
    from neuronexus_kernel.federation.executors.base import Executor
    from neuronexus_kernel.models import Architecture

EXECUTORS = ("sequential", "vectorized")
DTYPES = ("float32", "float64")

_CHUNK_PARAMETERS = 4_000_000
_CHUNK_CLIENTS = 256
_SHARED_STEP = 4_000_000
"""Multiplications in a step from which a second thread saves more than it costs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run is executed.

    Attributes
    ----------
    executor
        Its name.
    reason
        Why it was chosen, for people.
    chunk
        Clients trained at the same time.
    dtype
        Number type of the training arithmetic.
    threads
        Threads that torch uses: one where a step is small.
    instructions
        Instruction set that torch's kernels use, such as ``"AVX512"``.
    versions
        Version of each library that the result may depend on.
    """

    executor: str
    reason: str
    chunk: int
    dtype: str
    threads: int
    instructions: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """Return the plan as plain values, to be recorded with the run."""
        return asdict(self)


def make_plan(
    architecture: Architecture,
    *,
    clients: int,
    batch_size: int = 10,
    executor: str = "auto",
    dtype: str = "float32",
) -> Plan:
    """Choose how to train.

    Parameters
    ----------
    architecture
        The model.
    clients
        Size of a round's cohort.
    batch_size
        Examples in a client's step.
    executor
        ``"auto"`` or a name of `EXECUTORS`, which overrules the choice.
    dtype
        A name of `DTYPES`.

    Raises
    ------
    InvalidInputError
        If there is no such executor or number type.
    """
    if executor not in ("auto", *EXECUTORS):
        raise InvalidInputError(
            f"executor must be auto, {' or '.join(EXECUTORS)}, not {executor!r}."
        )
    if dtype not in DTYPES:
        raise InvalidInputError(f"dtype must be {' or '.join(DTYPES)}, not {dtype!r}.")
    name, reason = (executor, "asked for")
    if executor == "auto":
        name, reason = _choice(architecture, clients)
    import torch

    chunk = _chunk(architecture) if name == "vectorized" else 1
    step = architecture.parameter_count * batch_size * min(chunk, clients)
    small = step < _SHARED_STEP and not _has_convolutions(architecture)
    return Plan(
        executor=name,
        reason=reason,
        chunk=chunk,
        dtype=dtype,
        threads=1 if small else torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        versions=_versions(),
    )


def make_executor(plan: Plan) -> Executor:
    """Return the executor that a plan names."""
    if plan.executor == "vectorized":
        from neuronexus_kernel.federation.executors.vectorized import VectorizedExecutor

        return VectorizedExecutor(chunk=plan.chunk, dtype=plan.dtype)
    from neuronexus_kernel.federation.executors.sequential import SequentialExecutor

    return SequentialExecutor(dtype=plan.dtype)


def _choice(architecture: Architecture, clients: int) -> tuple[str, str]:
    if clients == 1:
        return "sequential", "one client trains in a round"
    if _has_convolutions(architecture):
        return "sequential", "convolutions gain nothing from stacking on a CPU"
    return "vectorized", f"{clients} clients train in a round"


def _has_convolutions(architecture: Architecture) -> bool:
    return any(len(shape) > 2 for shape in architecture.parameter_shapes.values())


def _chunk(architecture: Architecture) -> int:
    """Return how many clients to stack: as many as keep their models within a few cache sizes."""
    size = max(1, architecture.parameter_count)
    return max(1, min(_CHUNK_CLIENTS, _CHUNK_PARAMETERS // size))


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    found = {name: version(name) for name in ("torch", "numpy", "flwr")}
    return {"python": platform.python_version(), **found}
