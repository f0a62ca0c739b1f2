"""Attention that is written out, found again: softmax(q kᵀ · scale, perhaps masked) v.

Written out or called by name it is the same network, so it gets the same graph: one `attention`
node, for which executors have one fast way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from neuronexus_kernel.models.graph import Node
from neuronexus_kernel.models.operators import Arguments, Shape

_SHUT = -1e9
"""A score of this or less counts as shut out: its softmax is zero."""


@dataclass(frozen=True, slots=True)
class _Scores:
    """The parts of q kᵀ · scale: the keys are `turned`, permuted by `order`."""

    query: str
    turned: str
    order: tuple[int, ...]
    factor: float
    causal: bool


def fuse(nodes: Mapping[str, Node], shapes: dict[str, Shape]) -> dict[str, Node]:
    """Return the nodes with every attention that is written out as one node.

    Parameters
    ----------
    nodes
        By name, each after those it reads.
    shapes
        Of each of them; those of new nodes are added.
    """
    readers = Counter(each for node in nodes.values() for each in node.inputs)
    made: dict[str, Node] = {}
    for node in nodes.values():
        found = _attention(node, nodes, shapes, readers)
        for each in found or (node,):
            made[each.name] = each
            if each.operator == "permute" and each.name not in shapes:
                source = shapes[each.inputs[0]]
                shapes[each.name] = tuple(source[at] for at in each.arguments.sizes("order"))
    return made


def _attention(
    node: Node, nodes: Mapping[str, Node], shapes: Mapping[str, Shape], readers: Mapping[str, int]
) -> tuple[Node, ...] | None:
    """Return the nodes that stand for a product with weights of attention, or None."""
    if node.operator != "matmul":
        return None
    weights, value = nodes.get(node.inputs[0]), node.inputs[1]
    p = 0.0
    if weights is not None and weights.operator == "dropout" and readers[weights.name] == 1:
        p = weights.arguments.real("p")
        weights = nodes.get(weights.inputs[0])
    if weights is None or weights.operator != "softmax" or readers[weights.name] > 1:
        return None
    if weights.arguments.whole("dim") != -1:
        return None
    scores = _scores(weights.inputs[0], nodes, shapes, readers)
    if scores is None:
        return None
    keys, order = scores.turned, scores.order
    extra: tuple[Node, ...] = ()
    if order != tuple(range(len(order))):
        keys = f"{node.name}_keys"
        extra = (Node(keys, "permute", (scores.turned,), Arguments((("order", order),))),)
    query = shapes[scores.query]
    source = shapes[scores.turned]
    leading = tuple(source[at] for at in order)[:-2]
    if not query[:-2] == leading == shapes[value][:-2] or len(query) != len(shapes[value]):
        return None
    usual = math.isclose(scores.factor, query[-1] ** -0.5, rel_tol=1e-9)
    arguments = (("causal", scores.causal), ("p", p), ("scale", 0.0 if usual else scores.factor))
    inputs = (scores.query, keys, value)
    return (*extra, Node(node.name, "attention", inputs, Arguments(arguments)))


def _scores(
    name: str, nodes: Mapping[str, Node], shapes: Mapping[str, Shape], readers: Mapping[str, int]
) -> _Scores | None:
    """Return the parts of the scores that node `name` holds, if it holds some."""
    causal, factor = False, 1.0
    node = nodes.get(name)
    if node is not None and node.operator in ("masked_fill", "add") and readers[name] == 1:
        if not _is_causal(node, nodes, shapes):
            return None
        causal, name = True, _scored(node, nodes)
        node = nodes.get(name)
    if node is not None and node.operator == "scale" and readers[name] == 1:
        if node.arguments.real("offset") != 0.0:
            return None
        factor, name = node.arguments.real("factor"), node.inputs[0]
        node = nodes.get(name)
    if node is None or node.operator != "matmul" or readers[name] > 1:
        return None
    query, turned = nodes.get(node.inputs[0]), nodes.get(node.inputs[1])
    if turned is None or turned.operator != "permute":
        return None
    before = turned.arguments.sizes("order")
    order = (*before[:-2], before[-1], before[-2])
    start = node.inputs[0]
    if query is not None and query.operator == "scale" and query.arguments.real("offset") == 0.0:
        factor, start = factor * query.arguments.real("factor"), query.inputs[0]
    if not 0.0 < factor <= 1e6:
        return None
    return _Scores(start, turned.inputs[0], order, factor, causal)


def _scored(node: Node, nodes: Mapping[str, Node]) -> str:
    """Return which input of a mask's node holds the scores."""
    first = nodes.get(node.inputs[0])
    return node.inputs[1] if first is not None and first.operator == "constant" else node.inputs[0]


def _is_causal(node: Node, nodes: Mapping[str, Node], shapes: Mapping[str, Shape]) -> bool:
    """Tell whether a mask shuts out exactly what comes later."""
    scores = _scored(node, nodes)
    mask = nodes.get(node.inputs[0] if scores == node.inputs[1] else node.inputs[1])
    if mask is None or mask.operator != "constant":
        return False
    steps, past = shapes[scores][-2:]
    sizes, values = mask.arguments.sizes("sizes"), mask.arguments.reals("values")
    if steps != past or sizes[-2:] != (steps, past) or len(values) != steps * past:
        return False
    if node.operator == "masked_fill":
        fills = node.arguments.real("value") <= _SHUT
        shut, open_ = [value != 0.0 for value in values], [value == 0.0 for value in values]
        if not fills:
            return False
    else:
        shut, open_ = [value <= _SHUT for value in values], [value == 0.0 for value in values]
    return all(
        shut[row * past + column] if column > row else open_[row * past + column]
        for row in range(steps)
        for column in range(past)
    )
