"""What a node keeps between the rounds of a run: after each of the last two that may count.

Some strategies have clients keep something, control variates or layers of their own, from which
the next training starts.  Which training that follows is for the server to say: its messages tell
in which round the node's update last went into the model.  Mostly this was the node's last
training.  But when an update was lost or refused, or the server was killed before the round was
saved, it was the one before, and what the node has learnt since does not count.  So both are kept.

A node that has neither, because it was moved or its files are gone, must say so: to begin anew in
mid-run would quietly make another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from neuronexus_kernel.content import dagcbor
from neuronexus_kernel.errors import NeuroNexusError
from neuronexus_kernel.federation.strategies.client import State
from neuronexus_kernel.models.weights import deserialize, serialize

FORMAT = "neuronexus/memory@1"

FORGOTTEN = 1001
"""Code of the error that a node sends when it does not have what it should have kept."""


class ForgottenError(NeuroNexusError):
    """A node does not have what it should have kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What a node keeps of one run.

    Attributes
    ----------
    run
        The run's id.
    kept
        What there is to keep, by the round after which it was so.
    """

    run: str = ""
    kept: Mapping[int, State] = field(default_factory=dict)

    def recall(self, run: str, counted: int) -> State:
        """Return what a training starts from.

        Parameters
        ----------
        run
            The run's id.
        counted
            The last round in which the node's update went into the model; 0 if none did.

        Raises
        ------
        ForgottenError
            If that is not here.
        """
        if counted == 0:
            return {}
        if run != self.run or counted not in self.kept:
            raise ForgottenError(
                f"This node does not have what it kept after round {counted}, and the strategy "
                "needs it: start the node where it was, with the files it had."
            )
        return self.kept[counted]

    def after(self, run: str, counted: int, round: int, state: State) -> Memory:
        """Return what to keep when a training in `round` has started from `counted`."""
        return Memory(run, {counted: self.recall(run, counted), round: state})

    def encode(self) -> bytes:
        """Return canonical bytes: DAG-CBOR around safetensors."""
        kept = {
            str(round): {purpose: serialize(arrays) for purpose, arrays in state.items()}
            for round, state in self.kept.items()
        }
        return dagcbor.encode({"format": FORMAT, "run": self.run, "kept": kept})

    @classmethod
    def decode(cls, data: bytes) -> Memory:
        """Return what `encode` wrote; other bytes are no memory, and so an empty one."""
        try:
            document = cast("dict[str, dagcbor.Node]", dagcbor.decode(data))
            if document["format"] != FORMAT:
                return cls()
            kept = cast("dict[str, dict[str, bytes]]", document["kept"])
            return cls(
                str(document["run"]),
                {
                    int(round): {name: deserialize(arrays) for name, arrays in state.items()}
                    for round, state in kept.items()
                },
            )
        except (NeuroNexusError, KeyError, TypeError, ValueError, AttributeError):
            return cls()
