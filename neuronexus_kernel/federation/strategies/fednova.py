"""FedNova: clients that took more steps do not pull the model to themselves.

With different numbers of local steps FedAvg minimises another objective than the one asked for.
FedNova divides each client's change by how much its optimiser accumulates over its steps, the
norm of the vector ``a_i`` of the paper, averages these normalised changes by examples, and goes
along them as far as the clients went on average.  ``|a_i|`` is the number of steps for plain SGD;
momentum adds to it and the proximal term takes from it.  When all of them are equal, FedNova is
FedAvg (or FedProx).  Running statistics are no gradients: they are averaged.

Wang, Liu, Liang, Joshi, Poor: "Tackling the Objective Inconsistency Problem in Heterogeneous
Federated Optimization", NeurIPS 2020, arXiv:2007.07481.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Unpack

import numpy as np

from neuronexus_kernel.federation._flower import (
    ArrayRecord,
    ConfigRecord,
    Grid,
    Message,
    MetricRecord,
    RecordDict,
    strategy,
)
from neuronexus_kernel.federation.arrays import from_record, to_record
from neuronexus_kernel.federation.strategies.options import FedAvgOptions
from neuronexus_kernel.federation.strategies.replies import array_record, metric


class FedNova(strategy.FedAvg):
    """Normalised averaging.

    Parameters
    ----------
    momentum, nesterov
        Of the clients' SGD.
    proximal_mu
        Weight of the pull to the global model in the clients' loss, as in FedProx.
    learning_rate
        The clients' rate in a round; the proximal term's part depends on it.
    statistics
        Full names of the running statistics.
    **options
        Of Flower's ``FedAvg``.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        proximal_mu: float = 0.0,
        learning_rate: Callable[[int], float] = lambda round: 0.1,
        statistics: Collection[str] = (),
        **options: Unpack[FedAvgOptions],
    ) -> None:
        super().__init__(**options)
        self.momentum = momentum
        self.nesterov = nesterov
        self.proximal_mu = proximal_mu
        self.learning_rate = learning_rate
        self.statistics = sorted(statistics)
        self.current = ArrayRecord()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the model, and the weight of the proximal term."""
        self.current = arrays
        config["proximal-mu"] = self.proximal_mu
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Add the mean of the normalised changes, times the mean normaliser."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        contents = [message.content for message in valid]
        joined = self._join(server_round, contents)
        return to_record(joined), self.train_metrics_aggr_fn(contents, self.weighted_by_key)

    def _join(self, server_round: int, contents: list[RecordDict]) -> dict[str, np.ndarray]:
        examples = np.array([metric(each, self.weighted_by_key) for each in contents])
        shares = examples / examples.sum()
        pull = self.proximal_mu * self.learning_rate(server_round)
        norms = np.array(
            [
                normaliser(
                    int(metric(each, "steps")),
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    pull=pull,
                )
                for each in contents
            ]
        )
        factors = shares * float(shares @ norms) / norms
        models = [from_record(array_record(each)) for each in contents]
        joined = {}
        for name, before in from_record(self.current).items():
            parts = shares if name in self.statistics else factors
            total = before * float(1.0 - parts.sum())
            for part, model in zip(parts, models, strict=True):
                total += model[name] * float(part)
            joined[name] = np.asarray(total, dtype=before.dtype)
        return joined


def normaliser(
    steps: int, *, momentum: float = 0.0, nesterov: bool = False, pull: float = 0.0
) -> float:
    """Return the norm of the paper's ``a_i``: what SGD makes of equal gradients of size 1.

    Parameters
    ----------
    steps
        Local steps, at least 1.
    momentum, nesterov
        Of the client's SGD.
    pull
        Learning rate times the weight of the proximal term, below 1.

    Returns
    -------
    float
        Distance gone, in units of the learning rate.
    """
    if momentum == 0.0 and pull == 0.0:
        return float(steps)
    gone = velocity = 0.0
    for _ in range(steps):
        gradient = 1.0 - pull * gone
        velocity = momentum * velocity + gradient
        gone += gradient + momentum * velocity if nesterov else velocity
    return gone
