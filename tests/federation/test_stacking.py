"""Every allowed operator can be stacked over clients: exactly, and without a hidden loop.

`torch.func.vmap` runs an operation that it does not know once for each client, slowly and with a
warning.  Here that is switched off, so an operator that would need it fails.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.federation import Recipe
from neuronexus_kernel.federation.executors.base import Client, Cohort
from neuronexus_kernel.federation.executors.sequential import SequentialExecutor
from neuronexus_kernel.federation.executors.vectorized import VectorizedExecutor
from neuronexus_kernel.models import Architecture
from neuronexus_kernel.models.graph import INPUT, GraphBuilder
from neuronexus_kernel.models.operators import OPERATORS

ROWS, SERIES, IMAGE = (6,), (4, 6), (2, 6, 6)

# What each operator is given: (shape of the input, arguments); it stands between two layers.
SINGLE = {
    "linear": (ROWS, {"out_features": 5}),
    "conv1d": (SERIES, {"out_channels": 3, "kernel_size": (3,)}),
    "conv2d": (IMAGE, {"out_channels": 3, "kernel_size": (3, 3)}),
    "conv_transpose2d": (IMAGE, {"out_channels": 3, "kernel_size": (2, 2)}),
    "lstm": (SERIES, {"hidden_size": 3}),
    "gru": (SERIES, {"hidden_size": 3}),
    "max_pool2d": (IMAGE, {"kernel_size": (2, 2), "stride": (2, 2)}),
    "avg_pool2d": (IMAGE, {"kernel_size": (2, 2), "stride": (2, 2)}),
    "adaptive_avg_pool2d": (IMAGE, {"output_size": (2, 2)}),
    "flatten": (IMAGE, {}),
    "reshape": (ROWS, {"sizes": (2, 3)}),
    "permute": (SERIES, {"order": (1, 0)}),
    "slice": (SERIES, {"dim": -1, "start": 1, "length": 2, "step": 2}),
    "select": (SERIES, {"dim": -2, "index": 3}),
    "upsample_nearest": (IMAGE, {"scale": (2, 2)}),
    "mean": (SERIES, {"dims": (-1,), "keepdim": False}),
    "sum": (SERIES, {"dims": (-2,), "keepdim": True}),
    "amax": (SERIES, {"dims": (-1,), "keepdim": False}),
    "scale": (ROWS, {"factor": 2.0, "offset": 0.5}),
    "leaky_relu": (ROWS, {}),
    "softmax": (ROWS, {}),
    "log_softmax": (ROWS, {}),
    "hardtanh": (ROWS, {"minimum": -0.5, "maximum": 0.5}),
    "dropout": (ROWS, {"p": 0.3}),
    "channel_dropout": (IMAGE, {"p": 0.3}),
    "layer_norm": (ROWS, {"normalized_shape": (6,)}),
    "rms_norm": (ROWS, {"normalized_shape": (6,)}),
    "group_norm": (IMAGE, {"num_groups": 1}),
    "batch_norm": (IMAGE, {}),
    **{name: (ROWS, {}) for name in ("abs", "elu", "exp", "gelu", "hardswish", "mish", "relu")},
    **{name: (ROWS, {}) for name in ("sigmoid", "silu", "softplus", "tanh")},
}
POSITIVE = {"log": {}, "sqrt": {}, "power": {"exponent": 1.5}}
PAIRS = ("add", "subtract", "multiply", "divide")
JOINING = ("attention", "concatenate", "masked_fill", "matmul")
SOURCES = ("constant", "embedding", "parameter", "positions")


def finished(graph, node, shape, tokens=False):
    if len(graph.shapes[node]) > 1:
        node = graph.add("flatten", node)
    node = graph.add("linear", node, out_features=3)
    dtype = "int64" if tokens else "float32"
    return Architecture(shape, tuple(graph.nodes), node, input_dtype=dtype)


def graph_of(name):
    shape = SINGLE.get(name, (SERIES,))[0] if name not in POSITIVE else ROWS
    if name == "embedding":
        graph = GraphBuilder((4,), tokens=True)
        node = graph.add("embedding", INPUT, num_embeddings=5, embedding_dim=3)
        return finished(graph, node, (4,), tokens=True)
    graph = GraphBuilder(shape)
    x = graph.add("scale", INPUT, factor=1.0, offset=0.0)
    if name in ("lstm", "gru", "attention", "embedding") or name in PAIRS or shape == ROWS:
        x = graph.add("linear", x, out_features=6)
    if name in SINGLE:
        node = graph.add(name, x, **SINGLE[name][1])
    elif name in POSITIVE:
        node = graph.add(name, graph.add("softplus", x), **POSITIVE[name])
    elif name in PAIRS:
        other = graph.add("scale", graph.add("sigmoid", x), factor=1.0, offset=0.5)
        node = graph.add(name, x, other)
    elif name == "attention":
        node = graph.add("attention", x, x, x, causal=True, p=0.2)
    elif name == "concatenate":
        node = graph.add("concatenate", x, x, dim=-1)
    elif name == "matmul":
        node = graph.add("matmul", x, graph.add("permute", x, order=(1, 0)))
    elif name == "masked_fill":
        mask = graph.add("constant", sizes=(1, 6), values=(1.0, 0.0, 0.0, 1.0, 0.0, 0.0))
        node = graph.add("masked_fill", x, mask, value=0.5)
    elif name == "constant":
        node = graph.add("add", x, graph.add("constant", sizes=(1, 6), values=(0.5,) * 6))
    elif name == "parameter":
        node = graph.add("add", x, graph.add("parameter", sizes=(1, 6), bound=0.5, centre=0.0))
    else:
        places = graph.add("positions", count=4)
        table = graph.add("embedding", places, num_embeddings=4, embedding_dim=6)
        node = graph.add("add", x, table)
    return finished(graph, node, shape)


@pytest.fixture
def no_hidden_loop():
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(True)


def test_every_operator_is_tried_here():
    tried = {*SINGLE, *POSITIVE, *PAIRS, *JOINING, *SOURCES}
    assert tried == set(OPERATORS)


@pytest.mark.parametrize("name", sorted({*SINGLE, *POSITIVE, *PAIRS, *JOINING, *SOURCES}))
def test_an_operator_stacks_exactly_and_without_a_hidden_loop(name, no_hidden_loop):
    architecture = graph_of(name)
    clients = []
    for place, rows in enumerate((7, 3, 1)):
        random = np.random.default_rng(place)
        tokens = architecture.input_dtype == "int64"
        shape = (rows, *architecture.input_shape)
        inputs = random.integers(0, 5, shape) if tokens else random.normal(size=shape)
        labels = np.arange(rows) % 3
        vocabulary = 5 if tokens else None
        clients.append(Client(place, Dataset(inputs, labels, classes=3, vocabulary=vocabulary)))
    recipe = Recipe(architecture, batch_size=4, local_epochs=2, momentum=0.5)
    cohort = Cohort(recipe, architecture.initial_weights(1), tuple(clients), seed=0, round=1)
    reference = SequentialExecutor(dtype="float64").train(cohort)
    ours = VectorizedExecutor(chunk=3, dtype="float64").train(cohort)
    for mine, theirs in zip(ours, reference, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, abs=1e-9)
        for key, array in theirs.weights.items():
            np.testing.assert_allclose(mine.weights[key], array, rtol=0, atol=1e-9)
    moved = replace(cohort, clients=cohort.clients[:1])
    assert any(
        not np.array_equal(reference[0].weights[key], array) for key, array in moved.weights.items()
    )
