"""FedPer: the last layers are personal.

The base of the network is averaged, its head stays with the client and is never sent, so that
each client can decide in its own way on features that all learnt together.

Arivazhagan, Aggarwal, Singh, Choudhary: "Federated Learning with Personalization Layers", 2019,
arXiv:1912.00818.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation.strategies.keeping import Keeping
from neuronexus_kernel.federation.strategies.options import FedAvgOptions

if TYPE_CHECKING:
    from neuronexus_kernel.models import Architecture


class FedPer(Keeping):
    """FedAvg without the last layers of an architecture.

    Parameters
    ----------
    architecture
        The model.
    personal_layers
        How many of the last nodes with tensors of their own are personal.
    **options
        Of Flower's ``FedAvg``.

    Raises
    ------
    InvalidInputError
        If no layer would be left to train together.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        personal_layers: int = 1,
        **options: Unpack[FedAvgOptions],
    ) -> None:
        super().__init__(personal(architecture, personal_layers), **options)


def personal(architecture: Architecture, layers: int) -> list[str]:
    """Return the full names of all tensors of the last layers.

    A layer is a node with tensors of its own.  A tensor that a node shares with an earlier one
    belongs to the earlier one.

    Raises
    ------
    InvalidInputError
        If there are not more layers than that.
    """
    own = architecture.layout.parameters
    nodes = [node.name for node in architecture.nodes if own.get(node.name)]
    if not 1 <= layers < len(nodes):
        raise InvalidInputError(
            f"FedPer's personal_layers must be from 1 to {len(nodes) - 1}, one less than the "
            f"architecture's {len(nodes)} layers, not {layers}."
        )
    return [f"{name}.{short}" for name in nodes[-layers:] for short in own[name]]
