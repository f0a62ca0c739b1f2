import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import Architecture
from neuronexus_kernel.models.graph import GraphBuilder
from neuronexus_kernel.models.operators import OPERATORS

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
paddings = st.tuples(st.integers(0, 2), st.integers(0, 2))
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
}


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_the_shape_rule_agrees_with_what_runs(name):
    schema = ARGUMENTS.get(name, {})

    @settings(max_examples=25, deadline=None)
    @given(st.fixed_dictionaries(schema))
    def check(arguments):
        graph = GraphBuilder((4, 3, 5))
        try:
            last = graph.add(name, *["input"] * OPERATORS[name].arity, **arguments)
        except ArchitectureError:
            return
        architecture = Architecture((4, 3, 5), tuple(graph.nodes), last)
        made = architecture.build()(torch.randn(2, 4, 3, 5))
        assert tuple(made.shape) == (2, *architecture.output_shape)
        assert (architecture.summary()["FLOPs"] >= 0).all()

    check()


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_operator_has_arguments_that_work(name):
    graph = GraphBuilder((4, 8, 8))
    fixed = {
        "linear": {"out_features": 3},
        "conv2d": {"out_channels": 2, "kernel_size": (3, 3)},
        "max_pool2d": {"kernel_size": (2, 2), "stride": (2, 2)},
        "avg_pool2d": {"kernel_size": (2, 2), "stride": (2, 2)},
        "adaptive_avg_pool2d": {"output_size": (1, 1)},
        "reshape": {"sizes": (16, 16)},
        "layer_norm": {"normalized_shape": (8,)},
        "group_norm": {"num_groups": 2},
    }
    last = graph.add(name, *["input"] * OPERATORS[name].arity, **fixed.get(name, {}))
    architecture = Architecture((4, 8, 8), tuple(graph.nodes), last)
    assert architecture.build()(torch.zeros(1, 4, 8, 8)).shape[1:] == architecture.output_shape


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
