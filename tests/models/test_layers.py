"""What layers do over time: batch norm's statistics, dropout in both modes, how weights start."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from neuronexus_kernel.models import Architecture
from neuronexus_kernel.models.graph import GraphBuilder


def one_layer(shape, operator, *, tokens=False, inputs=1, **arguments):
    graph = GraphBuilder(shape, tokens=tokens)
    last = graph.add(operator, *["input"] * inputs, **arguments)
    dtype = "int64" if tokens else "float32"
    return Architecture(shape, tuple(graph.nodes), last, input_dtype=dtype)


# Batch norm

NORM = one_layer((3, 4, 2), "batch_norm", momentum=0.3)


def running(module):
    return {name: value for name, value in module.state_dict().items() if "running" in name}


def test_running_statistics_are_part_of_the_state_but_no_parameters():
    assert list(NORM.parameter_shapes) == [
        "batch_norm_1.bias",
        "batch_norm_1.running_mean",
        "batch_norm_1.running_var",
        "batch_norm_1.weight",
    ]
    assert NORM.statistics == ("batch_norm_1.running_mean", "batch_norm_1.running_var")
    assert NORM.parameter_count == 6
    assert NORM.summary()["parameters"].tolist() == [6]
    start = NORM.initial_weights()
    assert (start["batch_norm_1.running_mean"] == 0).all()
    assert (start["batch_norm_1.running_var"] == 1).all()
    built = NORM.build()
    assert len(list(built.parameters())) == 2
    assert sorted(built.state_dict()) == list(NORM.parameter_shapes)


def test_batch_norm_follows_pytorchs_through_training_and_evaluation():
    ours, theirs = NORM.build().double(), nn.BatchNorm2d(3, momentum=0.3).double()
    generator = torch.Generator().manual_seed(0)
    for batch in (5, 1, 7):
        x = torch.randn(batch, 3, 4, 2, generator=generator, dtype=torch.float64) * 3 + 1
        assert torch.allclose(ours.train()(x), theirs.train()(x), rtol=0, atol=1e-12)
    for name, value in running(ours).items():
        assert torch.allclose(
            value, theirs.state_dict()[name.partition(".")[2]], rtol=0, atol=1e-12
        )
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), rtol=0, atol=1e-12)
    before = running(ours)
    ours(x * 5)
    assert all(torch.equal(value, before[name]) for name, value in running(ours).items())


def test_rows_that_fill_up_a_batch_do_not_count():
    built, state = NORM.build().double(), NORM.build().double().state()
    x = torch.randn(6, 3, 4, 2, dtype=torch.float64)
    filled = torch.cat((x, torch.full_like(x[:2], 1e6)))
    rows = torch.tensor([1.0] * 6 + [0.0] * 2)
    alone, statistics = built.compute(state, x, training=True)
    padded, also = built.compute(state, filled, training=True, rows=rows)
    assert torch.allclose(padded[:6], alone, rtol=0, atol=1e-12)
    assert statistics.keys() == also.keys() == set(NORM.statistics)
    for name, value in statistics.items():
        assert torch.allclose(also[name], value, rtol=0, atol=1e-12)


def test_a_batch_of_filling_alone_changes_no_statistics_and_makes_no_nan():
    built = NORM.build()
    nothing = torch.zeros(4, 3, 4, 2)
    made, statistics = built.compute(built.state(), nothing, training=True, rows=torch.zeros(4))
    assert torch.isfinite(made).all()
    assert all(torch.equal(value, built.state()[name]) for name, value in statistics.items())


def test_a_batch_of_one_number_a_channel_is_normalised_to_the_bias():
    built = one_layer((3,), "batch_norm", momentum=0.5).build().train()
    assert torch.equal(built(torch.tensor([[4.0, -2.0, 7.0]])), torch.zeros(1, 3))
    assert running(built)["batch_norm_1.running_mean"].tolist() == [2.0, -1.0, 3.5]
    assert running(built)["batch_norm_1.running_var"].tolist() == [0.5, 0.5, 0.5]


def test_a_negative_running_variance_is_taken_for_zero():
    weights = NORM.initial_weights()
    weights["batch_norm_1.running_var"][:] = -0.5
    made = NORM.build(weights).eval()(torch.ones(2, 3, 4, 2))
    assert torch.allclose(made, torch.full_like(made, 1e-5**-0.5), rtol=1e-5)


def test_evaluation_of_batch_norm_leaves_no_statistics():
    built = NORM.build()
    _, statistics = built.compute(built.state(), torch.randn(2, 3, 4, 2), training=False)
    assert statistics == {}


# Dropout of channels and of attention


def keyed(architecture, key):
    module = architecture.build().train()
    module.keyed = True
    module.noise_key.fill_(key)
    return module


def test_channel_dropout_drops_whole_channels():
    made = keyed(one_layer((64, 5, 5), "channel_dropout", p=0.25), 3)(torch.ones(32, 64, 5, 5))
    dropped = (made == 0).flatten(2)
    assert (dropped.all(2) == dropped.any(2)).all()
    assert dropped.double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert made.max().item() == pytest.approx(1 / 0.75)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4), (6, 2, 3, 2)])
def test_unkeyed_channel_dropout_is_pytorchs(shape):
    layer = {2: nn.Dropout1d, 3: nn.Dropout2d, 4: nn.Dropout3d}[len(shape)](0.4)
    built = one_layer(shape, "channel_dropout", p=0.4).build().train()
    x = torch.randn(3, *shape)
    torch.manual_seed(5)
    wanted = layer(x)
    torch.manual_seed(5)
    assert torch.allclose(built(x), wanted)
    assert torch.equal(built.eval()(x), x)


def test_attention_drops_weights_by_its_key_in_training_alone():
    dropping = one_layer((6, 4), "attention", inputs=3, p=0.5)
    plain = one_layer((6, 4), "attention", inputs=3)
    x = torch.randn(8, 6, 4)
    first, again, other = (keyed(dropping, key)(x) for key in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(keyed(dropping, 1).eval()(x), plain.build()(x))
    torch.testing.assert_close(keyed(dropping, 1)(x[:3]), first[:3])
    many = torch.randn(4000, 6, 4)
    gap = (keyed(dropping, 1)(many) - plain.build()(many)).mean().item()
    assert gap == pytest.approx(0.0, abs=0.01)


# How weights start


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [
        (one_layer((7, 5), "lstm", hidden_size=9), nn.LSTM(5, 9)),
        (one_layer((7, 5), "gru", hidden_size=9, bias=False), nn.GRU(5, 9, bias=False)),
        (
            one_layer((6, 5), "conv1d", out_channels=8, kernel_size=(3,), groups=2),
            nn.Conv1d(6, 8, 3, groups=2),
        ),
        (
            one_layer((6, 5, 5), "conv_transpose2d", out_channels=8, kernel_size=(3, 2), groups=2),
            nn.ConvTranspose2d(6, 8, (3, 2), groups=2),
        ),
    ],
)
def test_weights_have_the_shape_and_the_spread_of_pytorchs(architecture, layer):
    start = {name.partition(".")[2]: v for name, v in architecture.initial_weights(2).items()}
    theirs = {name.removesuffix("_l0"): value for name, value in layer.named_parameters()}
    assert {name: value.shape for name, value in start.items()} == {
        name: tuple(value.shape) for name, value in theirs.items()
    }
    for name, value in start.items():
        bound = architecture.parameters[next(n for n in architecture.parameters if name in n)].bound
        assert np.abs(value).max() <= bound
        assert theirs[name].abs().max().item() <= bound + 1e-6
        if value.size > 50:
            assert theirs[name].abs().max().item() > 0.8 * bound


def test_an_embedding_starts_with_unit_deviation_and_a_parameter_as_it_says():
    table = one_layer((3,), "embedding", tokens=True, num_embeddings=500, embedding_dim=40)
    start = table.initial_weights()["embedding_1.weight"]
    assert start.std() == pytest.approx(1.0, rel=0.01)
    assert np.abs(start).max() <= math.sqrt(3) + 1e-6
    graph = GraphBuilder((40, 40))
    own = graph.add("parameter", sizes=(40, 40), bound=0.02, centre=1)
    last = graph.add("multiply", "input", own)
    value = Architecture((40, 40), tuple(graph.nodes), last).initial_weights()["parameter_1.value"]
    assert 0.98 <= value.min() < 0.981
    assert 1.019 < value.max() <= 1.02


def test_a_constant_is_exact_in_the_precision_of_the_weights():
    graph = GraphBuilder((1,))
    last = graph.add("linear", "input", out_features=1)
    last = graph.add("add", last, graph.add("constant", sizes=(1,), values=(0.1,)))
    built = Architecture((1,), tuple(graph.nodes), last).build()
    for dtype in (torch.float32, torch.float64):
        built.to(dtype)
        with torch.no_grad():
            built.get_parameter("linear_1.bias").zero_()
        made = built(torch.zeros(2, 1, dtype=dtype))
        assert made.dtype == dtype
        assert made[0, 0] == torch.tensor(0.1, dtype=dtype)
