"""Equal networks that are written differently in trivial ways have one address."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuronexus_kernel.models import Architecture, mlp


class Written(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.relu, self.drop = nn.ReLU(), nn.Dropout(0.0)
        self.scale = nn.Parameter(torch.ones(8))
        self.register_buffer("row", torch.arange(8.0))
        self.register_buffer("rows", torch.arange(8.0).view(1, 8))

    def forward(self, x):
        return self.how(self, x)


SAME = {
    "flattening": [
        lambda m, x: m.first(x).flatten(1),
        lambda m, x: m.first(x),
        lambda m, x: torch.flatten(m.first(x), start_dim=1),
        lambda m, x: m.first(x).view(x.size(0), -1),
        lambda m, x: m.first(x).reshape(x.shape[0], 4, 2).reshape(-1, 8),
        lambda m, x: m.first(x).unsqueeze(1).squeeze(1).contiguous().clone(),
    ],
    "order of dimensions": [
        lambda m, x: m.first(x).view(-1, 4, 2).transpose(1, 2).flatten(1),
        lambda m, x: m.first(x).reshape(-1, 4, 2).permute(0, 2, 1).flatten(1),
        lambda m, x: m.first(x).unflatten(1, (4, 2)).mT.reshape(x.shape[0], -1),
        lambda m, x: m.first(x).view(-1, 4, 2).permute(2, 0, 1).transpose(0, 1).flatten(1),
        lambda m, x: m.first(x).view(-1, 4, 2).swapaxes(-1, -2).movedim(1, 2).mT.flatten(1),
    ],
    "a dimension of one": [
        lambda m, x: m.first(x).view(-1, 1, 8).transpose(1, 2) * 2,
        lambda m, x: m.first(x).view(-1, 8, 1) * 2,
        lambda m, x: 2 * m.first(x)[..., None],
    ],
    "activations": [
        lambda m, x: m.relu(m.first(x)),
        lambda m, x: F.relu(m.first(x)),
        lambda m, x: torch.relu(m.first(x)),
        lambda m, x: m.first(x).relu_(),
        lambda m, x: m.first(x).clamp(min=0),
        lambda m, x: m.drop(F.relu(m.first(x), inplace=True)),
    ],
    "order of a sum": [
        lambda m, x: m.first(x).relu() + m.second(x).tanh(),
        lambda m, x: m.second(x).tanh() + m.first(x).relu(),
        lambda m, x: torch.add(m.second(x).tanh(), m.first(x).relu()),
    ],
    "numbers": [
        lambda m, x: m.first(x) / math.sqrt(4),
        lambda m, x: m.first(x) * 0.5,
        lambda m, x: torch.tensor(0.5) * m.first(x) + 0,
        lambda m, x: torch.div(m.first(x), 2).mul(1.0),
    ],
    "constants": [
        lambda m, x: m.first(x) + m.row,
        lambda m, x: m.rows + m.first(x),
        lambda m, x: m.first(x) + torch.arange(8, device=x.device).float(),
        lambda m, x: m.first(x) + m.row.expand(x.shape[0], -1),
    ],
    "parts": [
        lambda m, x: m.first(x)[:, :4],
        lambda m, x: m.first(x).chunk(2, -1)[0],
        lambda m, x: m.first(x).split([4, 4], dim=1)[0],
        lambda m, x: m.first(x).narrow(1, 0, 4)[:, ::1],
    ],
}


@pytest.mark.parametrize("what", SAME)
def test_ways_to_write_the_same_have_one_address(what):
    example = torch.zeros(1, 8)
    addresses = [Architecture.capture(Written(how), example).cid for how in SAME[what]]
    assert len(set(addresses)) == 1


def test_different_networks_have_different_addresses():
    ways = [ways[0] for ways in SAME.values()]
    addresses = {Architecture.capture(Written(how), torch.zeros(1, 8)).cid for how in ways}
    assert len(addresses) == len(ways)


def test_a_capture_of_a_perceptron_is_the_one_of_the_zoo():
    def written(m, x):
        return m.second(F.relu(m.first(x.flatten(1))))

    ours = Architecture.capture(Written(written), torch.zeros(1, 8))
    assert ours.cid == mlp(8, (8,), 8).cid


def test_a_layer_that_is_used_twice_is_one_layer():
    once = Architecture.capture(Written(lambda m, x: m.first(m.first(x))), torch.zeros(1, 8))
    twice = Architecture.capture(Written(lambda m, x: m.second(m.first(x))), torch.zeros(1, 8))
    assert once.cid != twice.cid
    assert once.parameter_count * 2 == twice.parameter_count
    assert [len(node.shared) for node in once.nodes] == [0, 2]


def test_parameters_used_directly_start_alike_whatever_their_values():
    def written(m, x):
        return m.first(x) * m.scale

    architecture = Architecture.capture(Written(written), torch.zeros(1, 8))
    module = Written(written)
    module.scale.data.uniform_()
    assert Architecture.capture(module, torch.zeros(1, 8)) == architecture
    assert (architecture.initial_weights()["parameter_1.value"] == 1.0).all()
    read = architecture.weights_of(module)["parameter_1.value"]
    assert torch.equal(torch.from_numpy(read), module.scale.detach())
