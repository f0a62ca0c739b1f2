"""Well-known data sets (digits and diabetes come with scikit-learn; MNIST), and any text."""

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


def diabetes() -> Dataset:
    """Return 442 diabetes patients and how far the disease went on in a year, from scikit-learn.

    Returns
    -------
    Dataset
        For regression: ``input_shape`` (10,), age, sex, body mass index, blood pressure and six
        serum measurements, centred and scaled to unit variance; labels (442, 1), the progression
        in units of 100.  Source: B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, "Least
        angle regression", Annals of Statistics 32(2), 2004.
    """
    from sklearn.datasets import load_diabetes

    inputs, labels = load_diabetes(return_X_y=True)
    # scikit-learn scales each column to a sum of squares of 1, on which training hardly moves.
    inputs *= np.sqrt(len(inputs))
    return Dataset(inputs, labels / 100, kind="regression", name="diabetes")


def text(source: str | Path, length: int = 64, *, name: str | None = None) -> Dataset:
    """Return a text as sequences of bytes, of which each is to be foretold from those before it.

    Parameters
    ----------
    source
        The text itself, or a `pathlib.Path` of a file; its bytes (UTF-8) are the tokens.
    length
        Length of a sequence.  They follow each other without a gap; what is left over at the end
        is left out.
    name
        What to call the data set; by default the file's name, or ``"text"``.

    Returns
    -------
    Dataset
        For next-token prediction: ``input_shape`` (length,), 256 classes.

    Raises
    ------
    DatasetError
        If the file cannot be read, or the text is shorter than ``length + 1`` bytes.
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise DatasetError(f"length must be a whole number above zero, not {length!r}.")
    if isinstance(source, Path):
        try:
            data = source.read_bytes()
        except OSError as error:
            raise DatasetError(f"{source} cannot be read: {error.strerror or error}.") from None
    else:
        data = source.encode()
    if len(data) <= length:
        raise DatasetError(
            f"The text has {len(data)} bytes; sequences of {length} need {length + 1} or more."
        )
    values = np.frombuffer(data, np.uint8)
    starts = np.arange((len(values) - 1) // length) * length
    tokens = values[starts[:, np.newaxis] + np.arange(length + 1)]
    given = source.name if isinstance(source, Path) else "text"
    return Dataset.from_tokens(tokens, 256, name=name or given)


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
