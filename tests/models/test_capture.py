import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import Architecture


@torch.fx.wrap
def shell(x):
    raise AssertionError("must never run")


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 9)
        self.second = nn.Linear(9, 4, bias=False)

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 5, padding="same"),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), dilation=(1, 2), groups=2),
            nn.GELU(),
            nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
        )
        self.classify = nn.Linear(6, 3)

    def forward(self, x):
        x = self.features(x.view(-1, 1, 12, 12))
        x = F.adaptive_avg_pool2d(x, (None, 1))
        return self.classify(x.mean((2, 3)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.block = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.gate = nn.Linear(8, 8)
        self.flat_norm = nn.LayerNorm((8, 4, 4))
        self.out = nn.Linear(128, 5)

    def forward(self, x):
        x = F.silu(self.norm(self.stem(x)))
        gate = torch.sigmoid(self.gate(x.mean((2, 3)))).unsqueeze(-1).unsqueeze(-1)
        x = x + F.leaky_relu(self.block(x), 0.2) * gate
        x = self.flat_norm(x)
        batch, channels, height, width = x.shape
        return F.log_softmax(self.out(x.view(batch, channels * height * width)), dim=1)


class Reshaping(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(12, 4)
        self.norm = nn.LayerNorm(3, elementwise_affine=False)
        self.more = nn.Sequential(nn.Identity(), nn.ELU(0.5), nn.Unflatten(1, (2, 2)), nn.Tanh())

    def forward(self, x):
        x = self.norm(self.a(x.reshape(x.size(0), -1, 4)))
        x = self.b(x).unflatten(1, (2, 3)).contiguous()
        x = torch.flatten(x, 1, 2)
        x = self.c(x.view(x.shape[0], x.shape[1:].numel()))
        x = self.more(x).flatten(start_dim=1)
        return x.unsqueeze(1).squeeze(1).softmax(-1)


NETWORKS = [
    (Perceptron, (12,)),
    (Convolutional, (144,)),
    (Convolutional, (12, 12)),
    (Residual, (2, 4, 4)),
    (Reshaping, (24,)),
    (Reshaping, (6, 4)),
]


@pytest.mark.parametrize(("network", "shape"), NETWORKS)
def test_a_built_module_computes_what_the_original_computes(network, shape):
    torch.manual_seed(1)
    original = network().double()
    architecture = Architecture.capture(original, torch.zeros(1, *shape))
    built = architecture.build(architecture.weights_of(original))
    x = torch.randn(7, *shape, dtype=torch.float64)
    for mode in (True, False):
        original.train(mode)
        built.train(mode)
        assert torch.allclose(original(x), built(x), rtol=0, atol=1e-12)
    assert tuple(built(x).shape[1:]) == architecture.output_shape


@pytest.mark.parametrize(("network", "shape"), NETWORKS)
def test_a_built_module_has_the_gradients_of_the_original(network, shape):
    torch.manual_seed(2)
    original = network().double()
    architecture = Architecture.capture(original, torch.zeros(1, *shape))
    built = architecture.build(architecture.weights_of(original))
    x = torch.randn(7, *shape, dtype=torch.float64)
    original(x).square().sum().backward()
    built(x).square().sum().backward()
    there = dict(original.named_parameters())
    here = dict(built.named_parameters())
    assert set(here) == set(architecture.parameter_shapes)
    assert len(there) == len(here)
    for name, value in here.items():
        assert torch.allclose(value.grad, there[architecture.sources[name]].grad, atol=1e-12)


@pytest.mark.parametrize(("network", "shape"), NETWORKS)
def test_two_captures_of_a_network_have_one_cid(network, shape):
    first = Architecture.capture(network(), torch.zeros(1, *shape))
    second = Architecture.capture(network(), np.ones((4, *shape)))
    assert first.cid == second.cid
    assert first == second
    assert Architecture.from_dict(first.to_dict()).cid == first.cid


def test_names_of_the_module_and_ways_to_write_it_do_not_change_the_cid():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(12, 2)
            self.layers = nn.ModuleList([nn.Linear(12, 9), nn.Linear(9, 4, bias=False)])

        def forward(self, data):
            for layer in self.layers[:-1]:
                data = layer(data).relu()
            return F.linear(data, self.layers[-1].weight)

    example = torch.zeros(1, 12)
    assert (
        Architecture.capture(Other(), example).cid
        == Architecture.capture(Perceptron(), example).cid
    )


def test_weights_are_read_from_any_module_of_the_same_structure():
    architecture = Architecture.from_dict(
        Architecture.capture(Perceptron(), torch.zeros(1, 12)).to_dict()
    )
    module = Perceptron()
    weights = architecture.weights_of(module)
    assert list(weights) == sorted(architecture.parameter_shapes)
    assert np.array_equal(weights["linear_1.weight"], module.first.weight.detach())
    assert np.array_equal(
        architecture.weights_of(architecture.build(weights))["linear_2.weight"],
        module.second.weight.detach(),
    )


def test_weights_of_another_structure_are_refused():
    architecture = Architecture.capture(Perceptron(), torch.zeros(1, 12))
    with pytest.raises(ArchitectureError, match="another graph"):
        architecture.weights_of(nn.Sequential(nn.Linear(12, 4)))


def test_capturing_leaves_the_module_and_the_random_generator_as_they_were():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    module[1].eval()
    before = copy.deepcopy(module.state_dict())
    state = torch.get_rng_state()
    Architecture.capture(module, torch.zeros(1, 4))
    assert [each.training for each in module] == [True, False, True]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_built_module_is_captured_as_the_architecture_it_was_built_from():
    architecture = Architecture.capture(Perceptron(), torch.zeros(1, 12))
    assert Architecture.capture(architecture.build(), torch.zeros(1, 12)) == architecture


def test_functional_dropout_follows_the_mode():
    class Dropping(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5, self.training)

    built = Architecture.capture(Dropping().eval(), torch.zeros(1, 1000)).build()
    x = torch.ones(1, 1000)
    assert torch.equal(built.eval()(x), x)
    assert 300 < int((built.train()(x) == 0).sum()) < 700


# What cannot be captured


class Doing(nn.Module):
    """Does what it is told, with a few layers at hand."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.linear, self.relu = nn.Linear(8, 8), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.what(self, x)


def read_after_change(m, x):
    y = m.linear(x)
    z = m.relu(y)
    return y + z


def changed_without_result(m, x):
    y = m.linear(x)
    F.relu_(y)
    return y


FORBIDDEN = [
    (lambda m, x: torch.cumsum(x, 1), "cumsum.*not allowed"),
    (lambda m, x: x.sort(1)[0], "Tensor.sort.*not allowed"),
    (lambda m, x: x.apply_(print), "cannot be traced"),
    (lambda m, x: x.__reduce_ex__(2), "."),
    (lambda m, x: m.linear(x).__class__, "."),
    (lambda m, x: x.data, "'data'"),
    (lambda m, x: x + torch.randn(8), "random.*randn"),
    (lambda m, x: m.linear(x) + x.shape[0], "batch size"),
    (lambda m, x: m.linear(x) if x.sum() > 0 else x, "gt.*depends on its value"),
    (lambda m, x: torch.stack([m.linear(row) for row in x]), "'x'.*loop"),
    (lambda m, x: F.dropout(m.linear(x)), "dropout.*self.training"),
    (lambda m, x: m.relu(m.linear(x)) if m.training else m.linear(x), "relu.*in training"),
    (lambda m, x: m.linear(x) if m.training else m.relu(m.linear(x)), "training"),
    (lambda m, x: x.view(1, 8), "view.*stand for the batch"),
    (lambda m, x: x.view(-1), "view"),
    (lambda m, x: x.view(-1, 4), "view.*stay together"),
    (lambda m, x: x.view(x.shape[0] * 2, 4), "mul.*batch size|batch size"),
    (lambda m, x: x.flatten(), "flatten.*batch"),
    (lambda m, x: x.squeeze(), "squeeze"),
    (lambda m, x: x[0], "getitem"),
    (lambda m, x: x.view(len(x), 8), "shape.0."),
    (lambda m, x: F.softmax(x, 0), "softmax.*batch"),
    (lambda m, x: F.softmax(x), "softmax.*dim"),
    (lambda m, x: F.softmax(x, 3), "softmax.*dimension 3"),
    (lambda m, x: F.leaky_relu(x, x), "leaky_relu.*negative_slope"),
    (lambda m, x: F.leaky_relu(x, float("nan")), "leaky_relu.*negative_slope"),
    (lambda m, x: (m.linear(x), x), "one tensor"),
    (lambda m, x: x, "one tensor"),
    (lambda m, x: 3, "one tensor"),
    (lambda m, x: 1 / 0, "ZeroDivisionError"),
    (read_after_change, "relu.*in place"),
    (changed_without_result, "."),
]


@pytest.mark.parametrize(("what", "message"), FORBIDDEN)
def test_what_is_not_allowed_is_refused_with_the_name_of_the_step(what, message):
    with pytest.raises(ArchitectureError, match=message):
        Architecture.capture(Doing(what), torch.zeros(1, 8))


def test_a_custom_function_is_refused():
    with pytest.raises(ArchitectureError, match=r"'shell'.*not allowed"):
        Architecture.capture(Doing(lambda m, x: shell(x)), torch.zeros(1, 8))

    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    with pytest.raises(ArchitectureError):
        Architecture.capture(Doing(lambda m, x: Custom.apply(x)), torch.zeros(1, 8))


def test_hooks_and_weight_norm_are_refused():
    hooked = nn.Sequential(nn.Linear(4, 4))
    hooked[0].register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(ArchitectureError, match="hooks"):
        Architecture.capture(hooked, torch.zeros(1, 4))
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(ArchitectureError, match="ParametrizedLinear"):
        Architecture.capture(normed, torch.zeros(1, 4))
    outside = nn.Sequential(nn.Linear(4, 4))
    outside.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(ArchitectureError, match="does not compute"):
        Architecture.capture(outside, torch.zeros(1, 4))


def test_two_inputs_are_refused():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(ArchitectureError, match="one tensor"):
        Architecture.capture(Two(), torch.zeros(1, 4))


@pytest.mark.parametrize("example", [torch.zeros(12), torch.zeros(0, 12), [1.0], None])
def test_an_example_without_batch_dimension_is_refused(example):
    with pytest.raises(ArchitectureError, match="batch dimension"):
        Architecture.capture(Perceptron(), example)


def test_an_example_that_does_not_fit_is_refused_naming_the_layer():
    with pytest.raises(ArchitectureError, match=r"first.*13"):
        Architecture.capture(Perceptron(), torch.zeros(1, 13))


def test_something_that_is_no_module_is_refused():
    with pytest.raises(ArchitectureError, match=r"torch\.nn\.Module"):
        Architecture.capture(lambda x: x, torch.zeros(1, 4))
