"""Flower's strategies do here what their papers say."""

from __future__ import annotations

import numpy as np
import pytest

from neuronexus_kernel import models
from neuronexus_kernel.federation import Recipe, evaluate

SMALL = Recipe(models.mlp(6, (8,), 3), batch_size=5, local_epochs=2)


def flipped(sent, trained):
    """Go ten times as far the other way."""
    return {name: sent[name] - 10.0 * (trained[name] - sent[name]) for name in trained}


def with_strategy(name, **parameters):
    return SMALL.with_changes(strategy=name, strategy_parameters=parameters)


ROBUST = {
    "Krum": {"num_malicious_nodes": 2},
    "MultiKrum": {"num_malicious_nodes": 2, "num_nodes_to_select": 5},
    "Bulyan": {"num_malicious_nodes": 2},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.2},
}


@pytest.mark.parametrize("seed", range(2))
def test_robust_strategies_survive_sign_flippers_where_fedavg_does_not(blobs, play, seed):
    data = [blobs(15, seed=100 * seed + place) for place in range(11)]
    attackers = dict.fromkeys((3, 7), flipped)
    held_out = blobs(90, seed=77)
    quick = {"batch_size": 15, "learning_rate": 0.3}

    def accuracy(recipe):
        recipe = recipe.with_changes(**quick)
        played = play(recipe, data, rounds=8, seed=seed, tamper=attackers)
        return evaluate(recipe.architecture, played.weights, held_out).accuracy

    assert accuracy(SMALL) < 0.6
    assert {
        name: accuracy(with_strategy(name, **given)) > 0.9 for name, given in ROBUST.items()
    } == dict.fromkeys(ROBUST, True)


def test_fedprox_with_mu_zero_is_fedavg_and_holds_clients_back_with_a_large_one(
    blobs, play, distance
):
    data = [blobs(20, seed=place) for place in range(3)]
    plain = play(SMALL, data, rounds=2)
    free = play(with_strategy("FedProx", proximal_mu=0.0), data, rounds=2)
    assert distance(plain.weights, free.weights) == 0.0
    moved = [
        distance(play(with_strategy("FedProx", proximal_mu=mu), data).weights, plain.rounds[0])
        for mu in (0.0, 1.0, 5.0)
    ]
    assert moved[0] > 1.2 * moved[1] > 1.2 * moved[2]


def test_qfedavg_with_q_zero_is_a_mean_and_with_a_larger_q_losses_are_more_alike(
    blobs, play, distance
):
    data = [blobs(20, seed=place) for place in range(4)]
    plain = play(SMALL, data, rounds=2)
    fair = play(with_strategy("QFedAvg", q=0.0), data, rounds=2)
    assert distance(plain.weights, fair.weights) < 1e-9
    easy = data[0]
    hard = type(easy)(-easy.inputs, easy.labels, classes=3)

    def spread(q):
        recipe = with_strategy("QFedAvg", q=q).with_changes(local_epochs=1)
        played = play(recipe, [*data, hard], rounds=6)
        shares = (*data, hard)
        return np.std([evaluate(SMALL.architecture, played.weights, each).loss for each in shares])

    assert spread(3.0) < 0.8 * spread(0.0)


def test_fedavgm_without_momentum_is_fedavg_and_with_it_keeps_its_direction(blobs, play, distance):
    data = [blobs(20, seed=place) for place in range(3)]
    plain = play(SMALL, data, rounds=3)
    still = play(with_strategy("FedAvgM", server_momentum=0.0), data, rounds=3)
    assert distance(plain.weights, still.weights) == 0.0
    moving = play(with_strategy("FedAvgM", server_momentum=0.9), data, rounds=3)
    start = plain.rounds[0]
    assert distance(moving.rounds[1], plain.rounds[1]) < 1e-12
    assert distance(moving.weights, start) > 1.3 * distance(plain.weights, start)


@pytest.mark.parametrize("name", ["FedAdagrad", "FedAdam", "FedYogi"])
def test_adaptive_servers_move_every_weight_by_about_the_same(blobs, play, name):
    data = [blobs(20, seed=place) for place in range(3)]
    played = play(with_strategy(name, eta=0.01, tau=1e-9), data)
    steps = np.concatenate(
        [np.ravel(played.weights[key] - played.rounds[0][key]) for key in played.weights]
    )
    moved = np.abs(steps[steps != 0.0])
    assert len(moved) > 50
    assert moved.max() / moved.min() < 1.001
