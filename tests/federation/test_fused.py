"""Fused steps do what the reference does: every operator, with every field of a recipe."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuronexus_kernel import models
from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.federation import Recipe
from neuronexus_kernel.federation.executors.base import Client, Cohort
from neuronexus_kernel.federation.executors.fused import FusedExecutor, refusal
from neuronexus_kernel.federation.executors.fused.rules import RULES
from neuronexus_kernel.federation.executors.sequential import SequentialExecutor
from neuronexus_kernel.federation.executors.threads import torch_threads
from neuronexus_kernel.models.graph import INPUT, GraphBuilder
from neuronexus_kernel.models.operators import OPERATORS

RAGGED = (7, 12, 1, 10, 12)
IMAGE = (2, 6, 5)
ROWS = (4, 6)
TOKENS = (5,)
VOCABULARY = 7


def graph(shape, *steps, tokens=False):
    """Return an architecture of (operator, input or None for the last, arguments) steps.

    It ends with a flattening and a linear layer of three outputs, so that all gradients are
    distinct, and begins with a layer that has parameters, so that deltas must reach the front.
    """
    builder = GraphBuilder(shape, tokens=tokens)
    names = [INPUT]
    for operator, inputs, arguments in steps:
        taken = [names[-1] if each is None else names[each] for each in inputs]
        names.append(builder.add(operator, *taken, **arguments))
    last = builder.add("flatten", names[-1])
    last = builder.add("linear", last, out_features=3)
    return models.Architecture(
        shape, tuple(builder.nodes), last, input_dtype="int64" if tokens else "float32"
    )


def on_rows(*steps):
    return graph(ROWS, ("linear", [None], {"out_features": 6}), *steps)


def on_image(*steps):
    front = ("conv2d", [None], {"out_channels": 4, "kernel_size": (3, 3), "padding": (1, 1)})
    return graph(IMAGE, front, *steps)


def after(operator, **arguments):
    """Return a step that reads the one before it."""
    return (operator, [None], arguments)


def positive():
    """Return steps that make all elements larger than 0.5."""
    return after("sigmoid"), after("scale", offset=0.5)


WINDOW = {"kernel_size": (2, 2), "stride": (2, 2)}
CONV = {"out_channels": 4, "kernel_size": (3, 2)}

CASES = {
    "linear": lambda: on_rows(),
    "linear without bias": lambda: on_rows(after("linear", out_features=3, bias=False)),
    "conv2d": lambda: on_image(after("conv2d", **CONV)),
    "conv2d with all its arguments": lambda: on_image(
        after(
            "conv2d", **CONV, stride=(2, 1), padding=(1, 1), dilation=(1, 2), groups=2, bias=False
        )
    ),
    "conv1d": lambda: on_rows(
        after("conv1d", out_channels=6, kernel_size=(3,), padding=(1,), groups=2),
        after("conv1d", out_channels=3, kernel_size=(2,), stride=(2,)),
    ),
    "conv_transpose2d": lambda: on_image(
        after("conv_transpose2d", **CONV, stride=(2, 2), padding=(1, 0), output_padding=(1, 0))
    ),
    "attention": lambda: on_rows(
        ("linear", [1], {"out_features": 6}),
        ("linear", [1], {"out_features": 5}),
        ("attention", [1, 2, 3], {}),
    ),
    "attention, causal, with dropout": lambda: on_rows(
        after("reshape", sizes=(2, 4, 3)),
        ("attention", [2, 2, 2], {"causal": True, "p": 0.3, "scale": 0.7}),
    ),
    "matmul": lambda: on_rows(after("permute", order=(1, 0)), ("matmul", [1, 2], {})),
    "matmul, repeated": lambda: on_rows(
        ("reshape", [1], {"sizes": (1, 4, 6)}),
        ("reshape", [1], {"sizes": (2, 6, 2)}),
        ("matmul", [2, 3], {}),
    ),
    "embedding": lambda: graph(
        TOKENS,
        after("embedding", num_embeddings=VOCABULARY, embedding_dim=4),
        after("linear", out_features=4),
        tokens=True,
    ),
    "positions": lambda: graph(
        TOKENS,
        after("embedding", num_embeddings=VOCABULARY, embedding_dim=4),
        ("positions", [], {"count": 5}),
        after("embedding", num_embeddings=5, embedding_dim=4),
        ("add", [1, 3], {}),
        tokens=True,
    ),
    "tokens moved about": lambda: graph(
        (4, 3),
        after("permute", order=(1, 0)),
        after("slice", dim=-1, start=1, length=2, step=2),
        ("concatenate", [2, 1], {"dim": -1}),
        after("select", dim=-2, index=1),
        after("embedding", num_embeddings=VOCABULARY, embedding_dim=4),
        tokens=True,
    ),
    "parameter and constant": lambda: on_rows(
        ("parameter", [], {"sizes": (4, 6), "bound": 0.5, "centre": 0.1}),
        ("add", [1, 2], {}),
        ("constant", [], {"sizes": (1, 6), "values": (0.5, -1.0, 2.0, 1.0, 0.0, 3.0)}),
        ("multiply", [3, 4], {}),
        ("parameter", [], {"sizes": (1, 6), "bound": 0.5}),
        ("add", [6, 5], {}),
    ),
    "max_pool2d": lambda: on_image(after("max_pool2d", **WINDOW)),
    "max_pool2d after relu": lambda: on_image(
        after("relu"), after("max_pool2d", kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
    ),
    "max_pool2d, overlapping": lambda: on_image(
        after(
            "max_pool2d",
            kernel_size=(3, 2),
            stride=(1, 2),
            padding=(1, 1),
            dilation=(2, 1),
            ceil_mode=True,
        )
    ),
    "avg_pool2d": lambda: on_image(
        after("avg_pool2d", **WINDOW, padding=(1, 1), ceil_mode=True, count_include_pad=False)
    ),
    "adaptive_avg_pool2d": lambda: on_image(after("adaptive_avg_pool2d", output_size=(1, 1))),
    "adaptive_avg_pool2d, uneven": lambda: on_image(
        after("adaptive_avg_pool2d", output_size=(4, 2))
    ),
    "batch_norm": lambda: on_image(after("batch_norm"), after("relu")),
    "batch_norm of rows": lambda: graph(
        (6,), after("linear", out_features=5), after("batch_norm", momentum=0.3), after("tanh")
    ),
    "batch_norm without weights": lambda: on_image(after("batch_norm", affine=False)),
    "batch_norm of the input": lambda: graph(IMAGE, after("batch_norm")),
    "group_norm": lambda: on_image(after("group_norm", num_groups=2)),
    "group_norm without weights": lambda: on_rows(after("group_norm", num_groups=2, affine=False)),
    "layer_norm": lambda: on_rows(after("layer_norm", normalized_shape=(6,))),
    "layer_norm over two": lambda: on_rows(
        after("layer_norm", normalized_shape=(4, 6), bias=False)
    ),
    "layer_norm of an image": lambda: on_image(
        after("layer_norm", normalized_shape=(5,), affine=False, bias=False)
    ),
    "layer_norm of the input": lambda: graph(ROWS, after("layer_norm", normalized_shape=(6,))),
    "rms_norm": lambda: on_rows(after("rms_norm", normalized_shape=(6,))),
    "rms_norm without weights": lambda: on_rows(
        after("rms_norm", normalized_shape=(4, 6), affine=False, eps=1e-3)
    ),
    "dropout": lambda: on_rows(after("dropout", p=0.4), after("relu"), after("dropout", p=0.1)),
    "channel_dropout": lambda: on_image(after("channel_dropout", p=0.4), after("relu")),
    "mean": lambda: on_image(after("mean", dims=(-1, -3))),
    "sum": lambda: on_image(after("sum", dims=(-2,), keepdim=True)),
    "amax": lambda: on_image(after("amax", dims=(-1, -2), keepdim=True), after("relu")),
    "flatten": lambda: on_image(after("flatten"), after("relu")),
    "reshape": lambda: on_rows(after("reshape", sizes=(2, 3, 4)), after("relu")),
    "permute": lambda: on_image(after("permute", order=(2, 0, 1)), after("relu")),
    "select": lambda: on_rows(after("select", dim=-2, index=3), after("relu")),
    "slice": lambda: on_rows(after("slice", dim=-1, start=1, length=2, step=3), after("relu")),
    "upsample_nearest": lambda: on_image(after("upsample_nearest", scale=(2, 3)), after("relu")),
    "concatenate": lambda: on_rows(
        after("tanh"),
        ("slice", [1], {"dim": -2, "length": 2}),
        ("concatenate", [2, 3], {"dim": -2}),
    ),
    "add": lambda: on_rows(after("relu"), ("add", [1, 2], {}), ("add", [2, 3], {})),
    "add to itself": lambda: on_rows(("add", [1, 1], {}), after("tanh")),
    "add, repeated": lambda: on_rows(
        ("sum", [1], {"dims": (-1,), "keepdim": True}), ("add", [1, 2], {}), ("add", [2, 3], {})
    ),
    "subtract": lambda: on_rows(after("relu"), ("subtract", [2, 1], {}), ("subtract", [1, 3], {})),
    "multiply": lambda: on_rows(
        after("sigmoid"), ("multiply", [1, 2], {}), ("multiply", [3, 3], {})
    ),
    "divide": lambda: on_rows(*positive(), ("divide", [1, 3], {}), ("divide", [4, 3], {})),
    "masked_fill": lambda: on_rows(
        ("constant", [], {"sizes": (1, 6), "values": (0.0, 1.0, 1.0, 0.0, 0.0, -1.0)}),
        ("masked_fill", [1, 2], {"value": 0.3}),
    ),
    "masked_fill by its own": lambda: on_rows(
        after("relu"), ("masked_fill", [1, 2], {"value": -0.5})
    ),
    "log": lambda: on_rows(*positive(), after("log")),
    "sqrt": lambda: on_rows(*positive(), after("sqrt")),
    "power": lambda: on_rows(*positive(), after("power", exponent=2.5)),
    "power of two": lambda: on_rows(after("power", exponent=2.0)),
    "scale": lambda: on_rows(after("scale", factor=-0.5, offset=0.2)),
    "softmax": lambda: on_rows(after("softmax", dim=-1), after("softmax", dim=-2)),
    "log_softmax": lambda: on_rows(after("log_softmax", dim=-1), after("log_softmax", dim=-2)),
    "elu": lambda: on_rows(after("elu", alpha=0.7)),
    "leaky_relu": lambda: on_rows(after("leaky_relu", negative_slope=0.2)),
    "gelu": lambda: on_rows(after("gelu")),
    "gelu by tanh": lambda: on_rows(after("gelu", approximate="tanh")),
    "hardtanh": lambda: on_rows(after("hardtanh", minimum=-0.3, maximum=0.4)),
    **{
        name: lambda name=name: on_rows(after(name))
        for name in (
            "relu",
            "tanh",
            "sigmoid",
            "exp",
            "abs",
            "silu",
            "mish",
            "softplus",
            "hardswish",
        )
    },
}
RECIPES = {
    "plain": {},
    "everything": {
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "schedule": "step",
        "schedule_parameters": {"every": 2, "factor": 0.5},
        "mu": 0.3,
        "corrected": True,
    },
}


def data(architecture, rows, seed, loss):
    """Return random examples that fit the architecture and the loss."""
    random = np.random.default_rng(seed)
    shape, outputs = (rows, *architecture.input_shape), architecture.output_shape
    tokens = VOCABULARY if architecture.input_dtype == "int64" else None
    if loss == "next_token":
        return Dataset.from_tokens(random.integers(0, tokens, size=(rows, shape[1] + 1)), tokens)
    inputs = random.integers(0, tokens, shape) if tokens else random.normal(size=shape)
    if loss in ("mse", "bce with numbers"):
        labels = random.uniform(size=(rows, *outputs))
        return Dataset(inputs, labels, kind="regression", vocabulary=tokens)
    labels = random.integers(0, outputs[0], rows)
    return Dataset(inputs, labels, classes=outputs[0], vocabulary=tokens)


def cohort_of(
    architecture, *, sizes=RAGGED, mu=0.0, corrected=False, own=(), data_for=None, **fields
):
    fields = {"batch_size": 5, "local_epochs": 2, "learning_rate": 0.1, **fields}
    recipe = Recipe(architecture, **fields)
    clients = tuple(
        Client(place, data(architecture, size, place, data_for or recipe.loss))
        for place, size in enumerate(sizes)
    )
    weights = architecture.initial_weights(3)
    random = np.random.default_rng(5)
    corrections = {
        place: {
            name: random.normal(size=spec.shape).astype(np.float32)
            for name, spec in architecture.parameters.items()
            if spec.trainable
        }
        for place in (0, 2)
        if corrected
    }
    others = architecture.initial_weights(8)
    return Cohort(
        recipe,
        weights,
        clients,
        seed=11,
        round=4,
        proximal_mu=mu,
        corrections=corrections,
        own={place: {name: others[name] for name in names} for place, names in own},
    )


def assert_equal_updates(ours, reference, tolerance):
    for mine, theirs in zip(ours, reference, strict=True):
        assert mine.partition_id == theirs.partition_id
        assert (mine.num_examples, mine.steps) == (theirs.num_examples, theirs.steps)
        assert mine.loss == pytest.approx(theirs.loss, abs=tolerance)
        assert mine.weights.keys() == theirs.weights.keys()
        for name, array in theirs.weights.items():
            assert mine.weights[name].dtype == array.dtype
            np.testing.assert_allclose(
                mine.weights[name], array, rtol=0, atol=tolerance, err_msg=name
            )


def compare(cohort, *, chunk=3):
    assert refusal(cohort.recipe) is None
    ours = FusedExecutor(chunk=chunk, dtype="float64").train(cohort)
    assert_equal_updates(ours, SequentialExecutor(dtype="float64").train(cohort), 1e-9)


def test_every_rule_has_a_case():
    used = {node.operator for case in CASES.values() for node in case().nodes}
    assert set(RULES) <= used
    assert set(RULES) <= set(OPERATORS)


@pytest.mark.parametrize("fields", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_operator_trains_as_in_the_reference(case, fields):
    compare(cohort_of(case(), **fields))


def small_cnn():
    return models.cnn((2, 8, 6), 3, channels=(3, 4), kernel_size=3, hidden=5)


def small_resnet(norm, **arguments):
    """Return two residual blocks, the second with half of the image's size."""
    builder = GraphBuilder(IMAGE)
    three = {"kernel_size": (3, 3), "padding": (1, 1), "bias": False}
    last = INPUT
    for channels, stride in ((4, (1, 1)), (6, (2, 2))):
        y = builder.add("conv2d", last, out_channels=channels, stride=stride, **three)
        y = builder.add("relu", builder.add(norm, y, **arguments))
        y = builder.add("conv2d", y, out_channels=channels, **three)
        y = builder.add(norm, y, **arguments)
        short = {"kernel_size": (1, 1), "stride": stride, "bias": False}
        last = builder.add("conv2d", last, out_channels=channels, **short)
        last = builder.add("add", y, builder.add(norm, last, **arguments))
        last = builder.add("relu", last)
    last = builder.add("adaptive_avg_pool2d", last, output_size=(1, 1))
    last = builder.add("linear", builder.add("flatten", last), out_features=3)
    return models.Architecture(IMAGE, tuple(builder.nodes), last)


def small_transformer(*, dropout=0.0):
    """Return a causal language model of one block; its output is a score for each token."""
    builder = GraphBuilder(TOKENS, tokens=True)
    width, heads, length = 8, 2, TOKENS[0]
    words = builder.add("embedding", INPUT, num_embeddings=VOCABULARY, embedding_dim=width)
    places = builder.add("positions", count=length)
    places = builder.add("embedding", places, num_embeddings=length, embedding_dim=width)
    x = builder.add("add", words, places)
    y = builder.add("layer_norm", x, normalized_shape=(width,))
    taken = []
    for _ in range(3):
        part = builder.add("linear", y, out_features=width)
        part = builder.add("reshape", part, sizes=(length, heads, width // heads))
        taken.append(builder.add("permute", part, order=(1, 0, 2)))
    y = builder.add("attention", *taken, causal=True, p=dropout)
    y = builder.add("permute", y, order=(1, 0, 2))
    y = builder.add("reshape", y, sizes=(length, width))
    x = builder.add("add", x, builder.add("linear", y, out_features=width))
    y = builder.add("layer_norm", x, normalized_shape=(width,))
    y = builder.add("gelu", builder.add("linear", y, out_features=2 * width))
    y = builder.add("dropout", y, p=dropout)
    x = builder.add("add", x, builder.add("linear", y, out_features=width))
    last = builder.add("linear", x, out_features=VOCABULARY)
    return models.Architecture(TOKENS, tuple(builder.nodes), last, input_dtype="int64")


WHOLE_MODELS = {
    "mlp": lambda: models.mlp(6, (5, 4), 3),
    "linear": lambda: models.mlp(6, (), 3),
    "cnn": small_cnn,
    "resnet with batch norm": lambda: small_resnet("batch_norm"),
    "resnet with group norm": lambda: small_resnet("group_norm", num_groups=2),
}
FIELDS = {
    "one epoch": {"local_epochs": 1},
    "weight decay": {"weight_decay": 0.2},
    "FedProx": {"mu": 0.5},
    "FedProx with weight decay": {"mu": 0.5, "weight_decay": 0.1},
    "corrections": {"corrected": True},
    "corrections with FedProx": {"corrected": True, "mu": 0.5},
    "label smoothing": {"label_smoothing": 0.2},
    "bce": {"loss": "bce"},
    "bce with numbers": {"loss": "bce", "data_for": "bce with numbers"},
    "mse": {"loss": "mse"},
    "mse of classes": {"loss": "mse", "data_for": "classes"},
    "cosine schedule": {
        "schedule": "cosine",
        "schedule_parameters": {"rounds": 10, "final": 0.1},
    },
    "warm-up": {"warmup_rounds": 9},
    "batches of one": {"batch_size": 1, "local_epochs": 1},
    "batches larger than any client": {"batch_size": 64},
    "local steps": {"local_steps": 5},
    "equal clients": {"sizes": (10, 10, 10)},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("model", WHOLE_MODELS.values(), ids=WHOLE_MODELS)
def test_every_field_of_a_recipe_trains_as_in_the_reference(model, fields):
    compare(cohort_of(model(), **fields))


@pytest.mark.parametrize(
    "augmentation",
    [
        ({"name": "shift", "pixels": 1}, {"name": "flip", "probability": 0.5}),
        ({"name": "crop", "padding": 1}, {"name": "noise", "scale": 0.1}),
        ({"name": "cutout", "size": 2},),
    ],
)
def test_augmented_images_are_those_of_the_reference(augmentation):
    compare(cohort_of(small_cnn(), augmentation=augmentation))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_language_model_trains_as_in_the_reference(dropout, smoothing):
    architecture = small_transformer(dropout=dropout)
    compare(cohort_of(architecture, loss="next_token", label_smoothing=smoothing, mu=0.1))


def test_images_may_be_regressed():
    builder = GraphBuilder(IMAGE)
    last = builder.add("conv2d", INPUT, out_channels=3, kernel_size=(3, 3))
    last = builder.add("relu", last)
    last = builder.add("conv_transpose2d", last, out_channels=2, kernel_size=(3, 3))
    compare(cohort_of(models.Architecture(IMAGE, tuple(builder.nodes), last), loss="mse"))


def test_a_model_may_be_given_its_examples_in_another_shape():
    recipe = Recipe(models.mlp(6, (5,), 3), batch_size=4, local_epochs=1)
    rows = np.random.default_rng(0).normal(size=(9, 3, 2))
    client = Client(0, Dataset(rows, np.arange(9) % 3))
    start = recipe.architecture.initial_weights(1)
    compare(Cohort(recipe, start, (client,), seed=0, round=1))


def test_clients_may_start_from_tensors_of_their_own():
    architecture = small_resnet("batch_norm")
    norms = tuple(name for name in architecture.parameters if "batch_norm" in name)
    own = ((0, norms), (3, tuple(architecture.parameters)))
    compare(cohort_of(architecture, own=own))
    compare(cohort_of(architecture, own=own, mu=0.4, corrected=True))


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_the_size_of_the_chunks_changes_rounding_only(chunk):
    compare(cohort_of(small_resnet("batch_norm")), chunk=chunk)
    compare(cohort_of(models.mlp(6, (5, 4), 3)), chunk=chunk)


# Random graphs: a stack of images or rows, whose nodes read any earlier value of the same shape.

SAME_SHAPE = {
    "rows": [
        ("linear", {"out_features": 6}),
        ("relu", {}),
        ("tanh", {}),
        ("gelu", {}),
        ("softmax", {"dim": -1}),
        ("layer_norm", {"normalized_shape": (6,)}),
        ("dropout", {"p": 0.2}),
        ("scale", {"factor": 0.5, "offset": 0.1}),
        ("reshape", {"sizes": (4, 6)}),
    ],
    "images": [
        ("conv2d", {"out_channels": 2, "kernel_size": (3, 3), "padding": (1, 1)}),
        ("relu", {}),
        ("sigmoid", {}),
        ("batch_norm", {}),
        ("group_norm", {"num_groups": 2}),
        ("max_pool2d", {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1)}),
        ("avg_pool2d", {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1)}),
        ("channel_dropout", {"p": 0.2}),
        ("reshape", {"sizes": IMAGE}),
    ],
}


@st.composite
def random_graphs(draw):
    """Return an architecture in which values fan out and join again at random."""
    kind = draw(st.sampled_from(sorted(SAME_SHAPE)))
    shape = {"rows": ROWS, "images": IMAGE}[kind]
    builder = GraphBuilder(shape)
    operator, arguments = SAME_SHAPE[kind][0]
    values = [builder.add(operator, INPUT, **arguments)]
    unread = set(values)
    for _ in range(draw(st.integers(1, 7))):
        operator, arguments = draw(st.sampled_from(SAME_SHAPE[kind]))
        read = draw(st.sampled_from(values))
        values.append(builder.add(operator, read, **arguments))
        unread = (unread - {read}) | {values[-1]}
        if draw(st.booleans()):
            pair = draw(st.tuples(st.sampled_from(values), st.sampled_from(values)))
            values.append(builder.add(draw(st.sampled_from(("add", "multiply"))), *pair))
            unread = (unread - set(pair)) | {values[-1]}
    last, *rest = sorted(unread)
    for other in rest:
        last = builder.add("add", last, other)
    last = builder.add("linear", builder.add("flatten", last), out_features=3)
    return models.Architecture(shape, tuple(builder.nodes), last)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_graphs(), st.sampled_from([{}, {"mu": 0.2, "weight_decay": 0.1}]))
def test_values_may_fan_out_and_join_in_any_way(architecture, fields):
    compare(cohort_of(architecture, sizes=(7, 3, 1), learning_rate=0.02, local_epochs=1, **fields))


@pytest.mark.parametrize("model", WHOLE_MODELS.values(), ids=WHOLE_MODELS)
def test_in_float32_results_stay_close_to_the_reference(model):
    for steps, tolerance in ((1, 1e-5), (0, 1e-3)):
        cohort = cohort_of(model(), local_steps=steps, local_epochs=1, sizes=(50, 33, 8))
        ours = FusedExecutor(chunk=2).train(cohort)
        assert all(array.dtype == np.float32 for array in ours[0].weights.values())
        assert_equal_updates(ours, SequentialExecutor().train(cohort), tolerance)


@pytest.mark.parametrize("model", WHOLE_MODELS.values(), ids=WHOLE_MODELS)
def test_results_are_bitwise_the_same_whatever_the_number_of_workers(model):
    cohort = cohort_of(model(), sizes=(30, 17, 25, 30, 4))
    with torch_threads(1):
        first = FusedExecutor(chunk=2).train(cohort)
    for workers in (1, 2, 3):
        with torch_threads(1):
            again = FusedExecutor(chunk=2, workers=workers).train(cohort)
        for mine, theirs in zip(first, again, strict=True):
            assert mine.loss == theirs.loss
            for name, array in mine.weights.items():
                assert array.tobytes() == theirs.weights[name].tobytes(), name


def test_updates_belong_to_their_receiver():
    cohort = cohort_of(models.mlp(6, (5, 4), 3))
    executor = FusedExecutor(chunk=3)
    first = executor.train(cohort)
    kept = [{name: array.copy() for name, array in update.weights.items()} for update in first]
    for update in executor.train(cohort):
        for array in update.weights.values():
            array.fill(7.0)
    for update, copies in zip(first, kept, strict=True):
        for name, array in update.weights.items():
            np.testing.assert_array_equal(array, copies[name])


def shared_parameters():
    builder = GraphBuilder((6,))
    first = builder.add("linear", INPUT, out_features=6)
    second = builder.add("linear", first, out_features=6)
    builder.share(second, "weight", f"{first}.weight")
    return models.Architecture((6,), tuple(builder.nodes), second)


def recurrent():
    builder = GraphBuilder(ROWS)
    last = builder.add("gru", INPUT, hidden_size=3)
    last = builder.add("linear", builder.add("flatten", last), out_features=3)
    return models.Architecture(ROWS, tuple(builder.nodes), last)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"optimiser": "adam"}, "its optimiser is adam"),
        ({"optimiser": "adamw"}, "its optimiser is adamw"),
        ({"momentum": 0.9}, "it has momentum"),
        ({"gradient_clip": 1.0}, "it clips gradients"),
        ({"architecture": shared_parameters()}, "its layers share parameters"),
        ({"architecture": recurrent()}, "its operator gru has no rule for the backward pass"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_phrase(fields, reason):
    recipe = Recipe(**{"architecture": models.mlp(6, (5,), 3), **fields})
    assert refusal(recipe, corrections=True, own=True) == reason


def test_plain_gradient_descent_is_not_refused():
    recipe = Recipe(models.mlp(6, (5,), 3), weight_decay=0.1)
    assert refusal(recipe, corrections=True, own=True) is None
