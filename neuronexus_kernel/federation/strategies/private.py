"""Central differential privacy around a mean of the clients' models.

Flower's wrappers clip each client's change and add noise to the mean.  Their noise is measured for
a mean in which every client weighs the same, so clients are weighted equally here, not by their
examples.  Three things are put right around them: when a client fails, the noise is that of the
clients that are left (Flower skips the round); a client whose model did not move at all does not
end the run (Flower divides by its norm); and the adaptive norm goes to the target, as in the
paper (Flower 1.41 counts the clipped where the paper counts the others, and so goes away from it).

McMahan, Ramage, Talwar, Zhang: "Learning Differentially Private Recurrent Language Models",
ICLR 2018, arXiv:1710.06963 (fixed).  Andrew, Thakkar, McMahan, Ramaswamy: "Differentially Private
Learning with Adaptive Clipping", NeurIPS 2021, arXiv:1905.03871 (adaptive).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation._flower import ArrayRecord, Message, MetricRecord, Strategy
from neuronexus_kernel.federation._flower import strategy as flower
from neuronexus_kernel.federation.arrays import from_record, to_record
from neuronexus_kernel.federation.fields import Value
from neuronexus_kernel.federation.strategies.replies import array_record

EQUALLY = "clients"
"""The metric by which clients weigh the same: each reply stands for one."""


class FixedClipping(flower.DifferentialPrivacyServerSideFixedClipping):
    """Clipping to a fixed norm: parameters are those of Flower's wrapper."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Clip, average and add noise, for as many clients as replied."""
        valid = _usable(replies, self.current_arrays)
        if not valid:
            return None, None
        self.num_sampled_clients = len(valid)
        return super().aggregate_train(server_round, valid)


class AdaptiveClipping(flower.DifferentialPrivacyServerSideAdaptiveClipping):
    """Clipping to a norm at which a target fraction of the clients is clipped.

    Parameters are those of Flower's wrapper.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Clip, average, add noise, for as many clients as replied, and renew the norm."""
        valid = _usable(replies, self.current_arrays)
        if not valid:
            return None, None
        self.num_sampled_clients = len(valid)
        return super().aggregate_train(server_round, valid)

    def _geometric_update(self, clipped_fraction: float) -> None:
        """Raise the norm when more than the target are clipped, lower it when fewer are."""
        excess = clipped_fraction - self.target_clipped_quantile
        self.clipping_norm *= math.exp(self.clip_norm_lr * excess)


def private(
    strategy: Strategy, name: str, parameters: Mapping[str, Value], *, cohort_size: int
) -> Strategy:
    """Wrap a strategy that takes the mean of its replies, weighted by `EQUALLY`.

    Parameters
    ----------
    strategy
        Takes the mean.
    name
        A name of `catalogue.PRIVACY`: ``"none"`` returns the strategy as it is.
    parameters
        Of the mechanism.
    cohort_size
        Clients in a round.

    Raises
    ------
    InvalidInputError
        If the mechanism cannot work with these parameters and so few clients.
    """
    kinds: dict[str, Callable[..., Strategy]] = {
        "fixed-clipping": FixedClipping,
        "adaptive-clipping": AdaptiveClipping,
    }
    if name == "none":
        return strategy
    try:
        return kinds[name](strategy, num_sampled_clients=cohort_size, **parameters)
    except ValueError as error:
        raise InvalidInputError(f"privacy {name!r} with {cohort_size} clients: {error}") from None


def _usable(replies: Iterable[Message], current: ArrayRecord) -> list[Message]:
    """Return the replies that hold a model; one that did not move is moved by a hair."""
    valid = [message for message in replies if not message.has_error()]
    before = from_record(current)
    for message in valid:
        name = next(iter(message.content.array_records))
        after = from_record(array_record(message.content))
        if all(np.array_equal(after[key], before[key]) for key in before):
            message.content[name] = to_record(_stirred(after))
    return valid


def _stirred(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights of which the largest number is larger by a hair, far below any noise."""
    copies = {name: np.array(array) for name, array in weights.items()}
    largest = max(copies.values(), key=lambda array: float(np.abs(array).max(initial=0.0)))
    place = np.unravel_index(int(np.abs(largest).argmax()), largest.shape)
    largest[place] += max(float(np.spacing(np.abs(largest[place]))), 1e-9)
    return copies
