"""All executors do the same work: equal to the reference, whatever the clients' sizes.

This is the contract suite.  `sequential` is the reference; every other executor is held to it by
the same tests.  One that cannot run a recipe is replaced by its plan, and must then be right too.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from neuronexus_kernel import models
from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.federation import Recipe
from neuronexus_kernel.federation.executors.base import Client, Cohort
from neuronexus_kernel.federation.executors.plan import make_executor, make_plan
from neuronexus_kernel.federation.executors.sequential import SequentialExecutor

RAGGED = (7, 12, 1, 5, 12)
STACKED = ("vectorized", "fused")
HERE = (*STACKED, *(["cuda"] if torch.cuda.is_available() else []))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = x + torch.relu(self.first(x))
        return self.last(x + torch.tanh(self.second(x)))


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 9)

    def forward(self, x):
        return self.head(self.norm(self.embedding(x)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        outputs, _ = self.lstm(x)
        return self.head(outputs[:, -1])


def images(norm):
    # No bias before a normalisation, which takes it away again: its gradient is rounding alone,
    # and Adam would make steps of that.
    convolution = nn.Conv2d(1, 4, 3, padding=1, bias=False)
    head = nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    return nn.Sequential(convolution, norm, head)


def dense(*layers):
    return nn.Sequential(nn.Linear(6, 8, bias=False), *layers, nn.Linear(8, 3))


MODELS = {
    "mlp": (lambda: models.mlp(6, (10, 7), 3), (6,)),
    "linear": (lambda: models.mlp(6, (), 3), (6,)),
    "cnn": (lambda: models.cnn((1, 6, 6), 3, channels=(3, 4), kernel_size=3, hidden=8), (1, 6, 6)),
    "dropout": (lambda: dense(nn.Tanh(), nn.Dropout(0.4)), (6,)),
    "layer norm": (lambda: dense(nn.LayerNorm(8), nn.GELU()), (6,)),
    "group norm": (lambda: images(nn.GroupNorm(2, 4)), (1, 6, 6)),
    "batch norm": (lambda: images(nn.BatchNorm2d(4)), (1, 6, 6)),
    "batch norm of rows": (lambda: dense(nn.BatchNorm1d(8), nn.GELU()), (6,)),
    "residual": (Residual, (6,)),
    "lstm": (Recurrent, (3, 4)),
    "language": (Language, (5,)),
}
OPTIMISERS = {
    "sgd": {},
    "sgd with weight decay": {"weight_decay": 0.05},
    "nesterov with weight decay": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
    "adam with weight decay": {"optimiser": "adam", "learning_rate": 0.01, "weight_decay": 0.1},
    "adamw": {"optimiser": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
}
FIELDS = {
    "momentum": {"momentum": 0.9},
    "adam": {"optimiser": "adam", "learning_rate": 0.01},
    "clipping": {"gradient_clip": 0.3},
    "label smoothing": {"label_smoothing": 0.1},
    "steps": {"local_steps": 5},
    "a schedule": {
        "schedule": "cosine",
        "schedule_parameters": {"rounds": 9},
        "warmup_rounds": 6,
    },
    "noise": {"augmentation": [{"name": "noise", "scale": 0.3}]},
    "batches larger than any client": {"batch_size": 64},
    "batches of one": {"batch_size": 1, "local_epochs": 1},
}
TRAINING = {**OPTIMISERS, **FIELDS}
QUICK = {(model, training) for model in MODELS for training in OPTIMISERS}
QUICK |= {(model, training) for model in ("mlp", "batch norm") for training in FIELDS}


@cache
def architecture_of(model):
    make, shape = MODELS[model]
    made = make()
    if isinstance(made, models.Architecture):
        return made
    tokens = model == "language"
    return models.Architecture.capture(
        made, torch.zeros((1, *shape), dtype=torch.int64 if tokens else torch.float32)
    )


def data_of(blobs, model, rows, seed):
    if model != "language":
        return blobs(rows, MODELS[model][1], seed=seed)
    tokens = np.random.default_rng(seed).integers(0, 9, size=(rows, 6))
    return Dataset.from_tokens(tokens, 9)


def cohort_of(blobs, model, *, sizes=RAGGED, mu=0.0, own=None, corrections=None, **fields):
    architecture = architecture_of(model)
    if model == "language":
        fields = {"loss": "next_token", **fields}
    recipe = Recipe(architecture, **{"batch_size": 5, "local_epochs": 2, **fields})
    clients = tuple(
        Client(place, data_of(blobs, model, size, place)) for place, size in enumerate(sizes)
    )
    return Cohort(
        recipe,
        architecture.initial_weights(3),
        clients,
        seed=11,
        round=4,
        proximal_mu=mu,
        own=own or {},
        corrections=corrections or {},
    )


def executor_of(name, cohort, *, dtype="float64", chunk=None):
    plan = make_plan(
        cohort.recipe,
        clients=len(cohort.clients),
        executor=name,
        dtype=dtype,
        corrections=bool(cohort.corrections),
        own=bool(cohort.own),
    )
    return make_executor(plan if chunk is None else replace(plan, chunk=chunk))


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


def assert_all_equal(cohort, tolerance=1e-9, dtype="float64"):
    """Check every executor that trains in this process; return the reference's updates."""
    reference = SequentialExecutor(dtype=dtype).train(cohort)
    for name in HERE:
        ours = executor_of(name, cohort, dtype=dtype, chunk=3).train(cohort)
        assert_equal_updates(ours, reference, tolerance)
    return reference


def tensors_like(cohort, names, seed, scale=0.1):
    random = np.random.default_rng(seed)
    return {
        name: (random.random(cohort.weights[name].shape) * scale).astype(np.float32)
        for name in names
    }


# Equal to the reference


@pytest.mark.parametrize(
    ("model", "training"),
    [
        pytest.param(model, training, marks=() if (model, training) in QUICK else pytest.mark.long)
        for model in MODELS
        for training in TRAINING
        if (model, training) != ("language", "noise")  # tokens are not augmented
    ],
)
def test_every_executor_equals_the_reference_in_float64(blobs, model, training):
    assert_all_equal(cohort_of(blobs, model, **TRAINING[training]))


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_it_does_not_matter_who_trains_together(blobs, name, chunk):
    cohort = cohort_of(blobs, "batch norm", weight_decay=0.1)
    ours = executor_of(name, cohort, chunk=chunk).train(cohort)
    assert_equal_updates(ours, SequentialExecutor(dtype="float64").train(cohort), 1e-9)


@pytest.mark.parametrize("loss", ["bce", "mse"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_other_losses_of_classes_are_equal_too(blobs, model, loss):
    assert_all_equal(cohort_of(blobs, model, loss=loss))


@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_regression_of_whole_images_is_equal_too(loss):
    layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 16))
    autoencoder = nn.Sequential(layers, nn.Unflatten(1, (1, 4, 4)))
    architecture = models.Architecture.capture(autoencoder, torch.zeros(1, 1, 4, 4))
    clients = []
    for place, rows in enumerate(RAGGED):
        inputs = np.random.default_rng(place).random((rows, 1, 4, 4), dtype=np.float32)
        clients.append(Client(place, Dataset(inputs, inputs, kind="regression")))
    recipe = Recipe(architecture, loss=loss, batch_size=5, local_epochs=1)
    assert_all_equal(Cohort(recipe, architecture.initial_weights(), tuple(clients), 0, 1))


def test_every_augmentation_is_the_same_in_all_executors(blobs):
    entries = [
        {"name": "shift", "pixels": 2},
        {"name": "flip", "probability": 0.5},
        {"name": "crop", "padding": 2},
        {"name": "noise", "scale": 0.1},
        {"name": "cutout", "size": 3},
    ]
    changed = assert_all_equal(cohort_of(blobs, "cnn", augmentation=entries))
    plain = SequentialExecutor(dtype="float64").train(cohort_of(blobs, "cnn"))
    assert all(one.loss != other.loss for one, other in zip(changed, plain, strict=True))


@pytest.mark.parametrize("model", ["mlp", "batch norm"])
def test_the_pull_of_fedprox_is_the_same_and_keeps_clients_near_the_start(blobs, model):
    moved = []
    for mu in (0.0, 1.0):
        cohort = cohort_of(blobs, model, mu=mu)
        reference = assert_all_equal(cohort)
        moved.append(
            sum(
                float(np.square(update.weights[name] - cohort.weights[name]).sum())
                for update in reference
                for name, spec in architecture_of(model).parameters.items()
                if spec.trainable
            )
        )
    assert moved[1] < 0.9 * moved[0]


@pytest.mark.parametrize("fields", [{}, {"momentum": 0.9}, {"gradient_clip": 0.1}])
def test_a_client_starts_from_its_own_tensors_and_is_pulled_to_the_common_ones(blobs, fields):
    cohort = cohort_of(blobs, "batch norm", **fields)
    names = [name for name in cohort.weights if "batch_norm" in name]
    own = {1: tensors_like(cohort, cohort.weights, 1), 3: tensors_like(cohort, names, 2)}
    mixed = replace(cohort, own=own, proximal_mu=0.5)
    reference = assert_all_equal(mixed)
    plain = SequentialExecutor(dtype="float64").train(replace(cohort, proximal_mu=0.5))
    for place, (one, other) in enumerate(zip(reference, plain, strict=True)):
        assert (one.loss != other.loss) == (place in own)


@pytest.mark.parametrize("fields", [{}, {"gradient_clip": 0.1}, {"optimiser": "adam"}])
@pytest.mark.parametrize("model", ["mlp", "batch norm"])
def test_corrections_are_added_to_every_gradient_after_clipping(blobs, model, fields):
    cohort = cohort_of(blobs, model, **fields)
    names = [name for name, spec in architecture_of(model).parameters.items() if spec.trainable]
    corrections = {place: tensors_like(cohort, names, place) for place in (0, 2, 4)}
    reference = assert_all_equal(replace(cohort, corrections=corrections))
    plain = SequentialExecutor(dtype="float64").train(cohort)
    for place, (one, other) in enumerate(zip(reference, plain, strict=True)):
        same = all(np.array_equal(one.weights[name], other.weights[name]) for name in names)
        assert same == (place not in corrections)


def test_a_correction_moves_sgd_by_the_learning_rate_times_itself_at_each_step(blobs):
    cohort = cohort_of(blobs, "mlp", learning_rate=0.25, local_steps=1, gradient_clip=1e-6)
    corrections = {0: tensors_like(cohort, cohort.weights, 0, scale=1.0)}
    update = SequentialExecutor(dtype="float64").train(replace(cohort, corrections=corrections))[0]
    for name, value in corrections[0].items():
        moved = update.weights[name] - cohort.weights[name]
        np.testing.assert_allclose(moved, -0.25 * value, atol=1e-6)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("model", ["mlp", "cnn", "dropout", "batch norm", "language"])
def test_in_float32_they_agree_within_rounding(blobs, model, name):
    one_step = {"batch_size": 64, "local_epochs": 1}
    for fields, tolerance in ((one_step, 1e-5), ({"local_epochs": 1}, 1e-3)):
        cohort = cohort_of(blobs, model, **fields)
        ours = executor_of(name, cohort, dtype="float32").train(cohort)
        assert_equal_updates(ours, SequentialExecutor().train(cohort), tolerance)


# What the reference does


def test_the_reference_is_what_a_plain_torch_loop_does(blobs):
    cohort = cohort_of(blobs, "mlp", sizes=(23,), momentum=0.9, gradient_clip=0.5)
    module = architecture_of("mlp").build(cohort.weights)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    data = cohort.clients[0].dataset
    for rows in cohort.batches(cohort.clients[0]):
        optimiser.zero_grad()
        scores = module(torch.tensor(data.inputs[rows]))
        nn.functional.cross_entropy(scores, torch.tensor(data.labels[rows])).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        optimiser.step()
    (update,) = SequentialExecutor().train(cohort)
    for name, value in module.state_dict().items():
        assert np.array_equal(update.weights[name], value.numpy())


def test_batch_norm_keeps_the_statistics_that_torch_keeps(blobs):
    torch.manual_seed(0)
    module = images(nn.BatchNorm2d(4))
    architecture = models.Architecture.capture(module, torch.zeros(1, 1, 6, 6))
    start = architecture.weights_of(module)
    recipe = Recipe(architecture, batch_size=5, local_epochs=2)
    cohort = Cohort(recipe, start, (Client(0, blobs(15, (1, 6, 6))),), seed=0, round=1)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    data = cohort.clients[0].dataset
    for rows in cohort.batches(cohort.clients[0]):
        optimiser.zero_grad()
        scores = module(torch.tensor(data.inputs[rows]))
        nn.functional.cross_entropy(scores, torch.tensor(data.labels[rows])).backward()
        optimiser.step()
    (update,) = SequentialExecutor().train(cohort)
    for name, array in architecture.weights_of(module).items():
        np.testing.assert_allclose(update.weights[name], array, rtol=0, atol=1e-5)
        moved = not np.array_equal(update.weights[name], start[name])
        assert moved


def test_the_rounds_learning_rate_is_the_one_of_the_schedule(blobs):
    fields = {"schedule": "step", "schedule_parameters": {"every": 2, "factor": 0.5}}
    scheduled = cohort_of(blobs, "mlp", learning_rate=0.2, **fields)
    constant = cohort_of(blobs, "mlp", learning_rate=0.1)
    executor = SequentialExecutor(dtype="float64")
    assert_equal_updates(executor.train(scheduled), executor.train(constant), 0.0)


def test_the_loss_is_the_mean_over_all_examples_that_the_steps_saw(blobs):
    cohort = cohort_of(blobs, "mlp", sizes=(7,), batch_size=4, local_steps=3, learning_rate=1e-12)
    (update,) = SequentialExecutor(dtype="float64").train(cohort)
    module = architecture_of("mlp").build(cohort.weights).double()
    data = cohort.clients[0].dataset
    rows = np.concatenate(list(cohort.batches(cohort.clients[0])))
    assert len(rows) == cohort.seen(cohort.clients[0]) == 4 + 3 + 4
    scores = module(torch.tensor(data.inputs[rows]).double())
    expected = nn.functional.cross_entropy(scores, torch.tensor(data.labels[rows])).item()
    assert update.loss == pytest.approx(expected, abs=1e-9)


# The same bits, whoever else trains


@pytest.mark.parametrize("name", ["sequential", *HERE])
@pytest.mark.parametrize("model", ["dropout", "batch norm", "mlp"])
def test_a_client_trains_the_same_bits_again_and_does_not_touch_the_start(blobs, model, name):
    fields = {} if name == "fused" else {"optimiser": "adam"}
    cohort = cohort_of(blobs, model, **fields)
    executor = executor_of(name, cohort, dtype="float32")
    before = {name: array.copy() for name, array in cohort.weights.items()}
    torch.manual_seed(1)
    first = executor.train(cohort)
    torch.manual_seed(2)
    second = executor.train(cohort)
    assert_equal_updates(first, second, 0.0)
    for name, array in before.items():
        assert np.array_equal(cohort.weights[name], array)


def test_dropout_and_augmentation_differ_between_clients_rounds_and_seeds(blobs):
    for model, fields in (
        ("dropout", {}),
        ("mlp", {"augmentation": [{"name": "noise", "scale": 1.0}]}),
    ):
        architecture, data = architecture_of(model), blobs(10, (6,))
        recipe = Recipe(architecture, local_epochs=1, batch_size=10, **fields)
        losses = set()
        for partition_id, round, seed in ((0, 1, 1), (1, 1, 1), (0, 2, 1), (0, 1, 2)):
            clients = (Client(partition_id, data),)
            weights = architecture.initial_weights(0)
            cohort = Cohort(recipe, weights, clients, seed=seed, round=round)
            losses.add(f"{SequentialExecutor().train(cohort)[0].loss:.6f}")
        assert len(losses) == 4


@pytest.mark.parametrize("name", HERE)
def test_a_client_that_diverges_does_not_disturb_its_neighbours(blobs, name):
    cohort = cohort_of(blobs, "linear", sizes=(20, 20, 20))
    huge = cohort.clients[1].dataset
    bad = type(huge)(huge.inputs * 1e38, huge.labels, classes=3)
    mixed = replace(cohort, clients=(cohort.clients[0], Client(1, bad), cohort.clients[2]))
    ours = executor_of(name, cohort, dtype="float32").train(mixed)
    assert not all(np.isfinite(array).all() for array in ours[1].weights.values())
    alone = executor_of(name, cohort, dtype="float32").train(cohort)
    assert_equal_updates([ours[0], ours[2]], [alone[0], alone[2]], 1e-6)


def test_processes_train_as_the_executor_inside_them_does(blobs):
    cohort = cohort_of(blobs, "mlp")
    plan = make_plan(cohort.recipe, clients=5, executor="processes", dtype="float64", workers=2)
    with make_executor(plan) as executor:
        ours = executor.train(cohort)
    assert_equal_updates(ours, SequentialExecutor(dtype="float64").train(cohort), 1e-9)
