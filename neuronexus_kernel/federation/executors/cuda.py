"""The CUDA executor: clients stacked as in the vectorised one, on a GPU.

Kernels that add in a fixed order are asked for and reduced precision (TF32) is left off, so that
the same plan on the same device gives the same bits, and the reference's numbers up to rounding.
"""

from __future__ import annotations

import torch

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation.executors.base import ClientUpdate, Cohort
from neuronexus_kernel.federation.executors.vectorized import VectorizedExecutor


def check_cuda() -> None:
    """Check that there is a GPU to train on.

    Raises
    ------
    InvalidInputError
        If torch was built without CUDA or finds no device.
    """
    if not torch.cuda.is_available():
        raise InvalidInputError(
            "executor 'cuda' needs a GPU, and torch "
            f"{torch.__version__} finds none: use 'auto', or install a CUDA build of torch."
        )


class CudaExecutor:
    """Trains the clients of a cohort at the same time on the current CUDA device.

    Parameters
    ----------
    chunk
        Clients trained together.
    dtype
        ``"float32"`` or ``"float64"``.

    Raises
    ------
    InvalidInputError
        If there is no such device.
    """

    name = "cuda"

    def __init__(self, *, chunk: int, dtype: str = "float32") -> None:
        check_cuda()
        self._stacked = VectorizedExecutor(chunk=chunk, dtype=dtype, device="cuda")

    def train(self, cohort: Cohort) -> list[ClientUpdate]:
        """Train the cohort chunk by chunk, those with most steps first."""
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            return self._stacked.train(cohort)
