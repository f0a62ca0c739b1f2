"""One form for equal networks: what was written differently in trivial ways becomes one graph.

Steps that change nothing are left out, reshapes in a row become one, transposing what has a single
element along a dimension is a reshape, equal constants are one, attention that is written out is
found again, and the operands of sums and products have one order.  Then the nodes are numbered as
they are needed, walking back from the output, so that the order in which branches were written
does not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.capture.fusing import fuse
from neuronexus_kernel.models.graph import INPUT, GraphBuilder, Node
from neuronexus_kernel.models.operators import Arguments, Shape

_COMMUTATIVE = frozenset({"add", "multiply"})
_RESHAPING = frozenset({"flatten", "reshape"})


@dataclass(frozen=True, slots=True)
class Canonical:
    """The graph in its one form.

    Attributes
    ----------
    nodes
        In order, under canonical names.
    output
        Name of the node whose value is the result.
    sources
        Path in the captured module of each tensor that a node owns.
    """

    nodes: tuple[Node, ...]
    output: str
    sources: dict[str, str]


def canonical(graph: GraphBuilder, output: str, sources: Mapping[str, str]) -> Canonical:
    """Return the one form of a graph.

    Parameters
    ----------
    graph
        As it was traced, with nodes of no use among the others.
    output
        Name of the node whose value is the result.
    sources
        Path of the tensor that stands behind each tensor of a node; equal paths are shared.

    Raises
    ------
    ArchitectureError
        If running statistics are shared, or nothing is left of the graph.
    """
    simpler = _Simpler(graph, sources)
    result = simpler.resolved(output)
    if result == INPUT:
        raise ArchitectureError(
            "The module returns its input as it came; a network computes something."
        )
    return _numbered(simpler, result, sources)


class _Simpler:
    """The nodes of a graph by name, with aliases for those that change nothing."""

    def __init__(self, graph: GraphBuilder, sources: Mapping[str, str]) -> None:
        self.nodes: dict[str, Node] = {}
        self.shapes: dict[str, Shape] = dict(graph.shapes)
        self.tokens = INPUT in graph.tokens
        self._alias: dict[str, str] = {}
        self._same: dict[object, str] = {}
        for node in graph.nodes:
            self._enter(node, sources)
        self.nodes = fuse(self.nodes, self.shapes)

    def resolved(self, name: str) -> str:
        """Return the name of the node that stands for `name`."""
        return self._alias.get(name, name)

    def _enter(self, node: Node, sources: Mapping[str, str]) -> None:
        inputs = tuple(self.resolved(each) for each in node.inputs)
        node = Node(node.name, node.operator, inputs, node.arguments)
        node = self._reshaping(self._permuting(node))
        if self._changes_nothing(node):
            self._alias[node.name] = node.inputs[0]
            return
        if not node.inputs:
            # A constant, positions, or a parameter used directly: one of each is enough.
            key = (node.operator, node.arguments, sources.get(f"{node.name}.value"))
            first = self._same.setdefault(key, node.name)
            if first != node.name:
                self._alias[node.name] = first
                return
        self.nodes[node.name] = node

    def _permuting(self, node: Node) -> Node:
        if node.operator != "permute":
            return node
        source, order = node.inputs[0], node.arguments.sizes("order")
        inner = self.nodes.get(source)
        if inner is not None and inner.operator == "permute":
            before = inner.arguments.sizes("order")
            order, source = tuple(before[axis] for axis in order), inner.inputs[0]
        shape = self.shapes[source]
        moved = [axis for axis in order if shape[axis] != 1]
        if moved == sorted(moved):
            return Node(node.name, "reshape", (source,), _sizes(self.shapes[node.name]))
        return Node(node.name, "permute", (source,), Arguments((("order", order),)))

    def _reshaping(self, node: Node) -> Node:
        if node.operator not in _RESHAPING:
            return node
        source, shape = node.inputs[0], self.shapes[node.name]
        inner = self.nodes.get(source)
        if inner is not None and inner.operator == "constant":
            values = inner.arguments.reals("values")
            return Node(
                node.name, "constant", (), Arguments((("sizes", shape), ("values", values)))
            )
        if inner is not None and inner.operator in _RESHAPING:
            source = inner.inputs[0]
        if len(shape) == 1:
            return Node(node.name, "flatten", (source,), Arguments())
        return Node(node.name, "reshape", (source,), _sizes(shape))

    def _changes_nothing(self, node: Node) -> bool:
        arguments = dict(node.arguments.items)
        if node.operator in (*_RESHAPING, "slice"):
            # A network that begins with a reshape says by it that it takes other shapes too.
            kept = self.shapes[node.name] == self.shapes[node.inputs[0]]
            return kept and (node.operator == "slice" or node.inputs[0] != INPUT)
        if node.operator in ("dropout", "channel_dropout"):
            return arguments["p"] == 0.0
        if node.operator == "permute":
            return arguments["order"] == tuple(range(len(self.shapes[node.name])))
        return node.operator == "scale" and (arguments["factor"], arguments["offset"]) == (1.0, 0.0)


def _sizes(shape: Shape) -> Arguments:
    return Arguments((("sizes", shape),))


def _numbered(simpler: _Simpler, output: str, sources: Mapping[str, str]) -> Canonical:
    """Add the nodes that the output needs to a new graph, under canonical names."""
    graph = GraphBuilder(simpler.shapes[INPUT], tokens=simpler.tokens)
    names, owners, paths = {INPUT: INPUT}, dict[str, str](), dict[str, str]()
    for old in _in_order(simpler, output):
        arguments = dict(old.arguments.items)
        name = graph.add(old.operator, *[names[each] for each in old.inputs], **arguments)
        names[old.name] = name
        for short, spec in graph.parameters_of(name).items():
            path = sources.get(f"{old.name}.{short}")
            if path is None:
                raise ArchitectureError(f"Node '{name}': its {short} comes from nowhere.")
            if path not in owners:
                owners[path] = f"{name}.{short}"
                paths[f"{name}.{short}"] = path
            elif spec.trainable:
                graph.share(name, short, owners[path])
            else:
                raise ArchitectureError(
                    f"The running statistics '{path}' are used twice, by layers that normalise "
                    "different things; make a batch norm of its own for each."
                )
    return Canonical(tuple(graph.nodes), names[output], paths)


def _in_order(simpler: _Simpler, output: str) -> list[Node]:
    """Return the nodes that the output needs, each after those it reads, deepest branch first."""
    keys, depths = _keys(simpler)
    order: list[Node] = []
    done: set[str] = {INPUT}
    waiting = [output]
    while waiting:
        name = waiting[-1]
        if name in done:
            waiting.pop()
            continue
        node = simpler.nodes[name]
        inputs = node.inputs
        if node.operator in _COMMUTATIVE:
            inputs = tuple(sorted(inputs, key=lambda each: (-depths[each], keys[each])))
        missing = [each for each in inputs if each not in done]
        if missing:
            waiting.extend(reversed(missing))
            continue
        waiting.pop()
        done.add(name)
        order.append(Node(name, node.operator, inputs, node.arguments))
    return order


def _keys(simpler: _Simpler) -> tuple[dict[str, str], dict[str, int]]:
    """Return for every node a hash of all that leads to it, and how deep that is."""
    keys, depths = {INPUT: "input"}, {INPUT: 0}
    for name, node in simpler.nodes.items():
        below = [keys[each] for each in node.inputs]
        if node.operator in _COMMUTATIVE:
            below.sort()
        text = repr((node.operator, node.arguments.items, below))
        keys[name] = hashlib.sha256(text.encode()).hexdigest()
        depths[name] = 1 + max((depths[each] for each in node.inputs), default=0)
    return keys, depths
