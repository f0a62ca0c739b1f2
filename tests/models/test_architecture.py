import copy
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.content.dagcbor import cid_of, encode
from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import Architecture, cnn, mlp, resnet8, transformer_lm
from neuronexus_kernel.models.graph import GraphBuilder
from neuronexus_kernel.models.operators import OPERATORS
from neuronexus_kernel.settings import ArchitectureLimits


def document(**changes):
    """Return a small valid document with some fields replaced."""
    return {**mlp(6, (4,), 3).to_dict(), **changes}


def with_node(**changes):
    """Return a document whose second node, a linear layer, has some fields replaced."""
    made = document()
    made["nodes"][1].update(changes)
    return made


def test_the_document_has_the_published_form():
    assert mlp(6, (), 3).to_dict() == {
        "format": "neuronexus/architecture@1",
        "input": {"shape": [6], "dtype": "float32"},
        "nodes": [
            {"name": "flatten_1", "operator": "flatten", "inputs": ["input"], "arguments": {}},
            {
                "name": "linear_1",
                "operator": "linear",
                "inputs": ["flatten_1"],
                "arguments": {"bias": True, "out_features": 3},
            },
        ],
        "output": "linear_1",
    }


@pytest.mark.parametrize(
    ("architecture", "cid"),
    [
        (mlp(64, (64,), 10), "bafyreieqnh4mrp73bl5jdqfsgk5yybfwrh5qjirckmpevfjl6ru74qguzq"),
        (mlp(784, (200, 200), 10), "bafyreibzu7jsgat3fsq3n7bscl3ro43slp2hyfs3qa4wmpy6av7tgkjggy"),
        (cnn(), "bafyreiebr4kr6c6yswmzmg432if2zg7tmyi3qpusj4quc6jj4odampjvrm"),
        (resnet8(), "bafyreiaavpf3lljh6ywhqxjrrvlq7c5jhdsfkdh5gvjy7xru7lpec2rcty"),
        (resnet8(norm="group"), "bafyreifudtvuvhdc7sz2w52udcbsobov6cahotsvmqcrr7o5ln4d3nhani"),
        (transformer_lm(64, 32), "bafyreidixlpvrdufeeg7eauw6gkc4xawalkjnlwuemjopnrs4bfeulf7pa"),
    ],
)
def test_the_cid_of_an_architecture_never_changes(architecture, cid):
    assert str(architecture.cid) == cid


@pytest.mark.parametrize("architecture", [mlp(6, (4,), 3), cnn(), cnn((3, 8, 8), 4)])
def test_documents_and_encodings_read_back(architecture):
    assert Architecture.from_dict(architecture.to_dict()) == architecture
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture
    assert Architecture.decode(architecture.encode()) == architecture
    assert architecture.cid == cid_of(architecture.to_dict())
    assert pickle.loads(pickle.dumps(architecture)) == architecture  # noqa: S301
    assert copy.deepcopy(architecture).cid == architecture.cid
    assert hash(architecture) == hash(Architecture.from_dict(architecture.to_dict()))


def test_parameters_are_listed_in_sorted_order():
    assert list(cnn().parameter_shapes.items()) == [
        ("conv2d_1.bias", (32,)),
        ("conv2d_1.weight", (32, 1, 5, 5)),
        ("conv2d_2.bias", (64,)),
        ("conv2d_2.weight", (64, 32, 5, 5)),
        ("linear_1.bias", (512,)),
        ("linear_1.weight", (512, 3136)),
        ("linear_2.bias", (10,)),
        ("linear_2.weight", (10, 512)),
    ]


def test_the_summary_counts_parameters_and_operations():
    table = mlp(784, (200, 200), 10).summary()
    assert list(table.columns) == ["layer", "operator", "output shape", "parameters", "FLOPs"]
    assert table["parameters"].sum() == 199_210
    assert table.set_index("layer")["FLOPs"]["linear_1"] == 200 * (2 * 784 + 1)
    assert "199,210" in repr(mlp(784, (200, 200), 10))
    assert "199,210" in mlp(784, (200, 200), 10)._repr_html_()


def tied():
    graph = GraphBuilder((5,), tokens=True)
    last = graph.add("embedding", "input", num_embeddings=9, embedding_dim=4)
    last = graph.add("linear", last, out_features=9)
    graph.share(last, "weight", "embedding_1.weight")
    return Architecture((5,), tuple(graph.nodes), last, input_dtype="int64")


def test_a_shared_parameter_counts_once_and_statistics_do_not_count():
    table = tied().summary().set_index("layer")
    assert table["parameters"].to_dict() == {"embedding_1": 36, "linear_1": 9}
    assert table["parameters"].sum() == tied().parameter_count == 45
    assert table["FLOPs"].to_dict() == {"embedding_1": 0, "linear_1": 5 * 9 * (2 * 4 + 1)}
    for network in (resnet8(), resnet8(norm="group"), transformer_lm(20, 6)):
        table = network.summary()
        assert table["parameters"].sum() == network.parameter_count
        assert table["layer"].tolist() == [node.name for node in network.nodes]
        assert table["output shape"].iloc[-1] == network.output_shape
        assert network._repr_html_().count("<tr>") <= 42
    weights = sum(value.size for value in resnet8().initial_weights().values())
    statistics = sum(resnet8().parameters[name].shape[0] for name in resnet8().statistics)
    assert weights == resnet8().parameter_count + statistics


def test_a_network_that_is_built_twice_has_one_address():
    assert tied().cid == tied().cid
    assert hash(tied()) == hash(tied())
    assert Architecture.decode(tied().encode()) == tied()
    assert transformer_lm(20, 6).cid != transformer_lm(20, 7).cid


def test_absent_arguments_take_their_defaults_and_whole_numbers_stand_for_floats():
    short = with_node(arguments={"out_features": 4})
    assert Architecture.from_dict(short) == mlp(6, (4,), 3)
    softened = document()
    softened["nodes"][2] = {
        "name": "relu_1",
        "operator": "elu",
        "inputs": ["linear_1"],
        "arguments": {"alpha": 1},
    }
    again = Architecture.from_dict(softened).to_dict()["nodes"][2]["arguments"]["alpha"]
    assert isinstance(again, float)


def test_bytes_that_are_not_canonical_are_refused():
    short = encode(with_node(arguments={"out_features": 4}))
    with pytest.raises(ArchitectureError, match="canonical"):
        Architecture.decode(short)


SHELL = "__import__('os').system('touch /tmp/neuronexus_was_here')"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (with_node(operator=SHELL), "'linear_1'.*not allowed"),
        (with_node(operator="torch.hub.load"), "'linear_1'.*not allowed"),
        (with_node(operator=None), "'linear_1'.*not allowed"),
        (with_node(name=SHELL), "__import__.*not allowed"),
        (with_node(name="Linear"), "'Linear'"),
        (with_node(name="linear_1\n"), "not allowed"),
        (with_node(name=""), "not allowed"),
        (with_node(name="a" * 65), "not allowed"),
        (with_node(name="forward"), "reserved"),
        (with_node(name="input"), "reserved"),
        (with_node(name="__class__"), "reserved"),
        (with_node(name="flatten_1"), "unique"),
        (with_node(name=7), r"nodes\[1\]\.name"),
        (with_node(arguments={"out_features": 4, SHELL: 1}), "'linear_1'.*__import__.*unknown"),
        (with_node(arguments={"out_features": 4, 3: 1}), "'linear_1'.*unknown"),
        (with_node(arguments={"out_features": 4, "inplace": True}), "'linear_1'.*inplace"),
        (with_node(arguments={}), "'linear_1'.*out_features.*missing"),
        (with_node(arguments={"out_features": True}), "'linear_1'.*out_features"),
        (with_node(arguments={"out_features": 4.0}), "'linear_1'.*out_features"),
        (with_node(arguments={"out_features": "4"}), "'linear_1'.*out_features"),
        (with_node(arguments={"out_features": 0}), "'linear_1'.*out_features"),
        (with_node(arguments={"out_features": 10**5000}), "'linear_1'.*bits"),
        (with_node(arguments={"out_features": 4, "bias": 1}), "'linear_1'.*bias"),
        (with_node(arguments={"out_features": 2**31 - 1}), "'linear_1'.*parameters"),
        (with_node(arguments=[]), "arguments"),
        (with_node(inputs=[]), "'linear_1'.*1 input"),
        (with_node(inputs=["input", "input"]), "'linear_1'.*1 input"),
        (with_node(inputs=["linear_2"]), "'linear_1'.*earlier"),
        (with_node(inputs=["linear_1"]), "'linear_1'.*earlier"),
        (with_node(inputs="input"), "inputs"),
        (with_node(code=SHELL), "holds 'code'"),
        (document(output="input"), "output"),
        (document(output="nothing"), "output"),
        (document(output="linear_1"), "'linear_2'.*does not depend"),
        (document(output=None), "'output'"),
        (document(nodes=[]), "output"),
        (document(nodes=[None]), r"nodes\[0\]"),
        (document(nodes={}), "'nodes'"),
        (document(nodes=[None] * 1001), "1001 nodes"),
        (
            document(
                format="neuronexus/architecturebafyreifudtvuvhdc7sz2w52udcbsobov6cahotsvmqcrr7o5ln4d3nhani"
            ),
            "format",
        ),
        (document(input={"shape": [6]}), "dtype"),
        (document(input={"shape": [6], "dtype": "float16"}), "dtype"),
        (document(input={"shape": [], "dtype": "float32"}), r"input\.shape"),
        (document(input={"shape": [True], "dtype": "float32"}), r"input\.shape"),
        (document(input={"shape": [-6], "dtype": "float32"}), r"input\.shape"),
        (document(input={"shape": [2**31 - 1] * 6, "dtype": "float32"}), "activations"),
        (document(extra=1), "holds 'extra'"),
        ({}, "lacks"),
        (None, "must be a map"),
    ],
)
def test_a_malformed_document_is_refused_saying_where(wrong, message):
    with pytest.raises(ArchitectureError, match=message):
        Architecture.from_dict(wrong)


def test_limits_can_be_tightened():
    with pytest.raises(ArchitectureError, match="4 nodes"):
        Architecture.from_dict(document(), limits=ArchitectureLimits(nodes=3))
    with pytest.raises(ArchitectureError, match=r"'linear_2'.*parameters"):
        Architecture.from_dict(document(), limits=ArchitectureLimits(parameters=42))
    with pytest.raises(ArchitectureError, match=r"'relu_1'.*activations"):
        Architecture.from_dict(document(), limits=ArchitectureLimits(activations=16))


garbage = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-4, 40)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.sampled_from(["input", "linear_1", "relu_1", *OPERATORS]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers(0, 3), inner, max_size=4)
    ),
    max_leaves=12,
)
argument_names = st.sampled_from(
    sorted({name for operator in OPERATORS.values() for name in operator.arguments})
)
numbers = st.integers(-1, 9) | st.lists(st.integers(0, 4), max_size=4) | st.floats() | st.booleans()
plausible_nodes = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", "c"]),
        "operator": st.sampled_from(sorted(OPERATORS)),
        "inputs": st.lists(st.sampled_from(["input", "a", "b", "c"]), min_size=1, max_size=2),
        "arguments": st.dictionaries(argument_names, numbers | garbage, max_size=7),
    }
)
plausible_documents = st.fixed_dictionaries(
    {
        "format": st.just(
            "neuronexus/architecturebafyreiaavpf3lljh6ywhqxjrrvlq7c5jhdsfkdh5gvjy7xru7lpec2rcty"
        )
        | garbage,
        "input": st.fixed_dictionaries(
            {
                "shape": st.lists(st.integers(1, 9), max_size=4) | garbage,
                "dtype": st.just("float32"),
            }
        ),
        "nodes": st.lists(plausible_nodes | garbage, max_size=4),
        "output": st.sampled_from(["a", "b", "c"]) | garbage,
    }
)


@settings(max_examples=400, deadline=None)
@given(garbage | plausible_documents)
def test_whatever_the_document_only_an_architecture_error_comes_out(found):
    try:
        architecture = Architecture.from_dict(found)
    except ArchitectureError:
        return
    assert Architecture.decode(architecture.encode()) == architecture


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_the_bytes_only_an_architecture_error_comes_out(data):
    with pytest.raises(ArchitectureError):
        Architecture.decode(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_encoding_is_refused_or_is_another_architecture(data):
    whole = bytearray(mlp(6, (4,), 3).encode())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    try:
        damaged = Architecture.decode(bytes(whole))
    except ArchitectureError:
        return
    assert damaged.cid != mlp(6, (4,), 3).cid
