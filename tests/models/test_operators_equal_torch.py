"""Every operator computes what PyTorch computes: forward, gradient, and under ``torch.func``."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from neuronexus_kernel.models import Architecture, noise
from neuronexus_kernel.models.graph import GraphBuilder
from neuronexus_kernel.models.operators import OPERATORS

SHAPE = (4, 6, 6)


@dataclass
class Case:
    """An operator with arguments, and the same written in PyTorch as (inputs, weights) -> output.

    `build` adds the inputs' nodes to a graph and returns their names; by default each input is
    the graph's own.
    """

    operator: str
    same: Callable
    arguments: dict = field(default_factory=dict)
    shape: tuple = SHAPE
    before: Callable | None = None
    positive: bool = False
    tokens: int = 0

    def architecture(self):
        graph = GraphBuilder(self.shape, tokens=bool(self.tokens))
        names = self.before(graph) if self.before else ["input"] * OPERATORS[self.operator].arity
        last = graph.add(self.operator, *names, **self.arguments)
        if not OPERATORS[self.operator].arity:
            last = graph.add("add", last, "input")
        dtype = "int64" if self.tokens else "float32"
        return Architecture(self.shape, tuple(graph.nodes), last, input_dtype=dtype)

    def examples(self, *batch, dtype=torch.float64):
        generator = torch.Generator().manual_seed(1)
        if self.tokens:
            return torch.randint(self.tokens, (*batch, *self.shape), generator=generator)
        x = torch.randn(*batch, *self.shape, generator=generator, dtype=torch.float64)
        return (x.abs() + 0.1 if self.positive else x).to(dtype)


def other(**arguments):
    """Give a node of two inputs the graph's input and a changed copy of it."""
    return lambda graph: ["input", graph.add("scale", "input", **arguments)]


def turned(graph):
    return ["input", graph.add("permute", "input", order=(0, 2, 1))]


def three(graph):
    return [graph.add("scale", "input", factor=factor) for factor in (0.5, 1.0, -2.0)]


def recurrent(function, states, reverse):
    """Return ``torch.lstm`` or ``torch.gru``, which nn.LSTM and nn.GRU call."""

    def same(x, w):
        flip = (lambda t: t.flip(1)) if reverse else (lambda t: t)
        start = x.new_zeros(1, x.shape[0], 3)
        start = (start, start) if states == 2 else start
        named = [w[name] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        return flip(function(flip(x), start, named, True, 1, 0.0, True, False, True)[0])

    return same


WINDOW = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
CASES = [
    Case("linear", lambda x, w: F.linear(x, w["weight"], w["bias"]), {"out_features": 3}),
    Case(
        "conv1d",
        lambda x, w: F.conv1d(x, w["weight"], w["bias"], 2, 1, 2, 2),
        {
            "out_channels": 6,
            "kernel_size": (3,),
            "stride": (2,),
            "padding": (1,),
            "dilation": (2,),
            "groups": 2,
        },
        shape=(4, 9),
    ),
    Case(
        "conv2d",
        lambda x, w: F.conv2d(x, w["weight"], w["bias"], (2, 1), (1, 0), (1, 2), 2),
        {"out_channels": 6, "groups": 2, **WINDOW},
    ),
    Case(
        "conv_transpose2d",
        lambda x, w: F.conv_transpose2d(
            x, w["weight"], w["bias"], (2, 1), (1, 0), (1, 1), 2, (1, 2)
        ),
        {"out_channels": 6, "groups": 2, "output_padding": (1, 1), **WINDOW},
    ),
    Case("lstm", recurrent(torch.lstm, 2, False), {"hidden_size": 3}, shape=(7, 5)),
    Case("lstm", recurrent(torch.lstm, 2, True), {"hidden_size": 3, "reverse": True}, shape=(7, 5)),
    Case("gru", recurrent(torch.gru, 1, False), {"hidden_size": 3}, shape=(7, 5)),
    Case("gru", recurrent(torch.gru, 1, True), {"hidden_size": 3, "reverse": True}, shape=(7, 5)),
    Case(
        "attention",
        lambda x, w: F.scaled_dot_product_attention(0.5 * x, x, -2 * x),
        before=three,
    ),
    Case(
        "attention",
        lambda x, w: F.scaled_dot_product_attention(0.5 * x, x, -2 * x, is_causal=True, scale=0.7),
        {"causal": True, "scale": 0.7},
        before=three,
    ),
    Case(
        "embedding",
        lambda x, w: F.embedding(x, w["weight"]),
        {"num_embeddings": 7, "embedding_dim": 3},
        shape=(5,),
        tokens=7,
    ),
    Case(
        "constant",
        lambda x, w: x + torch.tensor([0.5, -1.0], dtype=x.dtype),
        {"sizes": (2,), "values": (0.5, -1)},
        shape=(2,),
    ),
    Case("parameter", lambda x, w: x + w["value"], {"sizes": (3, 2), "bound": 1.0}, shape=(3, 2)),
    Case("max_pool2d", lambda x, w: F.max_pool2d(x, 2), {"kernel_size": (2, 2), "stride": (2, 2)}),
    Case("avg_pool2d", lambda x, w: F.avg_pool2d(x, 2), {"kernel_size": (2, 2), "stride": (2, 2)}),
    Case(
        "adaptive_avg_pool2d",
        lambda x, w: F.adaptive_avg_pool2d(x, (4, 3)),
        {"output_size": (4, 3)},
    ),
    Case("flatten", lambda x, w: x.flatten(1)),
    Case("reshape", lambda x, w: x.reshape(-1, 2, 72), {"sizes": (2, 72)}),
    Case("permute", lambda x, w: x.permute(0, 3, 1, 2), {"order": (2, 0, 1)}),
    Case(
        "slice",
        lambda x, w: x[:, :, 1:6:2],
        {"dim": -2, "start": 1, "length": 3, "step": 2},
    ),
    Case("select", lambda x, w: x[:, 2], {"dim": -3, "index": 2}),
    Case(
        "upsample_nearest",
        lambda x, w: F.interpolate(x, scale_factor=(2, 3)),
        {"scale": (2, 3)},
    ),
    Case("add", lambda x, w: x + (3 * x + 1), before=other(factor=3, offset=1)),
    Case("subtract", lambda x, w: x - (3 * x + 1), before=other(factor=3, offset=1)),
    Case("multiply", lambda x, w: x * (x + 1), before=other(offset=1)),
    Case("divide", lambda x, w: x / (x + 1), before=other(offset=1), positive=True),
    Case("matmul", lambda x, w: x @ x.transpose(-1, -2), before=turned),
    Case(
        "masked_fill",
        lambda x, w: x.masked_fill(F.relu(x) != 0, -3.5),
        {"value": -3.5},
        before=lambda graph: ["input", graph.add("relu", "input")],
    ),
    Case(
        "concatenate",
        lambda x, w: torch.cat((x, 2 * x), 2),
        {"dim": -2},
        before=other(factor=2),
    ),
    Case("mean", lambda x, w: x.mean((1, 3)), {"dims": (-1, -3)}),
    Case("sum", lambda x, w: x.sum((2, 3), keepdim=True), {"dims": (-2, -1), "keepdim": True}),
    Case("amax", lambda x, w: x.amax((1,)), {"dims": (-3,)}),
    Case("scale", lambda x, w: x * 0.3 - 2, {"factor": 0.3, "offset": -2}),
    Case("power", lambda x, w: x**2.5, {"exponent": 2.5}, positive=True),
    Case("exp", lambda x, w: x.exp()),
    Case("log", lambda x, w: x.log(), positive=True),
    Case("sqrt", lambda x, w: x.sqrt(), positive=True),
    Case("abs", lambda x, w: x.abs()),
    Case("relu", lambda x, w: F.relu(x)),
    Case("leaky_relu", lambda x, w: F.leaky_relu(x, 0.2), {"negative_slope": 0.2}),
    Case("gelu", lambda x, w: F.gelu(x)),
    Case("gelu", lambda x, w: F.gelu(x, approximate="tanh"), {"approximate": "tanh"}),
    Case("elu", lambda x, w: F.elu(x, 0.7), {"alpha": 0.7}),
    Case("silu", lambda x, w: F.silu(x)),
    Case("tanh", lambda x, w: x.tanh()),
    Case("sigmoid", lambda x, w: x.sigmoid()),
    Case("softplus", lambda x, w: F.softplus(x)),
    Case("hardswish", lambda x, w: F.hardswish(x)),
    Case("hardtanh", lambda x, w: F.relu6(x), {"minimum": 0, "maximum": 6}),
    Case("mish", lambda x, w: F.mish(x)),
    Case("softmax", lambda x, w: x.softmax(2), {"dim": -2}),
    Case("log_softmax", lambda x, w: x.log_softmax(3)),
    Case(
        "layer_norm",
        lambda x, w: F.layer_norm(x, (6, 6), w["weight"], w["bias"], 1e-3),
        {"normalized_shape": (6, 6), "eps": 1e-3},
    ),
    Case(
        "rms_norm",
        lambda x, w: F.rms_norm(x, (6,), w["weight"], 1e-3),
        {"normalized_shape": (6,), "eps": 1e-3},
    ),
    Case(
        "group_norm",
        lambda x, w: F.group_norm(x, 2, w["weight"], w["bias"]),
        {"num_groups": 2},
    ),
    Case(
        "batch_norm",
        lambda x, w: F.batch_norm(x, None, None, w["weight"], w["bias"], training=True),
    ),
    Case("dropout", lambda x, w: x, {"p": 0.0}),
    Case("channel_dropout", lambda x, w: x, {"p": 0.0}),
]
DROPPING = [
    Case("dropout", None, {"p": 0.5}),
    Case("channel_dropout", None, {"p": 0.5}),
    Case("attention", None, {"p": 0.5}, before=three),
]
"""What is random has no equal in PyTorch; it must be the same under vmap and alone."""


def name_of(case):
    return case.operator


def weights(architecture, seed, dtype=torch.float64):
    """Return starting weights, all moved a little so that no two are equal."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.from_numpy(value).to(dtype)
        + 0.1 * torch.rand(value.shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, value in architecture.initial_weights(seed).items()
    }


def trainable(architecture, state):
    return {name: value for name, value in state.items() if name not in architecture.statistics}


def by_short_name(state):
    return {name.partition(".")[2]: value for name, value in state.items()}


def test_every_operator_has_a_case():
    assert {case.operator for case in CASES} | {"positions"} == set(OPERATORS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_output_and_gradient_equal_those_of_pytorch(case, dtype):
    architecture = case.architecture()
    built = architecture.build()
    state, x = weights(architecture, 0, dtype), case.examples(5, dtype=dtype)
    learnt = trainable(architecture, state)

    def ours(values, examples):
        return built.compute({**state, **values}, examples, training=True)[0]

    def theirs(values, examples):
        return case.same(examples, by_short_name(values))

    found, wanted = ours(learnt, x), theirs(learnt, x)
    assert found.dtype == wanted.dtype == dtype
    assert found.shape == (5, *architecture.output_shape)
    scale = 2e-5 if dtype == torch.float32 else 1e-11
    assert torch.allclose(found, wanted, rtol=scale, atol=scale)

    def loss(function):
        seen = torch.linspace(-1, 2, wanted.numel(), dtype=dtype).reshape(wanted.shape)
        return lambda *both: (function(*both) * seen).mean()

    place = 0 if case.tokens else (0, 1)
    first, second = (grad(loss(each), place)(learnt, x) for each in (ours, theirs))
    for one, another in zip(
        torch.utils._pytree.tree_leaves(first),
        torch.utils._pytree.tree_leaves(second),
        strict=True,
    ):
        assert torch.allclose(one, another, rtol=scale, atol=scale)


@pytest.mark.parametrize("case", [*CASES, *DROPPING], ids=name_of)
def test_clients_under_vmap_equal_a_loop_over_them(case):
    architecture = case.architecture()
    built = architecture.build()
    states = [weights(architecture, seed) for seed in range(3)]
    keys = torch.tensor([noise.key_of("client", client) for client in range(3)])
    rows = torch.tensor([[1, 1, 1, 1.0], [1, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.float64)
    x = case.examples(3, 4)

    def step(state, key, examples, counted):
        learnt = trainable(architecture, state)

        def loss(values):
            made, statistics = built.compute(
                {**state, **values}, examples, training=True, noise_key=key, rows=counted
            )
            return (made.square().flatten(1).mean(1) * counted).sum(), statistics

        return grad(loss, has_aux=True)(learnt)

    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    together = vmap(step)(stacked, keys, x, rows)
    for client in range(3):
        alone = step(states[client], keys[client], x[client], rows[client])
        for batched, single in zip(together, alone, strict=True):
            for name, value in single.items():
                assert torch.allclose(batched[name][client], value, rtol=1e-11, atol=1e-12), name


@pytest.mark.parametrize("case", [*CASES, *DROPPING], ids=name_of)
def test_everything_is_made_on_the_device_of_the_input(case):
    """The meta device computes nothing, but refuses to mix with tensors that lie elsewhere."""
    architecture = case.architecture()
    built = architecture.build().to("meta")
    key = torch.zeros((), dtype=torch.int64, device="meta")
    x = case.examples(5, dtype=torch.float32).to("meta")
    for rows in (None, torch.ones(5, device="meta")):
        made, statistics = built.compute(built.state(), x, training=True, noise_key=key, rows=rows)
        assert made.shape == (5, *architecture.output_shape)
        assert {each.device.type for each in (made, *statistics.values())} == {"meta"}


def test_positions_feed_an_embedding_that_learns():
    graph = GraphBuilder((4, 3))
    places = graph.add("positions", count=4)
    table = graph.add("embedding", places, num_embeddings=6, embedding_dim=3)
    last = graph.add("add", "input", table)
    architecture = Architecture((4, 3), tuple(graph.nodes), last)
    state = weights(architecture, 0)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    made = architecture.build().compute(state, x, training=True)[0]
    assert torch.equal(made, x + state["embedding_1.weight"][:4])
    assert architecture.vocabulary is None
