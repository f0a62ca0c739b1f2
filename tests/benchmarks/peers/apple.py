"""pfl-research 0.6 (Granqvist et al. 2024, arXiv:2404.06430): its simulated backend.

Started by ``torchrun`` for several processes; each trains its share of the clients.
"""

from __future__ import annotations

import os
import time
from itertools import pairwise
from types import MethodType

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional as F
from work import BATCH, RATE, Work, options, report


class Clock(TrainingProcessCallback):
    """Takes the time at the end of each iteration."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Take the time."""
        self.ends.append(time.perf_counter())
        return False, Metrics()


def _loss(self: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    self.train()
    return F.cross_entropy(self(inputs), labels)


def _metrics(self: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, object]:
    return {}


def main() -> None:
    """Train a few central iterations."""
    chosen = options()
    torch.set_num_threads(chosen.threads)
    work = Work.load(chosen.work)
    clients = len(work.labels)
    network = work.network()
    network.loss = MethodType(_loss, network)
    network.metrics = MethodType(_metrics, network)
    model = PyTorchModel(
        model=network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    rng = np.random.default_rng(0)

    def user(client: int) -> Dataset:
        order = rng.permutation(work.labels.shape[1])
        inputs = torch.from_numpy(work.inputs[client][order])
        return Dataset([inputs, torch.from_numpy(work.labels[client][order])])

    sampler = get_user_sampler("minimize_reuse", range(clients))
    data = FederatedDataset(user, sampler, user_id_to_weight=dict.fromkeys(range(clients), 1.0))
    clock = Clock()
    begin = time.perf_counter()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=chosen.rounds,
            evaluation_frequency=1_000_000,
            train_cohort_size=clients,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=RATE, local_batch_size=BATCH
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[clock],
    )
    if int(os.environ.get("RANK", "0")) == 0:
        ends = [begin, *clock.ends]
        seconds = [later - sooner for sooner, later in pairwise(ends)]
        report(seconds, first=clock.ends[0] - begin)


if __name__ == "__main__":
    main()
