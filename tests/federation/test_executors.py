"""All executors do the same work: equal to the reference, whatever the clients' sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuronexus_kernel import models
from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation import Recipe
from neuronexus_kernel.federation.executors.base import Client, Cohort
from neuronexus_kernel.federation.executors.plan import make_executor, make_plan
from neuronexus_kernel.federation.executors.sequential import SequentialExecutor
from neuronexus_kernel.federation.executors.threads import torch_threads
from neuronexus_kernel.federation.executors.vectorized import VectorizedExecutor

RAGGED = (7, 23, 10, 1, 23, 30)


def dropout_net():
    layers = torch.nn.Sequential(
        torch.nn.Linear(6, 12),
        torch.nn.Tanh(),
        torch.nn.Dropout(0.4),
        torch.nn.Linear(12, 8),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(8, 3),
    )
    return models.Architecture.capture(layers, torch.zeros(1, 6))


def normalised_net():
    layers = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.LayerNorm(8), torch.nn.GELU(), torch.nn.Linear(8, 3)
    )
    return models.Architecture.capture(layers, torch.zeros(1, 6))


MODELS = {
    "mlp": lambda: (models.mlp(6, (10, 7), 3), (6,)),
    "linear": lambda: (models.mlp(6, (), 3), (6,)),
    "dropout": lambda: (dropout_net(), (6,)),
    "layer norm": lambda: (normalised_net(), (6,)),
    "cnn": lambda: (
        models.cnn((1, 8, 8), 3, channels=(3, 4), kernel_size=3, hidden=8),
        (1, 8, 8),
    ),
}
TRAINING = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "weight decay": {"momentum": 0.5, "weight_decay": 0.05},
    "adam": {"optimiser": "adam", "learning_rate": 0.01},
    "adam with weight decay": {"optimiser": "adam", "learning_rate": 0.01, "weight_decay": 0.1},
    "batches larger than any client": {"batch_size": 64},
    "batches of one": {"batch_size": 1, "local_epochs": 1},
}


def cohort_of(blobs, architecture, shape, *, sizes=RAGGED, mu=0.0, **fields):
    recipe = Recipe(architecture, **{"batch_size": 5, "local_epochs": 2, **fields})
    clients = tuple(
        Client(place, blobs(size, shape, seed=place)) for place, size in enumerate(sizes)
    )
    weights = architecture.initial_weights(3)
    return Cohort(recipe, weights, clients, seed=11, round=4, proximal_mu=mu)


def assert_equal_updates(ours, reference, tolerance):
    assert len(ours) == len(reference)
    for mine, theirs in zip(ours, reference, strict=True):
        assert mine.partition_id == theirs.partition_id
        assert (mine.num_examples, mine.steps) == (theirs.num_examples, theirs.steps)
        assert mine.loss == pytest.approx(theirs.loss, abs=tolerance)
        assert mine.weights.keys() == theirs.weights.keys()
        for name, array in theirs.weights.items():
            assert mine.weights[name].shape == array.shape
            assert mine.weights[name].dtype == array.dtype
            np.testing.assert_allclose(mine.weights[name], array, rtol=0, atol=tolerance)


@pytest.mark.parametrize("training", TRAINING)
@pytest.mark.parametrize("model", MODELS)
def test_the_vectorised_executor_equals_the_reference_in_float64(blobs, model, training):
    architecture, shape = MODELS[model]()
    cohort = cohort_of(blobs, architecture, shape, **TRAINING[training])
    reference = SequentialExecutor(dtype="float64").train(cohort)
    for chunk in (4, 100):
        ours = VectorizedExecutor(chunk=chunk, dtype="float64").train(cohort)
        assert_equal_updates(ours, reference, 1e-9)


def test_the_pull_of_fedprox_is_the_same_in_both_and_keeps_clients_near_the_start(blobs):
    moved = []
    for mu in (0.0, 1.0):
        cohort = cohort_of(blobs, *MODELS["mlp"](), mu=mu)
        reference = SequentialExecutor(dtype="float64").train(cohort)
        ours = VectorizedExecutor(chunk=10, dtype="float64").train(cohort)
        assert_equal_updates(ours, reference, 1e-9)
        moved.append(
            sum(
                float(np.square(update.weights[name] - start).sum())
                for update in reference
                for name, start in cohort.weights.items()
            )
        )
    assert moved[1] < 0.9 * moved[0]


@pytest.mark.parametrize("model", ["mlp", "cnn", "dropout"])
def test_in_float32_they_agree_within_rounding(blobs, model):
    architecture, shape = MODELS[model]()
    one_step = {"batch_size": 64, "local_epochs": 1}
    for fields, tolerance in ((one_step, 1e-5), ({}, 1e-3)):
        cohort = cohort_of(blobs, architecture, shape, **fields)
        ours = VectorizedExecutor(chunk=100).train(cohort)
        assert_equal_updates(ours, SequentialExecutor().train(cohort), tolerance)


def test_the_reference_is_what_a_plain_torch_loop_does(blobs):
    architecture, shape = MODELS["mlp"]()
    cohort = cohort_of(blobs, architecture, shape, sizes=(23,), momentum=0.9)
    module = architecture.build(cohort.weights)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    data = cohort.clients[0].dataset
    for rows in cohort.batches(cohort.clients[0]):
        optimiser.zero_grad()
        scores = module(torch.tensor(data.inputs[rows]))
        torch.nn.functional.cross_entropy(scores, torch.tensor(data.labels[rows])).backward()
        optimiser.step()
    (update,) = SequentialExecutor().train(cohort)
    for name, value in module.state_dict().items():
        assert np.array_equal(update.weights[name], value.numpy())


@pytest.mark.parametrize(
    "executor", [SequentialExecutor(), VectorizedExecutor(chunk=3)], ids=lambda each: each.name
)
def test_a_client_trains_the_same_bits_again_and_does_not_touch_the_start(blobs, executor):
    cohort = cohort_of(blobs, *MODELS["dropout"](), optimiser="adam")
    before = {name: array.copy() for name, array in cohort.weights.items()}
    torch.manual_seed(1)
    first = executor.train(cohort)
    torch.manual_seed(2)
    second = executor.train(cohort)
    assert_equal_updates(first, second, 0.0)
    for name, array in before.items():
        assert np.array_equal(cohort.weights[name], array)


def test_dropout_differs_between_clients_rounds_and_seeds(blobs):
    architecture, shape = MODELS["dropout"]()
    data = blobs(10, shape)
    recipe = Recipe(architecture, local_epochs=1, batch_size=10)

    def train(partition_id, round, seed):
        clients = (Client(partition_id, data),)
        cohort = Cohort(recipe, architecture.initial_weights(0), clients, seed=seed, round=round)
        return SequentialExecutor().train(cohort)[0].loss

    losses = {round(train(*address), 6) for address in ((0, 1, 1), (1, 1, 1), (0, 2, 1), (0, 1, 2))}
    assert len(losses) == 4


def test_a_client_that_diverges_does_not_disturb_its_neighbours(blobs):
    architecture, shape = MODELS["linear"]()
    cohort = cohort_of(blobs, architecture, shape, sizes=(20, 20, 20))
    huge = cohort.clients[1].dataset
    bad = type(huge)(huge.inputs * 1e38, huge.labels, classes=3)
    clients = (cohort.clients[0], Client(1, bad), cohort.clients[2])
    mixed = Cohort(cohort.recipe, cohort.weights, clients, cohort.seed, cohort.round)
    ours = VectorizedExecutor(chunk=3).train(mixed)
    assert not all(np.isfinite(array).all() for array in ours[1].weights.values())
    alone = VectorizedExecutor(chunk=3).train(cohort)
    assert_equal_updates([ours[0], ours[2]], [alone[0], alone[2]], 1e-6)


def test_the_plan_depends_on_the_model_and_the_cohort_only():
    mlp, cnn = models.mlp(784, (200, 200), 10), models.cnn()
    assert make_plan(mlp, clients=10).executor == "vectorized"
    assert make_plan(mlp, clients=1).executor == "sequential"
    assert make_plan(cnn, clients=10).executor == "sequential"
    assert make_plan(mlp, clients=10) == make_plan(mlp, clients=10)
    assert make_plan(mlp, clients=10).chunk > make_plan(cnn, clients=2, executor="vectorized").chunk


def test_a_plan_is_plain_data_and_makes_the_executor_that_it_names():
    plan = make_plan(models.mlp(4, (3,), 2), clients=5, executor="sequential", dtype="float64")
    assert make_executor(plan).name == plan.executor == "sequential"
    record = plan.to_dict()
    assert record["dtype"] == "float64"
    assert record["threads"] == torch.get_num_threads()
    assert record["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("fields", [{"executor": "warp"}, {"dtype": "float16"}])
def test_an_unknown_executor_or_number_type_is_refused(fields):
    with pytest.raises(InvalidInputError, match=next(iter(fields))):
        make_plan(models.mlp(4, (3,), 2), clients=5, **fields)


def test_small_steps_use_one_thread_and_torch_has_its_own_number_afterwards():
    before = torch.get_num_threads()
    small = make_plan(models.mlp(64, (128,), 10), clients=3)
    assert small.threads == 1
    assert make_plan(models.mlp(784, (200, 200), 10), clients=10).threads == before
    with torch_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
