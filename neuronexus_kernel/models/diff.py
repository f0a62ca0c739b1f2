"""What changed between two architectures, for people.

The two lists of nodes are aligned so that as much as possible stays the same: a global alignment
(Needleman, Wunsch 1970) that prefers nodes equal in operator and arguments to nodes of one
operator, and those to nodes that come and go.  Names do not count, because canonical names are
numbers that shift; nor does a new input, when between it and the old one there are only layers
that were put in or taken out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuronexus_kernel.models.architecture import Architecture
from neuronexus_kernel.models.graph import INPUT, Node
from neuronexus_kernel.models.operators.arguments import Value

if TYPE_CHECKING:
    import pandas as pd

_EQUAL, _ALIKE = 4, 1
_SHOWN = 8


def diff(before: Architecture, after: Architecture) -> pd.DataFrame:
    """Return what changed from one architecture to another.

    Parameters
    ----------
    before, after
        Any two architectures.

    Returns
    -------
    DataFrame
        One row for each layer that was added, removed or changed, in the order of the graphs:
        ``change``; ``layer``, its name (``old -> new`` where that shifted); ``operator``;
        ``what``, such as ``out_features: 200 -> 100``; ``parameters``, by how many trainable
        values it grew.  Equal architectures give no row.
    """
    import pandas as pd

    rows = [*_input_row(before, after), *_Comparison(before, after).rows()]
    if not rows and before != after:
        rows = [
            ("changed", f"{old.name} -> {new.name}", new.operator, "name", 0)
            for old, new in zip(before.nodes, after.nodes, strict=True)
            if old.name != new.name
        ]
    return pd.DataFrame(rows, columns=["change", "layer", "operator", "what", "parameters"])


_Row = tuple[str, str, str, str, int]
_Pair = tuple[Node | None, Node | None]


def align(before: Sequence[Node], after: Sequence[Node]) -> list[_Pair]:
    """Pair the nodes of two graphs in order; a node without a counterpart is paired with None."""
    score = [[0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for i in reversed(range(len(before))):
        for j in reversed(range(len(after))):
            here, paired = score[i], _likeness(before[i], after[j])
            best = max(score[i + 1][j], here[j + 1])
            here[j] = max(best, paired + score[i + 1][j + 1]) if paired else best
    pairs: list[_Pair] = []
    i = j = 0
    while i < len(before) and j < len(after):
        paired = _likeness(before[i], after[j])
        if paired and score[i][j] == paired + score[i + 1][j + 1]:
            pairs.append((before[i], after[j]))
            i, j = i + 1, j + 1
        elif score[i][j] == score[i + 1][j]:
            pairs.append((before[i], None))
            i += 1
        else:
            pairs.append((None, after[j]))
            j += 1
    return [*pairs, *((node, None) for node in before[i:]), *((None, node) for node in after[j:])]


def _likeness(old: Node, new: Node) -> int:
    if old.operator != new.operator:
        return 0
    return _EQUAL if old.arguments == new.arguments else _ALIKE


def _input_row(before: Architecture, after: Architecture) -> list[_Row]:
    changes = [
        f"{what}: {old} -> {new}"
        for what, old, new in (
            ("shape", before.input_shape, after.input_shape),
            ("dtype", before.input_dtype, after.input_dtype),
        )
        if old != new
    ]
    return [("changed", INPUT, "", ", ".join(changes), 0)] if changes else []


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two graphs: its nodes by name, and which of them have no counterpart."""

    architecture: Architecture
    nodes: Mapping[str, Node]
    alone: Set[str]

    def origins(self, name: str) -> frozenset[str]:
        """Return what `name` stands for: itself, or what was there without the added layers."""
        found, waiting, seen = set(), [name], {name}
        while waiting:
            here = waiting.pop()
            if here not in self.alone:
                found.add(here)
                continue
            fresh = [each for each in self.nodes[here].inputs if each not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
        return frozenset(found)

    def trainable(self, node: Node) -> int:
        specs = self.architecture.layout.parameters.get(node.name, {}).values()
        return sum(math.prod(spec.shape) for spec in specs if spec.trainable)

    def shapes(self, node: Node) -> dict[str, tuple[int, ...]]:
        known = self.architecture.parameters
        states = self.architecture.layout.states.get(node.name, {})
        return {short: known[full].shape for short, full in states.items()}


class _Comparison:
    """Two graphs side by side."""

    def __init__(self, before: Architecture, after: Architecture) -> None:
        self._pairs = align(before.nodes, after.nodes)
        self._new_names = {old.name: new.name for old, new in self._pairs if old and new}
        self._new_names[INPUT] = INPUT
        self._before = self._side(before, {old.name for old, new in self._pairs if old and not new})
        self._after = self._side(after, {new.name for old, new in self._pairs if new and not old})

    @staticmethod
    def _side(architecture: Architecture, alone: Set[str]) -> _Side:
        return _Side(architecture, {node.name: node for node in architecture.nodes}, alone)

    def rows(self) -> list[_Row]:
        """Return a row for each layer that differs."""
        return [row for old, new in self._pairs for row in self._row(old, new)]

    def _row(self, old: Node | None, new: Node | None) -> list[_Row]:
        if old is None:
            assert new is not None
            grown = self._after.trainable(new)
            return [("added", new.name, new.operator, _described(new), grown)]
        if new is None:
            grown = -self._before.trainable(old)
            return [("removed", old.name, old.operator, _described(old), grown)]
        changes = self._changes(old, new)
        grown = self._after.trainable(new) - self._before.trainable(old)
        if not changes and not grown:
            return []
        name = new.name if old.name == new.name else f"{old.name} -> {new.name}"
        return [("changed", name, new.operator, ", ".join(changes), grown)]

    def _changes(self, old: Node, new: Node) -> list[str]:
        changes = []
        given = dict(old.arguments.items)
        for key, value in new.arguments.items:
            if given[key] != value:
                changes.append(f"{key}: {_short(given[key])} -> {_short(value)}")
        if self._inputs_differ(old, new):
            changes.append(f"inputs: {', '.join(old.inputs)} -> {', '.join(new.inputs)}")
        shapes = self._after.shapes(new)
        for short, shape in self._before.shapes(old).items():
            if short in shapes and shape != shapes[short]:
                changes.append(f"{short}: {shape} -> {shapes[short]}")
        shared, renewed = dict(old.shared), dict(new.shared)
        for short in sorted({*shared, *renewed}):
            was, now = shared.get(short), renewed.get(short)
            if self._renamed(was) != now:
                changes.append(f"{short} shared with: {was or 'none'} -> {now or 'none'}")
        return changes

    def _inputs_differ(self, old: Node, new: Node) -> bool:
        for was, now in zip(old.inputs, new.inputs, strict=True):
            before = {self._new_names[name] for name in self._before.origins(was)}
            if before != self._after.origins(now):
                return True
        return False

    def _renamed(self, full: str | None) -> str | None:
        """Return the new full name of an old parameter; None if it is gone."""
        if full is None:
            return None
        node, _, short = full.rpartition(".")
        return f"{self._new_names[node]}.{short}" if node in self._new_names else None


def _described(node: Node) -> str:
    """Return the arguments of a node that do not have their default values, and its inputs."""
    given = [f"{key}: {_short(value)}" for key, value in node.arguments.items]
    reads = ", ".join(node.inputs)
    return ", ".join([*given, f"inputs: {reads}"] if reads else given)


def _short(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and len(value) > _SHOWN:
        return f"{len(value)} numbers"
    return str(value)
