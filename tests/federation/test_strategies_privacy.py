"""Differential privacy: clipping bounds what a client can do, and noise comes from the seed."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.serverapp import strategy as flower

from neuronexus_kernel import models
from neuronexus_kernel.errors import InvalidInputError
from neuronexus_kernel.federation import Recipe, train
from neuronexus_kernel.federation.server_app import make_strategy

SMALL = Recipe(models.mlp(6, (8,), 3), batch_size=5, local_epochs=2)


def fixed(noise, norm, **changes):
    parameters = {"noise_multiplier": noise, "clipping_norm": norm}
    return SMALL.with_changes(privacy="fixed-clipping", privacy_parameters=parameters, **changes)


def adaptive(noise, **parameters):
    return SMALL.with_changes(
        privacy="adaptive-clipping",
        privacy_parameters={"noise_multiplier": noise, **parameters},
    )


@pytest.fixture
def data(blobs):
    return [blobs(20, seed=place) for place in range(5)]


@pytest.mark.parametrize("strategy", ["FedAvg", "FedProx"])
def test_without_noise_and_clipping_it_is_the_strategy_itself(data, play, distance, strategy):
    plain = play(SMALL.with_changes(strategy=strategy), data, rounds=3)
    private = play(fixed(0.0, 1e6, strategy=strategy), data, rounds=3)
    assert distance(plain.weights, private.weights) < 1e-12


def test_clients_weigh_the_same_whatever_their_size(blobs, play, distance):
    data = [blobs(size, seed=size) for size in (5, 40)]
    recipe = fixed(0.0, 1e6)
    both = play(recipe, data)
    updates = [update.weights for update in both.outcomes[0].updates]
    mean = {name: (updates[0][name] + updates[1][name]) / 2 for name in updates[0]}
    assert distance(both.weights, mean) < 1e-12


@pytest.mark.parametrize("recipe", [fixed(0.0, 0.01), adaptive(0.0, initial_clipping_norm=0.01)])
def test_no_client_moves_the_model_further_than_the_norm(data, play, distance, recipe):
    def leap(sent, trained):
        return {name: array + 1000.0 for name, array in trained.items()}

    played = play(recipe, data, tamper=dict.fromkeys(range(5), leap))
    assert distance(played.weights, played.rounds[0]) == pytest.approx(0.01, rel=1e-6)
    one = play(recipe, data, tamper={2: leap})
    assert distance(one.weights, play(recipe, data).weights) <= 2 * 0.01 / 5


def test_the_noise_comes_from_the_seed(data, play, distance):
    recipe = fixed(1.0, 0.5)
    first, again = play(recipe, data, rounds=2, seed=1), play(recipe, data, rounds=2, seed=1)
    assert distance(first.weights, again.weights) == 0.0
    start = SMALL.architecture.initial_weights(1)
    other = play(recipe, data, rounds=2, seed=2, weights=start)
    assert distance(first.weights, other.weights) > 0.1


def test_the_noise_is_as_large_as_asked_for_the_clients_that_are_left(data, play):
    recipe = fixed(2.0, 0.5)

    def noise(count, **options):
        noisy = play(recipe, data[:count], **options).weights
        silent = play(fixed(0.0, 0.5), data[:count], **options).weights
        return np.concatenate([np.ravel(noisy[name] - silent[name]) for name in noisy]).std()

    def fail(sent, trained):
        raise OSError("gone")

    assert noise(5) == pytest.approx(2.0 * 0.5 / 5, rel=0.2)
    assert noise(4) == pytest.approx(2.0 * 0.5 / 4, rel=0.2)
    assert noise(5, tamper={3: fail}) == pytest.approx(2.0 * 0.5 / 4, rel=0.2)


@pytest.mark.parametrize("first", [0.02, 5.0])
@pytest.mark.parametrize("target", [0.2, 0.6])
def test_the_adaptive_norm_goes_to_where_the_target_fraction_is_clipped(play, blobs, first, target):
    lengths = [0.1, 0.2, 0.3, 0.4, 0.5]

    def go(length):
        def tamper(sent, trained):
            (name, *_) = trained
            moved = {key: np.array(array) for key, array in sent.items()}
            moved[name].flat[0] += length
            return moved

        return tamper

    recipe = adaptive(
        0.0, initial_clipping_norm=first, target_clipped_quantile=target, clip_norm_lr=0.5
    ).with_changes(batch_size=20, local_epochs=1)
    tamper = {place: go(length) for place, length in enumerate(lengths)}
    data = [blobs(20, seed=place) for place in range(5)]
    norm = play(recipe, data, rounds=40, tamper=tamper).strategy.clipping_norm
    edge = lengths[5 - round(5 * target) - 1]
    assert edge * 0.9 < norm < (edge + 0.1) * 1.1


def test_a_client_that_does_not_move_does_not_end_the_run(data, play):
    def still(sent, trained):
        return dict(sent)

    for recipe in (fixed(0.0, 0.5), adaptive(0.0)):
        played = play(recipe, data, rounds=2, tamper={1: still})
        assert played.rejected == []
        assert all(np.isfinite(array).all() for array in played.weights.values())


def test_a_round_in_which_all_clients_fail_changes_nothing(data, play, distance):
    broken = set()

    def fail(sent, trained):
        if broken:
            raise OSError("gone")
        return trained

    def answer(handle, messages):
        config = next(iter(messages[0].content.config_records.values()))
        broken.update({1} if config["server-round"] == 2 else ())
        return handle(messages)

    for recipe in (SMALL, fixed(1.0, 0.5), adaptive(0.1)):
        broken.clear()
        played = play(recipe, data, rounds=2, tamper=dict.fromkeys(range(5), fail), answer=answer)
        assert distance(played.rounds[2], played.rounds[1]) == 0.0
        assert [place for place, _ in played.rejected] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "wrapper",
    [
        flower.DifferentialPrivacyServerSideFixedClipping,
        flower.DifferentialPrivacyServerSideAdaptiveClipping,
    ],
)
def test_flowers_own_wrappers_run_as_they_are(data, wrapper):
    def run(seed):
        inner = flower.FedAvg(fraction_evaluate=0.0)
        is_fixed = wrapper is flower.DifferentialPrivacyServerSideFixedClipping
        norm = {"clipping_norm": 1.0} if is_fixed else {}
        private = wrapper(inner, 0.1, num_sampled_clients=5, **norm)
        return train(SMALL, data, strategy=private, seed=seed, rounds=2, progress=False).weights

    first, again, other = run(1), run(1), run(2)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_noise_that_so_few_clients_cannot_give_is_refused(data):
    with pytest.raises(InvalidInputError, match="adaptive-clipping' with 5 clients"):
        make_strategy(adaptive(5.0), cohort_size=5)


def test_privacy_is_trained_by_name(data):
    result = train(fixed(0.1, 1.0), data, rounds=2, progress=False)
    assert result.plan["strategy"] == "FixedClipping"
