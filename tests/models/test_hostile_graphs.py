"""A graph is hostile input: whatever is given, an `ArchitectureError` or a model that runs."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content.dagcbor import encode
from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import Architecture
from neuronexus_kernel.models.graph import GraphBuilder
from neuronexus_kernel.models.operators import OPERATORS


def images():
    """Return a network with every operator that works on images."""
    graph = GraphBuilder((2, 6, 6))
    window = {"kernel_size": (3, 3), "padding": (1, 1)}
    last = graph.add("conv2d", "input", out_channels=4, **window)
    first = graph.add("batch_norm", last)
    last = graph.add("channel_dropout", graph.add("relu", first), p=0.2)
    last = graph.add("conv2d", last, out_channels=4, **window)
    graph.share(last, "bias", "conv2d_1.bias")
    last = graph.add("group_norm", graph.add("add", last, first), num_groups=2)
    last = graph.add("max_pool2d", last, kernel_size=(2, 2), stride=(2, 2))
    last = graph.add("upsample_nearest", last, scale=(2, 2))
    last = graph.add("conv_transpose2d", last, out_channels=2, **window)
    last = graph.add("avg_pool2d", last, kernel_size=(2, 2), stride=(2, 2))
    last = graph.add("adaptive_avg_pool2d", last, output_size=(2, 2))
    last = graph.add("dropout", graph.add("flatten", last), p=0.1)
    last = graph.add("linear", last, out_features=3)
    return Architecture((2, 6, 6), tuple(graph.nodes), last)


def texts():
    """Return a network with every operator that works on tokens and sequences."""
    graph = GraphBuilder((5,), tokens=True)
    table = graph.add("embedding", "input", num_embeddings=9, embedding_dim=4)
    places = graph.add("positions", count=5)
    places = graph.add("embedding", places, num_embeddings=5, embedding_dim=4)
    x = graph.add("layer_norm", graph.add("add", table, places), normalized_shape=(4,))
    x = graph.add("reshape", x, sizes=(5, 2, 2))
    heads = graph.add("permute", x, order=(1, 0, 2))
    x = graph.add("attention", heads, heads, heads, causal=True, p=0.1)
    mask = graph.add("constant", sizes=(1, 5, 5), values=[float(i % 6 > 2) for i in range(25)])
    scores = graph.add("matmul", heads, graph.add("permute", heads, order=(0, 2, 1)))
    scores = graph.add("softmax", graph.add("masked_fill", scores, mask, value=-1e9))
    x = graph.add("concatenate", x, graph.add("matmul", scores, heads), dim=-1)
    x = graph.add("rms_norm", x, normalized_shape=(4,))
    x = graph.add("reshape", graph.add("permute", x, order=(1, 0, 2)), sizes=(5, 8))
    x = graph.add("gru", graph.add("lstm", x, hidden_size=3), hidden_size=3, reverse=True)
    x = graph.add("conv1d", graph.add("permute", x, order=(1, 0)), out_channels=4, kernel_size=(2,))
    x = graph.add("slice", x, dim=-1, length=2, step=2)
    x = graph.add("select", x, dim=-1, index=1)
    x = graph.add("linear", x, out_features=9, bias=False)
    graph.share(x, "weight", "embedding_1.weight")
    return Architecture((5,), tuple(graph.nodes), x, input_dtype="int64")


def arithmetic():
    """Return a network with every operator that computes element by element or sums up."""
    graph = GraphBuilder((3, 4))
    x = graph.add("abs", graph.add("add", "input", graph.add("parameter", sizes=(3, 4), bound=1.0)))
    x = graph.add("scale", x, factor=0.5, offset=1.0)
    for name in ("sqrt", "log", "exp", "softplus", "hardswish", "hardtanh", "mish", "tanh"):
        x = graph.add(name, x)
    for name in ("sigmoid", "silu", "gelu", "elu", "leaky_relu", "log_softmax"):
        x = graph.add(name, x)
    y = graph.add("power", x, exponent=2)
    x = graph.add("divide", graph.add("subtract", x, y), graph.add("multiply", y, y))
    large = graph.add("amax", x, dims=[-1], keepdim=True)
    whole = graph.add("sum", x, dims=[-2, -1], keepdim=True)
    x = graph.add("mean", graph.add("subtract", graph.add("add", x, whole), large), dims=[-2])
    return Architecture((3, 4), tuple(graph.nodes), x)


NETWORKS = [images(), texts(), arithmetic()]
DOCUMENTS = [network.to_dict() for network in NETWORKS]


def test_the_networks_use_every_operator_and_run():
    assert {node.operator for each in NETWORKS for node in each.nodes} == set(OPERATORS)
    for network in NETWORKS:
        run_if_small(network)


def test_the_addresses_of_graphs_never_change():
    """Names, defaults and forms of arguments of all operators are part of these."""
    assert [str(network.cid) for network in NETWORKS] == [
        "bafyreidvzqsnb2fku7rnmmydykghilemoqbs7mnrzuolikpvpe4krtc2gy",
        "bafyreiajcimqpx5xynyrrmosoodygwpzpyqbwmpnxozknzn6qfxjhipj7y",
        "bafyreid4iykax2cqwp7idgwemhh535dx44uf5fas7qqjmhnjvqtw2aln74",
    ]


def run_if_small(architecture):
    """Build an architecture and train it for a step, unless it is large."""
    counts = [math.prod(shape) for shape in architecture.layout.shapes.values()]
    flops = sum(architecture.summary()["FLOPs"])
    if sum(counts) > 20_000 or architecture.parameter_count > 20_000 or flops > 10**7:
        return
    built = architecture.build().train()
    x = torch.zeros(2, *architecture.input_shape)
    made = built(x.long() if architecture.input_dtype == "int64" else x)
    assert made.shape == (2, *architecture.output_shape)
    assert set(built.state_dict()) == set(architecture.parameter_shapes)
    if any(value.requires_grad for value in built.parameters()):
        made.sum().backward()


NAMES = [node["name"] for each in DOCUMENTS for node in each["nodes"]]
PARAMETERS = [name for each in NETWORKS for name in each.parameter_shapes]
HOSTILE = [
    *("forward", "__class__", "__init__", "__reduce__", "_modules", "state_dict", "training"),
    *("torch.load", "os.system", "eval", "exec", "getattr", "torch.ops.aten.add", "numpy_T"),
    *("linear_1.weight.__class__", "input.weight", "..", "\ud800", "\0", "a\nb", "İ"),
]
HARMLESS = ("exec", "getattr")
"""They may name a node, since a name is a key of our own dictionaries and of nothing else."""
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.sampled_from([2**31 - 1, 2**31, 2**63, -(2**63), 10**400, 4096, 65_536, 500])
    | st.floats()
    | st.sampled_from([0.0, -0.0, 0.5, 1.0, 1e308])
    | st.sampled_from([*HOSTILE, *OPERATORS, *NAMES, *PARAMETERS, "int64", "float32", "input"])
    | st.text(max_size=3)
    | st.binary(max_size=3)
)
junk = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | leaves, inner, max_size=3)
    ),
    max_leaves=5,
)
numbers = st.integers(-2, 7) | st.floats(-2, 2) | st.lists(st.integers(-3, 7), max_size=4)
KEYS = sorted({key for each in OPERATORS.values() for key in each.arguments})


def places(document):
    """Return every (container, key) of a document."""
    found, waiting = [], [document]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here))
        for key in keys:
            found.append((here, key))
            if isinstance(here[key], (dict, list)):
                waiting.append(here[key])
    return found


def like(value):
    """Return values of the kind of `value`, near enough to be allowed now and then."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers(-4, -1) if value < 0 else st.integers(0, 12)
    if isinstance(value, list) and value and isinstance(value[0], int):
        return st.permutations(value) | st.lists(like(value[0]), min_size=1, max_size=len(value))
    return st.floats(-1, 1) if isinstance(value, float) else junk


CHANGES = ["put", "number", "drop", "copy", "inputs", "shared", *["arguments"] * 6]


def change_node(draw, change, node):
    """Give a node other inputs or parameters of other nodes, or add an argument."""
    given = node.get("arguments")
    if change == "inputs":
        known = st.sampled_from(["input", *NAMES])
        node["inputs"] = draw(st.tuples(known) | st.tuples(known, known) | st.lists(known))
    elif change == "shared":
        shorts = st.sampled_from(["weight", "bias", "value", "running_mean", "weight_hh"])
        sources = st.sampled_from(PARAMETERS) | leaves
        node["shared"] = draw(st.dictionaries(shorts | leaves, sources, min_size=1, max_size=2))
    elif isinstance(given, dict) and given:
        key = draw(st.sampled_from(sorted(given, key=str)))
        given[key] = draw(like(given[key]) | like(given[key]) | numbers | junk)
    else:
        node["arguments"] = draw(st.dictionaries(st.sampled_from(KEYS), numbers | junk, max_size=2))


@st.composite
def damaged(draw):
    """Return a valid document with one to three things changed."""
    document = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(1, 3))):
        found = places(document)
        if not found:
            break
        here, key = draw(st.sampled_from(found))
        nodes = [here for here, key in found if key == "operator"]
        change = draw(st.sampled_from(CHANGES if nodes else CHANGES[:4]))
        if change == "put":
            here[key] = draw(junk)
        elif change == "number":
            here[key] = draw(numbers)
        elif change == "drop":
            del here[key]
        elif change == "copy":
            other, another = draw(st.sampled_from(found))
            here[key] = copy.deepcopy(other[another])
        else:
            change_node(draw, change, draw(st.sampled_from(nodes)))
    return document


def refused_or_runs(document):
    try:
        architecture = Architecture.from_dict(document)
    except ArchitectureError:
        return
    assert Architecture.decode(architecture.encode()) == architecture
    run_if_small(architecture)


@settings(max_examples=1_000, deadline=None)
@given(damaged())
def test_a_damaged_graph_is_refused_or_runs(document):
    refused_or_runs(document)


@pytest.mark.long
@settings(max_examples=20_000, deadline=None)
@given(damaged())
def test_thousands_of_damaged_graphs_are_refused_or_run(document):
    refused_or_runs(document)


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=4), st.integers(0, 10**6), st.sampled_from(DOCUMENTS))
def test_damaged_bytes_are_refused_or_are_another_architecture(noise, at, document):
    data = bytearray(encode(document))
    at %= len(data)
    data[at : at + len(noise)] = noise
    try:
        architecture = Architecture.decode(bytes(data))
    except ArchitectureError:
        return
    assert architecture.encode() == data


# Ways to Python


def chain(name="linear_1", operator="linear", **changes):
    node = {"name": name, "operator": operator, "inputs": ["input"]}
    node |= {"arguments": {"out_features": 2}} | changes
    return {
        "format": "neuronexus/architecture@1",
        "input": {"shape": [3], "dtype": "float32"},
        "nodes": [node],
        "output": name,
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_reaches_python(name):
    for wrong in (
        chain(operator=name),
        chain(inputs=[name]),
        chain(shared={name: "input.weight"}),
        chain(shared={"weight": name}),
        chain(arguments={"out_features": 2, name: 1}),
        chain(arguments={"out_features": name}),
        chain() | {"output": name},
        chain() | {"format": name},
        chain() | {name: name},
    ):
        with pytest.raises(ArchitectureError):
            Architecture.from_dict(wrong)
    if name not in HARMLESS:
        with pytest.raises(ArchitectureError):
            Architecture.from_dict(chain(name=name))


def test_operators_are_not_looked_up_in_torch():
    functions = [name for name in dir(torch) + dir(torch.nn.functional) if name not in OPERATORS]
    for name in functions:
        with pytest.raises(ArchitectureError, match="not allowed"):
            Architecture.from_dict(chain(operator=name))


# What does not hang together


def test_a_shared_parameter_must_be_an_earlier_one_of_the_same_shape_and_trainable():
    good = texts().to_dict()
    tied = good["nodes"][-1]
    for source, message in (
        ("linear_1.weight", "no earlier node"),
        ("embedding_2.weight", "cannot be"),
        ("embedding_9.weight", "no earlier node"),
    ):
        tied["shared"] = {"weight": source}
        with pytest.raises(ArchitectureError, match=message):
            Architecture.from_dict(good)
    tied["shared"] = {"forward": "embedding_1.weight"}
    with pytest.raises(ArchitectureError, match="no parameter 'forward'"):
        Architecture.from_dict(good)
    statistics = images().to_dict()
    second = copy.deepcopy(statistics["nodes"][1])
    second |= {"name": "again", "inputs": ["batch_norm_1"]}
    second["shared"] = {"running_mean": "batch_norm_1.running_mean"}
    statistics["nodes"].insert(2, second)
    with pytest.raises(ArchitectureError, match="trainable"):
        Architecture.from_dict(statistics)


def test_a_network_that_ignores_its_input_is_refused():
    document = chain(operator="parameter", inputs=[], arguments={"sizes": [2]})
    with pytest.raises(ArchitectureError, match="does not depend on the input"):
        Architecture.from_dict(document)


def test_positions_that_an_embedding_does_not_know_are_refused():
    document = texts().to_dict()
    node = next(node for node in document["nodes"] if node["name"] == "embedding_2")
    node["arguments"]["num_embeddings"] = 4
    with pytest.raises(ArchitectureError, match=r"'embedding_2'.*knows 4 tokens.*0 to 4"):
        Architecture.from_dict(document)
