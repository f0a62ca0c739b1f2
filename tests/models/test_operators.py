import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models.graph import GraphBuilder, infer
from neuronexus_kernel.models.operators import OPERATORS, Moment

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
paddings = st.tuples(st.integers(0, 2), st.integers(0, 2))
dimensions = st.integers(-4, -1)
REDUCED = {"dims": st.lists(dimensions, min_size=1, max_size=3), "keepdim": st.booleans()}
ARGUMENTS = {
    "linear": {"out_features": st.integers(1, 5), "bias": st.booleans()},
    "conv2d": {
        "out_channels": st.sampled_from([2, 4]),
        "kernel_size": pairs,
        "stride": pairs,
        "padding": paddings,
        "dilation": pairs,
        "groups": st.sampled_from([1, 2]),
        "bias": st.booleans(),
    },
    "max_pool2d": {
        "kernel_size": pairs,
        "stride": pairs,
        "padding": paddings,
        "dilation": pairs,
        "ceil_mode": st.booleans(),
    },
    "avg_pool2d": {
        "kernel_size": pairs,
        "stride": pairs,
        "padding": paddings,
        "ceil_mode": st.booleans(),
        "count_include_pad": st.booleans(),
    },
    "adaptive_avg_pool2d": {"output_size": pairs},
    "reshape": {"sizes": st.sampled_from([(4, 15), (60,), (2, 2, 3, 5), (7,)])},
    "leaky_relu": {"negative_slope": st.floats(-1, 1)},
    "elu": {"alpha": st.floats(0, 2)},
    "gelu": {"approximate": st.sampled_from(["none", "tanh"])},
    "softmax": {"dim": st.integers(-4, -1)},
    "log_softmax": {"dim": st.integers(-4, -1)},
    "dropout": {"p": st.floats(0, 1)},
    "layer_norm": {
        "normalized_shape": st.sampled_from([(5,), (3, 5), (4, 3, 5), (4,)]),
        "affine": st.booleans(),
        "bias": st.booleans(),
    },
    "group_norm": {"num_groups": st.integers(1, 5), "affine": st.booleans()},
    "rms_norm": {"normalized_shape": st.sampled_from([(5,), (3, 5), (4,)])},
    "batch_norm": {"affine": st.booleans(), "momentum": st.floats(0, 1)},
    "channel_dropout": {"p": st.floats(0, 1)},
    "conv1d": {
        "out_channels": st.sampled_from([2, 4]),
        "kernel_size": st.tuples(st.integers(1, 4)),
        "stride": st.tuples(st.integers(1, 4)),
        "padding": st.tuples(st.integers(0, 2)),
        "dilation": st.tuples(st.integers(1, 4)),
        "groups": st.sampled_from([1, 2]),
    },
    "conv_transpose2d": {
        "out_channels": st.sampled_from([2, 4]),
        "kernel_size": pairs,
        "stride": pairs,
        "padding": paddings,
        "output_padding": paddings,
        "dilation": pairs,
        "groups": st.sampled_from([1, 2]),
        "bias": st.booleans(),
    },
    "lstm": {"hidden_size": st.integers(1, 3), "bias": st.booleans(), "reverse": st.booleans()},
    "gru": {"hidden_size": st.integers(1, 3), "bias": st.booleans(), "reverse": st.booleans()},
    "attention": {"causal": st.booleans(), "scale": st.floats(0, 2), "p": st.floats(0, 1)},
    "embedding": {"num_embeddings": st.just(9), "embedding_dim": st.integers(1, 3)},
    "positions": {"count": st.integers(1, 9)},
    "constant": {"sizes": pairs, "values": st.lists(st.floats(-1, 1), min_size=1, max_size=6)},
    "parameter": {"sizes": pairs, "bound": st.floats(0, 1)},
    "permute": {"order": st.permutations([0, 1, 2]) | st.permutations([0, 1])},
    "slice": {
        "dim": dimensions,
        "start": st.integers(0, 3),
        "length": st.integers(1, 4),
        "step": st.integers(1, 3),
    },
    "select": {"dim": dimensions, "index": st.integers(0, 4)},
    "upsample_nearest": {"scale": pairs | st.tuples(st.integers(1, 3))},
    "masked_fill": {"value": st.floats(-5, 5)},
    "concatenate": {"dim": dimensions},
    "scale": {"factor": st.floats(-2, 2), "offset": st.floats(-2, 2)},
    "power": {"exponent": st.floats(-2, 2)},
    "hardtanh": {"minimum": st.floats(-2, 1), "maximum": st.floats(-1, 2)},
    "mean": REDUCED,
    "sum": REDUCED,
    "amax": REDUCED,
}


SHAPES = [(4, 3, 5), (4, 5)]


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_the_shape_rule_agrees_with_what_runs(name):
    schema = ARGUMENTS.get(name, {})

    @settings(max_examples=25, deadline=None)
    @given(st.fixed_dictionaries(schema), st.sampled_from(SHAPES))
    def check(arguments, shape):
        operator = OPERATORS[name]
        graph = GraphBuilder(shape, tokens=operator.tokens == "yes")
        try:
            last = graph.add(name, *["input"] * operator.arity, **arguments)
        except ArchitectureError:
            return
        taken = [shape] * operator.arity
        checked = operator.parse(arguments)
        counts = (operator.flops, operator.activations, operator.workspace)
        assert all(count(taken, graph.shapes[last], checked) >= 0 for count in counts)
        specs = graph.parameters_of(last)
        tokens = torch.zeros(2, *shape, dtype=torch.int64)
        x = tokens if operator.tokens == "yes" else torch.randn(2, *shape)
        parameters = {short: torch.ones(spec.shape) for short, spec in specs.items()}
        moment = Moment(training=True, noise_key=None, batch=2, statistics={})
        made = operator.prepare(checked, 0)([x] * operator.arity, parameters, moment)
        assert tuple(made.shape) == (2, *graph.shapes[last])

    check()


@pytest.mark.parametrize(
    ("left", "right", "fits"),
    [
        ((2, 3), (2, 3), True),
        ((2, 3), (1, 3), True),
        ((2, 3), (3,), False),
        ((2, 3), (3, 2), False),
    ],
)
def test_tensors_join_only_where_the_batch_cannot_be_confused(left, right, fits):
    rule = OPERATORS["add"]
    if fits:
        assert rule.shape((left, right), rule.parse({})) == left
    else:
        with pytest.raises(ArchitectureError, match="fit together"):
            rule.shape((left, right), rule.parse({}))


@pytest.mark.parametrize(
    ("name", "inputs", "arguments", "message"),
    [
        ("matmul", [(2, 3), (2, 3)], {}, "multiplied"),
        ("matmul", [(3,), (3,)], {}, "multiplied"),
        ("concatenate", [(2, 3), (2, 4)], {"dim": -2}, "fit together"),
        ("concatenate", [(2, 3), (2, 3)], {"dim": -3}, "out of reach"),
        ("attention", [(5, 4), (6, 4), (5, 4)], {}, "fit together"),
        ("attention", [(4,), (4,), (4,)], {}, "fit together"),
        ("permute", [(2, 3)], {"order": [0, 0]}, "once"),
        ("slice", [(2, 3)], {"dim": -1, "start": 1, "length": 2, "step": 2}, "1 to 3"),
        ("select", [(2, 3)], {"dim": -1, "index": 3}, "element 3"),
        ("select", [(2, 3)], {"dim": -1, "index": -1}, "'index'"),
        ("select", [(3,)], {"dim": -1, "index": 0}, "keep a dimension"),
        ("sum", [(2, 3)], {"dims": [-1, -2]}, "keep a dimension"),
        ("mean", [(2, 3)], {"dims": [-1, -1]}, "twice"),
        ("mean", [(2, 3)], {"dims": [0]}, "-6 to -1"),
        ("amax", [(2, 3)], {"dims": [-3]}, "out of reach"),
        ("constant", [], {"sizes": [2, 2], "values": [1, 2, 3]}, "3 values"),
        ("constant", [], {"sizes": [1], "values": [float("nan")]}, "'values'"),
        ("constant", [], {"sizes": [1], "values": [True]}, "'values'"),
        ("constant", [], {"sizes": [1], "values": [1e39]}, "'values'"),
        ("constant", [], {"sizes": [65_537], "values": [0.0] * 65_537}, "'sizes'|65,536"),
        ("embedding", [(1,) * 6], {"num_embeddings": 2, "embedding_dim": 2}, "6 dimensions"),
        ("lstm", [(4097, 2)], {"hidden_size": 2}, "4097 steps"),
        ("gru", [(4, 2, 2)], {"hidden_size": 2}, "sequence"),
        ("hardtanh", [(2,)], {"minimum": 1, "maximum": 0}, "above"),
        ("upsample_nearest", [(2, 3)], {"scale": [2, 2]}, "factor"),
        ("conv1d", [(2, 3, 4)], {"out_channels": 1, "kernel_size": [1]}, "series"),
        ("conv1d", [(2, 3)], {"out_channels": 1, "kernel_size": [4]}, "length"),
        (
            "conv_transpose2d",
            [(2, 3, 3)],
            {"out_channels": 1, "kernel_size": [2, 2], "output_padding": [1, 1]},
            "output_padding",
        ),
        (
            "conv_transpose2d",
            [(2, 1, 1)],
            {"out_channels": 1, "kernel_size": [2, 2], "padding": [1, 1]},
            "leaves nothing",
        ),
    ],
)
def test_what_does_not_fit_is_refused_saying_why(name, inputs, arguments, message):
    operator = OPERATORS[name]
    with pytest.raises(ArchitectureError, match=message):
        infer(operator, inputs, operator.parse(arguments))


def test_dimensions_and_numbers_have_one_form():
    def parsed(name, arguments):
        return OPERATORS[name].parse(arguments)

    assert parsed("mean", {"dims": [-1, -3]}) == parsed("mean", {"dims": (-3, -1)})
    whole, real = {"sizes": [2], "values": [0, 1]}, {"sizes": [2], "values": [-0.0, 1.0]}
    assert repr(parsed("constant", whole)) == repr(parsed("constant", real))
