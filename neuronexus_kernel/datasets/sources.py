"""Well-known data sets: digits, which comes with scikit-learn, and MNIST."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neuronexus_kernel.datasets.dataset import Dataset
from neuronexus_kernel.datasets.download import RemoteFile, load
from neuronexus_kernel.errors import DatasetError
from neuronexus_kernel.settings import data_directory

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://raw.githubusercontent.com/fgnt/mnist/master/",
)

# Digests of the unzipped files: copies of MNIST differ in how they were compressed.
MNIST_FILES = {
    "train": (
        RemoteFile(
            "train-images-idx3-ubyte.gz",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            47_040_016,
        ),
        RemoteFile(
            "train-labels-idx1-ubyte.gz",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            60_008,
        ),
    ),
    "test": (
        RemoteFile(
            "t10k-images-idx3-ubyte.gz",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            7_840_016,
        ),
        RemoteFile(
            "t10k-labels-idx1-ubyte.gz",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            10_008,
        ),
    ),
}
_IMAGES_START, _LABELS_START = 16, 8


def digits() -> Dataset:
    """Return 1,797 handwritten digits of 8 x 8 pixels, which come with scikit-learn.

    Returns
    -------
    Dataset
        ``input_shape`` (64,), values from 0 to 1, 10 classes.  Source: E. Alpaydin and
        C. Kaynak 1998, "Optical recognition of handwritten digits", UCI repository.
    """
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    return Dataset(inputs / 16, labels, classes=10, name="digits")


def mnist(
    split: str = "train",
    *,
    folder: Path | None = None,
    mirrors: Sequence[str] = MNIST_MIRRORS,
    progress: bool = True,
) -> Dataset:
    """Return MNIST: handwritten digits of 28 x 28 pixels.

    Parameters
    ----------
    split
        ``"train"`` (60,000 rows) or ``"test"`` (10,000 rows).
    folder
        Where the four ``.gz`` files lie, or are put after a download; by default
        ``$NEURONEXUS_DATA/mnist``.
    mirrors
        Addresses to download from, tried in turn; only used where a file is missing.
    progress
        Whether to show a bar while downloading.

    Returns
    -------
    Dataset
        ``input_shape`` (1, 28, 28), values from 0 to 1, 10 classes.  Source: Y. LeCun,
        C. Cortes and C. Burges, "The MNIST database of handwritten digits".

    Raises
    ------
    DatasetError
        If a file holds something else, or no mirror gives it.
    """
    if split not in MNIST_FILES:
        raise DatasetError(f"MNIST has the splits 'train' and 'test', not {split!r}.")
    place = folder if folder is not None else data_directory() / "mnist"
    image_bytes, label_bytes = (
        load(file, place, mirrors=mirrors, progress=progress) for file in MNIST_FILES[split]
    )
    inputs = np.frombuffer(image_bytes, np.uint8, offset=_IMAGES_START).astype(np.float32)
    inputs /= 255
    inputs.flags.writeable = False
    labels = np.frombuffer(label_bytes, np.uint8, offset=_LABELS_START)
    name = "mnist" if split == "train" else "mnist-test"
    return Dataset(inputs.reshape(-1, 1, 28, 28), labels, classes=10, name=name)
