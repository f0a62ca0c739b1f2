"""The plan: which executor trains, in chunks of how many clients, on which versions.

``"auto"`` chooses by the architecture's graph, the recipe, the cohort's size and the number of
torch's threads only, never by free memory or a measured time.
``"measured"`` times a few steps of every executor that can run the recipe here, and writes down
what it saw.  Either way the plan is plain data: with the same plan (executor, chunk, threads) on
the same versions and instruction set, results are bitwise equal.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neuronexus_kernel.errors import InvalidInputError, RecipeError
from neuronexus_kernel.federation.fields import whole
from neuronexus_kernel.federation.recipe import Recipe

if TYPE_CHECKING:
    from neuronexus_kernel.federation.executors.base import Executor
    from neuronexus_kernel.models import Architecture

EXECUTORS = ("sequential", "vectorized", "fused", "processes", "cuda")
DTYPES = ("float32", "float64")

_CHUNK_VALUES = 4_000_000
"""Parameters of all models of a chunk together: a few times what a processor's cache holds."""
_CHUNK_CLIENTS = 256
_CHUNK_BYTES = 512 * 2**20
_FUSED_VALUES = 2_000_000
_FUSED_CLIENTS = 128
"""The same for fused, which keeps neither gradients nor several copies of what it works on."""
_SHARED_STEP = 4_000_000
"""Multiplications in a step from which a second thread saves more than it costs."""
_LARGE_STEP = 200_000_000
_LARGE_MODEL = 400_000
"""Floating-point operations of a step, and parameters, above which stacking no longer pays: one
client alone then keeps a processor busy, and several no longer fit its cache."""


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
        Clients trained together.
    dtype
        Number type of the training arithmetic.
    threads
        Threads that torch uses: one where a step is small.
    instructions
        Instruction set that torch's kernels use, such as ``"AVX512"``; the device for cuda.
    versions
        Version of each library that the result may depend on.
    workers
        How many chunks train at the same time: in processes of their own, or for fused in threads
        of Python; the result does not depend on it.
    inner
        What each of the processes follows; None unless the executor is ``"processes"``.
    timings
        Seconds of a client's step by executor, if the choice was measured.
    """

    executor: str
    reason: str
    chunk: int
    dtype: str
    threads: int
    instructions: str
    versions: dict[str, str]
    workers: int = 1
    inner: Plan | None = None
    timings: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return the plan as plain values, to be recorded with the run."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: object) -> Plan:
        """Read a plan back, to run by it again.

        Parameters
        ----------
        record
            What `to_dict` returned; what a run recorded beside it is left out.

        Raises
        ------
        InvalidInputError
            If it is no plan; the message names the field.
        """
        if not isinstance(record, Mapping):
            raise InvalidInputError(f"A plan is a mapping, not a {type(record).__name__}.")
        inner = record.get("inner")
        if (record.get("executor") == "processes") != (inner is not None):
            raise InvalidInputError(
                "The plan's executor 'processes' and an inner plan belong together."
            )
        return cls(
            executor=_name("executor", record, EXECUTORS),
            reason=_text("reason", record),
            chunk=_count("chunk", record),
            dtype=_name("dtype", record, DTYPES),
            threads=_count("threads", record),
            instructions=_text("instructions", record),
            versions={str(name): str(found) for name, found in _table("versions", record)},
            workers=_count("workers", record),
            inner=None if inner is None else cls.from_dict(inner),
            timings={str(name): float(found) for name, found in _table("timings", record)},
        )


def make_plan(
    recipe: Recipe | Architecture,
    *,
    clients: int,
    batch_size: int | None = None,
    executor: str = "auto",
    dtype: str = "float32",
    corrections: bool = False,
    own: bool = False,
    workers: int | None = None,
) -> Plan:
    """Choose how to train.

    Parameters
    ----------
    recipe
        How clients train; or an architecture, for plain training.
    clients
        Size of a round's cohort.
    batch_size
        Examples in a client's step; by default the recipe's.
    executor
        ``"auto"``; ``"measured"``; or a name of `EXECUTORS`, which overrules the choice: one that
        cannot run the recipe is replaced by vectorized, and the plan's `reason` says so.
    dtype
        A name of `DTYPES`.
    corrections, own
        Whether the strategy gives clients corrections or starting tensors of their own.
    workers
        Processes for ``"processes"``; by default one per processor that this one may use.

    Raises
    ------
    InvalidInputError
        If there is no such executor or number type, or no CUDA device though it was asked for.
    """
    if executor not in ("auto", "measured", *EXECUTORS):
        raise InvalidInputError(
            f"executor must be auto, measured, {', '.join(EXECUTORS[:-1])} or {EXECUTORS[-1]}, "
            f"not {executor!r}."
        )
    if dtype not in DTYPES:
        raise InvalidInputError(f"dtype must be {' or '.join(DTYPES)}, not {dtype!r}.")
    case = _Case(_recipe(recipe, batch_size), clients, dtype, corrections, own, workers)
    if executor == "auto":
        return case.plan(*case.choice())
    if executor == "measured":
        from neuronexus_kernel.federation.executors.measure import fastest

        return fastest(case.recipe, clients, case.candidates())
    reason = case.refusal(executor)
    if reason is not None:
        return case.plan("vectorized", f"{executor} was asked for, but {reason}")
    return case.plan(executor, "asked for")


def make_executor(plan: Plan) -> Executor:
    """Return the executor that a plan names.

    Raises
    ------
    InvalidInputError
        If this machine lacks what it needs.
    """
    if plan.executor == "vectorized":
        from neuronexus_kernel.federation.executors.vectorized import VectorizedExecutor

        return VectorizedExecutor(chunk=plan.chunk, dtype=plan.dtype)
    if plan.executor == "cuda":
        from neuronexus_kernel.federation.executors.cuda import CudaExecutor

        return CudaExecutor(chunk=plan.chunk, dtype=plan.dtype)
    if plan.executor == "fused":
        from neuronexus_kernel.federation.executors.fused import FusedExecutor

        return FusedExecutor(chunk=plan.chunk, workers=plan.workers, dtype=plan.dtype)
    if plan.executor == "processes":
        from neuronexus_kernel.federation.executors.processes import ProcessesExecutor

        assert plan.inner is not None
        return ProcessesExecutor(plan.inner, plan.workers)
    from neuronexus_kernel.federation.executors.sequential import SequentialExecutor

    return SequentialExecutor(dtype=plan.dtype)


@dataclass(frozen=True, slots=True)
class _Case:
    """What is to be trained, and what follows from it."""

    recipe: Recipe
    clients: int
    dtype: str
    corrections: bool
    own: bool
    workers: int | None

    def refusal(self, executor: str) -> str | None:
        """Return why an executor cannot train this, or None if it can."""
        if executor == "fused":
            return _fused_refusal(self.recipe, corrections=self.corrections, own=self.own)
        if executor == "cuda":
            from neuronexus_kernel.federation.executors.cuda import check_cuda

            check_cuda()
        return None

    def choice(self) -> tuple[str, str]:
        """Return an executor and why, by what is known before anything runs."""
        refused = self.refusal("fused")
        small = self._step_flops() <= _LARGE_STEP
        if refused is None and (small or self.clients > 1):
            return "fused", "every operator and field of the recipe has a fused step"
        why = "" if refused is None else f", and {refused}"
        if self.clients == 1:
            return "sequential", f"one client trains in a round{why}"
        if not small or self.recipe.architecture.parameter_count > _LARGE_MODEL:
            return "sequential", f"one client's step keeps the processor busy{why}"
        return "vectorized", f"{self.clients} clients train in a round{why}"

    def candidates(self) -> list[Plan]:
        """Return a plan for each executor that can train this here."""
        import torch

        names = [name for name in ("sequential", "vectorized", "fused") if not self.refusal(name)]
        plans = [self.plan(name, "measured") for name in names]
        if self.clients > 1 and self._workers() > 1:
            plans += [self._processes("measured", name) for name in names]
        if torch.cuda.is_available():
            plans.append(self.plan("cuda", "measured"))
        return plans

    def plan(self, executor: str, reason: str) -> Plan:
        """Return the plan for an executor."""
        if executor == "processes":
            return self._processes(reason, self.choice()[0])
        chunk, threads, workers = self._chunk(), self._threads(), 1
        if executor == "sequential":
            chunk = 1
        elif executor == "fused":
            chunk = self._fused_chunk()
            if _has_convolutions(self.recipe.architecture):
                threads, workers = 1, min(_torch_threads(), self.clients)
        return Plan(
            executor=executor,
            reason=reason,
            chunk=chunk,
            dtype=self.dtype,
            threads=threads,
            workers=workers,
            instructions=_instructions(executor),
            versions=library_versions(),
        )

    def _threads(self) -> int:
        """Return how many threads share the products of a step: one where they are small."""
        architecture = self.recipe.architecture
        clients = min(self._chunk(), self.clients)
        small = architecture.parameter_count * self.recipe.batch_size * clients < _SHARED_STEP
        return 1 if small and not _has_convolutions(architecture) else _torch_threads()

    def _processes(self, reason: str, inner: str) -> Plan:
        """Return the plan for worker processes that each follow one for a single thread."""
        each = replace(self.plan(inner, reason), threads=1, workers=1)
        return replace(each, executor="processes", workers=self._workers(), inner=each)

    def _workers(self) -> int:
        if self.workers is not None:
            return int(whole(1, 1024)("workers", self.workers))
        return len(os.sched_getaffinity(0))

    def _chunk(self) -> int:
        """Return how many clients to stack: as many as keep within a few caches, and memory."""
        architecture = self.recipe.architecture
        size = max(1, architecture.parameter_count)
        activations = sum(math.prod(shape) for shape in architecture.layout.shapes.values())
        # Weights, gradient, the optimiser's two; an activation and its gradient for each example.
        values = 4 * size + 2 * activations * self.recipe.batch_size
        fitting = _CHUNK_BYTES // (values * {"float32": 4, "float64": 8}[self.dtype])
        return max(1, min(_CHUNK_CLIENTS, _CHUNK_VALUES // size, fitting))

    def _fused_chunk(self) -> int:
        """Return how many clients fused trains at a time: one where kernels take one at a time."""
        if _has_convolutions(self.recipe.architecture):
            return 1
        fitting = _FUSED_VALUES // max(1, self.recipe.architecture.parameter_count)
        return max(1, min(self._chunk(), _FUSED_CLIENTS, fitting))

    def _step_flops(self) -> int:
        """Return the floating-point operations of one client's step: forward and twice back."""
        return 3 * self.recipe.batch_size * _flops(self.recipe.architecture)


def _recipe(given: Recipe | Architecture, batch_size: int | None) -> Recipe:
    if isinstance(given, Recipe):
        return given if batch_size is None else given.with_changes(batch_size=batch_size)
    loss = {1: "cross_entropy", 2: "next_token"}.get(len(given.output_shape), "mse")
    return Recipe(given, batch_size=batch_size or 10, loss=loss)


def _name(field: str, record: Mapping[str, object], allowed: tuple[str, ...]) -> str:
    value = record.get(field)
    if not isinstance(value, str) or value not in allowed:
        raise InvalidInputError(
            f"The plan's {field} must be one of {', '.join(allowed)}, not {value!r}."
        )
    return value


def _text(field: str, record: Mapping[str, object]) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        raise InvalidInputError(f"The plan's {field} must be a text, not {value!r}.")
    return value


def _count(field: str, record: Mapping[str, object]) -> int:
    try:
        return int(whole(1, 1_000_000)(field, record.get(field, 1)))
    except RecipeError as error:
        raise InvalidInputError(f"The plan's {error}") from None


def _table(field: str, record: Mapping[str, object]) -> Iterable[tuple[object, Any]]:
    value = record.get(field, {})
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"The plan's {field} must map names to values, not be {value!r}.")
    return value.items()


def _fused_refusal(recipe: Recipe, *, corrections: bool, own: bool) -> str | None:
    from neuronexus_kernel.federation.executors.fused import refusal

    return refusal(recipe, corrections=corrections, own=own)


def _has_convolutions(architecture: Architecture) -> bool:
    return any(node.operator.startswith("conv") for node in architecture.nodes)


def _flops(architecture: Architecture) -> int:
    """Return the floating-point operations of one example's forward pass."""
    from neuronexus_kernel.models.operators import OPERATORS

    shapes = architecture.layout.shapes
    return sum(
        OPERATORS[node.operator].flops(
            [shapes[name] for name in node.inputs], shapes[node.name], node.arguments
        )
        for node in architecture.nodes
    )


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _instructions(executor: str) -> str:
    import torch

    if executor == "cuda":
        return torch.cuda.get_device_name()
    return torch.backends.cpu.get_cpu_capability()


def library_versions() -> dict[str, str]:
    """Return the version of each library that a result may depend on."""
    from importlib.metadata import version

    found = {name: version(name) for name in ("torch", "numpy", "flwr")}
    return {"python": platform.python_version(), **found}
