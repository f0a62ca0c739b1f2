"""Snapshots: the state of a strategy, or of clients, as data.

A stock Flower strategy keeps what it has learnt (moments, norms, the last model) as plain
attributes.  `pack` turns such values into a tree for DAG-CBOR and named arrays for safetensors,
and `unpack` turns them back into equal values: the same numbers, types and memory layout, since
sums depend on the order in which memory is walked.  Nothing is pickled; what has no such form is
refused by name.

Functions and content-addressed values (a recipe, an architecture) are how a strategy was made,
not what it learnt: they are noted, and kept as they are in the object that is restored.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeAlias, cast

import numpy as np

from neuronexus_kernel.content import CID
from neuronexus_kernel.content.dagcbor import Node
from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation._flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    MetricRecord,
    Strategy,
)
from neuronexus_kernel.federation.arrays import LocalArray, LocalRecord

Arrays: TypeAlias = dict[str, np.ndarray]

_MADE_WITH = (FunctionType, BuiltinFunctionType, MethodType, type)
_KINDS = "biuf"


def pack(value: object, arrays: Arrays, where: str = "state") -> Node:
    """Return a value as a tree; its arrays are put into `arrays` under new names.

    Parameters
    ----------
    value
        None, truth values, numbers, text, bytes, arrays, tensors, Flower's arrays and records,
        numpy generators, strategies, and lists, tuples and mappings of these.
    arrays
        Takes the arrays: C-ordered, not copied where they are so already.
    where
        What to call the value in errors.

    Raises
    ------
    InvalidInputError
        If the value, or something in it, has no such form.
    """
    if value is None or isinstance(value, bool | str | bytes):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else {"integer": str(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.generic):
        return {"scalar": _put(np.asarray(value), arrays, where)}
    if isinstance(value, np.ndarray):
        return {"array": _put(value, arrays, where)}
    if isinstance(value, Array):
        kind = "local-array" if isinstance(value, LocalArray) else "flower-array"
        return {kind: _put(value.numpy(), arrays, where)}
    if isinstance(value, ArrayRecord):
        kind = "local-record" if isinstance(value, LocalRecord) else "array-record"
        return {kind: _items(dict(value), arrays, where)}
    if isinstance(value, MetricRecord | ConfigRecord):
        kind = "metric-record" if isinstance(value, MetricRecord) else "config-record"
        return {kind: _items(dict(value), arrays, where)}
    if isinstance(value, Mapping):
        return {"mapping": _items(value, arrays, where)}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(each, arrays, f"{where}[{i}]") for i, each in enumerate(value)]}
    return _pack_object(value, arrays, where)


def _pack_object(value: object, arrays: Arrays, where: str) -> Node:
    if isinstance(value, Strategy):
        state = {name: pack(each, arrays, f"{where}.{name}") for name, each in vars(value).items()}
        return {"strategy": _name(type(value)), "attributes": state}
    if isinstance(value, np.random.Generator):
        return {"generator": pack(value.bit_generator.state, arrays, where)}
    if isinstance(cid := getattr(value, "cid", None), CID):
        return {"made-with": str(cid)}
    if isinstance(value, _MADE_WITH):
        return {"made-with": _name(value)}
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return {"tensor": _put(value.detach().cpu().numpy(), arrays, where)}
    raise InvalidInputError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: keep numbers, text, "
        "arrays, or lists and mappings of them there, or train without checkpoint=."
    )


def unpack(node: Node, arrays: Mapping[str, np.ndarray]) -> object:
    """Return the value that `pack` made a tree of; its arrays may be written to.

    Raises
    ------
    InvalidInputError
        If the tree is not of `pack`'s making, or is a strategy (see `restore`).
    """
    if not isinstance(node, Mapping):
        return node
    (kind, inner), *_ = node.items()
    match kind:
        case "integer":
            return int(cast(str, inner))
        case "float":
            return float(cast(str, inner))
        case "scalar":
            return _get(inner, arrays)[()]
        case "array":
            return _get(inner, arrays)
        case "local-array":
            return LocalArray(_get(inner, arrays))
        case "flower-array":
            return Array(_get(inner, arrays))
        case "tensor":
            import torch

            return torch.from_numpy(_get(inner, arrays))
        case "list" | "tuple":
            values = [unpack(each, arrays) for each in cast("list[Node]", inner)]
            return values if kind == "list" else tuple(values)
        case "mapping":
            return dict(_pairs(inner, arrays))
        case "generator":
            return _generator(cast("dict[str, object]", unpack(inner, arrays)))
        case "local-record" | "array-record" | "metric-record" | "config-record":
            return _record(kind, inner, arrays)
    raise InvalidInputError(f"A checkpoint holds a value of the unknown kind {kind!r}.")


def restore(strategy: Strategy, node: Node, arrays: Mapping[str, np.ndarray]) -> None:
    """Give a strategy, made like the packed one, the packed one's state.

    Raises
    ------
    InvalidInputError
        If the strategy is of another class.
    """
    document = cast("dict[str, Node]", node)
    if document.get("strategy") != _name(type(strategy)):
        raise InvalidInputError(
            f"The checkpoint is of the strategy {document.get('strategy')}, "
            f"not of {_name(type(strategy))}."
        )
    for name, value in cast("dict[str, Node]", document["attributes"]).items():
        if isinstance(value, Mapping) and "strategy" in value:
            restore(getattr(strategy, name), value, arrays)
        elif not _is_made_with(value):
            setattr(strategy, name, unpack(value, arrays))


def _is_made_with(node: Node) -> bool:
    if isinstance(node, Mapping):
        return "made-with" in node or any(_is_made_with(each) for each in node.values())
    return isinstance(node, list) and any(_is_made_with(each) for each in node)


def described(strategy: Strategy) -> dict[str, Node]:
    """Return what a strategy is made with, by attribute, to compare it with another one.

    Arrays are told by their digest, attributes of an inner strategy as ``strategy.name``.
    """
    arrays: Arrays = {}
    found: dict[str, Node] = {}
    _describe(cast("dict[str, Node]", pack(strategy, arrays, "strategy")), "", found)
    return {name: _digested(value, arrays) for name, value in found.items()}


def _describe(node: dict[str, Node], prefix: str, found: dict[str, Node]) -> None:
    found[f"{prefix}class"] = node["strategy"]
    for name, value in cast("dict[str, Node]", node["attributes"]).items():
        if isinstance(value, dict) and "strategy" in value:
            _describe(value, f"{prefix}{name}.", found)
        else:
            found[f"{prefix}{name}"] = value


def _digested(node: Node, arrays: Arrays) -> Node:
    """Return a tree with each array's place taken by its digest."""
    import hashlib

    if isinstance(node, list):
        return [_digested(each, arrays) for each in node]
    if not isinstance(node, dict):
        return node
    if "at" in node:
        array = arrays[cast(str, node["at"])]
        return {**node, "at": "", "digest": hashlib.sha256(array.data).hexdigest()}
    return {name: _digested(each, arrays) for name, each in node.items()}


def _put(array: np.ndarray, arrays: Arrays, where: str) -> Node:
    """Put an array among the arrays; return its name, and the order of its axes in memory."""
    if array.dtype.kind not in _KINDS or array.dtype.itemsize > 8:
        raise InvalidInputError(
            f"{where} is an array of {array.dtype}, which a checkpoint cannot hold: it holds "
            "truth values, integers and floats of up to 64 bits."
        )
    name = str(len(arrays))
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    arrays[name] = np.ascontiguousarray(array.transpose(axes))
    node: dict[str, Node] = {"at": name, "shape": list(array.shape)}
    if axes != sorted(axes):
        node["axes"] = cast("list[Node]", axes)
    return node


def _get(node: Node, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    place = cast("dict[str, Node]", node)
    array = arrays[cast(str, place["at"])]
    axes = cast("list[int] | None", place.get("axes"))
    shape = tuple(cast("list[int]", place["shape"]))
    if axes is None:
        return np.array(array.reshape(shape))
    stored = np.array(array.reshape([shape[axis] for axis in axes]))
    return stored.transpose(np.argsort(axes))


def _items(value: Mapping[Any, object], arrays: Arrays, where: str) -> Node:
    return [
        [pack(key, arrays, f"a key of {where}"), pack(each, arrays, f"{where}[{key!r}]")]
        for key, each in value.items()
    ]


def _pairs(node: Node, arrays: Mapping[str, np.ndarray]) -> list[tuple[object, object]]:
    pairs = cast("list[list[Node]]", node)
    return [(unpack(key, arrays), unpack(value, arrays)) for key, value in pairs]


def _record(kind: str, node: Node, arrays: Mapping[str, np.ndarray]) -> object:
    record = {
        "local-record": LocalRecord,
        "array-record": ArrayRecord,
        "metric-record": MetricRecord,
        "config-record": ConfigRecord,
    }[kind]()
    for name, value in _pairs(node, arrays):
        record[name] = value
    return record


def _generator(state: dict[str, object]) -> np.random.Generator:
    kinds = {
        kind.__name__: kind
        for kind in (
            np.random.PCG64,
            np.random.PCG64DXSM,
            np.random.Philox,
            np.random.SFC64,
            np.random.MT19937,
        )
    }
    bits = kinds[str(state["bit_generator"])]()
    bits.state = cast(Any, state)
    return np.random.Generator(bits)


def _name(value: object) -> str:
    module = getattr(value, "__module__", "")
    return f"{module}.{getattr(value, '__qualname__', repr(value))}"
