"""The document of a graph: plain data that DAG-CBOR and JSON can carry, and its strict reader.

    {"format": "neuronexus/architecture@1",
     "input": {"shape": [64], "dtype": "float32"},
     "nodes": [{"name": "linear_1", "operator": "linear", "inputs": ["input"],
                "arguments": {"bias": true, "out_features": 10}}],
     "output": "linear_1"}

A node that shares parameters of earlier nodes has one more field, such as
``"shared": {"weight": "embedding_1.weight"}``.  The dtype is int64 for an input of tokens.

The reader takes its input as hostile: whatever it is given, it returns checked values or raises
`ArchitectureError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from neuronexus_kernel.content.dagcbor import Node as Document
from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.graph import Node, operator_of
from neuronexus_kernel.models.operators import Shape, show
from neuronexus_kernel.models.operators.arguments import Choice, Sizes

FORMAT = "neuronexus/architecture@1"

_Fields: TypeAlias = Mapping[str, object]
_INPUT_SHAPE = Sizes(least=1, most=6)
_INPUT_DTYPE = Choice(("float32", "int64"))


def write(
    input_shape: Shape, input_dtype: str, nodes: Sequence[Node], output: str
) -> dict[str, Document]:
    """Return the document of a graph."""
    return {
        "format": FORMAT,
        "input": {"shape": list(input_shape), "dtype": input_dtype},
        "nodes": [_write_node(node) for node in nodes],
        "output": output,
    }


def _write_node(node: Node) -> dict[str, Document]:
    arguments: dict[str, Document] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in node.arguments.items
    }
    fields: dict[str, Document] = {
        "name": node.name,
        "operator": node.operator,
        "inputs": list(node.inputs),
        "arguments": arguments,
    }
    return {**fields, "shared": dict(node.shared)} if node.shared else fields


def read(document: object, *, most_nodes: int) -> tuple[Shape, str, tuple[Node, ...], str]:
    """Return input shape and dtype, nodes and output of a document.

    Arguments with a default may be absent and whole numbers may stand for floats, so that a
    document written by hand or by way of JSON is understood.

    Raises
    ------
    ArchitectureError
        If anything is missing, unknown or malformed; the message says where.
    """
    fields = _fields(document, ("format", "input", "nodes", "output"), "The architecture")
    if fields["format"] != FORMAT:
        raise ArchitectureError(f"The format is {show(fields['format'])}; '{FORMAT}' is known.")
    entry = _fields(fields["input"], ("shape", "dtype"), "'input'")
    dtype = _INPUT_DTYPE.parse("input.dtype", entry["dtype"])
    shape = _INPUT_SHAPE.parse("input.shape", entry["shape"])
    given = _list(fields["nodes"], "'nodes'")
    if len(given) > most_nodes:
        raise ArchitectureError(
            f"The graph has {len(given)} nodes, more than the {most_nodes} allowed."
        )
    nodes = tuple(_read_node(item, index) for index, item in enumerate(given))
    return shape, dtype, nodes, _text(fields["output"], "'output'")


def _read_node(item: object, index: int) -> Node:
    where = f"nodes[{index}]"
    names = ("name", "operator", "inputs", "arguments")
    shares = isinstance(item, Mapping) and "shared" in item
    fields = _fields(item, (*names, "shared") if shares else names, where)
    name = _text(fields["name"], f"{where}.name")
    inputs = _list(fields["inputs"], f"{where}.inputs")
    arguments = fields["arguments"]
    if not isinstance(arguments, Mapping):
        raise ArchitectureError(f"{where}.arguments must be a map, not {show(arguments)}.")
    try:
        operator = operator_of(fields["operator"])
        if len(inputs) != operator.arity:
            raise ArchitectureError(
                f"{operator.name} takes {operator.arity} input(s), not {len(inputs)}."
            )
        checked = operator.parse(arguments)
    except ArchitectureError as error:
        raise ArchitectureError(f"Node {show(name)}: {error}") from None
    reads = tuple(_text(each, f"{where}.inputs") for each in inputs)
    shared = _read_shared(fields["shared"], f"{where}.shared") if shares else ()
    return Node(name, operator.name, reads, checked, shared)


def _read_shared(value: object, where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping) or not value:
        raise ArchitectureError(f"{where} must be a map of parameters, not {show(value)}.")
    pairs = ((_text(short, where), _text(full, where)) for short, full in value.items())
    return tuple(sorted(pairs))


def _fields(value: object, names: tuple[str, ...], where: str) -> _Fields:
    if not isinstance(value, Mapping):
        raise ArchitectureError(f"{where} must be a map, not {show(value)}.")
    for name in names:
        if name not in value:
            raise ArchitectureError(f"{where} lacks '{name}'.")
    for key in value:
        if key not in names:
            raise ArchitectureError(f"{where} holds {show(key)}; only {', '.join(names)} belong.")
    return value


def _list(value: object, where: str) -> Sequence[object]:
    if not isinstance(value, (list, tuple)):
        raise ArchitectureError(f"{where} must be a list, not {show(value)}.")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ArchitectureError(f"{where} must be text, not {show(value)}.")
    return value
