import pytest
import torch

from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.models import Architecture, cnn, mlp


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
    ],
)
def test_impossible_sizes_are_refused(make):
    with pytest.raises(ArchitectureError):
        make()
