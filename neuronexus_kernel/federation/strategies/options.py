"""The arguments that every strategy of ours passes on to Flower's `FedAvg`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

from neuronexus_kernel.federation._flower import MetricRecord, RecordDict


class FedAvgOptions(TypedDict, total=False):
    """Keyword arguments of `flwr.serverapp.strategy.FedAvg`: see there."""

    fraction_train: float
    fraction_evaluate: float
    min_train_nodes: int
    min_evaluate_nodes: int
    min_available_nodes: int
    weighted_by_key: str
    arrayrecord_key: str
    configrecord_key: str
    train_metrics_aggr_fn: Callable[[list[RecordDict], str], MetricRecord] | None
    evaluate_metrics_aggr_fn: Callable[[list[RecordDict], str], MetricRecord] | None
