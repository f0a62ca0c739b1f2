"""FedBN: batch normalisation stays with the client.

Clients whose inputs look different (another scanner, another camera) need statistics of their
own: averaging them fits nobody.  So weights, biases and running statistics of every batch norm
stay with the client; all else is averaged.  Norms that do not look across examples (layer, group
and RMS norm) hold no statistics of a client's data and are averaged, as in the paper, which keeps
batch norm only.  Without batch norm, FedBN is FedAvg.

Li, Jiang, Zhang, Kamp, Dou: "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", ICLR 2021, arXiv:2102.07623.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from neuronexus_kernel.federation.strategies.keeping import Keeping
from neuronexus_kernel.federation.strategies.options import FedAvgOptions

if TYPE_CHECKING:
    from neuronexus_kernel.models import Architecture


class FedBN(Keeping):
    """FedAvg without the batch norms of an architecture.

    Parameters
    ----------
    architecture
        The model.
    **options
        Of Flower's ``FedAvg``.
    """

    def __init__(self, architecture: Architecture, **options: Unpack[FedAvgOptions]) -> None:
        super().__init__(batch_norms(architecture), **options)


def batch_norms(architecture: Architecture) -> list[str]:
    """Return the full names of all tensors that batch norms of an architecture hold."""
    return [
        f"{node.name}.{short}"
        for node in architecture.nodes
        if node.operator == "batch_norm"
        for short in architecture.layout.parameters.get(node.name, {})
    ]
