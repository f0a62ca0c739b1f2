"""Weights as files: safetensors with sorted names, so the same weights are the same bytes.

safetensors is a header of names, types and offsets followed by raw numbers: nothing in it can
run.  Source: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.operators import Shape, show

_FLOATS = ("float16", "float32", "float64")


def serialize(weights: Mapping[str, np.ndarray]) -> bytes:
    """Return weights as the bytes of a safetensors file.

    Parameters
    ----------
    weights
        float16, float32 or float64 arrays by name, in any order and memory layout.

    Raises
    ------
    ArchitectureError
        If a value is no array of floats.
    """
    from safetensors.numpy import save

    plain = {}
    for name in sorted(weights):
        array = np.asarray(weights[name])
        _check_floats(name, array)
        plain[name] = np.array(array, dtype=array.dtype.newbyteorder("<"), order="C")
    data: bytes = save(plain)
    return data


def deserialize(data: bytes, shapes: Mapping[str, Shape] | None = None) -> dict[str, np.ndarray]:
    """Return the weights that a safetensors file holds.

    Parameters
    ----------
    data
        The file's bytes, from anywhere.
    shapes
        If given, the names and shapes that must be there, such as
        `Architecture.parameter_shapes`; values must then be finite floats.

    Returns
    -------
    dict
        Arrays by name, sorted; they own their memory and may be changed.

    Raises
    ------
    ArchitectureError
        If the bytes are no safetensors file or do not hold what `shapes` asks for.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        loaded = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchitectureError(f"The bytes are no safetensors file: {error}") from None
    weights = {name: np.array(loaded[name]) for name in sorted(loaded)}
    if shapes is not None:
        check(weights, shapes)
    return weights


def check(weights: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> None:
    """Check names, shapes and types of weights, and that every value is finite.

    Raises
    ------
    ArchitectureError
        Naming the first tensor that is wrong.
    """
    missing, extra = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    if missing or extra:
        raise ArchitectureError(
            f"The weights do not belong to this architecture: missing {_some(missing)}; "
            f"not expected {_some(extra)}."
        )
    for name, shape in shapes.items():
        array = np.asarray(weights[name])
        _check_floats(name, array)
        if array.shape != tuple(shape):
            raise ArchitectureError(f"'{name}' has shape {array.shape}, not {tuple(shape)}.")
        if not np.isfinite(array).all():
            raise ArchitectureError(
                f"'{name}' holds NaN or infinite values; training has diverged: lower the "
                "learning rate."
            )


def _check_floats(name: str, array: np.ndarray) -> None:
    if array.dtype.name not in _FLOATS:
        raise ArchitectureError(
            f"{show(name)} holds {array.dtype.name}; weights are {', '.join(_FLOATS)}."
        )


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(show(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
