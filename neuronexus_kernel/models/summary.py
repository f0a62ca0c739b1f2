"""How an architecture looks in a notebook: a table of its layers."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from neuronexus_kernel.models.graph import Node
from neuronexus_kernel.models.operators import OPERATORS, Shape

if TYPE_CHECKING:
    import pandas as pd

    from neuronexus_kernel.models.architecture import Architecture

_SHOWN = 40


def table(architecture: Architecture) -> pd.DataFrame:
    """Return one row a node: layer, operator, output shape, parameters, FLOPs of one example.

    Parameters are the trainable values; those that layers share count with the first of them.
    FLOPs are those of the forward pass; a multiplication and an addition count as two.
    """
    import pandas as pd

    rows = [
        (node.name, node.operator, shape, parameters, flops)
        for node, shape, parameters, flops in _rows(architecture)
    ]
    columns = ["layer", "operator", "output shape", "parameters", "FLOPs"]
    return pd.DataFrame(rows, columns=columns)


def html(architecture: Architecture) -> str:
    """Return a short HTML table."""
    body = "".join(
        f"<tr><td>{escape(node.name)}</td><td>{'×'.join(map(str, shape))}</td>"
        f"<td>{parameters:,}</td><td>{flops:,}</td></tr>"
        for node, shape, parameters, flops in _rows(architecture)[:_SHOWN]
    )
    if len(architecture.nodes) > _SHOWN:
        body += f"<tr><td>… {len(architecture.nodes) - _SHOWN} more layers</td></tr>"
    return (
        f"<div><b>Architecture</b> {'×'.join(map(str, architecture.input_shape))} → "
        f"{'×'.join(map(str, architecture.output_shape))}, "
        f"{architecture.parameter_count:,} parameters<br><code>{architecture.cid}</code>"
        "<table><tr><th>layer</th><th>output</th><th>parameters</th><th>FLOPs</th></tr>"
        f"{body}</table></div>"
    )


def _rows(architecture: Architecture) -> list[tuple[Node, Shape, int, int]]:
    layout = architecture.layout
    rows = []
    for node in architecture.nodes:
        specs = layout.parameters.get(node.name, {}).values()
        inputs = [layout.shapes[name] for name in node.inputs]
        output = layout.shapes[node.name]
        flops = OPERATORS[node.operator].flops(inputs, output, node.arguments)
        count = sum(math.prod(spec.shape) for spec in specs if spec.trainable)
        rows.append((node, output, count, flops))
    return rows
