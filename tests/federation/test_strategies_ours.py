"""Our strategies do what their papers say: SCAFFOLD, FedNova, FedBN, FedPer and Ditto."""

from __future__ import annotations

import numpy as np
import pytest

from neuronexus_kernel import models
from neuronexus_kernel.datasets import Dataset
from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation import Recipe, evaluate
from neuronexus_kernel.federation.server_app import make_strategy
from neuronexus_kernel.federation.strategies.fednova import normaliser
from neuronexus_kernel.models.architecture import Architecture
from neuronexus_kernel.models.graph import INPUT, GraphBuilder

SMALL = Recipe(models.mlp(6, (8,), 3), batch_size=5, local_epochs=2)
CONVEX = Recipe(
    models.mlp(6, (), 3), batch_size=100, local_epochs=10, learning_rate=0.1, weight_decay=0.5
)


def with_batch_norm():
    graph = GraphBuilder((6,))
    last = graph.add("linear", INPUT, out_features=16)
    last = graph.add("batch_norm", last)
    last = graph.add("relu", last)
    last = graph.add("linear", last, out_features=3)
    return Architecture((6,), tuple(graph.nodes), last)


NORMED = Recipe(with_batch_norm(), batch_size=10, local_epochs=2)


def using(recipe, name, **parameters):
    return recipe.with_changes(strategy=name, strategy_parameters=parameters)


def shards(seed, rows=20):
    """Three clients, each with one class and with a scale of its own: strongly non-IID."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(3, 6))
    return [
        Dataset(
            (1 + place / 2) * (centres[place] + random.normal(size=(rows, 6))),
            np.full(rows, place),
            classes=3,
        )
        for place in range(3)
    ]


def slope(weights, data):
    """Return the length of the gradient of everybody's mean loss, for the convex recipe."""
    inputs = np.concatenate([share.inputs for share in data]).astype(np.float64)
    labels = np.concatenate([share.labels for share in data])
    scores = inputs @ weights["linear_1.weight"].T + weights["linear_1.bias"]
    scores = np.exp(scores - scores.max(1, keepdims=True))
    errors = scores / scores.sum(1, keepdims=True) - np.eye(3)[labels]
    gradients = [errors.T @ inputs / len(labels), errors.mean(0)]
    decay = [0.5 * weights["linear_1.weight"], 0.5 * weights["linear_1.bias"]]
    return np.sqrt(sum(np.square(g + d).sum() for g, d in zip(gradients, decay, strict=True)))


# SCAFFOLD


@pytest.mark.parametrize(("seed", "momentum"), [(0, 0.0), (1, 0.0), (2, 0.5)])
def test_scaffold_finds_the_optimum_of_all_where_fedavg_does_not(play, seed, momentum):
    data = shards(seed)
    recipe = CONVEX.with_changes(learning_rate=0.05, momentum=momentum)
    plain = play(recipe, data, rounds=20, seed=seed).weights
    controlled = play(using(recipe, "SCAFFOLD"), data, rounds=20, seed=seed).weights
    assert slope(controlled, data) < 0.1 * slope(plain, data)


def test_scaffold_with_one_client_is_fedavg_without_noise_of_batches(blobs, play, distance):
    data = [blobs(30)]
    plain = play(CONVEX, data, rounds=5)
    controlled = play(using(CONVEX, "SCAFFOLD"), data, rounds=5)
    assert distance(plain.weights, controlled.weights) < 1e-10


def test_scaffold_with_equal_data_is_fedavg(blobs, play, distance):
    data = [blobs(30)] * 4
    plain = play(CONVEX, data, rounds=5)
    controlled = play(using(CONVEX, "SCAFFOLD"), data, rounds=5)
    assert distance(plain.weights, controlled.weights) < 1e-10


def test_scaffolds_control_is_the_mean_of_the_clients(blobs, play):
    data = [blobs(size, seed=size) for size in (10, 20, 30, 15)]
    played = play(using(SMALL, "SCAFFOLD"), data, rounds=4)
    sizes = np.array([10, 20, 30, 15]) / 75
    for name, control in played.strategy.control.items():
        own = [played.app.states[place]["control"][name] for place in range(4)]
        mean = sum(share * each for share, each in zip(sizes, own, strict=True))
        np.testing.assert_allclose(control, mean, atol=1e-12)
        assert np.abs(control).max() > 0


def test_scaffolds_first_control_is_the_mean_gradient_of_the_clients_steps(blobs, play):
    data = [blobs(20, seed=1), blobs(20, seed=2)]
    played = play(using(SMALL, "SCAFFOLD"), data)
    steps = 2 * 4
    for update in played.outcomes[0].updates:
        for name, array in played.app.states[update.partition_id]["control"].items():
            gradient = (played.rounds[0][name] - update.weights[name]) / (steps * 0.1)
            np.testing.assert_allclose(array, gradient, atol=1e-12)


def test_scaffold_with_some_of_the_clients_moves_its_control_in_proportion(blobs, play):
    data = [blobs(20, seed=place) for place in range(4)]
    played = play(using(SMALL, "SCAFFOLD"), data, cohort_size=2)
    assert len(played.app.states) == 2
    for name, control in played.strategy.control.items():
        total = sum(state["control"][name] for state in played.app.states.values())
        np.testing.assert_allclose(control, total / 4, atol=1e-12)


def test_scaffold_leaves_running_statistics_to_the_mean(blobs, play, distance):
    data = [blobs(20, seed=place) for place in range(3)]
    recipe = using(NORMED, "SCAFFOLD", server_learning_rate=0.5)
    played = play(recipe, data)
    statistics = NORMED.architecture.statistics
    assert statistics
    assert not set(played.strategy.control) & set(statistics)
    for name in statistics:
        mean = np.mean([update.weights[name] for update in played.outcomes[0].updates], axis=0)
        np.testing.assert_allclose(played.weights[name], mean, atol=1e-12)


# FedNova


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_fednova_with_equal_steps_is_fedavg_or_fedprox(blobs, play, distance, momentum, mu):
    data = [blobs(20, seed=place) for place in range(3)]
    recipe = SMALL.with_changes(momentum=momentum)
    plain = play(using(recipe, "FedProx", proximal_mu=mu), data, rounds=3)
    nova = play(using(recipe, "FedNova", proximal_mu=mu), data, rounds=3)
    assert distance(plain.weights, nova.weights) < 1e-10


def test_fednova_finds_the_optimum_of_all_with_unequal_steps_where_fedavg_does_not(play):
    data = shards(1)
    many = [
        data[0],
        data[1],
        Dataset(
            *[np.concatenate([each] * 4) for each in (data[2].inputs, data[2].labels)], classes=3
        ),
    ]
    recipe = CONVEX.with_changes(learning_rate=0.02, batch_size=20, local_epochs=2)
    plain = play(recipe, many, rounds=30).weights
    nova = play(using(recipe, "FedNova"), many, rounds=30).weights
    assert slope(nova, many) < 0.6 * slope(plain, many)


def test_the_normaliser_is_the_distance_sgd_goes_with_equal_gradients():
    import torch

    for steps in (1, 2, 7):
        for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True)):
            for pull in (0.0, 0.05):
                place = torch.zeros(1, dtype=torch.float64, requires_grad=True)
                sgd = torch.optim.SGD([place], lr=0.1, momentum=momentum, nesterov=nesterov)
                for _ in range(steps):
                    place.grad = -1.0 + pull / 0.1 * place.detach()
                    sgd.step()
                expected = place.item() / 0.1
                found = normaliser(steps, momentum=momentum, nesterov=nesterov, pull=pull)
                assert found == pytest.approx(expected, rel=1e-12)


def test_fednova_weighs_a_change_by_its_examples_over_its_steps(blobs, play):
    data = [blobs(10, seed=1), blobs(40, seed=2)]
    played = play(using(SMALL, "FedNova"), data)
    start, steps, shares = played.rounds[0], (4, 16), (0.2, 0.8)
    mean_steps = sum(share * count for share, count in zip(shares, steps, strict=True))
    for name, array in played.weights.items():
        change = sum(
            share * (update.weights[name] - start[name]) / count
            for share, count, update in zip(shares, steps, played.outcomes[0].updates, strict=True)
        )
        np.testing.assert_allclose(array, start[name] + mean_steps * change, atol=1e-12)


def test_fednova_averages_running_statistics_by_examples(blobs, play):
    data = [blobs(10, seed=1), blobs(40, seed=2)]
    played = play(using(NORMED, "FedNova"), data)
    for name in NORMED.architecture.statistics:
        first, second = (update.weights[name] for update in played.outcomes[0].updates)
        np.testing.assert_allclose(played.weights[name], 0.2 * first + 0.8 * second, atol=1e-12)


# FedBN


def shifted(blobs, seed):
    """Three clients that see the same things through different instruments."""
    shares = [blobs(60, seed=10 * seed + place) for place in range(3)]
    views = [(1.0, 0.0), (8.0, 20.0), (0.3, -5.0)]
    return [
        Dataset(scale * share.inputs + offset, share.labels, classes=3)
        for share, (scale, offset) in zip(shares, views, strict=True)
    ]


def accuracies(played, recipe, data):
    """Return the accuracy of each client's model on new data of its own."""
    states = played.app.states
    return [
        evaluate(
            recipe.architecture,
            {**played.weights, **states.get(place, {}).get("own", {})},
            share,
        ).accuracy
        for place, share in enumerate(data)
    ]


@pytest.mark.parametrize("seed", range(2))
def test_fedbn_serves_clients_with_shifted_features_better_than_fedavg(blobs, play, seed):
    data, new = shifted(blobs, seed), shifted(blobs, seed + 50)
    plain = play(NORMED, data, rounds=10, seed=seed)
    local = play(using(NORMED, "FedBN"), data, rounds=10, seed=seed)
    assert np.mean(accuracies(local, NORMED, new)) > 0.85
    assert np.mean(accuracies(local, NORMED, new)) > 0.05 + np.mean(accuracies(plain, NORMED, new))


def test_fedbn_keeps_the_batch_norms_with_the_clients(blobs, play):
    data = shifted(blobs, 0)
    played = play(using(NORMED, "FedBN"), data, rounds=3)
    norms = {name for name in NORMED.architecture.parameters if name.startswith("batch_norm")}
    assert len(norms) == 4
    for content in [*(each.content for each in played.messages), *played.replies]:
        (record,) = content.array_records.values()
        assert set(record) == set(NORMED.architecture.parameters) - norms
    owns = [played.app.states[place]["own"] for place in range(3)]
    assert all(set(own) == norms for own in owns)
    assert (
        np.abs(owns[0]["batch_norm_1.running_mean"] - owns[1]["batch_norm_1.running_mean"]).max()
        > 1
    )
    for name in norms:  # the server's stay as they began
        assert np.array_equal(played.weights[name], played.rounds[0][name])


def test_fedbn_without_batch_norm_is_fedavg(blobs, play, distance):
    data = [blobs(20, seed=place) for place in range(3)]
    plain, local = play(SMALL, data, rounds=2), play(using(SMALL, "FedBN"), data, rounds=2)
    assert distance(plain.weights, local.weights) == 0.0


def test_fedbn_with_one_client_trains_as_fedavg_does(blobs, play, distance):
    data = [blobs(40)]
    plain = play(NORMED, data, rounds=4, seed=3)
    local = play(using(NORMED, "FedBN"), data, rounds=4, seed=3)
    whole = {**local.weights, **local.app.states[0]["own"]}
    assert distance(whole, plain.weights) < 1e-12


# FedPer


@pytest.mark.parametrize("layers", [1, 2])
def test_fedpers_head_is_in_no_message(blobs, play, layers):
    architecture = models.mlp(6, (8, 7), 3)
    head = {1: {"linear_3"}, 2: {"linear_2", "linear_3"}}[layers]
    recipe = using(Recipe(architecture, batch_size=5), "FedPer", personal_layers=layers)
    data = [blobs(20, seed=place) for place in range(3)]
    played = play(recipe, data, rounds=3)
    contents = [*(each.content for each in played.messages), *played.replies]
    assert len(contents) == 18
    for content in contents:
        (record,) = content.array_records.values()
        assert {name.split(".")[0] for name in record} == {
            "linear_1",
            "linear_2",
            "linear_3",
        } - head
    for outcome in played.outcomes:  # nor does whoever observes the run see it
        for update in outcome.updates:
            for name, array in update.weights.items():
                if name.split(".")[0] in head:
                    assert np.array_equal(array, played.rounds[0][name])


def test_fedpers_heads_let_clients_disagree_about_labels(blobs, play):
    share = blobs(60, seed=1)
    turned = Dataset(share.inputs, (share.labels + 1) % 3, classes=3)
    recipe = using(SMALL, "FedPer")
    personal = play(recipe, [share, turned], rounds=10)
    shared = play(SMALL, [share, turned], rounds=10)
    assert min(accuracies(personal, recipe, [share, turned])) > 0.9
    assert min(accuracies(shared, SMALL, [share, turned])) < 0.7


@pytest.mark.parametrize("layers", [2, 3, 100])
def test_fedper_must_leave_something_to_share(layers):
    recipe = using(SMALL, "FedPer", personal_layers=layers)
    with pytest.raises(InvalidInputError, match="from 1 to 1"):
        make_strategy(recipe, cohort_size=3)


@pytest.mark.parametrize("policy", ["run", "fixed-start"])
def test_fedpers_heads_begin_where_the_runs_model_begins(blobs, play, policy):
    recipe = using(SMALL, "FedPer").with_changes(seed_policy=policy)
    start = recipe.architecture.initial_weights(5 if policy == "run" else 0)
    played = play(recipe, [blobs(20)], seed=5, weights=start)
    cohort = played.outcomes[0].cohort
    for name, array in start.items():
        np.testing.assert_allclose(cohort.weights[name], array, atol=0)


# Ditto


def test_dittos_global_model_is_fedavgs(blobs, play, distance):
    data = [blobs(20, seed=place) for place in range(3)]
    plain, ditto = play(SMALL, data, rounds=3), play(using(SMALL, "Ditto"), data, rounds=3)
    assert distance(plain.weights, ditto.weights) == 0.0


def test_dittos_personal_model_without_pull_is_training_alone(blobs, play, distance):
    data = [blobs(20, seed=place) for place in range(3)]
    ditto = play(using(SMALL, "Ditto", personal_mu=0.0), data, rounds=3)

    def silence(handle, messages):
        return [each for each in handle(messages) if each.metadata.src_node_id == 1002]

    alone = play(SMALL, data, rounds=3, answer=silence)
    assert distance(ditto.app.states[2]["own"], alone.weights) < 1e-12


def test_dittos_personal_model_is_as_close_to_the_global_one_as_mu_is_large(blobs, play, distance):
    share = blobs(20, seed=1)
    turned = Dataset(share.inputs, (share.labels + 1) % 3, classes=3)
    data = [share, share, turned]

    def gap(mu):
        ditto = play(using(SMALL, "Ditto", personal_mu=mu), data, rounds=6)
        return distance(ditto.app.states[2]["own"], ditto.rounds[5])

    assert gap(9.0) < 0.3 * gap(1.0) < 0.3 * gap(0.0)


def test_dittos_personal_models_serve_those_who_differ(blobs, play):
    share = blobs(60, seed=1)
    turned = Dataset(share.inputs, (share.labels + 1) % 3, classes=3)
    data = [share, share, turned]
    recipe = using(SMALL, "Ditto", personal_mu=0.1)
    played = play(recipe, data, rounds=12)
    assert min(accuracies(played, recipe, data)) > 0.9
    assert evaluate(recipe.architecture, played.weights, turned).accuracy < 0.5
