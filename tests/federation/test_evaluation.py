"""Evaluation scores every example, for any weights that have the right shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuronexus_kernel import models
from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.errors import ArchitectureError
from neuronexus_kernel.federation import evaluate
from neuronexus_kernel.models.graph import INPUT, GraphBuilder

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


# Quantities


def quantities(rows=40, outputs=1, seed=0):
    random = np.random.default_rng(seed)
    labels = random.normal(2.0, 3.0, size=(rows, outputs))
    return Dataset(random.normal(size=(rows, 6)), labels, kind="regression")


LINE = models.mlp(6, (), 1)


def constant(value):
    """Weights of a model that always answers `value`."""
    weights = LINE.initial_weights(0)
    return {
        name: np.full_like(array, value if array.ndim == 1 else 0)
        for name, array in weights.items()
    }


def test_r2_agrees_with_the_textbook_where_nothing_is_clipped():
    from sklearn.metrics import r2_score

    data = quantities(outputs=2)
    architecture = models.mlp(6, (), 2)
    near = np.linalg.lstsq(np.c_[data.inputs, np.ones(40)], data.labels, rcond=None)[0].T
    weights = {
        name: near[:, :6] if shape == (2, 6) else near[:, 6]
        for name, shape in architecture.parameter_shapes.items()
    }
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    result = evaluate(architecture, weights, data)
    answers = architecture.build(weights).eval()(torch.tensor(data.inputs)).detach().numpy()
    errors = np.square(answers - data.labels).sum(1)
    variance = np.square(data.labels - data.labels.mean(0)).sum(1).mean()
    assert result.metric == "r2"
    np.testing.assert_allclose(result.scores, np.clip(1 - errors / variance, -1, 1), atol=1e-6)
    assert result.accuracy == result.scores.mean()
    assert result.loss == pytest.approx(np.square(answers - data.labels).mean(), rel=1e-6)
    textbook = r2_score(data.labels, answers, multioutput="variance_weighted")
    assert result.accuracy >= textbook - 1e-6
    if (errors <= 2 * variance).all():
        assert result.accuracy == pytest.approx(textbook, abs=1e-6)


def test_the_mean_of_the_labels_has_an_r2_of_zero_and_the_truth_of_one():
    data = Dataset(np.zeros((30, 6)), np.arange(30) % 2, kind="regression")
    assert evaluate(LINE, constant(0.5), data).accuracy == pytest.approx(0)
    flat = Dataset(np.zeros((3, 6)), [0.5, 0.5, 0.5], kind="regression")
    assert evaluate(LINE, constant(0.5), flat).accuracy == 1
    assert evaluate(LINE, constant(0.6), flat).accuracy == -1


def test_one_outlier_costs_no_more_than_the_worst_answer():
    labels = np.r_[np.zeros(99), 1.0]
    calm = Dataset(np.zeros((100, 6)), labels, kind="regression")
    scores = evaluate(LINE, constant(0.0), calm).scores
    assert scores[:99].tolist() == [1.0] * 99
    assert scores[99] == -1.0  # 1 - 1 / 0.0099 in the textbook
    wild = {name: array + 1e30 for name, array in constant(0.0).items()}
    assert evaluate(LINE, wild, calm).scores.tolist() == [-1.0] * 100


def test_weights_that_are_not_numbers_have_the_least_score():
    result = evaluate(LINE, constant(np.nan), quantities())
    assert result.accuracy == -1
    assert np.isnan(result.loss)


# Tokens


def successor_model(vocabulary=5, length=4):
    graph = GraphBuilder((length,), tokens=True)
    last = graph.add("embedding", INPUT, num_embeddings=vocabulary, embedding_dim=vocabulary)
    return models.Architecture((length,), tuple(graph.nodes), last, input_dtype="int64")


def successors(rows=30, vocabulary=5):
    start = np.arange(rows)[:, None]
    return Dataset.from_tokens((start + np.arange(5)) % vocabulary, vocabulary)


def test_a_table_of_successors_foretells_every_place():
    architecture, data = successor_model(), successors()
    table = 10 * np.roll(np.eye(5, dtype=np.float32), 1, axis=1)
    (name,) = architecture.parameter_shapes
    for batch in (1, 7, 4096):
        result = evaluate(architecture, {name: table}, data, batch=batch)
        assert result.scores.tolist() == [1.0] * 30
        assert (result.accuracy, result.metric) == (1.0, "accuracy")
        assert result.loss == pytest.approx(-np.log(np.exp(10) / (np.exp(10) + 4)), rel=1e-5)


def test_a_score_is_the_fraction_of_places_foretold():
    architecture = successor_model()
    (name,) = architecture.parameter_shapes
    table = np.roll(np.eye(5, dtype=np.float32), 1, axis=1)
    table[0] = [1, 0, 0, 0, 0]  # 0 is taken to be followed by 0
    data = Dataset.from_tokens([[0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [1, 2, 3, 4, 0]], 5)
    result = evaluate(architecture, {name: table}, data)
    assert result.scores.tolist() == [0.75, 1.0, 1.0]
    assert result.correct.tolist() == [False, True, True]


def test_tokens_and_numbers_are_not_taken_for_each_other(blobs):
    architecture = successor_model()
    with pytest.raises(ArchitectureError, match="takes tokens, but the inputs of data are numbers"):
        evaluate(architecture, architecture.initial_weights(0), Dataset(np.ones((3, 4)), [0, 1, 2]))
    with pytest.raises(ArchitectureError, match="embedding"):
        evaluate(ARCHITECTURE, ARCHITECTURE.initial_weights(0), successors(3))
    small = successor_model(vocabulary=4)
    with pytest.raises(ArchitectureError, match="knows 4 tokens, but data has 5"):
        evaluate(small, small.initial_weights(0), successors())


def test_running_statistics_are_used_as_they_are():
    graph = GraphBuilder((6,))
    last = graph.add("batch_norm", INPUT, eps=1e-5, momentum=0.1, affine=False)
    last = graph.add("linear", last, out_features=3)
    architecture = models.Architecture((6,), tuple(graph.nodes), last)
    weights = architecture.initial_weights(0)
    mean, variance = (
        next(name for name in weights if name.endswith(end))
        for end in ("running_mean", "running_var")
    )
    data = Dataset(np.random.default_rng(0).normal(size=(20, 6)), np.arange(20) % 3)
    moved = {**weights, mean: np.full(6, 2, np.float32), variance: np.full(6, 4, np.float32)}
    by_hand = Dataset((data.inputs - 2) / 2, data.labels)
    expected = evaluate(architecture, weights, by_hand)
    for batch in (3, 20):
        found = evaluate(architecture, moved, data, batch=batch)
        assert found.scores.tolist() == expected.scores.tolist()
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
