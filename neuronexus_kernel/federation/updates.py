"""What each participant brought to one round: the material of valuation.

A participant's update tells of its data.  These bytes therefore go to the sealed store only, and
only the hub's evaluators read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.errors import EvaluationError, InvalidInputError, NeuroNexusError
from neuronexus_kernel.models.weights import deserialize, serialize

FORMAT = "neuronexus/round-updates@1"

Weights = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class RoundUpdates:
    """What the participants of one round sent, and the weights they started from.

    Parameters
    ----------
    weights
        The global weights at the start of the round: float arrays by name.
    deltas
        Each participant's trained weights minus `weights`, with the same names and shapes.
    examples
        How many examples each participant trained on; its weight in the average.

    Raises
    ------
    InvalidInputError
        If the participants differ between the fields, there are none, or a delta does not fit
        the weights.
    """

    weights: Weights
    deltas: Mapping[str, Weights]
    examples: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.deltas.keys() != self.examples.keys():
            raise InvalidInputError("Every participant of a round needs a delta and a count.")
        if not self.deltas:
            raise InvalidInputError("A round's updates come from at least one participant.")
        shapes = {name: array.shape for name, array in self.weights.items()}
        for player, delta in self.deltas.items():
            if {name: array.shape for name, array in delta.items()} != shapes:
                raise InvalidInputError(f"The update of {player} does not fit the weights.")
            if self.examples[player] < 1:
                raise InvalidInputError(f"{player} trained on {self.examples[player]} examples.")

    @property
    def players(self) -> tuple[str, ...]:
        """The participants, sorted."""
        return tuple(sorted(self.deltas))

    def encode(self) -> bytes:
        """Return canonical bytes for the sealed store: DAG-CBOR around safetensors."""
        return dagcbor.encode(
            {
                "format": FORMAT,
                "participants": [
                    {
                        "delta": serialize(self.deltas[player]),
                        "examples": self.examples[player],
                        "name": player,
                    }
                    for player in self.players
                ],
                "weights": serialize(self.weights),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> RoundUpdates:
        """Read what `encode` wrote.

        Raises
        ------
        EvaluationError
            If the bytes are not such a document.
        """
        try:
            node = dagcbor.decode(data)
            if not isinstance(node, dict) or node.get("format") != FORMAT:
                raise EvaluationError(f"its format is not {FORMAT}.")
            parts = {part["name"]: part for part in node["participants"]}
            if len(parts) != len(node["participants"]):
                raise EvaluationError("a participant is in it twice.")
            return cls(
                weights=deserialize(node["weights"]),
                deltas={name: deserialize(part["delta"]) for name, part in parts.items()},
                examples={name: int(part["examples"]) for name, part in parts.items()},
            )
        except (NeuroNexusError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise EvaluationError(f"The updates of a round cannot be read: {error}") from None
