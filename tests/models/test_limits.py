"""Sizes are bounded before anything is allocated, and whatever is too large is refused at once."""

import re
import time

import pytest

from neuronexus_kernel.content.dagcbor import encode
from neuronexus_kernel.errors import ArchitectureError, ContentError, InvalidInputError
from neuronexus_kernel.models import Architecture, cnn
from neuronexus_kernel.settings import ArchitectureLimits


def chain(name="linear_1", operator="linear", **changes):
    """Return the document of a network of one node with some fields replaced."""
    node = {"name": name, "operator": operator, "inputs": ["input"]}
    node |= {"arguments": {"out_features": 2}} | changes
    return {
        "format": "neuronexus/architecture@1",
        "input": {"shape": [3], "dtype": "float32"},
        "nodes": [node],
        "output": name,
    }


LARGE = 2**31 - 1
GREEDY = {
    "a constant the size of memory": ("constant", [], {"sizes": [LARGE], "values": [0.0]}),
    "a parameter the size of memory": ("parameter", [], {"sizes": [LARGE] * 6}),
    "positions without end": ("positions", [], {"count": LARGE}),
    "a hidden state the size of memory": ("lstm", ["input"], {"hidden_size": LARGE}),
    "a sequence without end": ("gru", ["input"], {"hidden_size": 1}),
    "scores of every step with every step": ("attention", ["input"] * 3, {}),
    "an image enlarged without end": ("upsample_nearest", ["input"], {"scale": [1024, 1024]}),
    "a table the size of memory": (
        "embedding",
        ["input"],
        {"num_embeddings": LARGE, "embedding_dim": LARGE},
    ),
    "windows that do not fit in memory": (
        "conv2d",
        ["input"],
        {"out_channels": 1, "kernel_size": [1024, 1024], "padding": [1024, 1024]},
    ),
    "an image spread out without end": (
        "conv_transpose2d",
        ["input"],
        {"out_channels": 1, "kernel_size": [1024, 1024], "stride": [1024, 1024]},
    ),
    "a product without end": ("matmul", ["input"] * 2, {}),
}
SHAPES = {
    "lstm": (3, 2),
    "gru": (5000, 2),
    "attention": (8192, 1),
    "upsample_nearest": (1, 40, 40),
    "embedding": (3,),
    "conv2d": (3, 30, 30),
    "conv_transpose2d": (1, 30, 30),
    "matmul": (7000, 7000),
}


@pytest.mark.parametrize("what", GREEDY)
def test_what_would_not_fit_is_refused_at_once(what):
    operator, inputs, arguments = GREEDY[what]
    document = chain(operator=operator, inputs=inputs, arguments=arguments)
    shape, tokens = SHAPES.get(operator, (3,)), operator == "embedding"
    document["input"] = {"shape": list(shape), "dtype": "int64" if tokens else "float32"}
    start = time.perf_counter()
    with pytest.raises(ArchitectureError, match=r"more than|do not fill|65536|multiplied"):
        Architecture.from_dict(document)
    assert time.perf_counter() - start < 1.0


def test_sizes_that_grow_from_node_to_node_are_refused_before_they_are_astronomic():
    graph = chain(name="n0", operator="matmul", inputs=["input"] * 2, arguments={})
    graph["input"]["shape"] = [2, 2]
    graph["nodes"] = [
        {
            "name": f"n{place}",
            "operator": "concatenate",
            "inputs": [f"n{place - 1}" if place else "input"] * 2,
            "arguments": {"dim": -1},
        }
        for place in range(400)
    ]
    graph["output"] = "n399"
    with pytest.raises(ArchitectureError, match=r"'n22' .*activations"):
        Architecture.from_dict(graph)


def test_attention_counts_its_scores():
    def document(steps):
        made = chain(operator="attention", inputs=["input"] * 3, arguments={})
        made["input"]["shape"] = [steps, 1]
        return made

    limits = ArchitectureLimits(activations=100_000)
    Architecture.from_dict(document(100), limits=limits)
    with pytest.raises(ArchitectureError, match="activations"):
        Architecture.from_dict(document(300), limits=limits)


def test_small_recurrent_layers_cannot_make_endless_loops():
    nodes = [
        {
            "name": f"n{place}",
            "operator": "lstm",
            "inputs": [f"n{place - 1}" if place else "input"],
            "arguments": {"hidden_size": 1},
        }
        for place in range(20)
    ]
    document = chain() | {"nodes": nodes, "output": "n19"}
    document["input"]["shape"] = [4096, 1]
    with pytest.raises(ArchitectureError, match=r"'n11' .*activations"):
        Architecture.from_dict(document)


def test_wide_documents_are_refused_quickly():
    start = time.perf_counter()
    for wrong in (
        chain(inputs=["input"] * 10**6),
        chain(shared={f"w{i}": "a.b" for i in range(10**5)}),
        chain(arguments={f"a{i}": i for i in range(10**5)}),
        chain(operator="constant", inputs=[], arguments={"sizes": [1], "values": [0] * 10**6}),
        chain(name="a" * 10**7),
        chain() | {"nodes": [None] * 10**6},
    ):
        with pytest.raises(ArchitectureError) as caught:
            Architecture.from_dict(wrong)
        assert len(str(caught.value)) < 2_000
    assert time.perf_counter() - start < 5.0


def test_a_document_nested_without_end_is_refused():
    nested = []
    for _ in range(10_000):
        nested = [nested]
    with pytest.raises(ArchitectureError):
        Architecture.from_dict(chain(arguments={"out_features": nested}))
    with pytest.raises(ArchitectureError):
        Architecture.decode(b"\x81" * 100_000)
    with pytest.raises(ContentError):
        encode(nested)


def test_a_deep_chain_of_the_allowed_size_is_checked_quickly():
    nodes = [
        {"name": f"n{i}", "operator": "relu", "inputs": [f"n{i - 1}" if i else "input"]}
        | {"arguments": {}}
        for i in range(1000)
    ]
    deep = chain() | {"nodes": nodes, "output": "n999"}
    start = time.perf_counter()
    with pytest.raises(ArchitectureError, match=r"'n500' .*501 nodes in a row"):
        Architecture.from_dict(deep)
    assert time.perf_counter() - start < 2.0


def test_limits_come_from_the_environment(monkeypatch):
    document = cnn().to_dict()
    for field in ("NODES", "DEPTH", "PARAMETERS", "ACTIVATIONS", "FLOPS"):
        monkeypatch.setenv(f"NEURONEXUS_ARCHITECTURE_{field}", "2")
        with pytest.raises(ArchitectureError, match=re.escape("more than the 2 allowed")):
            Architecture.from_dict(document)
        monkeypatch.delenv(f"NEURONEXUS_ARCHITECTURE_{field}")
    assert Architecture.from_dict(document) == cnn()
    monkeypatch.setenv("NEURONEXUS_ARCHITECTURE_NODES", "many")
    with pytest.raises(InvalidInputError, match=r"ARCHITECTURE_NODES.*'many'"):
        Architecture.from_dict(document)
