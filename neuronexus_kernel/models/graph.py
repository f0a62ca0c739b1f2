"""The graph of a model: nodes in order, each naming an operator and the nodes it reads.

`lay_out` is the one place where a graph is judged: names, references, shapes and sizes, all in
Python integers and before anything is allocated.  Whatever has a `Layout` can be built.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators import (
    OPERATORS,
    Arguments,
    Operator,
    Parameter,
    Shape,
    show,
)
from neuronexus_kernel.settings import ArchitectureLimits

INPUT = "input"
"""The name by which nodes refer to the graph's input."""

_NAME = re.compile(r"[a-z0-9_]{1,64}")

# A node's parameters live in a submodule of its name, so that a state dict reads
# "<node>.weight".  These names belong to torch.nn.Module or to our interpreter already.
_MODULE_ATTRIBUTES = """
    input add_module apply architecture bfloat16 buffers children compile cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter
    get_submodule half ipu keyed load_state_dict modules mtia named_buffers named_children
    named_modules named_parameters noise_key parameters register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory state_dict to to_empty train training type xpu zero_grad
    call_super_init
"""
_TAKEN = frozenset(_MODULE_ATTRIBUTES.split())


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
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    arguments: Arguments = field(default_factory=Arguments)


@dataclass(frozen=True, slots=True)
class Layout:
    """What follows from a graph: the shape and the parameters of every node, by name."""

    shapes: dict[str, Shape]
    parameters: dict[str, dict[str, Parameter]]

    @property
    def parameter_count(self) -> int:
        """Number of trainable values."""
        each = (spec.shape for named in self.parameters.values() for spec in named.values())
        return sum(math.prod(shape) for shape in each)


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
    return operator.shape(shapes, arguments)


def lay_out(
    input_shape: Shape, nodes: Sequence[Node], output: str, *, limits: ArchitectureLimits
) -> Layout:
    """Check a graph as a whole and return what follows from it.

    Parameters
    ----------
    input_shape
        Shape of one example.
    nodes
        In an order in which each reads only earlier ones.
    output
        Name of the node whose value is the result.
    limits
        Most nodes, parameters, and elements of all nodes' outputs for one example.

    Raises
    ------
    ArchitectureError
        If a name is malformed or double, a reference dangles, shapes do not fit, a node is of no
        use to the output, or a limit is passed; the message names the node.
    """
    if len(nodes) > limits.nodes:
        raise ArchitectureError(
            f"The graph has {len(nodes)} nodes, more than the {limits.nodes} allowed."
        )
    shapes: dict[str, Shape] = {INPUT: input_shape}
    parameters: dict[str, dict[str, Parameter]] = {}
    activations = math.prod(input_shape)
    weights = 0
    for node in nodes:
        _check_name(node.name, shapes)
        try:
            operator = operator_of(node.operator)
            taken = [_known(name, shapes) for name in node.inputs]
            shapes[node.name] = infer(operator, taken, node.arguments)
            specs = operator.parameters(taken, node.arguments)
        except ArchitectureError as error:
            raise ArchitectureError(f"Node '{node.name}' ({node.operator}): {error}") from None
        if specs:
            parameters[node.name] = specs
        activations += math.prod(shapes[node.name])
        weights += sum(math.prod(spec.shape) for spec in specs.values())
        _check_limit(node, "parameters", weights, limits.parameters)
        _check_limit(node, "activations for one example", activations, limits.activations)
    _check_all_used(nodes, output, shapes)
    return Layout(shapes, parameters)


def _check_name(name: str, taken: dict[str, Shape]) -> None:
    if not _NAME.fullmatch(name):
        raise ArchitectureError(
            f"Node name {show(name)} is not allowed; use 1 to 64 of a-z, 0-9 and _."
        )
    if name in _TAKEN or name.startswith("_"):
        raise ArchitectureError(f"Node name '{name}' is reserved; use one such as '{name}_1'.")
    if name in taken:
        raise ArchitectureError(f"Two nodes are named '{name}'; names must be unique.")


def _known(name: str, shapes: dict[str, Shape]) -> Shape:
    if name not in shapes:
        raise ArchitectureError(
            f"it reads {show(name)}, which is neither 'input' nor an earlier node."
        )
    return shapes[name]


def _check_limit(node: Node, what: str, count: int, limit: int) -> None:
    if count > limit:
        raise ArchitectureError(
            f"Node '{node.name}' ({node.operator}): with it the graph has {show(count)} {what}, "
            f"more than the {limit} allowed."
        )


def _check_all_used(nodes: Sequence[Node], output: str, shapes: dict[str, Shape]) -> None:
    if output == INPUT or output not in shapes:
        raise ArchitectureError(f"The output {show(output)} is none of the graph's nodes.")
    needed = {output}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
        else:
            raise ArchitectureError(
                f"Node '{node.name}' ({node.operator}): the output does not depend on it; "
                "leave it out."
            )


class GraphBuilder:
    """Adds nodes one by one under canonical names (``linear_1``, ``relu_1``, ``linear_2``, ...).

    Because names follow from the order alone, the same network has the same graph.

    Parameters
    ----------
    input_shape
        Shape of one example.
    """

    def __init__(self, input_shape: Shape) -> None:
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {INPUT: input_shape}
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
        self._count[operator] += 1
        name = f"{operator}_{self._count[operator]}"
        self.nodes.append(Node(name, operator, inputs, checked))
        self.shapes[name] = shape
        return name

    def parameters_of(self, name: str) -> dict[str, Parameter]:
        """Return the parameters of the node just added or an earlier one."""
        node = next(node for node in reversed(self.nodes) if node.name == name)
        taken = [self.shapes[each] for each in node.inputs]
        return OPERATORS[node.operator].parameters(taken, node.arguments)
