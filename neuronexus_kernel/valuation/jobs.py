"""What an evaluator process runs: bytes in, bytes out, nothing else.

A job is a DAG-CBOR document that holds all it needs, so it runs the same in a child process, on
another machine, or years later on an auditor's.  The hub keeps a job as its *description*, the
same document with CIDs in place of contents; `resolve` fetches those.

``recipes`` trains two recipes from the same seeds with the same budget of example passes and
compares them on the held-out split; ``weights`` compares two sets of weights there and shares
the gain among the participants who made it.  A model that diverged is wrong on every example, or
has the least score on it where quantities are foretold: a measured result, not a failure.

    {"kind": "recipes", "baseline": side, "candidate": side, "held_out": data set,
     "seeds": [int], "budget": int, "clients": int}
        side = {"recipe": document, "architecture": document, "data": data set}
    {"kind": "weights", "baseline": side, "candidate": side, "held_out": data set,
     "public": data set or null,
     "participants": {"rounds": [updates], "validation": data set} or null}
        side = {"architecture": document, "weights": safetensors}

Held-out rows that are also in the data that a side was trained on (for ``weights`` in the public
split) do not count and are dropped without a word, because a word would tell what is held out.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from neuronexus_kernel.content import CID, dagcbor
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import EvaluationError, NeuroNexusError
from neuronexus_kernel.federation.executors.threads import torch_threads
from neuronexus_kernel.valuation.improvement import MIN_EXAMPLES, Bound, paired_bound, whole_scores

if TYPE_CHECKING:
    from neuronexus_kernel.datasets import Dataset, Partition
    from neuronexus_kernel.federation import Recipe, TrainingResult
    from neuronexus_kernel.models import Architecture

Document: TypeAlias = Mapping[str, Node]
Load: TypeAlias = Callable[[CID], bytes]

SIDES = ("baseline", "candidate")
MOST_SEEDS = 100

_FIELDS = {
    "recipes": {"kind", "baseline", "candidate", "held_out", "seeds", "budget", "clients"},
    "weights": {"kind", "baseline", "candidate", "held_out", "public", "participants"},
}
_SIDE_FIELDS = {
    "recipes": {"recipe", "architecture", "data"},
    "weights": {"architecture", "weights"},
}
_DOCUMENTS = {"recipe", "architecture"}


def resolve(description: Document, load: Load) -> bytes:
    """Return the job that a description names.

    Parameters
    ----------
    description
        A job with the CID of each content in its place: a data set's, a weights file's, a
        round's updates', or a document's.
    load
        Returns the verified bytes of a CID.

    Raises
    ------
    EvaluationError
        If the description is malformed.
    """
    check_fields(description)
    job = dict(description)
    for side in SIDES:
        contents = _document(description, side)
        job[side] = {
            name: _fetch_document(cid, load) if name in _DOCUMENTS else _fetch(cid, load)
            for name, cid in contents.items()
        }
    job["held_out"] = _fetch(description["held_out"], load)
    if description["kind"] == "weights":
        public, participants = description["public"], description["participants"]
        job["public"] = None if public is None else _fetch(public, load)
        if participants is not None:
            parts = _document(description, "participants")
            job["participants"] = {
                "rounds": [_fetch(cid, load) for cid in _list(parts, "rounds")],
                "validation": _fetch(parts.get("validation"), load),
            }
    return dagcbor.encode(job)


def perform(job: bytes) -> bytes:
    """Run a job and return its result, both as DAG-CBOR.

    Returns
    -------
    bytes
        A map with ``kind``; ``value_nano``, the lower bound of the improvement in integer 10^-9;
        ``bound``, the fields of `Bound`; ``correct``, by side a list with one byte string per
        seed, a byte of 0 or 1 per held-out row that counts, or, where labels are no classes,
        ``scores``, a little-endian int32 per row in millionths, and ``metric``; ``accuracies``,
        the metric by side and seed; ``dropped``, the number of held-out rows that do not count;
        ``environment``;
        for recipes ``rounds`` and ``plan`` by side, for weights ``values``, the Shapley values
        by participant, and ``shares``, their parts per 10^9.

    Raises
    ------
    EvaluationError
        If the job is malformed, or too few held-out rows count.
    NeuroNexusError
        Whatever is wrong with a recipe, an architecture or a data set in it.
    """
    try:
        document = dagcbor.decode(job)
    except NeuroNexusError as error:
        raise EvaluationError(f"The bytes are no evaluation job: {error}") from None
    if not isinstance(document, dict):
        raise EvaluationError("An evaluation job is a map.")
    check_fields(document)
    with torch_threads(1):
        result = _recipes(document) if document["kind"] == "recipes" else _weights(document)
        return dagcbor.encode({"kind": document["kind"], **result, "environment": environment()})


def environment() -> dict[str, Node]:
    """Return what a result may depend on beyond its job: with it equal, results are equal."""
    import scipy  # type: ignore[import-untyped]
    import torch

    from neuronexus_kernel import __version__

    return {
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "neuronexus": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "scipy": scipy.__version__,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def check_fields(job: Document) -> None:
    """Check that a job or a description has exactly the fields of its kind.

    Raises
    ------
    EvaluationError
        If it has not; the message names them.
    """
    kind = job.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise EvaluationError(f"A job's kind is {' or '.join(_FIELDS)}, not {kind!r}.")
    odd = set(job) ^ _FIELDS[kind]
    for side in SIDES if not odd else ():
        odd |= set(_document(job, side)) ^ _SIDE_FIELDS[kind]
    if odd:
        raise EvaluationError(f"Fields missing or unknown in a {kind} job: {sorted(odd)[:5]}.")


# -- recipes -------------------------------------------------------------------------------------


def _recipes(job: Document) -> dict[str, Node]:
    seeds, budget, clients = _integers(job, "seeds"), _whole(job, "budget"), _whole(job, "clients")
    if not 1 <= len(set(seeds)) == len(seeds) <= MOST_SEEDS:
        raise EvaluationError(f"Seeds are 1 to {MOST_SEEDS} different integers.")
    sides = {name: _read_recipe_side(_document(job, name)) for name in SIDES}
    held_out, dropped = _without_rows_of(
        _dataset(job, "held_out"), [data for _, data in sides.values()]
    )
    scores, rounds, plans = {}, {}, {}
    for name, (recipe, data) in sides.items():
        rounds[name] = max(1, budget // (len(data) * recipe.local_epochs))
        results = [
            _train(recipe, data, rounds=rounds[name], clients=clients, seed=seed) for seed in seeds
        ]
        scores[name] = np.stack(
            [_scores(recipe.architecture, result.arrays, held_out) for result in results]
        )
        plans[name] = _plain(results[0].plan)
    measured = _measured(scores, held_out, dropped)
    return {**measured, "plan": plans, "rounds": cast(Node, rounds)}


def _read_recipe_side(side: Document) -> tuple[Recipe, Dataset]:
    from neuronexus_kernel.federation import Recipe
    from neuronexus_kernel.models import Architecture

    architecture = Architecture.from_dict(side["architecture"])
    return Recipe.from_dict(side["recipe"], architecture), _dataset(side, "data")


def partition_of(clients: int, *, rows: int, seed: int) -> Partition:
    """Return how a training of an evaluation deals its rows among at most `clients` clients."""
    from neuronexus_kernel.datasets import partition

    return partition.iid(min(clients, rows), seed=seed)


def _train(
    recipe: Recipe, data: Dataset, *, rounds: int, clients: int, seed: int
) -> TrainingResult:
    from neuronexus_kernel import federation

    return federation.train(
        recipe,
        data,
        partition=partition_of(clients, rows=len(data), seed=seed),
        rounds=rounds,
        seed=seed,
        evaluate_every=0,
        progress=False,
    )


# -- weights -------------------------------------------------------------------------------------


def _weights(job: Document) -> dict[str, Node]:
    public = [] if job["public"] is None else [_dataset(job, "public")]
    held_out, dropped = _without_rows_of(_dataset(job, "held_out"), public)
    scores = {}
    for name in SIDES:
        architecture, weights = _read_weights_side(_document(job, name))
        scores[name] = _scores(architecture, weights, held_out)[np.newaxis]
    values = _participant_values(job)
    from neuronexus_kernel.valuation.coalitions import shares

    return {
        **_measured(scores, held_out, dropped),
        "shares": cast(Node, shares(values)),
        "values": cast(Node, values),
    }


def _read_weights_side(side: Document) -> tuple[Architecture, dict[str, np.ndarray]]:
    from neuronexus_kernel.models import Architecture, weights

    # Shapes are not given here, for that would refuse a diverged model; `evaluate` checks them.
    arrays = weights.deserialize(_bytes(side, "weights"))
    return Architecture.from_dict(side["architecture"]), arrays


def _participant_values(job: Document) -> dict[str, float]:
    from neuronexus_kernel.federation.updates import RoundUpdates
    from neuronexus_kernel.models import Architecture
    from neuronexus_kernel.valuation.coalitions import participant_values

    if job["participants"] is None:
        return {}
    parts = _document(job, "participants")
    architecture = Architecture.from_dict(_document(job, "candidate")["architecture"])
    rounds = [RoundUpdates.decode(_only_bytes(data)) for data in _list(parts, "rounds")]
    return participant_values(architecture, rounds, _dataset(parts, "validation"))


# -- measuring -----------------------------------------------------------------------------------


def _scores(
    architecture: Architecture, weights: Mapping[str, np.ndarray], held_out: Dataset
) -> np.ndarray:
    """Return how well a model answers each held-out example: float64 of shape (examples,)."""
    from neuronexus_kernel import federation

    if not all(np.isfinite(array).all() for array in weights.values()):
        return np.full(len(held_out), -1.0 if held_out.kind == "regression" else 0.0)
    return federation.evaluate(architecture, weights, held_out).scores


def _measured(scores: Mapping[str, np.ndarray], held_out: Dataset, dropped: int) -> dict[str, Node]:
    """Compare scores (seeds, examples) by side; those of classes are right and wrong answers."""
    from neuronexus_kernel.datasets.task import METRIC_OF

    answers = held_out.kind == "classification"
    sides = {name: rows == 1 for name, rows in scores.items()} if answers else dict(scores)
    bound: Bound = paired_bound(sides["baseline"], sides["candidate"])
    each: dict[str, Node] = {
        name: [_score_bytes(row) for row in rows] for name, rows in sides.items()
    }
    metric: dict[str, Node] = {} if answers else {"metric": METRIC_OF[held_out.kind]}
    return {
        "accuracies": {name: [float(row.mean()) for row in rows] for name, rows in sides.items()},
        "bound": asdict(bound),
        "correct" if answers else "scores": each,
        "dropped": dropped,
        **metric,
        "value_nano": bound.value_nano,
    }


def _score_bytes(row: np.ndarray) -> bytes:
    if row.dtype == bool:
        return row.astype(np.uint8).tobytes()
    return whole_scores(row).astype("<i4").tobytes()


def _without_rows_of(held_out: Dataset, others: Sequence[Dataset]) -> tuple[Dataset, int]:
    """Return the held-out rows that are in no other data set, and how many were dropped."""
    seen = {row for other in others for row in other.row_hashes()}
    fresh = [index for index, row in enumerate(held_out.row_hashes()) if row not in seen]
    if len(fresh) < MIN_EXAMPLES:
        raise EvaluationError(f"Fewer than {MIN_EXAMPLES} held-out rows can be counted.")
    return held_out.subset(fresh), len(held_out) - len(fresh)


# -- reading -------------------------------------------------------------------------------------


def _document(job: Document, name: str) -> Document:
    value = job.get(name)
    if not isinstance(value, Mapping):
        raise EvaluationError(f"{name} in a job is a map, not {type(value).__name__}.")
    return value


def _list(job: Document, name: str) -> Sequence[Node]:
    value = job.get(name)
    if not isinstance(value, (list, tuple)):
        raise EvaluationError(f"{name} in a job is a list, not {type(value).__name__}.")
    return value


def _whole(job: Document, name: str) -> int:
    value = job[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise EvaluationError(f"{name} in a job is an integer from 1, not {value!r}.")
    return value


def _integers(job: Document, name: str) -> list[int]:
    values = _list(job, name)
    if any(isinstance(value, bool) or not isinstance(value, int) for value in values):
        raise EvaluationError(f"{name} in a job are integers.")
    return cast(list[int], list(values))


def _bytes(job: Document, name: str) -> bytes:
    return _only_bytes(job.get(name))


def _only_bytes(value: Node) -> bytes:
    if not isinstance(value, bytes):
        raise EvaluationError(f"A content in a job is bytes, not {type(value).__name__}.")
    return value


def _dataset(job: Document, name: str) -> Dataset:
    from neuronexus_kernel.datasets import Dataset

    return Dataset.decode(_bytes(job, name))


def _fetch(cid: Node, load: Load) -> bytes:
    if not isinstance(cid, CID):
        raise EvaluationError(f"A description holds CIDs, not {type(cid).__name__}.")
    return load(cid)


def _fetch_document(cid: Node, load: Load) -> Node:
    return dagcbor.decode(_fetch(cid, load))


def _plain(value: object) -> Node:
    """Return a plan's values as DAG-CBOR can hold them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
