import time

import pytest
import torch
from torch import nn

from neuronexus_kernel.models import Architecture, cnn, diff, mlp
from neuronexus_kernel.models.graph import GraphBuilder


def rows(before, after):
    return [tuple(row) for row in diff(before, after).itertuples(index=False)]


def residual(*, twice=False, width=8):
    graph = GraphBuilder((8,))
    x = graph.add("linear", "input", out_features=width)
    y = graph.add("relu", x)
    if twice:
        y = graph.add("linear", y, out_features=width)
    graph.add("linear", graph.add("add", x, y), out_features=2)
    return Architecture((8,), tuple(graph.nodes), graph.nodes[-1].name)


@pytest.mark.parametrize("same", [mlp(784, (200, 200), 10), cnn(), residual()])
def test_equal_architectures_differ_in_nothing(same):
    table = diff(same, Architecture.decode(same.encode()))
    assert table.empty
    assert list(table.columns) == ["change", "layer", "operator", "what", "parameters"]


def test_a_layer_that_is_put_in_is_all_that_changed():
    assert rows(residual(), residual(twice=True)) == [
        (
            "added",
            "linear_2",
            "linear",
            "bias: true, out_features: 8, inputs: relu_1",
            72,
        )
    ]
    taken_out = rows(residual(twice=True), residual())
    assert [row[:3] for row in taken_out] == [("removed", "linear_2", "linear")]
    assert taken_out[0][4] == -72


def test_a_deeper_mlp_gains_a_linear_layer_and_an_activation():
    found = diff(mlp(64, (32,), 10), mlp(64, (32, 32), 10))
    assert sorted(zip(found["change"], found["operator"], strict=True)) == [
        ("added", "linear"),
        ("added", "relu"),
    ]


def test_a_wider_layer_changes_itself_and_the_weights_behind_it():
    assert rows(mlp(64, (32,), 10), mlp(64, (48,), 10)) == [
        (
            "changed",
            "linear_1",
            "linear",
            "out_features: 32 -> 48, weight: (32, 64) -> (48, 64), bias: (32,) -> (48,)",
            16 * 65,
        ),
        ("changed", "linear_2", "linear", "weight: (10, 32) -> (10, 48)", 160),
    ]


def test_another_wiring_is_a_change():
    def wired(last):
        graph = GraphBuilder((4,))
        x = graph.add("tanh", "input")
        y = graph.add("exp", x)
        graph.add("add", y, {"x": x, "y": y}[last])
        return Architecture((4,), tuple(graph.nodes), "add_1")

    assert rows(wired("x"), wired("y")) == [
        ("changed", "add_1", "add", "inputs: exp_1, tanh_1 -> exp_1, exp_1", 0)
    ]


def test_another_input_is_a_change():
    assert rows(mlp(64, (), 10), mlp(32, (), 10))[0] == (
        "changed",
        "input",
        "",
        "shape: (64,) -> (32,)",
        0,
    )


def test_sharing_a_parameter_is_a_change():
    def tied(shared):
        graph = GraphBuilder((4,))
        x = graph.add("linear", graph.add("linear", "input", out_features=4), out_features=4)
        if shared:
            graph.share(x, "weight", "linear_1.weight")
        return Architecture((4,), tuple(graph.nodes), x)

    assert rows(tied(False), tied(True)) == [
        ("changed", "linear_2", "linear", "weight shared with: none -> linear_1.weight", -16)
    ]
    assert rows(tied(True), tied(True)) == []


def test_names_alone_are_said_when_nothing_else_differs():
    document = mlp(4, (), 2).to_dict()
    document["nodes"][1]["name"] = document["output"] = "head"
    assert rows(mlp(4, (), 2), Architecture.from_dict(document)) == [
        ("changed", "linear_1 -> head", "linear", "name", 0)
    ]


def test_long_constants_are_not_spelled_out():
    def masked(value):
        graph = GraphBuilder((100,))
        mask = graph.add("constant", sizes=(100,), values=(value,) * 100)
        graph.add("multiply", "input", mask)
        return Architecture((100,), tuple(graph.nodes), "multiply_1")

    assert rows(masked(0.0), masked(1.0))[0][3] == "values: 100 numbers -> 100 numbers"


PAIRS = [
    (mlp(64, (32,), 10), mlp(64, (16, 16, 16), 10)),
    (cnn((1, 8, 8), 10), cnn((3, 8, 8), 5, channels=(4, 8, 8))),
    (mlp(64, (32,), 10), cnn((1, 8, 8), 10)),
    (residual(), residual(twice=True, width=5)),
]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_the_parameters_of_the_rows_add_up_to_the_difference(before, after):
    assert diff(before, after)["parameters"].sum() == after.parameter_count - before.parameter_count
    there, back = diff(before, after), diff(after, before)
    assert there["parameters"].sum() == -back["parameters"].sum()


def test_batch_norm_instead_of_group_norm_is_one_layer_out_and_one_in():
    def network(norm):
        return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))

    x = torch.zeros(1, 1, 6, 6)
    first, second = (
        Architecture.capture(network(norm), x) for norm in (nn.GroupNorm(2, 4), nn.BatchNorm2d(4))
    )
    table = diff(first, second)
    assert sorted(zip(table["change"], table["operator"], strict=True)) == [
        ("added", "batch_norm"),
        ("removed", "group_norm"),
    ]


def test_large_networks_are_compared_in_time():
    first, second = mlp(4, (4,) * 100, 2), mlp(4, (4, 5) * 50, 2)
    start = time.perf_counter()
    assert len(diff(first, second))
    assert time.perf_counter() - start < 2.0
