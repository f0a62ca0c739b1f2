"""The graph of a model: nodes in order, each naming an operator and the nodes it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators import (
    OPERATORS,
    Arguments,
    Operator,
    Parameter,
    Shape,
    show,
)

INPUT = "input"
"""The name by which nodes refer to the graph's input."""


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a graph.

    Attributes
    ----------
    name
        Matches ``[a-z0-9_]{1,64}``; unique in its graph.
    operator
        A name in `OPERATORS`.
    inputs
        Names of earlier nodes, or `INPUT`.
    arguments
        Checked by the operator.
    shared
        Parameters that are not its own: pairs of short name and the full name
        (``"embedding_1.weight"``) of an earlier node's parameter; sorted.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    arguments: Arguments = field(default_factory=Arguments)
    shared: tuple[tuple[str, str], ...] = ()


def operator_of(name: object) -> Operator:
    """Return the operator of that name, or raise `ArchitectureError` listing those there are."""
    operator = OPERATORS.get(name) if isinstance(name, str) else None
    if operator is None:
        raise ArchitectureError(
            f"operator {show(name)} is not allowed; the allowed ones are: {', '.join(OPERATORS)}."
        )
    return operator


def infer(operator: Operator, shapes: Sequence[Shape], arguments: Arguments) -> Shape:
    """Return the shape an operator makes of `shapes`.

    Raises
    ------
    ArchitectureError
        If the operator takes another number of inputs or cannot take these.
    """
    if len(shapes) != operator.arity:
        raise ArchitectureError(
            f"{operator.name} takes {operator.arity} input(s), not {len(shapes)}."
        )
    made = operator.shape(shapes, arguments)
    if not made:
        raise ArchitectureError(
            "nothing would be left but one number without a dimension; keep a dimension of 1."
        )
    return made


def gives_tokens(operator: Operator, taken: Sequence[bool]) -> bool:
    """Tell whether an operator gives tokens, when its inputs are tokens or not.

    Raises
    ------
    ArchitectureError
        If it cannot take them.
    """
    if operator.tokens == "no" and any(taken):
        raise ArchitectureError(
            f"{operator.name} computes with numbers, but its input holds tokens; "
            "put an embedding before it."
        )
    if operator.tokens == "yes" and not all(taken):
        raise ArchitectureError(
            f"{operator.name} takes tokens, but its input holds numbers; whole numbers come from "
            "an input of dtype int64."
        )
    if operator.tokens == "keep" and len(set(taken)) > 1:
        raise ArchitectureError(f"{operator.name} cannot mix tokens and numbers.")
    return operator.tokens == "gives" or (operator.tokens == "keep" and any(taken))


class GraphBuilder:
    """Adds nodes one by one under canonical names (``linear_1``, ``relu_1``, ``linear_2``, ...).

    Because names follow from the order alone, the same network has the same graph.

    Parameters
    ----------
    input_shape
        Shape of one example.
    tokens
        Whether the input holds tokens.
    """

    def __init__(self, input_shape: Shape, *, tokens: bool = False) -> None:
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {INPUT: input_shape}
        self.tokens: set[str] = {INPUT} if tokens else set()
        self._count: Counter[str] = Counter()

    def add(self, operator: str, *inputs: str, **arguments: object) -> str:
        """Append a node and return its name.

        Raises
        ------
        ArchitectureError
            If the operator or an argument is not allowed, or the shapes do not fit.
        """
        kind = operator_of(operator)
        checked = kind.parse(arguments)
        shape = infer(kind, [self.shapes[name] for name in inputs], checked)
        tokens = gives_tokens(kind, [name in self.tokens for name in inputs])
        self._count[operator] += 1
        name = f"{operator}_{self._count[operator]}"
        self.nodes.append(Node(name, operator, inputs, checked))
        self.shapes[name] = shape
        if tokens:
            self.tokens.add(name)
        return name

    def share(self, name: str, short: str, source: str) -> None:
        """Let the node just added use an earlier parameter, given by its full name."""
        node = self.nodes.pop()
        assert node.name == name
        self.nodes.append(replace(node, shared=tuple(sorted((*node.shared, (short, source))))))

    def parameters_of(self, name: str) -> dict[str, Parameter]:
        """Return the parameters of the node just added or an earlier one."""
        node = next(node for node in reversed(self.nodes) if node.name == name)
        taken = [self.shapes[each] for each in node.inputs]
        return OPERATORS[node.operator].parameters(taken, node.arguments)
