"""What cannot be captured is refused, naming the step, the reason and what to write instead."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import Architecture


class Doing(nn.Module):
    """Does what it is told with rows of eight, many layers at hand."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.linear, self.norm, self.relu = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(True)
        self.prelu, self.rnn, self.rows = nn.PReLU(), nn.RNN(8, 8), nn.Embedding(8, 8)
        self.average, self.local = nn.BatchNorm1d(8, momentum=None), nn.AdaptiveMaxPool2d(2)
        self.stateless = nn.BatchNorm1d(8, track_running_stats=False)
        self.reflecting = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
        self.lstm, self.second = nn.LSTM(8, 8, batch_first=True), nn.LSTM(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.bilinear = nn.Upsample(scale_factor=2, mode="bilinear")
        self.factor, self.scalar = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(()))
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self.loose = [nn.Parameter(torch.ones(8))]
        self.padded = nn.Embedding(8, 8, padding_idx=0)
        self.register_buffer("mask", torch.ones(8))

    def forward(self, x):
        return self.what(self, x)


def sequence(x):
    return x.view(-1, 2, 4)


def writes_a_part(m, x):
    y = m.linear(x)
    y[:, 0] = 0
    return y


def adds_in_place(m, x):
    y = m.linear(x)
    z = y
    y += 1
    return y * z


def changes_a_view(m, x):
    y = m.linear(x)
    F.relu_(sequence(y))
    return y + 1


def keeps_an_average(m, x):
    m.mask.mul_(0.9).add_(x.mean(0) * 0.1)
    return m.linear(x)


def without_gradient(m, x):
    with torch.no_grad():
        y = m.linear(x)
    return m.linear(y)


def by_training(m, x):
    return m.relu(m.linear(x)) if m.training else m.linear(x)


REFUSED = {
    "data-dependent if": (
        lambda m, x: m.linear(x) if x.sum() > 0 else x,
        r"Step 'gt': an 'if'.*depends on its value.*given to __init__",
    ),
    "loop over the batch": (lambda m, x: [m.linear(row) for row in x], "'x': a loop.*sizes other"),
    "loop over its size": (
        lambda m, x: sum(m.linear(x) for _ in range(x.shape[0])),
        "integer.*loops run over numbers given to __init__",
    ),
    "its values": (lambda m, x: m.linear(x) * float(m.linear(x)[:, :1]), "needs its value"),
    "item": (lambda m, x: x * x.item(), "Step 'item'.*not known while capturing"),
    "computed mask": (lambda m, x: x.masked_fill(x < 0, 0.0), "Step 'lt'.*F.relu, torch.clamp"),
    "boolean index": (lambda m, x: x[x > 0], "Step 'gt'.*F.relu, torch.clamp"),
    "chosen rows": (lambda m, x: x.sort(1)[0], "Step 'sort'.*order depends.*pooling or attention"),
    "random numbers": (lambda m, x: x * torch.rand(8), r"random numbers \(rand\).*nn.Dropout"),
    "random like": (lambda m, x: x * torch.rand_like(x), r"random numbers.*nn.Dropout"),
    "always dropping": (lambda m, x: F.dropout(x), "dropout.*training=self.training.*nn.Dropout"),
    "attention always dropping": (
        lambda m, x: F.scaled_dot_product_attention(*[sequence(x)] * 3, dropout_p=0.1),
        "dropout_p=p if self.training else",
    ),
    "frozen batch norm": (
        lambda m, x: F.batch_norm(x, m.norm.running_mean, m.norm.running_var),
        r"running statistics in training.*training=self.training",
    ),
    "batch norm without momentum": (lambda m, x: m.average(x), "momentum=None.*momentum=0.1"),
    "batch norm without statistics": (
        lambda m, x: m.stateless(x),
        "track_running_stats=False.*leave it at True, or use nn.GroupNorm",
    ),
    "batch norm used twice": (lambda m, x: m.norm(m.norm(x)), "norm.running_mean.*used twice"),
    "mode": (by_training, "Step 'relu'.*something else in training.*only dropout and batch norm"),
    "part written": (writes_a_part, "Step 'linear'.*in place.*torch.cat or torch.where"),
    "sum in place": (adds_in_place, "Step 'mul': it reads 'linear', which step 'iadd' changed"),
    "view changed": (changes_a_view, "'relu_' changed in place; leave out inplace=True"),
    "buffer changed": (keeps_an_average, "Step 'mul_'.*buffer.*nn.BatchNorm2d"),
    "no gradient": (without_gradient, "torch.no_grad.*leave it out"),
    "detached": (lambda m, x: m.linear(x).detach(), "Step 'detach'.*gradient.*leave it out"),
    "prelu": (lambda m, x: m.prelu(x), "PReLU is not allowed; its slope.*LeakyReLU"),
    "rnn": (lambda m, x: m.rnn(x), "RNN is not allowed; use nn.LSTM or nn.GRU"),
    "cell state": (lambda m, x: m.lstm(sequence(x)[..., None, :].flatten(2))[1][1], "Step 'lstm'"),
    "lstm batch second": (
        lambda m, x: m.second(x.unsqueeze(1))[0],
        r"batch_first=False it takes \(steps, batch.*batch_first=True, or permute",
    ),
    "attention weights": (
        lambda m, x: m.attention(*[x.unsqueeze(1)] * 3)[1],
        "Step 'attention': the weights.*output alone",
    ),
    "padding mask": (
        lambda m, x: m.attention(*[x.unsqueeze(1)] * 3, key_padding_mask=x)[0],
        "key_padding_mask.*equally long",
    ),
    "padding mode": (lambda m, x: m.reflecting(x.view(-1, 1, 2, 4)), "reflect.*pad with zeros"),
    "adaptive max": (lambda m, x: m.local(x.view(-1, 1, 2, 4)), "output_size=2.*MaxPool"),
    "bilinear": (lambda m, x: m.bilinear(x.view(-1, 1, 2, 4)), "bilinear.*mode='nearest'"),
    "numbers as tokens": (lambda m, x: m.rows(x), "Step 'rows'.*tokens.*int64"),
    "padding index": (lambda m, x: m.padded(x), "padding_idx.*every row"),
    "einsum": (lambda m, x: torch.einsum("bi,bi->b", x, x), "einsum.*use @"),
    "batch product": (lambda m, x: x @ x.t(), r"\(batch, 8\) by \(8, batch\).*must not mix"),
    "batch mean": (lambda m, x: x - x.mean(0, keepdim=True), "batch dimension.*mix examples"),
    "whole mean": (lambda m, x: x - x.mean(), "mix examples; say which dimensions"),
    "batch size": (lambda m, x: x / x.shape[0], "calculates with the batch size"),
    "merged batch": (lambda m, x: x.view(x.shape[0] * 2, 4), "mul.*keep the batch as a dimension"),
    "constant rows": (lambda m, x: x + torch.ones(3, 8), r"\(3, 8\).*first dimension of 1"),
    "large constant": (
        lambda m, x: (
            torch.ones(300, 300)[:8] @ x.unsqueeze(2) if False else x @ torch.ones(8, 9000)
        ),
        "72,000 elements.*65,536",
    ),
    "infinite": (lambda m, x: x + float("inf"), "constant inf.*only finite"),
    "scalar parameter": (lambda m, x: x * m.scalar, r"'scalar' has no dimension.*torch.ones\(1\)"),
    "frozen parameter": (lambda m, x: m.linear(x) * m.frozen, "'frozen'.*register_buffer"),
    "unregistered parameter": (lambda m, x: x * m.loose[0], "not registered.*__init__"),
    "other precision": (lambda m, x: m.linear(x).half(), "Step 'half'.*precision.*leave it out"),
    "index of the largest": (
        lambda m, x: x.unsqueeze(1).max(2)[1],
        "Step 'max_1': where the largest.*return the scores",
    ),
    "one number": (lambda m, x: m.linear(x).sum(1), "Step 'sum_1'.*keepdim=True"),
    "loss": (lambda m, x: F.cross_entropy(x, x), "cross_entropy.*the recipe names the loss"),
    "dictionary": (lambda m, x: {"scores": m.linear(x)}, "one tensor.*scores alone"),
    "constant result": (lambda m, x: torch.zeros(x.shape[0], 8), "one tensor that it computed"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_captured_is_refused_with_advice(what):
    function, message = REFUSED[what]
    module = Doing(function)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ArchitectureError, match=message):
        Architecture.capture(module, torch.zeros(1, 8))
    after = module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert module.training


def test_what_the_output_does_not_depend_on_is_not_refused():
    def looks(m, x):
        m.linear(x).detach().sort(1)
        return m.linear(x)

    architecture = Architecture.capture(Doing(looks), torch.zeros(1, 8))
    assert [node.operator for node in architecture.nodes] == ["linear"]


def test_a_network_of_two_arguments_is_refused_unless_one_has_a_default():
    class Two(nn.Module):
        def forward(self, x, mask):
            return x.relu()

    class Optional(nn.Module):
        def forward(self, x, mask=None):
            return x.relu() if mask is None else x

    with pytest.raises(ArchitectureError, match="one tensor"):
        Architecture.capture(Two(), torch.zeros(1, 8))
    assert Architecture.capture(Optional(), torch.zeros(1, 8)).output_shape == (8,)


def test_parametrized_layers_are_refused():
    module = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)))
    with pytest.raises(ArchitectureError, match=r"parametrization.*remove"):
        Architecture.capture(module, torch.zeros(1, 4))


def test_layers_without_shape_yet_are_refused():
    with pytest.raises(ArchitectureError, match="no shape yet; call the module once"):
        Architecture.capture(nn.Sequential(nn.LazyLinear(3)), torch.zeros(1, 4))


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
def test_examples_of_other_types_are_refused(dtype):
    with pytest.raises(ArchitectureError, match=r"dtype.*float32.*int64"):
        Architecture.capture(nn.Linear(4, 4), torch.zeros(1, 4, dtype=dtype))
