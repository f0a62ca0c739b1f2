"""Evaluation counts right answers, for any weights that have the right shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuronexus_kernel import models
from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.federation import evaluate

ARCHITECTURE = models.mlp(6, (8,), 3)


def test_it_agrees_with_torch_and_does_not_depend_on_the_batch(blobs):
    data = blobs(50)
    weights = ARCHITECTURE.initial_weights(1)
    scores = ARCHITECTURE.build(weights).eval()(torch.tensor(data.inputs)).detach()
    right = (scores.argmax(1).numpy() == data.labels).tolist()
    loss = torch.nn.functional.cross_entropy(scores, torch.tensor(data.labels)).item()
    for batch in (1, 7, 50, 4096):
        result = evaluate(ARCHITECTURE, weights, data, batch=batch)
        assert result.correct.tolist() == right
        assert result.correct.dtype == bool
        assert (result.accuracy, result.examples) == (np.mean(right), 50)
        assert result.loss == pytest.approx(loss, rel=1e-5)


def test_weights_that_are_not_numbers_are_wrong_everywhere(blobs):
    weights = {
        name: np.full_like(array, np.nan) for name, array in ARCHITECTURE.initial_weights(0).items()
    }
    result = evaluate(ARCHITECTURE, weights, blobs(30))
    assert result.accuracy == 0.0
    assert np.isnan(result.loss)


def test_infinite_weights_still_give_answers(blobs):
    weights = ARCHITECTURE.initial_weights(0)
    last = sorted(weights)[-2]  # the output layer's bias
    weights[last] = np.array([0.0, np.inf, 0.0], dtype=np.float32)
    data = blobs(30)
    result = evaluate(ARCHITECTURE, weights, data)
    assert result.correct.tolist() == (data.labels == 1).tolist()


def test_dropout_is_off(blobs):
    layers = torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.Dropout(0.9))
    architecture = models.Architecture.capture(layers, torch.zeros(1, 6))
    weights = architecture.initial_weights(0)
    losses = {evaluate(architecture, weights, blobs(30)).loss for _ in range(3)}
    assert len(losses) == 1


def test_weights_of_another_model_are_refused(blobs):
    with pytest.raises(ArchitectureError, match="missing or unknown"):
        evaluate(ARCHITECTURE, models.mlp(6, (), 3).initial_weights(0), blobs(30))
    with pytest.raises(ArchitectureError, match="have shape"):
        evaluate(ARCHITECTURE, models.mlp(6, (9,), 3).initial_weights(0), blobs(30))


def test_data_of_another_task_are_refused(blobs):
    with pytest.raises(ArchitectureError, match="shape"):
        evaluate(ARCHITECTURE, ARCHITECTURE.initial_weights(0), blobs(30, shape=(5,)))
    with pytest.raises(ArchitectureError, match="classes"):
        evaluate(ARCHITECTURE, ARCHITECTURE.initial_weights(0), blobs(30, classes=4))
