"""What of offered data is new: rows are compared by the hash of their inputs."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from neuronexus_kernel.datasets.dataset import Dataset


def duplicates(candidate: Dataset, reference_hashes: Collection[bytes] = ()) -> NDArray[np.bool_]:
    """Tell which rows bring nothing new.

    Parameters
    ----------
    candidate
        The rows offered.
    reference_hashes
        `Dataset.row_hashes` of the rows that are there already.

    Returns
    -------
    numpy.ndarray
        bool, shape ``(n,)``: True where the row is one of the reference or repeats an earlier
        row of the candidate.  Labels do not count.
    """
    seen = set(reference_hashes)
    mask = np.zeros(len(candidate), dtype=bool)
    for row, digest in enumerate(candidate.row_hashes()):
        mask[row] = digest in seen
        seen.add(digest)
    return mask
