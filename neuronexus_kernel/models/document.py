"""The document of a graph: plain data that DAG-CBOR and JSON can carry, and its strict reader.

    {"format": "neuronexus/architecture@1",
     "input": {"shape": [64], "dtype": "float32"},
     "nodes": [{"name": "linear_1", "operator": "linear", "inputs": ["input"],
                "arguments": {"bias": true, "out_features": 10}}],
     "output": "linear_1"}

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
from neuronexus_kernel.models.operators.arguments import Sizes

FORMAT = "neuronexus/architecture@1"

_Fields: TypeAlias = Mapping[str, object]
_INPUT_SHAPE = Sizes(least=1, most=6)


def write(input_shape: Shape, nodes: Sequence[Node], output: str) -> dict[str, Document]:
    """Return the document of a graph."""
    return {
        "format": FORMAT,
        "input": {"shape": list(input_shape), "dtype": "float32"},
        "nodes": [_write_node(node) for node in nodes],
        "output": output,
    }


def _write_node(node: Node) -> dict[str, Document]:
    arguments: dict[str, Document] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in node.arguments.items
    }
    return {
        "name": node.name,
        "operator": node.operator,
        "inputs": list(node.inputs),
        "arguments": arguments,
    }


def read(document: object, *, most_nodes: int) -> tuple[Shape, tuple[Node, ...], str]:
    """Return input shape, nodes and output of a document.

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
    if entry["dtype"] != "float32":
        raise ArchitectureError(f"'input.dtype' is {show(entry['dtype'])}, not 'float32'.")
    shape = _INPUT_SHAPE.parse("input.shape", entry["shape"])
    given = _list(fields["nodes"], "'nodes'")
    if len(given) > most_nodes:
        raise ArchitectureError(
            f"The graph has {len(given)} nodes, more than the {most_nodes} allowed."
        )
    nodes = tuple(_read_node(item, index) for index, item in enumerate(given))
    return shape, nodes, _text(fields["output"], "'output'")


def _read_node(item: object, index: int) -> Node:
    where = f"nodes[{index}]"
    fields = _fields(item, ("name", "operator", "inputs", "arguments"), where)
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
    names = tuple(_text(each, f"{where}.inputs") for each in inputs)
    return Node(name, operator.name, names, checked)


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
