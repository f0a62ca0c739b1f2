import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import mlp, weights

ARCHITECTURE = mlp(6, (4,), 3)
SHAPES = ARCHITECTURE.parameter_shapes


def values(**changes):
    return {**ARCHITECTURE.initial_weights(), **changes}


def test_weights_read_back():
    read = weights.deserialize(weights.serialize(values()), SHAPES)
    assert list(read) == list(SHAPES)
    for name, value in values().items():
        assert np.array_equal(read[name], value)
        read[name][...] = 0  # they may be changed


def test_the_same_weights_are_the_same_bytes():
    turned = dict(reversed(values().items()))
    turned["linear_1.weight"] = np.asfortranarray(turned["linear_1.weight"])
    turned["linear_2.weight"] = turned["linear_2.weight"].astype(">f4")
    assert weights.serialize(turned) == weights.serialize(values())


def test_precision_and_scalars_are_kept():
    given_values = {"a": np.float64(1.5) * np.ones(()), "b": np.ones((2, 0), np.float16)}
    read = weights.deserialize(weights.serialize(given_values))
    assert read["a"].shape == ()
    assert read["a"].dtype == np.float64
    assert read["b"].shape == (2, 0)
    assert read["b"].dtype == np.float16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_1.bias": np.zeros(5, np.float32)}, r"linear_1\.bias.*\(5,\).*\(4,\)"),
        ({"linear_1.bias": np.full(4, np.nan, np.float32)}, r"linear_1\.bias.*NaN"),
        ({"linear_1.bias": np.full(4, np.inf, np.float32)}, r"linear_1\.bias.*infinite"),
        ({"extra": np.zeros(1, np.float32)}, "extra"),
    ],
)
def test_weights_that_do_not_fit_are_refused_naming_the_tensor(changes, message):
    data = weights.serialize(values(**changes))
    with pytest.raises(ArchitectureError, match=message):
        weights.deserialize(data, SHAPES)


def test_whole_numbers_are_no_weights():
    with pytest.raises(ArchitectureError, match="int64"):
        weights.serialize({"a": np.zeros(3, np.int64)})
    header = json.dumps({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(8)
    with pytest.raises(ArchitectureError, match="int64"):
        weights.deserialize(data, {"a": (1,)})


def test_a_missing_tensor_is_named():
    some = values()
    del some["linear_2.bias"]
    with pytest.raises(ArchitectureError, match=r"missing 'linear_2\.bias'"):
        weights.deserialize(weights.serialize(some), SHAPES)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=120) | st.integers(0, 400).map(lambda n: weights.serialize(values())[:n]))
def test_whatever_the_bytes_only_an_architecture_error_comes_out(data):
    with pytest.raises(ArchitectureError):
        weights.deserialize(data, SHAPES)


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "BOOL", "X1"])
def test_a_type_that_is_no_weight_is_refused(kind):
    header = {"a": {"dtype": kind, "shape": [8], "data_offsets": [0, 16]}}
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + bytes(16)
    with pytest.raises(ArchitectureError):
        weights.deserialize(data, {"a": (8,)})
