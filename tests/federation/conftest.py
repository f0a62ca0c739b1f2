"""What the tests of federated training share."""

from __future__ import annotations

import numpy as np
import pytest

from neuronexus_kernel.datasets import Dataset, digits


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Train on one thread: models this small only lose by waiting for a second one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digit_splits():
    """The digits, split into training (80 %) and validation."""
    return digits().split({"training": 0.8, "validation": 0.2}, seed=0)


@pytest.fixture
def blobs():
    """A function that makes a small data set of Gaussian blobs of a given size and shape."""

    def make(rows, shape=(6,), classes=3, seed=0):
        random = np.random.default_rng(seed)
        labels = np.arange(rows) % classes
        centres = np.random.default_rng(99).normal(size=(classes, *shape))
        inputs = centres[labels] + 0.5 * random.normal(size=(rows, *shape))
        return Dataset(inputs, labels, classes=classes, name=f"blobs {seed}")

    return make
