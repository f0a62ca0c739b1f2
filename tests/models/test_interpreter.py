import copy
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import Architecture, cnn, mlp, noise
from neuronexus_kernel.models.graph import GraphBuilder
from neuronexus_kernel.models.layout import lay_out
from neuronexus_kernel.settings import ArchitectureLimits


class Dropping(nn.Module):
    """Two dropouts, a convolution and norms: all that a mask must survive."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.first, self.second = nn.Dropout(0.25), nn.Dropout(0.5)
        self.out = nn.Linear(4 * 16, 3)

    def forward(self, x):
        x = self.first(torch.relu(self.norm(self.conv(x))))
        return self.out(self.second(x.flatten(1)))


DROPPING = Architecture.capture(Dropping(), torch.zeros(1, 1, 4, 4))


def test_state_dict_keys_are_the_canonical_names():
    built = cnn().build()
    assert sorted(built.state_dict()) == list(cnn().parameter_shapes)


def test_no_node_can_take_a_name_of_the_module_itself():
    taken = [name for name in dir(mlp(4, (), 2).build()) if re.fullmatch("[a-z0-9_]{1,64}", name)]
    made = mlp(4, (), 2)
    for name in taken:
        if name in {"linear_1", "flatten_1"}:
            continue
        node = made.nodes[0]
        renamed = type(node)(name, node.operator, node.inputs, node.arguments)
        with pytest.raises(ArchitectureError, match="reserved"):
            lay_out((4,), (renamed,), name, limits=ArchitectureLimits())


def test_starting_weights_depend_on_the_seed_alone():
    architecture = cnn((1, 8, 8), 10)
    state = torch.get_rng_state()
    np_state = np.random.get_state()[1].copy()
    first, again, other = (architecture.initial_weights(seed) for seed in (0, 0, 1))
    built = architecture.build()
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], np_state)
    for name, shape in architecture.parameter_shapes.items():
        assert first[name].shape == shape
        assert first[name].dtype == np.float32
        assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])
        assert np.array_equal(first[name], built.state_dict()[name].numpy())


def test_starting_weights_are_spread_as_those_of_pytorch():
    weights = mlp(400, (300,), 10).initial_weights(3)
    spread = weights["linear_1.weight"]
    assert abs(spread).max() <= 1 / 20
    assert spread.std() == pytest.approx(1 / 20 / 3**0.5, rel=0.01)
    assert abs(spread.mean()) < 1e-3
    assert abs(np.corrcoef(spread[:150].ravel(), spread[150:].ravel())[0, 1]) < 0.02
    norms = DROPPING.initial_weights()
    assert (norms["group_norm_1.weight"] == 1).all()
    assert (norms["group_norm_1.bias"] == 0).all()


def test_wrong_weights_are_refused_naming_the_tensor():
    architecture = mlp(4, (), 2)
    weights = architecture.initial_weights()
    with pytest.raises(ArchitectureError, match=r"linear_1\.bias"):
        architecture.build({"linear_1.weight": weights["linear_1.weight"]})
    with pytest.raises(ArchitectureError, match=r"linear_1\.weight.*\(4, 2\)"):
        architecture.build({**weights, "linear_1.weight": weights["linear_1.weight"].T})


def test_examples_of_another_shape_are_refused():
    with pytest.raises(ArchitectureError, match=r"takes \(batch, 4,\).*\(3, 5\)"):
        mlp(4, (), 2).build()(torch.zeros(3, 5))


def test_a_copy_of_a_built_module_is_its_own():
    built = mlp(4, (3,), 2).build()
    other = copy.deepcopy(built)
    x = torch.eye(4)
    assert torch.equal(built(x), other(x))
    with torch.no_grad():
        other.get_parameter("linear_1.weight").zero_()
    assert not torch.equal(built(x), other(x))


@pytest.mark.parametrize("architecture", [mlp(64, (16,), 10), cnn((1, 8, 8), 10)])
def test_stacked_models_under_vmap_equal_a_loop(architecture):
    models = [architecture.build(architecture.initial_weights(s)).double() for s in range(3)]
    parameters, _ = stack_module_state(models)
    x = torch.randn(3, 5, 64, dtype=torch.float64)

    def loss(values, batch):
        return functional_call(models[0], values, (batch,)).square().mean()

    together = vmap(grad(loss))(parameters, x)
    for index, model in enumerate(models):
        model.zero_grad()
        model(x[index]).square().mean().backward()
        for name, value in model.named_parameters():
            assert torch.allclose(together[name][index], value.grad, rtol=0, atol=1e-12)


# Dropout


def keyed(module, key):
    module.keyed = True
    module.noise_key.fill_(key)
    return module.train()


def test_unkeyed_dropout_draws_from_the_generator_of_torch():
    built = DROPPING.build().train()
    x = torch.randn(4, 1, 4, 4)
    torch.manual_seed(0)
    first, second = built(x), built(x)
    torch.manual_seed(0)
    assert torch.equal(built(x), first)
    assert not torch.equal(first, second)
    built.eval()
    assert torch.equal(built(x), built(x))


def test_keyed_dropout_depends_on_the_key_and_on_nothing_else():
    x = torch.randn(4, 1, 4, 4)
    first = keyed(DROPPING.build(), 5)(x)
    state = torch.get_rng_state()
    assert torch.equal(keyed(DROPPING.build(), 5)(x), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(keyed(DROPPING.build(), 6)(x), first)
    plain = DROPPING.build().eval()
    assert torch.equal(keyed(DROPPING.build(), 5).eval()(x), plain(x))


def test_keyed_dropout_of_an_example_does_not_depend_on_the_examples_behind_it():
    x = torch.randn(6, 1, 4, 4)
    built = keyed(DROPPING.build(), 5).double()
    whole, part = built(x.double()), built(x[:4].double())
    assert torch.allclose(whole[:4], part, rtol=0, atol=1e-12)
    assert not torch.allclose(built(x[:1].double().expand(2, -1, -1, -1))[1], whole[0])


def test_keyed_dropout_under_vmap_equals_a_loop():
    keys = [noise.key_of(0, "client", client) for client in range(3)]
    models = [keyed(DROPPING.build(), key).double() for key in keys]
    parameters, buffers = stack_module_state(models)
    x = torch.randn(3, 4, 1, 4, 4, dtype=torch.float64)
    assert buffers["noise_key"].tolist() == keys

    def loss(values, own, batch):
        return functional_call(models[0], (values, own), (batch,)).square().mean()

    together = vmap(grad(loss))(parameters, buffers, x)
    for index, model in enumerate(models):
        model(x[index]).square().mean().backward()
        for name, value in model.named_parameters():
            assert torch.allclose(together[name][index], value.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_keyed_dropout_drops_its_share_and_keeps_the_mean(probability):
    graph = GraphBuilder((999,))
    last = graph.add("dropout", "input", p=probability)
    architecture = Architecture((999,), tuple(graph.nodes), last)
    dropped = keyed(architecture.build(), 1)(torch.ones(100, 999))
    assert (dropped == 0).double().mean().item() == pytest.approx(probability, abs=0.01)
    if probability < 1:
        assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)


def test_two_dropouts_of_a_network_drop_differently():
    twice = Architecture.capture(
        nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)), torch.ones(1, 1000)
    )
    kept = (keyed(twice.build(), 1)(torch.ones(10, 1000)) != 0).double().mean().item()
    assert kept == pytest.approx(0.25, abs=0.03)


# No code


def test_building_and_running_uses_no_generated_code(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("code was generated")

    monkeypatch.setattr(fx.GraphModule, "__init__", refuse)
    monkeypatch.setattr(fx.Graph, "python_code", refuse)
    monkeypatch.setattr("builtins.exec", refuse)
    monkeypatch.setattr("builtins.eval", refuse)
    architecture = Architecture.capture(Dropping(), torch.zeros(1, 1, 4, 4))
    again = Architecture.decode(architecture.encode())
    assert again.build()(torch.zeros(2, 1, 4, 4)).shape == (2, 3)


def test_reading_and_describing_an_architecture_imports_no_torch():
    program = (
        "import sys, neuronexus_kernel.models as m\n"
        "a = m.Architecture.from_dict(m.cnn().to_dict())\n"
        "m.Architecture.decode(m.mlp(64, (64,), 10).encode()).check_task((8, 8), 10)\n"
        "w = m.weights.serialize(a.initial_weights())\n"
        "m.weights.deserialize(w, a.parameter_shapes)\n"
        "assert not {'torch', 'pandas', 'flwr'} & set(sys.modules), 'heavy import'\n"
        "print(a.cid)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(cnn().cid)
