"""What follows from a graph: shapes, parameters and sizes, and whether it is allowed at all.

`lay_out` is the one place where a graph is judged: names, references, shapes and sizes, all in
Python integers and before anything is allocated.  Whatever has a `Layout` can be built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.graph import INPUT, Node, gives_tokens, infer, operator_of
from neuronexus_kernel.models.operators import Operator, Parameter, Shape, show
from neuronexus_kernel.settings import ArchitectureLimits

_NAME = re.compile(r"[a-z0-9_]{1,64}")

# A node's parameters live in a submodule of its name, so that a state dict reads
# "<node>.weight".  These names belong to torch.nn.Module or to our interpreter already.
_MODULE_ATTRIBUTES = """
    input add_module apply architecture bfloat16 buffers children compile compute cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter
    get_submodule half ipu keyed load_state_dict modules mtia named_buffers named_children
    named_modules named_parameters noise_key parameters register_backward_hook register_buffer
    register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter
    register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ set_extra_state
    set_submodule share_memory state state_dict to to_empty train training type xpu zero_grad
    call_super_init
"""
_TAKEN = frozenset(_MODULE_ATTRIBUTES.split())


@dataclass(frozen=True, slots=True)
class Layout:
    """What follows from a graph, by name of the node.

    Attributes
    ----------
    shapes
        Shape of its output.
    parameters
        The tensors that are its own, by short name.
    states
        Full name of every tensor that it uses, its own or shared, by short name.
    tokens
        Names of the nodes (and `INPUT`) whose values are tokens.
    vocabulary
        How many tokens, counted from 0, every embedding that the input reaches knows; None if
        the input reaches none.
    """

    shapes: dict[str, Shape]
    parameters: dict[str, dict[str, Parameter]]
    states: dict[str, dict[str, str]]
    tokens: frozenset[str] = frozenset()
    vocabulary: int | None = None

    @property
    def parameter_count(self) -> int:
        """Number of trainable values."""
        each = (spec for named in self.parameters.values() for spec in named.values())
        return sum(math.prod(spec.shape) for spec in each if spec.trainable)


def lay_out(
    input_shape: Shape,
    nodes: Sequence[Node],
    output: str,
    *,
    limits: ArchitectureLimits,
    tokens: bool = False,
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
        Bounds on nodes, depth, parameters, and on memory and work for one example.
    tokens
        Whether the input holds tokens instead of numbers.

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
    ledger = _Ledger(input_shape, tokens, limits)
    for node in nodes:
        _check_name(node.name, ledger.shapes)
        try:
            ledger.enter(node)
        except ArchitectureError as error:
            raise ArchitectureError(f"Node '{node.name}' ({node.operator}): {error}") from None
    _check_all_used(nodes, output, ledger.shapes)
    if output in ledger.vocabulary.sources:
        raise ArchitectureError(f"The output '{output}' holds tokens, not numbers.")
    return Layout(
        ledger.shapes,
        ledger.parameters,
        ledger.states,
        frozenset(ledger.vocabulary.sources),
        ledger.vocabulary.of_input,
    )


class _Vocabulary:
    """Which nodes hold tokens, and which tokens they may hold."""

    def __init__(self, tokens: bool) -> None:
        self.sources: dict[str, tuple[bool, int]] = {INPUT: (True, 0)} if tokens else {}
        """For each: whether the input's tokens are among them, and how many others may be."""
        self.of_input: int | None = None

    def enter(self, node: Node, operator: Operator) -> None:
        """Note whether a node gives tokens, and check that it knows those that it takes."""
        gives = gives_tokens(operator, [name in self.sources for name in node.inputs])
        known = operator.vocabulary(node.arguments) if operator.vocabulary else 0
        taken = [self.sources[name] for name in node.inputs if name in self.sources]
        from_input = any(reached for reached, _ in taken)
        others = max((count for _, count in taken), default=0)
        if operator.tokens == "yes":
            if others > known:
                raise ArchitectureError(
                    f"it knows {known} tokens, but is given 0 to {others - 1}; make it larger."
                )
            if from_input:
                self.of_input = known if self.of_input is None else min(known, self.of_input)
        if gives:
            self.sources[node.name] = (from_input, max(others, known))


class _Ledger:
    """What is known of the nodes entered so far."""

    def __init__(self, input_shape: Shape, tokens: bool, limits: ArchitectureLimits) -> None:
        self.shapes: dict[str, Shape] = {INPUT: input_shape}
        self.parameters: dict[str, dict[str, Parameter]] = {}
        self.states: dict[str, dict[str, str]] = {}
        self.vocabulary = _Vocabulary(tokens)
        self._limits = limits
        self._depth: dict[str, int] = {INPUT: 0}
        self._activations = math.prod(input_shape)
        self._weights = self._flops = self._workspace = 0
        self._known: dict[str, Parameter] = {}

    def enter(self, node: Node) -> None:
        """Check one more node and take note of what follows from it."""
        operator = operator_of(node.operator)
        taken = [self._shape_of(name) for name in node.inputs]
        shape = infer(operator, taken, node.arguments)
        self.vocabulary.enter(node, operator)
        specs = operator.parameters(taken, node.arguments)
        own = self._own(node, specs)
        if own:
            self.parameters[node.name] = own
        if specs:
            shared = dict(node.shared)
            self.states[node.name] = {
                short: shared.get(short, f"{node.name}.{short}") for short in specs
            }
        self.shapes[node.name] = shape
        self._count(node, operator, taken, shape, own)

    def _shape_of(self, name: str) -> Shape:
        if name not in self.shapes:
            raise ArchitectureError(
                f"it reads {show(name)}, which is neither 'input' nor an earlier node."
            )
        return self.shapes[name]

    def _own(self, node: Node, specs: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """Return the parameters that are not shared, and check those that are."""
        for short, source in node.shared:
            spec, other = specs.get(short), self._known.get(source)
            if spec is None:
                raise ArchitectureError(f"it has no parameter {show(short)} to share.")
            if other is None:
                raise ArchitectureError(f"it shares {show(source)}, which no earlier node has.")
            if (spec.shape, spec.trainable) != (other.shape, True):
                raise ArchitectureError(
                    f"its {short} of shape {spec.shape} cannot be {source} of shape "
                    f"{other.shape}: shared parameters are trainable and of one shape."
                )
        shared = {short for short, _ in node.shared}
        if len(shared) != len(node.shared):
            raise ArchitectureError("it shares a parameter twice.")
        own = {short: spec for short, spec in specs.items() if short not in shared}
        self._known.update({f"{node.name}.{short}": spec for short, spec in own.items()})
        return own

    def _count(
        self,
        node: Node,
        operator: Operator,
        taken: Sequence[Shape],
        shape: Shape,
        own: Mapping[str, Parameter],
    ) -> None:
        limits = self._limits
        self._activations += operator.activations(taken, shape, node.arguments)
        workspace = operator.workspace(taken, shape, node.arguments)
        self._workspace = max(self._workspace, workspace)
        memory = self._activations + self._workspace
        self._weights += sum(math.prod(spec.shape) for spec in own.values())
        self._flops += operator.flops(taken, shape, node.arguments)
        depth = 1 + max((self._depth[name] for name in node.inputs), default=0)
        self._depth[node.name] = depth
        _check_limit("parameters", self._weights, limits.parameters)
        _check_limit("activations for one example", memory, limits.activations)
        _check_limit("floating-point operations for one example", self._flops, limits.flops)
        _check_limit("nodes in a row", depth, limits.depth)


def _check_name(name: str, taken: Mapping[str, Shape]) -> None:
    if not _NAME.fullmatch(name):
        raise ArchitectureError(
            f"Node name {show(name)} is not allowed; use 1 to 64 of a-z, 0-9 and _."
        )
    if name in _TAKEN or name.startswith("_"):
        raise ArchitectureError(f"Node name '{name}' is reserved; use one such as '{name}_1'.")
    if name in taken:
        raise ArchitectureError(f"Two nodes are named '{name}'; names must be unique.")


def _check_limit(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise ArchitectureError(
            f"with it the graph has {show(count)} {what}, more than the {limit} allowed."
        )


def _check_all_used(nodes: Sequence[Node], output: str, shapes: Mapping[str, Shape]) -> None:
    if output == INPUT or output not in shapes:
        raise ArchitectureError(f"The output {show(output)} is none of the graph's nodes.")
    needed = {output}
    for node in reversed(nodes):
        if node.name not in needed:
            raise ArchitectureError(
                f"Node '{node.name}' ({node.operator}): the output does not depend on it; "
                "leave it out."
            )
        needed.update(node.inputs)
    if INPUT not in needed:
        raise ArchitectureError("The output does not depend on the input.")
