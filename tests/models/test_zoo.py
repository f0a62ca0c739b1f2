import pytest
import torch
from torch import nn
from torch.nn import functional as F

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import Architecture, cnn, mlp, resnet8, transformer_lm


def test_the_2nn_has_the_parameters_of_mcmahan_2017():
    assert mlp(784, (200, 200), 10).parameter_count == 199_210


def test_the_cnn_has_the_parameters_of_mcmahan_2017():
    assert cnn().parameter_count == 1_663_370


def test_an_mlp_equals_the_capture_of_the_same_network_written_in_pytorch():
    written = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
    )
    captured = Architecture.capture(written, torch.zeros(1, 64))
    assert captured == mlp(64, (32,), 10)
    assert captured.cid == mlp(64, (32,), 10).cid


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 8, 8), (8, 8, 1), (4, 16)])
def test_an_mlp_takes_examples_of_any_shape_with_its_number_of_elements(shape):
    architecture = mlp(64, (16,), 10)
    architecture.check_task(shape, 10)
    examples = torch.randn(5, 64)
    model = architecture.build()
    assert torch.equal(model(examples.reshape(5, *shape)), model(examples))


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 8, 8)])
def test_a_cnn_takes_flat_rows_and_images_without_channel(shape):
    architecture = cnn((1, 8, 8), 10)
    architecture.check_task(shape, 10)
    examples = torch.randn(3, 64)
    model = architecture.build()
    assert torch.equal(model(examples.reshape(3, *shape)), model(examples.reshape(3, 1, 8, 8)))


def test_a_cnn_refuses_channels_last_images_which_it_would_scramble():
    architecture = cnn((3, 8, 8), 10)
    with pytest.raises(ArchitectureError, match=r"\(8, 8, 3\)"):
        architecture.check_task((8, 8, 3), 10)
    with pytest.raises(ArchitectureError, match="takes"):
        architecture.build()(torch.zeros(2, 8, 8, 3))


def test_a_cnn_of_height_and_width_has_one_channel():
    assert cnn((8, 8), 10) == cnn((1, 8, 8), 10)


def test_an_architecture_with_the_wrong_number_of_classes_does_not_fit_the_task():
    with pytest.raises(ArchitectureError, match=r"\(10,\).*\(7,\)"):
        mlp(64, (), 10).check_task((64,), 7)


def test_an_architecture_with_the_wrong_input_does_not_fit_the_task():
    with pytest.raises(ArchitectureError, match=r"\(784,\).*\(64,\)"):
        mlp(784, (), 10).check_task((64,), 10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp(0, (5,), 10),
        lambda: mlp(64, (-5,), 10),
        lambda: mlp(64, (5.0,), 10),
        lambda: mlp(64, (5,), True),
        lambda: mlp(64, (10**12,), 10),
        lambda: mlp(10**6, (10**6,), 10),
        lambda: cnn((1, 2, 2)),
        lambda: cnn((1, 28, 28), kernel_size=4),
        lambda: cnn((64,)),
        lambda: resnet8((3, 32)),
        lambda: resnet8(norm="layer"),
        lambda: resnet8(norm="group", width=12),
        lambda: transformer_lm(0, 8),
        lambda: transformer_lm(10, 8, width=10, heads=4),
        lambda: transformer_lm(10, 8, dropout=2.0),
        lambda: transformer_lm(10, 10**6),
        lambda: transformer_lm(10**9, 8),
    ],
)
def test_impossible_sizes_are_refused(make):
    with pytest.raises(ArchitectureError):
        make()


class Block(nn.Module):
    def __init__(self, given, out, stride, norm):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(given, out, 3, stride, 1, bias=False), norm(out)
        self.second, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), norm(out)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(given, out, 1, stride, bias=False), norm(out))

    def forward(self, x):
        y = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(y + self.shortcut(x))


def written_resnet8(norm):
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 1, 1, bias=False), norm(16), nn.ReLU()),
        *(Block(16, 16, 1, norm), Block(16, 32, 2, norm), Block(32, 64, 2, norm)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


class Attend(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(width), heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (
            part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).flatten(2))


class Think(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.wide, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.out(F.gelu(self.wide(self.norm(x))))


class WrittenTransformer(nn.Module):
    def __init__(self, vocabulary, length, width, heads, layers):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(length, width)
        blocks = [part for _ in range(layers) for part in (Attend(width, heads), Think(width))]
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x):
        y = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(y)))


@pytest.mark.parametrize(
    ("norm", "layer"),
    [("batch", nn.BatchNorm2d), ("group", lambda channels: nn.GroupNorm(8, channels))],
)
def test_the_resnet_is_the_one_written_in_pytorch(norm, layer):
    architecture, written = resnet8(norm=norm), written_resnet8(layer)
    assert architecture.parameter_count == 78_042
    assert Architecture.capture(written, torch.zeros(1, 3, 32, 32)) == architecture
    ours = architecture.build(architecture.weights_of(written)).double()
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for mode in (True, False):
        made, wanted = ours.train(mode)(x), written.double().train(mode)(x)
        assert torch.allclose(made, wanted, rtol=0, atol=1e-11)


def test_the_transformer_is_the_one_written_in_pytorch():
    architecture = transformer_lm(50, 12, width=32, heads=4, layers=2)
    assert architecture.output_shape == (12, 50)
    assert architecture.vocabulary == 50
    written = WrittenTransformer(50, 12, 32, 4, 2)
    x = torch.randint(50, (3, 12))
    assert Architecture.capture(written, x) == architecture
    ours = architecture.build(architecture.weights_of(written)).double()
    assert torch.allclose(ours(x), written.double()(x), rtol=0, atol=1e-11)


def test_the_transformer_does_not_look_ahead():
    model = transformer_lm(50, 12, dropout=0.1).build().eval()
    x = torch.randint(50, (3, 12))
    changed = x.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 50
    first, second = model(x), model(changed)
    torch.testing.assert_close(first[:, :8], second[:, :8])
    assert not torch.allclose(first[:, 8:], second[:, 8:])
