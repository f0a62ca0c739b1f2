"""What each lab says of itself once, and must say again in every round.

An update weighs as many examples as its lab says that it trained on, and nobody else sees the
data.  But a lab's data do not change during a run, so its number must not either: the first one
binds, also after the run was interrupted.
"""

from __future__ import annotations

import json
from pathlib import Path

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation._flower import Message, MetricRecord
from neuronexus_kernel.federation.durable import Folder
from neuronexus_kernel.federation.strategies.replies import METRICS

_FILE = "examples.json"


class Pledges:
    """The numbers of examples that labs have said.

    Parameters
    ----------
    folder
        Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Folder(folder)
        self._examples: dict[str, float] = {}
        if _FILE in self._folder.names():
            self._examples = json.loads(self._folder.read(_FILE))

    def check(self, name: str, reply: Message) -> None:
        """Check a lab's training reply against what the lab said before.

        This finds a lab that changes its number when it sees how the run goes, and one that
        claims to stand for several.  It cannot find a lab that overstates from its first round
        on, or whose examples are copies, noise or made up: that takes a look at the data, which
        nobody but the lab has.  What such updates are worth is for the valuation to say, which
        measures them on held-out data and does not go by anybody's word.

        Parameters
        ----------
        name
            Whose reply it is.
        reply
            A reply that is no error.  One without these numbers is left to `CheckedGrid`.

        Raises
        ------
        InvalidInputError
            Saying what differs.
        """
        metrics = reply.content.get(METRICS)
        if not isinstance(metrics, MetricRecord):
            return
        if (clients := metrics.get("clients", 1)) != 1:
            raise InvalidInputError(f"it stands for {clients} clients, but a lab is one.")
        examples = metrics.get("num-examples")
        if not isinstance(examples, int | float) or not 1 <= examples < float("inf"):
            return
        if name not in self._examples:
            self._examples[name] = examples
            self._folder.replace(_FILE, json.dumps(self._examples).encode())
        if examples != self._examples[name]:
            raise InvalidInputError(
                f"it is said to be trained on {examples:g} examples, but {name} had "
                f"{self._examples[name]:g} before, and data do not change during a run."
            )
